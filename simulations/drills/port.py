"""What the runner needs of a mesh, and of time: two ports. Production's are `real` and `agent.ports`' clock of the machine.

A fault in force is an async context: entering it breaks something, leaving it takes it back. Whoever enters many leaves all of
them, whatever happens.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Protocol

from agent.incidents import Incident
from models.domain import Instance
from models.overlay import Overlay
from simulations.drills.schema import Entry
from simulations.drills.seen import Sample
from simulations.journal import Record


class Mesh(Protocol):
    """A mesh that can be broken and looked at. Every call may raise errors of our tree."""

    async def instances(self) -> tuple[Instance, ...]:
        """Return everything that runs."""

    def records(self) -> Sequence[Record]:
        """Return what users saw so far, in the order in which they saw it (empty where users cannot be asked)."""

    async def sample(self) -> Sample | None:
        """Return the golden signals of the last second, None while nobody can tell."""

    async def incidents(self, since: float) -> tuple[Incident, ...]:
        """Return the incidents opened since (Unix s), oldest first."""

    def overlays(self) -> tuple[Overlay, ...]:
        """Return every overlay an agent ever laid, oldest first."""

    def strike(self, entry: Entry) -> AbstractAsyncContextManager[None]:
        """Return the fault of an entry as a context; its ramp runs by itself."""

    async def approve(self, incident: Incident) -> None:
        """Say yes to the plan that an incident waits with, as the person on call."""

    async def clear(self) -> None:
        """Take away what agents laid and wait until all instances are well again."""

    def stopped(self) -> str:
        """Return why everything has to be taken back at once ("" : it need not): a stop file, a dead process."""


class Clock(Protocol):
    """Time."""

    def now(self) -> float:
        """Return Unix seconds."""

    async def sleep(self, seconds: float) -> None:
        """Let time pass."""


class WallClock:
    """The machine's time."""

    def now(self) -> float:
        """Return Unix seconds."""
        return time.time()

    async def sleep(self, seconds: float) -> None:
        """Let time pass."""
        await asyncio.sleep(seconds)


def stop_file(places: Iterable[Path]) -> str:
    """Return which of the files that stop a drill exists, as a sentence ("" : none)."""
    found = next((place for place in places if place.exists()), None)
    return f"{found} exists" if found else ""
