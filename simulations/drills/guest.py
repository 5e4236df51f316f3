"""A mesh that people use, as drills see it: through its two APIs, as an operator would, and nothing behind them."""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

from agent.client import AgentClient
from agent.incidents import Incident, Verb
from control.client import ControlClient
from models.domain import Instance
from models.errors import Conflict, FibrinError, NotFound, Refused
from models.overlay import Overlay, Owner, target
from simulations.drills.injections.envoy import Abort, Delay
from simulations.drills.port import stop_file
from simulations.drills.schema import Entry
from simulations.drills.seen import Sample, look
from simulations.drills.strikes.envoy import through_envoy
from simulations.journal import Record


class GuestMesh:
    """A running mesh (`simulations.drills.port.Mesh`)."""

    def __init__(self, control: ControlClient, agent: AgentClient, stop_files: tuple[Path, ...]) -> None:
        self._control = control
        self._agent = agent
        self._stop_files = stop_files
        self._began = time.time()
        self._struck: set[str] = set()
        self._laid: dict[str, Overlay] = {}

    async def instances(self) -> tuple[Instance, ...]:
        """Return everything that runs."""
        return await self._control.instances()

    def records(self) -> Sequence[Record]:
        """Return nothing: its users cannot be asked, its services can."""
        return ()

    async def sample(self) -> Sample | None:
        """Return the golden signals of the last seconds, and notice what agents lay."""
        try:
            sample = await look(self._agent)
            for overlay in await self._control.overlays():
                if overlay.owner is Owner.AGENT:
                    self._laid.setdefault(overlay.id, overlay)
        except FibrinError:
            return None
        return sample

    async def incidents(self, since: float) -> tuple[Incident, ...]:
        """Return the incidents opened since, oldest first."""
        found = [i for i in await self._agent.incidents() if i["opened_at"] >= since]
        return tuple(sorted([await self._agent.incident(i["id"]) for i in found], key=lambda i: i.opened_at))

    def overlays(self) -> tuple[Overlay, ...]:
        """Return every overlay of an agent that was seen, oldest first."""
        return tuple(sorted(self._laid.values(), key=lambda o: o.created_at))

    def strike(self, entry: Entry) -> AbstractAsyncContextManager[None]:
        """Return the fault of an entry as a context. Raises Refused for one that is not played through sidecars."""
        fault = entry.inject.fault
        if not isinstance(fault, Abort | Delay):
            raise Refused(f"`{entry.inject.name}` needs a mesh that the runner started")
        self._struck.add(fault.service)
        return through_envoy(fault, entry.ramp, self._control)

    async def approve(self, incident: Incident) -> None:
        """Say yes to the plan that an incident waits with."""
        try:
            await self._agent.order(Verb.APPROVE, incident.id, "drill: the person on call approves")
        except Conflict:
            return

    async def clear(self) -> None:
        """Take away what agents have laid on the struck services since the drill began: what it was for is over.

        Everything else on a mesh that people use is theirs to take away.
        """
        for overlay in await self._control.overlays():
            ours = overlay.created_at >= self._began and target(overlay.change) in self._struck
            if overlay.owner is Owner.AGENT and ours:
                with contextlib.suppress(NotFound):
                    await self._control.delete_overlay(overlay.id)

    def stopped(self) -> str:
        """Return which stop file exists, "" when none does."""
        return stop_file(self._stop_files)


@asynccontextmanager
async def visiting(
    control: Callable[[], ControlClient], agent: Callable[[], AgentClient], stop_files: tuple[Path, ...]
) -> AsyncIterator[GuestMesh]:
    """Connect to a running mesh. Raises Unavailable when there is none."""
    async with control() as plane, agent() as healer:
        yield GuestMesh(plane, healer, stop_files)
