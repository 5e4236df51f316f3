"""The loop with the real detectors, localiser and shipped playbooks, on telemetry of a small shop at 200 rps per edge."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest

from agent.actuators.memory import MemoryActuator
from agent.loop import HealingLoop, Senses
from agent.mesh import MeshView
from agent.planner import PlaybookPlanner
from agent.settings import AgentSettings
from agent.store import Store
from agent.thinking import MeshLocaliser
from agent.timeline import Timeline
from agent.treatment import Tools
from models.detect import DetectorBank, FalseAlarmBudget
from models.domain import Edge, Instance, Topology
from models.incident import CauseKind, Stage
from models.overlay import EjectInstance, OpenBreaker, ShiftTraffic
from models.signals import BOUNDS_S, BUCKETS, Outcomes, Series, Side
from playbooks import library
from playbooks.guards import Limits

from .conftest import Clock, FakeFence, FakeSight, ListAudit, ListPager

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

    def tick(self, actuator: MemoryActuator) -> dict[Series, Outcomes]:
        """Return what the sidecars report for one tick."""
        rng = random.Random(f"{self.seed} {self.clock.now:.3f}")
        changes = [o.change for o in actuator._alive().values()]
        ejected = {c.instance for c in changes if isinstance(c, EjectInstance)}
        open_ = {c.callee: c.respond for c in changes if isinstance(c, OpenBreaker)}
        idle = {(c.service, v) for c in changes if isinstance(c, ShiftTraffic) for v, w in c.weights.items() if w == 0}
        found: dict[Series, Outcomes] = {}
        broken_callees = {i.service for i in INSTANCES if self.failing(i) >= 1.0}
        for caller, callee in EDGES:
            pool = [
                i for i in INSTANCES if i.service == callee and i.id not in ejected and (callee, i.version) not in idle
            ]
            for _ in range(self._count(rng)):
                reporter = rng.choice([i.id for i in INSTANCES if i.service == caller])
                if callee in open_:
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
    """The shop and the loop over it."""

    shop: Shop
    loop: HealingLoop
    actuator: MemoryActuator
    view: MeshView
    sight: FakeSight
    store: Store

    async def run(self, seconds: float) -> None:
        """Let time pass."""
        for _ in range(round(seconds / TICK_S)):
            self.shop.clock.now += TICK_S
            self.sight.next = self.shop.tick(self.actuator)
            self.view.overlays = await self.actuator.overlays()
            self.view.overlays_at = self.shop.clock.now
            self.loop.tick()
            await self.loop.idle()


async def _mesh(directory: Path, seed: int) -> Mesh:
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
    tools = Tools(
        AgentSettings(state_dir=directory),
        shop.clock,
        store,
        Timeline(),
        ListAudit(),
        actuator,
        PlaybookPlanner(library(), Limits()),
        FakeFence(),
        ListPager(),
        pause=shop.clock.pause,
    )
    loop = HealingLoop(Senses(sight, bank, MeshLocaliser(bank, view), view), tools)
    await loop.start()
    return Mesh(shop, loop, actuator, view, sight, store)


@pytest.mark.parametrize("seed", range(2))
async def test_a_quiet_shop_stays_quiet(tmp_path: Path, seed: int) -> None:
    """No fault, no incident."""
    mesh = await _mesh(tmp_path, seed)
    await mesh.run(20.0)
    assert mesh.loop.incidents == ()
    await mesh.store.close()


@pytest.mark.parametrize("seed", range(2))
async def test_a_canary_that_fails_a_fifth_is_shifted_away_within_a_second(tmp_path: Path, seed: int) -> None:
    """50 rps on the canary, 20 % of them fail: shifted away from, verified, nothing else touched."""
    mesh = await _mesh(tmp_path, seed)
    await mesh.run(20.0)
    began = mesh.shop.clock.now
    mesh.shop.failing = lambda i: 0.2 if i.version == "v2" else 0.0
    await mesh.run(12.0)
    (incident,) = mesh.loop.incidents
    assert incident.stage is Stage.RESOLVED
    assert incident.cause is not None
    assert (incident.cause.kind, incident.cause.service, incident.cause.subject) == (CauseKind.VERSION, "catalog", "v2")
    assert incident.times["acted"] - began <= 1.2
    assert [type(o.change) for o in await mesh.actuator.overlays()] == [ShiftTraffic]
    await mesh.store.close()


@pytest.mark.parametrize("seed", range(2))
async def test_one_instance_of_three_that_is_ten_times_slower_is_ejected(tmp_path: Path, seed: int) -> None:
    """The slow one leaves the pool and the latency comes back."""
    mesh = await _mesh(tmp_path, seed)
    await mesh.run(20.0)
    began = mesh.shop.clock.now
    mesh.shop.slower = lambda i: 10.0 if i.id == "checkout-v1-1" else 1.0
    await mesh.run(12.0)
    (incident,) = mesh.loop.incidents
    assert incident.stage is Stage.RESOLVED
    assert incident.times["acted"] - began <= 2.0
    assert [o.change for o in await mesh.actuator.overlays()] == [EjectInstance("checkout", "checkout-v1-1")]
    await mesh.store.close()


@pytest.mark.parametrize("seed", range(2))
async def test_a_dependency_that_goes_down_is_answered_by_its_fallback(tmp_path: Path, seed: int) -> None:
    """Checkout fails because payment is down: the breaker to payment opens and its users are well again."""
    mesh = await _mesh(tmp_path, seed)
    await mesh.run(20.0)
    began = mesh.shop.clock.now
    mesh.shop.failing = lambda i: 1.0 if i.service == "payment" else 0.0
    await mesh.run(12.0)
    (incident,) = mesh.loop.incidents
    assert incident.stage is Stage.RESOLVED
    assert incident.cause is not None
    assert incident.cause.service == "payment"
    assert incident.times["acted"] - began <= 1.0
    (overlay,) = await mesh.actuator.overlays()
    assert isinstance(overlay.change, OpenBreaker)
    assert replace(overlay.change, caller="") == OpenBreaker("payment", respond="fallback")
    await mesh.store.close()
