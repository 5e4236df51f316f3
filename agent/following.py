"""Keeping the agent's copy of the mesh fresh: topology by watch, changes by long poll, overlays every second.

Each follower runs for ever, backs off with jitter while the control plane is away, and says so once per change of state.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Final

import structlog

from agent import metrics
from agent.actuators.base import Actuator
from agent.mesh import MeshView
from agent.ports import Clock
from agent.timeline import Timeline
from agent.witness import Witness
from control.client import ControlClient
from models.domain import Edge
from models.errors import FibrinError

log = structlog.get_logger(__name__)

OVERLAYS_S: Final = 1.0
CHANGES_WAIT_S: Final = 20.0
BACK_OFF_S: Final = (0.1, 1.0)


class Follower:
    """Fills a `MeshView` from a control plane. `on_topology` is called after every new topology."""

    def __init__(
        self,
        client: ControlClient,
        actuator: Actuator,
        mesh: MeshView,
        timeline: Timeline,
        *,
        clock: Clock,
        on_topology: Callable[[], None],
        witness: Witness,
    ) -> None:
        self._client = client
        self._actuator = actuator
        self._mesh = mesh
        self._timeline = timeline
        self._clock = clock
        self._on_topology = on_topology
        self._witness = witness
        self._next_change = 0
        self._reported: frozenset[Edge] = frozenset()

    async def topology(self) -> None:
        """Follow the topology for ever."""
        await self._forever("topology", self._watch_topology)

    async def changes(self) -> None:
        """Follow change events for ever."""
        await self._forever("changes", self._poll_changes)

    async def overlays(self) -> None:
        """Follow overlays for ever; this poll also tells whether the control plane is up."""
        await self._forever("overlays", self._poll_overlays)

    async def _watch_topology(self) -> None:
        async for topology in self._client.watch_topology():
            self._mesh.set_topology(topology)
            self._on_topology()

    async def _poll_changes(self) -> None:
        found = await self._client.changes(self._next_change, CHANGES_WAIT_S)
        if found.next < self._next_change:  # the control plane began a new count
            self._mesh.forget_changes()
            await self._witness.anew()
        self._mesh.add_changes(found.changes)
        await self._witness.see(found.changes)
        self._next_change = found.next

    async def _poll_overlays(self) -> None:
        asked = self._clock()
        overlays = await self._actuator.overlays()
        self._mesh.overlays, self._mesh.overlays_at = overlays, asked
        self._up(up=True)
        if new := self._mesh.seen - self._reported:
            await self._client.report_edges(new)
            self._reported |= new
        await asyncio.sleep(OVERLAYS_S)

    async def _forever(self, what: str, once: Callable[[], Awaitable[None]]) -> None:
        pause = BACK_OFF_S[0]
        while True:
            try:
                await once()
                pause = BACK_OFF_S[0]
            except FibrinError as error:
                metrics.CONTROL_ERRORS.labels(what).inc()
                log.debug("following.interrupted", what=what, error=error.message)
                if what == "overlays":
                    self._up(up=False, why=error.message)
                await asyncio.sleep(pause * random.uniform(0.5, 1.5))
                pause = min(BACK_OFF_S[1], pause * 2)

    def _up(self, *, up: bool, why: str = "") -> None:
        if up == self._mesh.control_up and (up or self._mesh.told_down):
            return
        metrics.CONTROL_UP.set(up)
        if up:
            self._mesh.answers(self._clock())
            self._timeline.add(self._clock(), "control", "the control plane answers")
        else:
            self._mesh.silent(self._clock())
            self._timeline.add(self._clock(), "warning", f"seeing on without acting: {why}")
