"""A mesh in memory and a clock that jumps: what the runner is held to without a single process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest

from agent.incidents import Incident
from models.domain import Instance
from models.errors import Broken, Unavailable
from models.incident import Cause, CauseKind, Signal, Stage
from models.overlay import Overlay, Owner, ShiftTraffic
from simulations.drills.loading import SHOP, load
from simulations.drills.schema import Drill, Entry
from simulations.drills.seen import Sample
from simulations.journal import Record

TEXT = """
apiVersion: fibrin.dev/v1
kind: Drill
metadata: {{name: bad-version, labels: {{class: version}}}}
spec:
  description: The canary fails.
  steadyState:
  - {{users: true, good: 97%}}
  faults:
  - inject:
      errors: {{service: catalog, version: v2, share: 20%}}
{more}
  lasts: 10s
  expect:
    outcome: healed
    detectedWithin: 3s
    cause: {{kind: [version], service: catalog, subject: [v2]}}
    playbook: bad-version
    mitigatedWithin: 5s
    lostAtMost: 60
  abort:
  - {{users: true, good: 30%, lasts: 2s}}
"""
CAUSE = Cause(CauseKind.VERSION, "catalog", "v2", Signal.ERRORS, 0.97)


def drill(more: str = "") -> Drill:
    """Return the drill of these tests, with more faults (YAML list items at four spaces)."""
    return load({"drill.yaml": TEXT.format(more=more)})[0]


class JumpingClock:
    """Time that passes when somebody waits for it."""

    def __init__(self) -> None:
        self.time = 1_000_000.0

    def now(self) -> float:
        return self.time

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(0)
        self.time += seconds


@dataclass
class MemoryMesh:
    """Users ask a hundred times a second; `missed` says what share misses while a fault is in force.

    `resists` and `refuses` name faults that cannot be taken back or begun. `heals_after_s`: the agent's overlay comes so
    long after the first fault, and then all is well; None: never.
    """

    clock: JumpingClock
    missed: float = 0.2
    missed_before: float = 0.0
    heals_after_s: float | None = 1.0
    resists: frozenset[str] = frozenset()
    refuses: frozenset[str] = frozenset()
    stop_at: float = float("inf")
    in_force: list[str] = field(default_factory=list)
    history: list[str] = field(default_factory=list)
    began: float = 0.0
    approved: list[str] = field(default_factory=list)
    stage: Stage = Stage.RESOLVED
    blind: tuple[str, ...] = ()
    _records: list[Record] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._until = self.clock.now() - 10.0

    async def instances(self) -> tuple[Instance, ...]:
        return SHOP

    @property
    def healed(self) -> bool:
        return (
            self.heals_after_s is not None and bool(self.began) and self.clock.now() >= self.began + self.heals_after_s
        )

    def records(self) -> Sequence[Record]:
        while self._until < self.clock.now():
            self._until += 0.01
            share = self.missed if self.in_force and not self.healed else self.missed_before
            bad = round(self._until * 100) % 100 < 100 * share
            self._records.append(Record(0.0, self._until, "home", 500 if bad else 200, 0.0, bad))
        return self._records

    async def sample(self) -> Sample | None:
        return Sample(self.clock.now(), {}, self.blind)

    async def incidents(self, since: float) -> tuple[Incident, ...]:
        if not self.healed:
            return ()
        at = self.began + (self.heals_after_s or 0.0)
        times = {"detected": at, "acted": at, "verified": at + 1}
        found = Incident("inc-1", at, at, self.stage, causes=(CAUSE,), playbook="bad-version", times=times)
        return (found,) if at >= since else ()

    def overlays(self) -> tuple[Overlay, ...]:
        if not self.healed:
            return ()
        at = self.began + (self.heals_after_s or 0.0)
        change = ShiftTraffic("catalog", {"v1": 100, "v2": 0})
        return (Overlay("ov-1", change, Owner.AGENT, "agent", "because", at, at + 30, 30),)

    @asynccontextmanager
    async def strike(self, entry: Entry) -> AsyncIterator[None]:
        name = entry.inject.name
        if name in self.refuses:
            raise Unavailable(f"{name} cannot be begun")
        self.in_force.append(name)
        self.history.append(f"+{name}")
        self.began = self.began or self.clock.now()
        try:
            yield
        finally:
            self.history.append(f"-{name}")
            if name in self.resists:
                raise Broken(f"{name} cannot be taken back")
            self.in_force.remove(name)

    async def approve(self, incident: Incident) -> None:
        self.approved.append(incident.id)

    async def clear(self) -> None:
        self.history.append("clear")

    def stopped(self) -> str:
        return "the stop file exists" if self.clock.now() >= self.stop_at else ""


@pytest.fixture
def clock() -> JumpingClock:
    """A clock that jumps."""
    return JumpingClock()


@pytest.fixture
def mesh(clock: JumpingClock) -> MemoryMesh:
    """A mesh in memory, on that clock."""
    return MemoryMesh(clock)
