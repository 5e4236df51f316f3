"""The healing loop, from symptom to proven cure, under virtual time."""

from __future__ import annotations

from dataclasses import replace

import pytest

from agent.actuators.base import Order, Propagation
from agent.deciding import RELIEVED_S
from models.domain import Health
from models.errors import Conflict, Refused, Unavailable
from models.incident import Cause, CauseKind, Signal, Stage
from models.overlay import EjectInstance, Overlay, Owner, ShiftTraffic
from models.signals import Series, Side
from playbooks.schema import Mode

from .conftest import TOPOLOGY, World, anomaly, bad_version, client, dead_dependency, outcomes, slow_instance

CURE = ["detected", "correlated", "planned", "acting", "verifying", "resolved"]


async def test_a_failing_version_is_shifted_away_verified_and_kept(world: World) -> None:
    """The whole picture: one incident, one action, verified, overlay kept, audit before the act."""
    await world.begin()
    await world.step(1.0)
    world.break_(bad_version(world))
    await world.step(4.0)
    assert world.stages() == CURE
    assert world.acts() == [f"{world.incident.id}-1"]
    assert world.incident.held
    (overlay,) = await world.actuator.overlays()
    assert overlay.change == ShiftTraffic("catalog", {"v1": 100, "v2": 0})
    assert world.audit.kinds() == ["material", "material", "decision", "act", "acted", "verified"]
    assert world.planner.entries == [("acted", overlay.id)] * 2 + [("helped", overlay.id)]  # before and after the act


async def test_the_first_tick_with_an_unambiguous_cause_acts(world: World) -> None:
    """No waiting when the cause is clear: detection and action fall into one tick."""
    await world.begin()
    await world.step(1.0)
    world.break_(bad_version(world))
    await world.step(0.2)
    assert world.incident.times["acted"] == pytest.approx(world.incident.times["detected"])


async def test_an_ambiguous_cause_waits_no_longer_than_the_settle_time(world: World) -> None:
    """A merely plausible cause is acted on once 0.3 s have shown nothing better."""
    await world.begin()
    await world.step(1.0)
    world.break_(bad_version(world, probability=0.5))
    await world.step(0.2)
    assert world.stage == "detected"
    await world.step(0.4)
    assert world.incident.times["acted"] - world.incident.times["detected"] <= 0.41


async def test_a_slow_instance_is_ejected(world: World) -> None:
    """Latency heals too; the verdict waits for slow requests in flight."""
    await world.begin()
    await world.step(1.0)
    world.break_(slow_instance(world))
    await world.step(5.0)
    assert world.stages() == CURE
    assert [o.change for o in await world.actuator.overlays()] == [EjectInstance("checkout", "checkout-2")]


async def test_symptoms_upstream_of_a_dead_dependency_are_one_incident(world: World) -> None:
    """Everybody who calls payment suffers; one incident, one breaker."""
    await world.begin()
    await world.step(1.0)
    world.break_(dead_dependency(world))
    await world.step(4.0)
    assert world.stages() == CURE
    assert len(world.incident.anomalies) == 2
    assert len(world.acts()) == 1


async def test_two_independent_causes_are_two_incidents(world: World) -> None:
    """A second cause gets an incident and an action of its own."""
    await world.begin()
    await world.step(1.0)
    world.break_(bad_version(world))
    world.break_(dead_dependency(world))
    await world.step(4.0)
    assert {i.cause.service for i in world.loop.incidents if i.cause} == {"catalog", "payment"}
    assert all(i.stage is Stage.RESOLVED for i in world.loop.incidents)
    assert len(world.acts()) == 2


async def test_a_step_that_does_not_help_is_undone_and_the_next_one_taken(world: World) -> None:
    """A wrong first step leaves no trace; the second one heals."""
    await world.begin()
    await world.step(1.0)
    world.break_(bad_version(world, cured_by=["eject-instance"]))
    await world.step(8.0)
    assert world.stage == "resolved"
    assert [type(o.change) for o in await world.actuator.overlays()] == [EjectInstance]
    assert [e for e, _ in world.planner.entries] == ["acted", "acted", "failed", "acted", "acted", "helped"]


async def test_when_no_step_helps_everything_is_undone_and_a_person_is_called(world: World) -> None:
    """Exhausted: the mesh is as people declared it, and somebody knows."""
    await world.begin()
    await world.step(1.0)
    world.break_(bad_version(world, cured_by=[]))
    await world.step(12.0)
    assert world.stage == "escalated"
    assert await world.actuator.overlays() == ()
    assert len(world.pager.pages) == 1
    assert len(world.acts()) == 2


@pytest.mark.parametrize("kind", [CauseKind.INSTANCE, CauseKind.VERSION, CauseKind.ZONE])
async def test_what_the_mesh_took_out_itself_gets_time_to_pass(world: World, kind: CauseKind) -> None:
    """An instance that its probe took out of load balancing, alone or as part of a version or zone, calls a person only if its symptoms
    stay; any other case at once.
    """
    await world.begin()
    await world.step(1.0)
    fault = bad_version(world)
    sick = next(i for i in TOPOLOGY.instances if i.id == "catalog-v2-1")
    subject = {CauseKind.VERSION: sick.version, CauseKind.ZONE: sick.zone}.get(kind, sick.id)
    fault.cause = replace(fault.cause, kind=kind, subject=subject)
    world.planner.steps["catalog"] = ()
    out = (replace(i, health=Health.UNHEALTHY) if i.id == "catalog-v2-1" else i for i in TOPOLOGY.instances)
    world.mesh.set_topology(replace(TOPOLOGY, instances=tuple(out)))
    world.break_(fault)
    await world.step(world.settings.undecided_s + 5.0)
    assert world.stage == "correlated"
    assert world.pager.pages == []
    await world.step(RELIEVED_S)
    assert world.stage == "escalated"


async def test_an_escalated_incident_stays_one_while_it_lasts(world: World) -> None:
    """What a person was called for is neither acted on again nor opened anew at every tick."""
    await world.begin()
    await world.step(1.0)
    fault = world.break_(bad_version(world, cured_by=[]))
    await world.step(40.0)
    assert len(world.loop.incidents) == 1
    assert len(world.acts()) == 2
    fault.over = True
    await world.step(10.0)
    assert len(world.loop.incidents) == 0


async def test_a_fault_at_a_place_a_person_was_called_for_is_still_healed(world: World) -> None:
    """An escalated slowness of a service does not hide a canary of it that fails."""
    await world.begin()
    await world.step(1.0)
    slow = replace(bad_version(world), cured_by=frozenset(), latency_s=0.2, error_ratio=0.0)
    slow.cause = Cause(CauseKind.SERVICE, "catalog", "", Signal.LATENCY, 0.9)
    slow.anomalies = (anomaly(client("front", "catalog"), 0.2, world.clock.now, Signal.LATENCY),)
    world.planner.steps["catalog"] = ()
    world.break_(slow)
    await world.step(7.0)
    assert world.stage == "escalated"
    world.break_(bad_version(world))
    await world.step(4.0)
    assert sorted(str(i.stage) for i in world.loop.incidents) == ["escalated", "resolved"]


async def test_one_cause_named_twice_in_a_tick_is_one_incident(world: World) -> None:
    """What a cause does not explain, but is named for again, joins it."""
    await world.begin()
    await world.step(1.0)
    fault = bad_version(world, probability=0.5)
    world.planner.steps["catalog"] = ()
    fault.anomalies += (anomaly(client("front", "cart"), 0.2, world.clock.now),)
    world.break_(fault)
    await world.step(3.0)
    assert len(world.loop.incidents) == 1


async def test_a_symptom_acted_upon_is_taken_back_when_its_cause_shows(world: World) -> None:
    """Checkout was shifted; then payment, which it calls, turns out to be the fault."""
    await world.begin()
    await world.step(1.0)
    wrong = slow_instance(world)
    wrong.cured_by = frozenset({"open-breaker"})
    world.break_(wrong)
    await world.step(0.2)
    assert world.stage == "verifying"
    world.break_(dead_dependency(world))
    await world.step(5.0)
    stages = {i.cause.service: str(i.stage) for i in world.loop.incidents if i.cause}
    assert stages["payment"] == "resolved"
    assert [o.change.kind for o in await world.actuator.overlays()] == ["open-breaker"]


async def test_late_telemetry_does_not_open_a_second_incident(world: World) -> None:
    """Echoes of the cause within the mute time belong to the closed incident."""
    await world.begin()
    await world.step(1.0)
    fault = world.break_(bad_version(world))
    await world.step(3.0)
    assert world.stage == "resolved"
    world.detector.alarms = fault.anomalies
    world.loop.tick()
    await world.loop.idle()
    assert len(world.loop.incidents) == 1
    assert len(world.acts()) == 1


async def test_after_the_mute_time_a_new_fault_of_the_same_place_is_a_new_incident(world: World) -> None:
    """Muting is not deafness."""
    await world.begin()
    await world.step(1.0)
    fault = world.break_(bad_version(world))
    await world.step(10.0)
    fault.cured_by = frozenset()
    await world.step(1.0)
    assert len(world.loop.incidents) == 2


async def test_without_an_audit_log_nothing_is_done(world: World) -> None:
    """An action that cannot be recorded does not happen; a person is called."""
    await world.begin()
    world.audit.broken = True
    await world.step(1.0)
    world.break_(bad_version(world))
    await world.step(3.0)
    assert world.stage == "escalated"
    assert world.acts() == []
    assert "audit" in world.pager.pages[0]


async def test_what_was_left_to_people_is_shown_as_long_as_it_is_seen(world: World) -> None:
    """An escalated incident counts as unsolved while its fault lasts, and not after."""
    await world.begin()
    world.audit.broken = True
    await world.step(1.0)
    fault = world.break_(bad_version(world))
    await world.step(10.0)
    assert [incident.id for incident in world.loop.unsolved] == [world.incident.id]
    fault.over = True
    await world.step(3.0)
    assert world.loop.unsolved == ()


async def test_without_the_fence_nothing_is_done_until_it_is_held(world: World) -> None:
    """Another agent leads: wait; act when the fence comes and it is still needed."""
    await world.begin()
    world.fence.token = None
    await world.step(1.0)
    world.break_(bad_version(world))
    await world.step(2.0)
    assert world.acts() == []
    assert "fence" in world.incident.waiting
    world.fence.token = 2
    await world.step(3.0)
    assert world.stage == "resolved"


async def test_a_stale_fence_is_refused_and_not_used_again(world: World) -> None:
    """A paused ex-leader's write bounces; it stops acting."""
    await world.begin()
    world.actuator.fence = 7
    await world.step(1.0)
    world.break_(bad_version(world))
    await world.step(3.0)
    assert world.fence.losses == 1
    assert await world.actuator.overlays() == ()
    assert world.stage == "planned"


async def test_blind_witnesses_stop_the_action(world: World) -> None:
    """Telemetry that cannot be trusted never leads to an act; it is said, and a person hears of it."""
    await world.begin()
    world.sight.blinded = frozenset({"front-1"})
    await world.step(1.0)
    world.break_(bad_version(world))
    await world.step(7.0)
    assert world.acts() == []
    assert "telemetry" in world.incident.waiting
    assert world.pager.pages
    assert any(e.stage == "blind" for e in world.timeline.since(0))


async def test_what_only_the_blind_could_tell_is_not_over_because_nobody_tells_it(world: World) -> None:
    """Symptoms that end with the telemetry leave the incident open; once it is seen that they are gone, it closes."""
    await world.begin(mode=Mode.APPROVE)
    await world.step(1.0)
    fault = world.break_(bad_version(world))
    await world.step(1.0)
    world.sight.blinded = frozenset({"front-1"})
    fault.over = True
    await world.step(6.0)
    assert world.incident.is_open
    world.sight.blinded = frozenset()
    await world.step(3.0)
    assert world.stages()[-1] == "observed"


@pytest.mark.parametrize(("late_s", "undone"), [(0.0, True), (1.5, False)])
async def test_reports_from_before_the_act_that_come_late_do_not_speak_against_it(
    world: World, *, late_s: float, undone: bool
) -> None:
    """What arrives within the telemetry's delay may have happened before: it is not held against the step."""
    await world.begin()
    await world.step(1.0)
    fault = world.break_(bad_version(world, cured_by=[]))
    world.sight.late_s = late_s
    await world.step(0.2)
    while world.stage != "verifying":
        await world.step(0.2)
    await world.step(1.4)
    fault.over = True
    await world.step(3.0)
    assert ("undoing" in world.stages()) is undone


async def test_an_alarm_that_outlived_its_traffic_must_be_earned_again(world: World) -> None:
    """Users go away during an incident and come back to a healthy mesh: the old alarm leads to nothing."""
    await world.begin(observe_only=True)
    await world.step(1.0)
    world.break_(bad_version(world))
    await world.step(1.0)
    world.sight.deaf = True  # nobody calls any more; the alarm stands
    before = world.detector.resets
    await world.step(8.0)
    assert world.detector.resets > before
    assert world.loop.anomalies == ()
    assert not world.incident.is_open


async def test_a_storm_stops_everything(world: World) -> None:
    """Too much of the mesh sick at once is no local cause: page, do not act."""
    await world.begin()
    await world.step(1.0)
    fault = world.break_(bad_version(world))
    others = [Series(Side.SERVER, "", s, "", "", "") for s in ("cart", "payment", "checkout")]
    for name in others:
        world.loop.history.add(world.clock.now, {name: outcomes(20, 10)})
    fault.anomalies += tuple(anomaly(s, 0.5, world.clock.now) for s in others)
    await world.step(0.2)
    assert world.acts() == []
    assert any(i.stage is Stage.ESCALATED for i in world.loop.incidents)


async def test_a_cold_agent_only_watches(world: World) -> None:
    """Without having seen normal there is no abnormal to act on."""
    await world.begin(warm_up_s=60.0)
    world.break_(bad_version(world))
    await world.step(3.0)
    assert world.acts() == []
    assert "normal" in world.incident.waiting


async def test_observe_only_sees_everything_and_does_nothing(world: World) -> None:
    """The demo's run without the agent: detected, planned, never acted; closed when it goes away."""
    await world.begin(observe_only=True)
    await world.step(1.0)
    fault = world.break_(bad_version(world))
    await world.step(3.0)
    assert world.stage == "planned"
    fault.over = True
    await world.step(3.0)
    assert world.stage == "observed"
    assert world.acts() == []


@pytest.mark.parametrize("mode", [Mode.SHADOW, Mode.APPROVE])
async def test_playbooks_that_may_not_act_do_not(world: World, mode: Mode) -> None:
    """Shadow says what it would do, approve asks; neither acts."""
    await world.begin()
    world.planner.mode = mode
    await world.step(1.0)
    world.break_(bad_version(world))
    await world.step(3.0)
    assert world.acts() == []
    assert "shift traffic of catalog" in world.incident.waiting
    assert bool(world.pager.pages) is (mode is Mode.APPROVE)


async def test_nothing_is_done_about_what_went_away_while_the_control_plane_was_down(world: World) -> None:
    """When the control plane returns, only what is still wrong is acted on."""
    await world.begin()
    world.mesh.control_up = False
    await world.step(1.0)
    fault = world.break_(bad_version(world))
    await world.step(2.0)
    assert "control plane" in world.incident.waiting
    fault.over = True
    await world.step(3.0)
    world.mesh.control_up = True
    await world.step(2.0)
    assert world.acts() == []
    assert world.stage == "observed"


@pytest.mark.parametrize("passes", [True, False])
async def test_what_an_absent_control_plane_did_may_pass_once_it_is_back(world: World, *, passes: bool) -> None:
    """Certificates that ran out are renewed within seconds of its return: only what is still wrong then is acted on."""
    await world.begin()
    world.mesh.silent(world.clock.now)
    await world.step(2.0)
    fault = world.break_(bad_version(world))
    await world.step(2.0)
    world.mesh.answers(world.clock.now)
    await world.step(1.0)
    assert "just come back" in world.incident.waiting
    fault.over = passes
    await world.step(1.8)
    assert world.acts() == []
    await world.step(3.0)
    assert bool(world.acts()) is not passes
    assert world.stage == ("observed" if passes else "resolved")


async def test_one_slow_answer_of_the_control_plane_is_no_absence(world: World) -> None:
    """Half a second without an answer delays nothing."""
    await world.begin()
    world.mesh.silent(world.clock.now)
    await world.step(0.4)
    world.mesh.answers(world.clock.now)
    world.break_(bad_version(world))
    await world.step(1.0)
    assert world.acts()


async def test_an_overlay_the_control_plane_could_not_take_is_laid_once_it_can(world: World) -> None:
    """Unavailable in the middle of acting: tried again under the same id."""
    await world.begin()
    await world.step(1.0)
    world.actuator.failure = Unavailable("away")
    world.mesh.control_up = True
    world.break_(bad_version(world))
    world.clock.now += 0.2
    world._traffic()
    world.loop.tick()
    await world.loop.idle()
    assert world.stage == "planned"
    world.actuator.failure = None
    await world.step(4.0)
    assert world.stage == "resolved"
    assert set(world.acts()) == {f"{world.incident.id}-1"}


async def test_a_refused_step_leads_to_the_next_one(world: World) -> None:
    """An interlock of the control plane is an answer, not a reason to stop."""
    await world.begin()
    await world.step(1.0)
    world.break_(bad_version(world, cured_by=["eject-instance"]))
    lay = world.actuator.lay

    async def refuse_shifts(order: Order) -> Overlay:
        if isinstance(order.change, ShiftTraffic):
            raise Refused("weights would sum to zero")
        return await lay(order)

    world.actuator.lay = refuse_shifts  # type: ignore[method-assign]
    await world.step(4.0)
    assert world.stage == "resolved"
    assert world.incident.step == 1


async def test_sidecars_that_refuse_the_change_have_it_undone(world: World) -> None:
    """A NACK is a failed step."""
    await world.begin()
    await world.step(1.0)
    fault = world.break_(bad_version(world))
    fault.cured_by = frozenset()

    async def nacked(overlay: str) -> Propagation:
        del overlay
        return Propagation(3, 2, 1)

    world.actuator.propagation = nacked  # type: ignore[method-assign]
    await world.step(0.4)
    assert await world.actuator.overlays() == ()
    assert world.stage == "escalated"


async def test_a_person_who_removes_the_overlay_is_obeyed(world: World) -> None:
    """Deleting the agent's overlay in an open incident makes it leave that place alone."""
    await world.begin()
    await world.step(1.0)
    world.break_(bad_version(world, cured_by=[]))
    await world.step(0.4)
    assert world.stage == "verifying"
    world.actuator.drop(f"{world.incident.id}-1")
    await world.step(0.4)
    assert world.stage == "observed"
    assert "yields" in world.incident.history[-1].message
    await world.step(15.0)
    assert len(world.acts()) == 1


async def test_a_persons_change_in_the_same_place_keeps_the_agent_out(world: World) -> None:
    """People first: no act where a person has laid something."""
    await world.begin()
    now = world.clock.now
    mine = ShiftTraffic("catalog", {"v1": 50, "v2": 50})
    world.actuator.put(Overlay("hand", mine, Owner.PERSON, "ada", "trying", now, now + 600, 600))
    await world.step(1.0)
    world.break_(bad_version(world, cured_by=[]))
    await world.step(1.0)
    assert world.acts() == []
    assert "ada" in world.pager.pages[0]


async def test_the_lease_of_a_kept_overlay_is_renewed(world: World) -> None:
    """As long as the agent lives and the incident holds, the overlay does."""
    await world.begin(lease_s=3.0)
    await world.step(1.0)
    world.break_(bad_version(world))
    await world.step(20.0)
    assert len(await world.actuator.overlays()) == 1
    assert world.acts() == [f"{world.incident.id}-1"]


async def test_an_overlay_removed_after_the_cure_is_let_go(world: World) -> None:
    """A person who cleans up afterwards ends the hold; nothing is laid again without a new fault."""
    await world.begin()
    await world.step(1.0)
    fault = world.break_(bad_version(world))
    await world.step(3.0)
    fault.over = True
    world.actuator.drop(f"{world.incident.id}-1")
    await world.step(1.0)
    assert not world.incident.held
    await world.step(10.0)
    assert len(world.loop.incidents) == 0
    assert len(world.acts()) == 1


async def test_a_fence_lost_after_the_act_leaves_the_undo_to_the_lease(world: World) -> None:
    """Without the right to write the undo waits; the overlay ends by itself."""
    await world.begin(lease_s=3.0)
    await world.step(1.0)
    world.break_(bad_version(world, cured_by=[]))
    await world.step(0.4)
    world.actuator.failure = Conflict("stale")
    world.mesh.control_up = False
    await world.step(5.0)
    assert world.stage == "undoing"
    world.actuator.failure = None
    assert await world.actuator.overlays() == ()
