"""The agent's loop as it runs, on a mesh that is made up: telemetry and alarms are written by hand, all behind them is real.

Store and audit log are on disk, the localiser, the planner, the guards and the shipped playbooks are the agent's own.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import numpy as np

from agent.audit import AuditLog
from agent.chronicle import Chronicle
from agent.decision import Decisions
from agent.incidents import Incident
from agent.loop import HealingLoop
from agent.mesh import MeshView
from agent.planner import PlaybookPlanner
from agent.ports import Circumstances, Clock, Draft, Fence
from agent.scribe import Tools
from agent.senses import Senses
from agent.settings import AgentSettings
from agent.sources import Sources, read_sources
from agent.store import Store
from agent.switch import KillSwitch
from agent.thinking import MeshLocaliser
from agent.timeline import Timeline
from models.detect import Baseline
from models.domain import Edge, Instance, Topology
from models.incident import Anomaly, Signal
from models.localise import Evidence
from models.signals import BOUNDS_S, BUCKETS, Outcomes, Saturation, Series, Side
from playbooks.guards import Limits

NORMAL_S: Final = 0.02
PER_TICK: Final = 20
"""Requests of one caller to one service in one tick."""

NO_LIMITS: Final = Limits(storm_share=1.01, mesh_capacity=1.0, actions=10**9)
"""A mesh in which everything is broken again and again is no storm here."""

_BUCKET: Final = int(np.searchsorted(BOUNDS_S, NORMAL_S))


class MadeUp:
    """Sight and detector in one: whoever is in `broken` (services) has a version v2 that fails; all others are well."""

    def __init__(self, topology: Topology, broken: set[str]) -> None:
        self._topology = topology
        self._normal = {signal: _baseline(signal) for signal in Signal}
        self.broken = broken
        self._made: tuple[set[str], dict[Series, Outcomes]] = (set(), {})
        self._made = (set(broken), self._tick())
        self.since = 0.0
        self._alarms: tuple[tuple[set[str], float], tuple[Anomaly, ...]] = ((set(), 0.0), ())

    def take_tick(self, now: float) -> Mapping[Series, Outcomes]:
        """Return one tick of every edge: what callers got, and attempts by instance."""
        del now
        if self._made[0] != self.broken:  # made once: what it takes to make it is nobody's time
            self._made = (set(self.broken), self._tick())
        return dict(self._made[1])

    def _tick(self) -> dict[Series, Outcomes]:
        found: dict[Series, Outcomes] = {}
        for edge in self._topology.edges:
            bad = edge.callee in self.broken
            client = Series(Side.CLIENT, edge.caller, edge.callee, "", "", f"{edge.caller}-1")
            found[client] = _outcomes(PER_TICK, PER_TICK // 4 if bad else 0)
            for one in self._topology.of(edge.callee):
                attempt = Series(Side.ATTEMPT, edge.caller, one.service, one.version, one.id, f"{edge.caller}-1")
                each = PER_TICK // 4
                found[attempt] = _outcomes(each, each if bad and one.version == "v2" else 0)
        return found

    @property
    def active(self) -> tuple[Anomaly, ...]:
        """Return the alarms of everything that is broken."""
        now = (set(self.broken), self.since)
        if self._alarms[0] != now:
            self._alarms = (now, self._alarmed(self.since))
        return self._alarms[1]

    def _alarmed(self, at: float) -> tuple[Anomaly, ...]:
        found = []
        for edge in sorted(self._topology.edges):
            if edge.callee in self.broken:
                seen = (
                    (Series(Side.ATTEMPT, "", edge.callee, "v2", "", ""), 1.0),
                    (Series(Side.CLIENT, edge.caller, edge.callee, "", "", ""), 0.25),
                )
                found += [Anomaly(series, Signal.ERRORS, at, at - 0.1, share, 0.001, 9.0, 40) for series, share in seen]
        return tuple(found)

    def update(
        self,
        at: float,
        outcomes: Mapping[Series, Outcomes],
        saturation: Iterable[Saturation] = (),
        *,
        lag_s: float = 0.0,
    ) -> tuple[Anomaly, ...]:
        """Learn nothing."""
        del at, outcomes, saturation, lag_s
        return ()

    def baseline(self, series: Series, signal: Signal) -> Baseline | None:
        """Return the normal of every series: no errors, 20 ms."""
        del series
        return self._normal[signal]

    def reset(self, match: Callable[[Series], bool]) -> None:
        """Nothing is remembered, so nothing is forgotten."""

    def save(self) -> bytes:
        """Return nothing learnt."""
        return b""

    def restore(self, state: bytes) -> None:
        """Take up nothing."""

    def blind(self, now: float) -> frozenset[str]:
        """Nobody is silent."""
        del now
        return frozenset()

    def saturation(self, now: float) -> tuple[Saturation, ...]:
        """Nobody declares a limit."""
        del now
        return ()

    def lag(self, now: float) -> float:
        """Telemetry is never late."""
        del now
        return 0.0

    def reporters(self) -> int:
        """Every instance reports."""
        return len(self._topology.instances)


class Nobody:
    """A pager that calls no one."""

    def page(self, incident: Incident, message: str, *, urgent: bool = True) -> None:
        """Call no one."""
        del incident, message, urgent


class Held:
    """A fence that is held."""

    def __init__(self, token: int = 1) -> None:
        self.token: int | None = token

    def lost(self) -> None:
        """Nobody else is there to take it."""


class Noting(Decisions):
    """Writes decisions, and notes when the last one was on disk (`perf_counter`)."""

    at = 0.0

    async def write(
        self, incident: Incident, draft: Draft, around: Circumstances, ledger: bytes, evidence: Evidence | None
    ) -> int:
        """Write what was decided, durably."""
        number = await super().write(incident, draft, around, ledger, evidence)
        self.at = time.perf_counter()
        return number


class Brain:
    """Store and audit log in a directory, from which any number of loops can be made, one after the other."""

    store: Store

    def __init__(self, directory: Path, audit: AuditLog, topology: Topology, clock: Clock) -> None:
        self.audit = audit
        self.topology = topology
        self.clock = clock
        self.mesh = MeshView()
        self.made_up = MadeUp(topology, set())
        self.decisions: Noting | None = None
        self._directory = directory
        self._stores = 0

    async def forget(self) -> None:
        """Go on with an empty database."""
        if self._stores:
            await self.store.close()
        self._stores += 1
        self.store = Store(self._directory / f"agent-{self._stores}.db")
        await self.store.open()

    def loop(
        self,
        actuator: Any,
        own: Mapping[str, str] = {},
        fence: Fence | None = None,
        timeline: Timeline | None = None,
        **settings: Any,
    ) -> HealingLoop:
        """Return a loop without a past; `own` are playbooks that replace the shipped ones, `settings` the agent's."""
        chosen = AgentSettings(state_dir=self._directory, warm_up_s=0.0, storm_share=1.0, **settings)
        sources = Sources(own, {}) if own else read_sources(chosen)
        chronicle = Chronicle(self.audit, self.clock)
        if self.decisions is None or own:
            self.decisions = Noting(chronicle, sources, NO_LIMITS, lambda: self.audit.part)
        self.mesh.set_topology(self.topology)
        self.mesh.control_up, self.mesh.overlays_at = True, self.clock()
        tools = Tools(
            chosen,
            self.clock,
            self.store,
            timeline or Timeline(),
            chronicle,
            self.decisions,
            actuator,
            PlaybookPlanner(sources.playbooks(), NO_LIMITS),
            fence or Held(),
            Nobody(),
            KillSwitch(self.store, self._directory / "stop-acting", self.clock),
        )
        localise = MeshLocaliser(self.made_up, self.mesh)
        return HealingLoop(Senses(self.made_up, self.made_up, localise, self.mesh), tools)


@asynccontextmanager
async def brain(directory: Path, topology: Topology, clock: Clock = time.time) -> AsyncIterator[Brain]:
    """Open store and audit log in `directory`."""
    async with AuditLog(directory / "audit.log") as audit:
        made = Brain(directory, audit, topology, clock)
        try:
            await made.forget()
            yield made
        finally:
            await made.store.close()


def shop(services: int, per_version: Sequence[int] = (3, 1)) -> Topology:
    """Return a front that calls `services` services of two versions each, with so many instances of v1 and v2."""
    instances = [Instance("front-1", "front", "v1", "z1", "127.0.0.1", 15006)]
    for number in range(services):
        name = f"svc{number}"
        for version, count in zip(("v1", "v2"), per_version, strict=True):
            instances += [
                Instance(
                    f"{name}-{version}-{k}", name, version, "z1", f"127.{number // 250}.{number % 250}.{k + 1}", 15006
                )
                for k in range(count)
            ]
    edges = frozenset(Edge("front", f"svc{number}") for number in range(services))
    weights = {f"svc{number}": {"v1": 0.75, "v2": 0.25} for number in range(services)}
    return Topology(tuple(instances), edges, weights=weights)


def with_stores(topology: Topology) -> Topology:
    """Return the shop with a store behind each service, of one instance."""
    services = sorted({instance.service for instance in topology.instances} - {"front"})
    stores = [
        Instance(f"store-{name}-1", f"store-{name}", "v1", "z1", f"127.{200 + n // 250}.{n % 250}.1", 15006)
        for n, name in enumerate(services)
    ]
    edges = topology.edges | {Edge(name, f"store-{name}") for name in services}
    return Topology((*topology.instances, *stores), edges, weights=topology.weights)


def _outcomes(requests: int, errors: int) -> Outcomes:
    latency = np.zeros(BUCKETS, dtype=np.int64)
    latency[_BUCKET] = requests
    return Outcomes(requests, errors, latency=latency)


def _baseline(signal: Signal) -> Baseline:
    latency = np.zeros(BUCKETS)
    latency[_BUCKET] = 1000.0
    return Baseline(signal, 0.0005, latency, NORMAL_S, NORMAL_S * 1.2, PER_TICK * 10.0, 1000.0)
