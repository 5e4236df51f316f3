"""Every class of faults the simulator has: what it breaks, who is at fault, and what is left when it is over."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import fields, replace

import numpy as np
import pytest
import pytest_asyncio

from agent.actuators.base import Order
from models.errors import Unavailable
from models.incident import Cause, CauseKind, Signal
from models.overlay import EjectInstance, ShiftTraffic
from models.signals import Outcomes, Series, Side, percentile
from simulations.simulator import damage, faults
from simulations.simulator.campaign import Plan, play
from simulations.simulator.faults import Fault
from simulations.simulator.guilt import Guilt, truth, truths
from simulations.simulator.mesh import CANARY, STABLE, draw
from simulations.simulator.meshfaults import (
    AgentClock,
    AgentKilled,
    ControlAway,
    ControlFlaky,
    ControlLate,
    ControlRefused,
    Spoiling,
    TelemetrySpoiled,
)
from simulations.simulator.mixture import CLASSES, MIXES, Mixture
from simulations.simulator.plant import Plant
from simulations.simulator.process import TICK_S
from simulations.simulator.runner import Campaign, run
from simulations.simulator.scenario import Part, Scenario, Wanted, single
from simulations.simulator.score import as_it_should, score
from simulations.simulator.telemetry import Telemetry, total
from simulations.simulator.world import World, open_world

MESH = draw(30, 5)
LARGER = draw(60, 5)
SERVICE = next(i.service for i in MESH.instances if i.version == CANARY)


def watch(plant: Plant, seconds: float, fault: Fault | None = None) -> dict[Series, Outcomes]:
    """Return everything that was reported in `seconds`, while a fault goes on."""
    telemetry = Telemetry(plant.layout)
    found: dict[Series, Outcomes] = {}
    ended = None
    for tick in range(round(seconds / plant.tick_s)):
        if fault is not None:
            damage.advance(fault, plant, tick * plant.tick_s, ended)
        ended = plant.step()
        for series, outcomes in telemetry.report(ended).items():
            found.setdefault(series, Outcomes()).__iadd__(outcomes)
    return found


def by_instance(found: dict[Series, Outcomes], service: str) -> dict[str, int]:
    """Return how many attempts each instance of a service got."""
    counts: dict[str, int] = {}
    for series, outcomes in found.items():
        if series.callee == service and series.side is Side.ATTEMPT and series.instance:
            counts[series.instance] = counts.get(series.instance, 0) + outcomes.requests
    return counts


def cause(kind: CauseKind, service: str, subject: str = "") -> Cause:
    """Return a cause as the agent names it."""
    return Cause(kind, service, subject, Signal.ERRORS, 0.9)


@pytest.fixture
def plant() -> Plant:
    """A mesh on a good day."""
    plant = Plant(MESH, seed=2)
    watch(plant, 2.0)
    return plant


@pytest_asyncio.fixture
async def world() -> AsyncIterator[World]:
    """A mesh with a mortal agent that has seen it for a while."""
    async with open_world(replace(MESH, rps=150.0), seed=2, mortal=True) as world:
        for _ in range(60):
            await world.step()
        yield world


async def go(world: World, seconds: float) -> None:
    """Let virtual time pass."""
    for _ in range(round(seconds / TICK_S)):
        await world.step()


# --- services ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", CLASSES)
def test_every_class_can_be_drawn_is_judged_and_leaves_nothing_behind(kind: str) -> None:
    """What a class breaks in services is whole again afterwards, and somebody is at fault exactly where a service breaks."""
    plant = Plant(LARGER, seed=2)
    before = {f.name: getattr(plant.now, f.name).copy() for f in fields(plant.now)}
    scenario = Mixture({kind: 1.0}, least_rps=0.5).draw(plant, np.random.default_rng(3))
    assert scenario.kind == kind
    assert bool(scenario.guilt(plant.layout).faults) == bool(scenario.services)
    for _, fault in scenario.services:
        damage.apply(fault, plant)
        damage.advance(fault, plant, 1.0, plant.step())
        damage.undo(fault, plant)
    for name in ("dead", "slow", "delay_s", "errors", "stuck", "cut", "lag_s", "surge"):
        assert np.array_equal(getattr(plant.now, name), before[name]), name


def test_a_killed_instance_leaves_balance_and_one_that_warms_up_comes_back_slow(plant: Plant) -> None:
    """Health checks take the dead out; who restarts is back after them, slow at first and well in the end."""
    layout = plant.layout
    sick = layout.instances[layout.members(SERVICE)[0]]
    place = layout.place[sick]
    damage.apply(faults.InstanceKilled(sick), plant)
    watch(plant, 2.0)
    assert not plant.in_balance[place]
    damage.undo(faults.InstanceKilled(sick), plant)
    warms = faults.InstanceWarms(sick, 2.0, 9.0, 8.0)
    slow = []
    for since in (0.0, 2.0, 6.0, 10.0):
        damage.advance(warms, plant, since)
        slow.append((bool(plant.now.dead[place]), float(plant.now.slow[place])))
    assert slow == [(True, 9.0), (False, 9.0), (False, 5.0), (False, 1.0)]


def test_a_lost_zone_takes_its_instances_from_every_service(plant: Plant) -> None:
    """All instances of the zone die and no other; any of its services, and the zone itself, is a right name."""
    layout = plant.layout
    lost = faults.ZoneLost("zone-b")
    damage.apply(lost, plant)
    assert {layout.zone_of[k] for k in np.flatnonzero(plant.now.dead)} == {"zone-b"}
    guilt = Guilt((truths(lost, layout),))
    service = next(s for s in layout.services if len({layout.zone_of[k] for k in layout.members(s).tolist()}) > 1)
    gone = [k for k in layout.members(service).tolist() if layout.zone_of[k] == "zone-b"]
    well = next(k for k in layout.members(service).tolist() if layout.zone_of[k] != "zone-b")
    if gone:
        assert guilt.right(cause(CauseKind.ZONE, service, "zone-b"))
        assert not guilt.innocent(EjectInstance(service, layout.instances[gone[0]]), layout)
    assert guilt.innocent(EjectInstance(service, layout.instances[well]), layout)
    assert not guilt.right(cause(CauseKind.ZONE, service, "zone-a"))


def test_a_slow_zone_of_a_service_is_slow_there_only(plant: Plant) -> None:
    """Its instances in other zones work as before."""
    layout = plant.layout
    zone = layout.zone_of[layout.members(SERVICE)[0]]
    damage.apply(faults.ZoneSlow(SERVICE, zone, 10.0), plant)
    slow = {layout.instances[k] for k in np.flatnonzero(plant.now.slow > 1)}
    members = {layout.instances[k] for k in layout.members(SERVICE).tolist()}
    assert slow == {name for name in members if layout.zone_of[layout.place[name]] == zone}
    assert slow < members


def test_a_retry_storm_grows_with_the_failures_and_ends_with_them(plant: Plant) -> None:
    """Callers ask again what failed, without a budget: more requests while it fails, as many as usual once it is healed."""
    storm = faults.RetryStorm(SERVICE, STABLE, 0.8, 6)
    calls = np.flatnonzero(plant.layout.callee == plant.layout.number[SERVICE])
    usual = plant.rates[calls].sum()
    damage.apply(storm, plant)
    watch(plant, 8.0, storm)
    stormy = plant.rates[calls].sum()
    assert stormy > 2 * usual
    weights = {STABLE: 0, CANARY: 100}
    policy = replace(MESH.policies[SERVICE], routes=(replace(MESH.policies[SERVICE].routes[0], weights=weights),))
    plant.steer({**MESH.policies, SERVICE: policy})
    watch(plant, 8.0, storm)
    assert plant.rates[calls].sum() < 1.05 * usual


def test_a_lost_cache_multiplies_one_call_and_no_other(plant: Plant) -> None:
    """Who had the cache asks more; both who asks and who is asked may be named, and third parties are innocent."""
    layout = plant.layout
    call = next(k for k in range(len(layout.caller)) if layout.caller[k] < len(layout.services))
    caller, callee = layout.caller_name(call), layout.services[layout.callee[call]]
    lost = faults.CacheLost(caller, callee, 8.0)
    damage.apply(lost, plant)
    assert np.flatnonzero(plant.now.surge > 1).tolist() == [call]
    found = truth(lost, layout)
    assert found.right(cause(CauseKind.OVERLOAD, callee))
    assert found.right(cause(CauseKind.SERVICE, caller))
    other = next(s for s in layout.services if s not in {caller, callee})
    assert found.innocent(EjectInstance(other, "any"), layout)


def test_a_hot_key_lies_on_one_instance_and_moves_when_that_is_taken_out(plant: Plant) -> None:
    """Its holder gets its share and what is evenly spread besides; taking it out heats the next one."""
    layout = plant.layout
    service = next(s for s in layout.services if len(layout.members(s)) >= 3 and not MESH.policies[s].routes[0].weights)
    hot, then = (layout.instances[k] for k in layout.members(service).tolist()[:2])
    key = faults.HotKey(service, hot, 0.7, 1.0)
    damage.apply(key, plant)
    counts = by_instance(watch(plant, 20.0, key), service)
    assert counts[hot] > 0.6 * sum(counts.values())
    plant.steer({**MESH.policies, service: replace(MESH.policies[service], ejected=frozenset({hot}))})
    watch(plant, 3.0, key)
    counts = by_instance(watch(plant, 20.0, key), service)
    assert counts[then] > 0.6 * sum(counts.values())
    assert hot not in counts


def test_a_herd_comes_in_bursts(plant: Plant) -> None:
    """So many times the usual users in one tick, then as many as usual."""
    entry = MESH.entries[0]
    herd = faults.Herd(entry, 10.0, 2.0)
    users = np.flatnonzero(plant.layout.caller == len(plant.layout.services))
    seen = []
    for since in (0.0, 0.25, 1.75, 2.0):
        damage.advance(herd, plant, since)
        seen.append(float(plant.now.surge[users].max()))
    assert seen == [10.0, 1.0, 1.0, 10.0]


def test_with_expired_certificates_nobody_reaches_anybody(plant: Plant) -> None:
    """Every connection is refused, and only the mesh as a whole is a right name."""
    expired = faults.CertificatesExpired()
    damage.apply(expired, plant)
    watch(plant, 1.0)
    assert total(watch(plant, 4.0), Side.CLIENT).error_ratio == 1.0
    (whole,) = truths(expired, plant.layout)
    assert whole.right(cause(CauseKind.GLOBAL, ""))
    assert not whole.right(cause(CauseKind.SERVICE, SERVICE))
    assert whole.innocent(ShiftTraffic(SERVICE, {STABLE: 100, CANARY: 0}), plant.layout)


def test_a_far_callee_is_far_for_one_caller_only(plant: Plant) -> None:
    """The other callers' requests take as long as before."""
    layout = plant.layout
    shared = next(k for k in range(len(layout.services)) if (layout.callee == k).sum() >= 2)
    callers = [layout.caller_name(int(c)) for c in np.flatnonzero(layout.callee == shared)]
    damage.apply(faults.CallerFar(callers[0], layout.services[shared], 0.5), plant)
    watch(plant, 2.0)
    took = {
        s.caller: percentile(o.latency, 0.5)
        for s, o in watch(plant, 20.0).items()
        if s.side is Side.CLIENT and s.callee == layout.services[shared]
    }
    assert took[callers[0]] > 0.5
    assert all(seconds < 0.4 for caller, seconds in took.items() if caller != callers[0])


def test_subtle_corruption_is_one_in_a_hundred() -> None:
    """The class of small errors strikes a version with traffic enough to show them."""
    plant = Plant(draw(200, 9), seed=2)
    watch(plant, 2.0)
    (part,) = Mixture({"version-subtle": 1.0}).draw(plant, np.random.default_rng(1)).parts
    assert isinstance(part.fault, faults.VersionErrors)
    assert part.fault.ratio == 0.01


# --- telemetry --------------------------------------------------------------------------------------------------


async def test_dropped_telemetry_is_lost_and_told(world: World) -> None:
    """Nothing arrives of the struck sidecars; they are blind until they are heard of again."""
    mine = {world.plant.layout.instances[k] for k in world.plant.layout.members(SERVICE).tolist()}
    await world.begin(TelemetrySpoiled(Spoiling.DROPPED, SERVICE))
    await go(world, 1.0)
    assert not world.loop.blind
    await go(world, 1.0)
    assert world.loop.blind == mine
    world.agent.sight.hear(world.plant.step())
    assert not {s.reporter for s in world.agent.sight.take_tick(world.clock.now)} & mine
    await world.end(TelemetrySpoiled(Spoiling.DROPPED, SERVICE))
    await go(world, 1.0)
    assert not world.loop.blind


async def test_frozen_telemetry_counts_once_and_is_told(world: World) -> None:
    """The same report again and again adds nothing to what is known, and after three seconds nobody is believed."""
    await world.begin(TelemetrySpoiled(Spoiling.FROZEN, SERVICE))
    mine = {world.plant.layout.instances[k] for k in world.plant.layout.members(SERVICE).tolist()}
    heard: set[str] = set()
    for _ in range(4):
        world.clock.now += TICK_S
        world.agent.sight.hear(world.plant.step())
        heard |= {s.reporter for s in world.agent.sight.take_tick(world.clock.now)}
    assert heard
    assert not heard & mine
    await go(world, 3.5)
    assert world.loop.blind == mine


async def test_late_telemetry_arrives_as_old_news_and_misdated_in_time(world: World) -> None:
    """What is late comes after its time and not before; both are told as soon as they arrive."""
    await world.begin(TelemetrySpoiled(Spoiling.LATE, by_s=4.0))
    await go(world, 3.0)
    world.agent.sight.hear(world.plant.step())
    assert not world.agent.sight.take_tick(world.clock.now)
    await go(world, 2.0)
    assert world.loop.blind
    await world.end(TelemetrySpoiled(Spoiling.LATE, by_s=4.0))
    await go(world, 6.0)
    assert not world.loop.blind
    await world.begin(TelemetrySpoiled(Spoiling.MISDATED, SERVICE, 5.0))
    await go(world, 0.5)
    assert {world.plant.layout.instances[k] for k in world.plant.layout.members(SERVICE).tolist()} == world.loop.blind


# --- control plane and agent ------------------------------------------------------------------------------------


ORDER = Order("one", ShiftTraffic(SERVICE, {STABLE: 100, CANARY: 0}), "why", 30.0, "i-1", 1)


async def test_a_control_plane_that_is_away_changes_nothing_and_the_right_to_act_runs_out(world: World) -> None:
    """Calls fail, sidecars keep what they have, the agent says so and no longer holds the fence; afterwards all is as before."""
    await world.begin(ControlAway())
    with pytest.raises(Unavailable):
        await world.control.lay(ORDER)
    await go(world, 5.0)
    assert world.agent.view.told_down
    with pytest.raises(Unavailable):
        await world.control.overlays()
    await world.end(ControlAway())
    await go(world, 2.0)
    assert world.agent.view.control_up
    assert world.agent.view.fresh_from > world.clock.now
    await world.control.lay(ORDER)


async def test_sidecars_that_refuse_stay_as_they_are_and_late_ones_follow_late(world: World) -> None:
    """A refused change has no effect and is told; one under way has none before it arrives."""

    def share() -> float:
        layout = world.plant.layout
        canaries = [k for k in layout.members(SERVICE).tolist() if layout.version_of[k] == CANARY]
        return float(world.plant.routing.share[canaries].sum())

    await world.begin(ControlRefused())
    await world.control.lay(ORDER)
    assert (await world.control.propagation("one")).nacked > 0
    await go(world, 1.0)
    assert share() > 0
    await world.control.remove("one", 1)
    await world.end(ControlRefused())
    await world.begin(ControlLate(2.0))
    await world.control.lay(ORDER)
    await go(world, 1.0)
    assert (share() > 0, (await world.control.propagation("one")).complete) == (True, False)
    await go(world, 1.5)
    assert (share(), (await world.control.propagation("one")).complete) == (0.0, True)


async def test_a_flaky_control_plane_loses_answers_and_not_deeds(world: World) -> None:
    """Of four calls one is not done, and one is done though it seems to fail; asking again by the same name leaves one overlay."""
    await world.begin(ControlFlaky())
    failed = 0
    for _ in range(4):
        try:
            await world.control.lay(ORDER)
        except Unavailable:
            failed += 1
    await world.end(ControlFlaky())
    assert failed == 2
    assert [o.id for o in await world.control.overlays()] == ["one"]


async def test_a_killed_agent_goes_on_where_it_stopped(world: World) -> None:
    """Killed after its act, it comes back with its incident, its overlay and what it had learnt, and proves the cure."""
    await go(world, 20.0)  # what is learnt is kept every half minute
    await world.begin(faults.VersionErrors(SERVICE, CANARY, 0.8))
    while not world.control.laid:
        await world.step()
    (before,) = world.agent.incidents
    await world.begin(AgentKilled())
    await go(world, 2.0)
    assert not world.agent.alive
    await world.end(AgentKilled())
    assert world.loop.remembers_normal
    await go(world, 8.0)
    (after,) = world.agent.incidents
    assert (after.id, after.held, "verified" in after.times) == (before.id, True, True)
    assert len(world.control.laid) == 1


@pytest.mark.parametrize("restarts", [False, True])
async def test_an_agent_with_a_wrong_clock_believes_nobody(world: World, *, restarts: bool) -> None:
    """Every sidecar seems misdated to it, so it acts on nothing; with the right clock it sees again."""
    await go(world, 20.0)  # what is learnt is kept every half minute
    clock = AgentClock(600.0, restarts=restarts)
    await world.begin(clock)
    await go(world, 1.0)
    assert len(world.loop.blind) == world.agent.sight.reporters()
    await world.begin(faults.VersionErrors(SERVICE, CANARY, 0.8))
    await go(world, 5.0)
    assert not world.control.laid
    await world.end(clock)
    await go(world, 8.0)
    assert not world.loop.blind
    assert world.control.laid


# --- several at once, and the score -----------------------------------------------------------------------------


def test_two_faults_are_named_when_both_are(plant: Plant) -> None:
    """One right name of two is not enough; each accuses its own service only."""
    layout = plant.layout
    other = next(s for s in layout.services if s != SERVICE)
    both = Scenario("two-faults", (Part(faults.VersionErrors(SERVICE, CANARY, 1.0)), Part(faults.ServiceDown(other))))
    guilt = both.guilt(layout)
    one, two = cause(CauseKind.VERSION, SERVICE, CANARY), cause(CauseKind.DEPENDENCY, other)
    assert (guilt.named([one]), guilt.named([two]), guilt.named([two, one])) == (False, False, True)
    assert not guilt.innocent(ShiftTraffic(SERVICE, {STABLE: 100, CANARY: 0}), layout)
    third = next(s for s in layout.services if s not in {SERVICE, other})
    assert guilt.innocent(EjectInstance(third, "any"), layout)


async def test_an_incident_goes_as_it_should_when_what_it_wants_has_come_of_it() -> None:
    """Healed needs the name and the cure, absorbed well users or the name, spared that it is told; none a touched innocent."""
    (healed,), _ = await play(Plan(12, 4, 1, Mixture({"instance-errors": 1.0})), 0)
    assert as_it_should(healed)
    assert not as_it_should(replace(healed, first=False))
    assert not as_it_should(replace(healed, innocent=1))
    absorbed = replace(healed, scenario=replace(healed.scenario, wanted=Wanted.ABSORBED), first=False)
    assert as_it_should(absorbed)
    assert not as_it_should(replace(absorbed, mitigated_s=None))
    spared = replace(healed, scenario=replace(healed.scenario, wanted=Wanted.SPARED), first=False)
    assert (as_it_should(spared), as_it_should(replace(spared, told=False))) == (True, False)


def test_mixes_have_names_and_the_prior_stays_what_it_was() -> None:
    """The default is the prior; the mix of the drills has every class."""
    assert Mixture().shares is MIXES["default"]
    assert set(MIXES["drills"]) == set(MIXES["everything"]) == set(CLASSES)
    assert single("surge", faults.Surge(SERVICE, 2.0)).settled_s == 0.0


def test_troubles_of_the_mesh_cost_nobody_innocent() -> None:
    """A fixed set of incidents in which the mesh itself fails, alone or while services do: nothing innocent is touched."""
    played, _ = run(Campaign(incidents=6, services=12, seed=6, jobs=1, mixture=Mixture(MIXES["mesh"])))
    result = score(played, _)
    assert (result.spared.hits, result.innocent_hits) == (6, 0)
    played, _ = run(Campaign(incidents=8, services=12, seed=7, jobs=1, mixture=Mixture(MIXES["cascades"])))
    result = score(played, _)
    assert result.innocent_hits == 0
    assert result.cause_top1.hits >= 7
    assert result.cured.hits >= result.cured.total - 1
