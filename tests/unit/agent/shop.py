"""A small shop at 200 rps per edge, watched by the real detectors, localiser, shipped playbooks and audit log."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from agent.actuators.memory import MemoryActuator
from agent.actuators.recorded import RecordedActuator
from agent.audit import AuditLog
from agent.chronicle import Chronicle
from agent.decision import Decisions
from agent.loop import HealingLoop
from agent.mesh import MeshView
from agent.planner import PlaybookPlanner
from agent.scribe import Tools
from agent.senses import Senses
from agent.settings import AgentSettings
from agent.sources import Sources
from agent.store import Store
from agent.switch import KillSwitch
from agent.thinking import MeshLocaliser
from agent.timeline import Timeline
from models.detect import DetectorBank, FalseAlarmBudget
from models.domain import Edge, Instance, Topology
from models.overlay import EjectInstance, OpenBreaker, ShiftTraffic, in_force
from models.signals import BOUNDS_S, BUCKETS, Outcomes, Series, Side
from playbooks import library
from playbooks.guards import Limits
from playbooks.loading import library_texts

from .conftest import Clock, FakeFence, FakeSight, ListPager

TICK_S = 0.1
RPS = 200.0
VERSIONS = {
    "catalog": {"v1": 3, "v2": 1},
    "checkout": {"v1": 3},
    "payment": {"v1": 2},
    "cart": {"v1": 2},
    "front": {"v1": 2},
}
EDGES = (("front", "catalog"), ("front", "cart"), ("front", "checkout"), ("checkout", "payment"))
INSTANCES = tuple(
    Instance(f"{service}-{version}-{n}", service, version, f"z{n % 2}", f"127.1.{i}.{n}", 15006)
    for i, (service, versions) in enumerate(VERSIONS.items())
    for version, count in versions.items()
    for n in range(count)
)


@dataclass
class Shop:
    """Simulated requests: each edge sends its share; a fault makes some of them fail or slow; overlays steer."""

    seed: int
    clock: Clock = field(default_factory=Clock)
    failing: Callable[[Instance], float] = lambda _: 0.0
    slower: Callable[[Instance], float] = lambda _: 1.0
    obeys: bool = True  # ejections have an effect

    def tick(self, actuator: MemoryActuator) -> dict[Series, Outcomes]:
        """Return what the sidecars report for one tick."""
        rng = random.Random(f"{self.seed} {self.clock.now:.3f}")
        changes = [o.change for o in in_force(tuple(actuator._alive().values()))]
        ejected = {c.instance for c in changes if isinstance(c, EjectInstance) and self.obeys}
        open_ = {c.callee: c.percent for c in changes if isinstance(c, OpenBreaker)}
        idle = {(c.service, v) for c in changes if isinstance(c, ShiftTraffic) for v, w in c.weights.items() if w == 0}
        found: dict[Series, Outcomes] = {}
        broken_callees = {i.service for i in INSTANCES if self.failing(i) >= 1.0}
        for caller, callee in EDGES:
            pool = [
                i for i in INSTANCES if i.service == callee and i.id not in ejected and (callee, i.version) not in idle
            ]
            for _ in range(self._count(rng)):
                reporter = rng.choice([i.id for i in INSTANCES if i.service == caller])
                if callee in open_ and (open_[callee] >= 100 or rng.random() * 100 < open_[callee]):
                    _add(found, Series(Side.CLIENT, caller, callee, "", "", reporter), 0, 0.001, "BRK")
                    continue
                host = rng.choice(pool)
                down = any(d in broken_callees and d not in open_ for c, d in EDGES if c == callee)
                failed = int(rng.random() < self.failing(host) or (down and rng.random() < 0.9))
                seconds = rng.lognormvariate(np.log(0.02), 0.4) * self.slower(host)
                _add(found, Series(Side.CLIENT, caller, callee, host.version, host.id, reporter), failed, seconds)
                _add(found, Series(Side.ATTEMPT, caller, callee, host.version, host.id, reporter), failed, seconds)
                _add(found, Series(Side.SERVER, caller, callee, host.version, host.id, host.id), failed, seconds)
        return found

    @staticmethod
    def _count(rng: random.Random) -> int:
        return int(np.random.default_rng(rng.getrandbits(32)).poisson(RPS * TICK_S))


def _add(found: dict[Series, Outcomes], series: Series, failed: int, seconds: float, flag: str = "") -> None:
    one = found.setdefault(series, Outcomes(latency=np.zeros(BUCKETS, dtype=np.int64)))
    one.requests += 1
    one.errors += failed
    one.latency[int(np.searchsorted(BOUNDS_S, seconds))] += 1
    if flag:
        one.flags[flag] = one.flags.get(flag, 0) + 1


@dataclass
class Mesh:
    """The shop and the loop over it; close it at the end."""

    shop: Shop
    loop: HealingLoop
    actuator: MemoryActuator
    view: MeshView
    sight: FakeSight
    store: Store
    audit: AuditLog

    async def close(self) -> None:
        """Let go of the files."""
        await self.store.close()
        await self.audit.stop()

    async def run(self, seconds: float) -> None:
        """Let time pass."""
        for _ in range(round(seconds / TICK_S)):
            self.shop.clock.now += TICK_S
            self.sight.next = self.shop.tick(self.actuator)
            self.view.overlays = await self.actuator.overlays()
            self.view.overlays_at = self.shop.clock.now
            self.loop.tick()
            await self.loop.idle()


async def open_mesh(directory: Path, seed: int) -> Mesh:
    """Return a mesh that nobody has looked at yet."""
    shop, sight, view = Shop(seed), FakeSight(), MeshView()
    view.set_topology(
        Topology(
            INSTANCES,
            frozenset(Edge(a, b) for a, b in EDGES),
            {"catalog": {"v1": 0.75, "v2": 0.25}},
            frozenset({"payment"}),
        )
    )
    view.control_up = True
    bank = DetectorBank(FalseAlarmBudget(ticks_per_s=1 / TICK_S))
    store = Store(directory / "agent.db")
    await store.open()
    actuator = MemoryActuator(shop.clock)
    audit = AuditLog(directory / "audit.log", clock=shop.clock)
    chronicle = Chronicle(audit, shop.clock)
    tools = Tools(
        AgentSettings(state_dir=directory),
        shop.clock,
        store,
        Timeline(),
        chronicle,
        Decisions(chronicle, Sources(library=library_texts()), Limits(), lambda: audit.part),
        RecordedActuator(actuator, chronicle, shop.clock),
        PlaybookPlanner(library(), Limits()),
        FakeFence(),
        ListPager(),
        KillSwitch(store, directory / "stop-acting", shop.clock),
        pause=shop.clock.pause,
    )
    loop = HealingLoop(Senses(sight, bank, MeshLocaliser(bank, view), view), tools)
    await loop.start()
    return Mesh(shop, loop, actuator, view, sight, store, audit)
