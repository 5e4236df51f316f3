"""The simulator: requests obey the mesh's rules, telemetry tells what happened, the agent's code runs on it unchanged."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace

import numpy as np
import pytest
from click.testing import CliRunner

from fibrin.cli.simulate import simulate
from models.errors import InvalidInput
from models.incident import Cause, CauseKind, Signal
from models.overlay import EjectInstance, OpenBreaker, ShiftTraffic
from models.policy import Breaker, Fallback, Retries, Route, ServicePolicy
from models.signals import Outcomes, Series, Side, percentile
from simulations.bench import virtual
from simulations.simulator import damage
from simulations.simulator.campaign import Plan, play
from simulations.simulator.control import SimulatedControl, VirtualClock
from simulations.simulator.faults import (
    CallerCut,
    InstanceCrashes,
    InstanceErrors,
    InstanceHangs,
    ServiceDown,
    ServiceFar,
    Surge,
    VersionErrors,
    VersionLeaks,
)
from simulations.simulator.guilt import truth
from simulations.simulator.layout import lay_out
from simulations.simulator.mesh import CANARY, STABLE, Mesh, draw
from simulations.simulator.mixture import Mixture
from simulations.simulator.plant import Plant
from simulations.simulator.remedy import curable
from simulations.simulator.report import story
from simulations.simulator.runner import Campaign, replay, run
from simulations.simulator.scenario import single
from simulations.simulator.score import MONTH_S, Share, score
from simulations.simulator.telemetry import Telemetry, total
from tests.unit.agent.actuator_contract import holds

MESH = draw(30, 5)


def two_versions(mesh: Mesh) -> str:
    """Return a service with two versions."""
    return next(i.service for i in mesh.instances if i.version == CANARY)


def watch(plant: Plant, seconds: float) -> dict[Series, Outcomes]:
    """Return everything that was reported in `seconds`."""
    telemetry = Telemetry(plant.layout)
    found: dict[Series, Outcomes] = {}
    for _ in range(round(seconds / plant.tick_s)):
        for series, outcomes in telemetry.report(plant.step()).items():
            found.setdefault(series, Outcomes()).__iadd__(outcomes)
    return found


def attempts(found: dict[Series, Outcomes], service: str) -> Outcomes:
    """Return all attempts on a service."""
    return total({s: o for s, o in found.items() if s.callee == service}, Side.ATTEMPT)


def test_equal_seeds_draw_equal_meshes_and_play_equal_histories() -> None:
    """Everything follows from the seed."""
    assert draw(30, 5) == MESH
    assert draw(30, 6) != MESH
    one, two = (watch(Plant(MESH, seed=3), 4.0) for _ in range(2))
    assert list(one) == list(two)
    assert all((one[s].requests, one[s].errors) == (two[s].requests, two[s].errors) for s in one)
    assert all(np.array_equal(one[s].latency, two[s].latency) for s in one)


def test_every_service_is_reached_and_nobody_calls_himself() -> None:
    """A drawn mesh is one mesh: each service has a caller above it, and calls down except in the few cycles."""
    depth = {nature.name: nature.depth for nature in MESH.natures}
    called = {call.callee for call in MESH.calls} | set(MESH.entries)
    assert called == set(depth)
    assert all((depth[c.caller] < depth[c.callee]) != c.backward for c in MESH.calls)


def test_load_runs_down_the_graph_in_the_declared_proportions() -> None:
    """A call's rate is its caller's rate times the calls per request, within what chance allows."""
    plant = Plant(MESH, seed=1)
    found = watch(plant, 60.0)
    client = {(s.caller, s.callee): o.requests for s, o in found.items() if s.side is Side.CLIENT}
    into = dict.fromkeys((n.name for n in MESH.natures), 0)
    for (_, callee), count in client.items():
        into[callee] += count
    for call in (c for c in MESH.calls if not c.backward):
        expected = into[call.caller] * call.mean
        assert abs(client[(call.caller, call.callee)] - expected) < 6 * np.sqrt(expected) + 0.02 * expected


def test_a_struck_instance_fails_as_often_as_it_should_and_its_siblings_do_not() -> None:
    """A fault changes what it names and nothing else of that service."""
    layout = lay_out(MESH)
    service = next(s for s in layout.services if len(layout.members(s)) >= 3)
    sick = layout.instances[layout.members(service)[0]]
    plant = Plant(MESH, seed=2)
    damage.apply(InstanceErrors(sick, 0.5), plant)
    found = watch(plant, 40.0)
    by_instance = {
        name: total({s: o for s, o in found.items() if s.instance == name}, Side.ATTEMPT)
        for name in (layout.instances[k] for k in layout.members(service))
    }
    assert 0.4 < by_instance[sick].error_ratio < 0.6
    assert all(o.error_ratio < 0.02 for name, o in by_instance.items() if name != sick)
    damage.undo(InstanceErrors(sick, 0.5), plant)
    after = watch(plant, 20.0)
    assert total({s: o for s, o in after.items() if s.instance == sick}, Side.ATTEMPT).error_ratio < 0.02


def test_a_dead_service_is_refused_then_gone_and_comes_back() -> None:
    """Refused connections carry UF until probes notice, then there is nobody (UH); a repair brings it back."""
    service = MESH.natures[-1].name
    plant = Plant(MESH, seed=2)
    damage.apply(ServiceDown(service), plant)
    early = attempts(watch(plant, 0.8), service)
    assert early.flags.get("UF", 0) == early.requests > 0
    watch(plant, 1.0)
    late = watch(plant, 4.0)
    assert attempts(late, service).requests == 0, "with nobody there Envoy makes no attempt"
    seen = total({s: o for s, o in late.items() if s.callee == service}, Side.CLIENT)
    assert seen.flags == {"UH": seen.requests}
    damage.undo(ServiceDown(service), plant)
    watch(plant, 2.0)
    assert attempts(watch(plant, 4.0), service).error_ratio < 0.05


def test_weights_ejections_and_breakers_steer_requests() -> None:
    """Effective policies mean here what they mean in Envoy."""
    service = two_versions(MESH)
    layout = lay_out(MESH)
    first = layout.instances[layout.members(service)[0]]
    plant = Plant(MESH, seed=4)

    def versions(policy: ServicePolicy) -> dict[str, int]:
        plant.steer({**MESH.policies, service: policy})
        watch(plant, 3.0)  # what was under way ends
        seen = watch(plant, 20.0)
        counts: dict[str, int] = {}
        for series, outcomes in seen.items():
            if series.callee == service and series.side is Side.ATTEMPT:
                for key in (series.version, series.instance):
                    counts[key] = counts.get(key, 0) + outcomes.requests
        return counts

    plain = ServicePolicy(service)
    split = versions(replace(plain, routes=(Route(weights={STABLE: 70, CANARY: 30}),)))
    assert 0.24 < split[CANARY] / (split[CANARY] + split[STABLE]) < 0.36
    assert CANARY not in versions(replace(plain, routes=(Route(weights={STABLE: 100, CANARY: 0}),)))
    assert first not in versions(replace(plain, ejected=frozenset({first})))
    rescued = replace(plain, fallback=Fallback(200, "[]"), breakers=(Breaker("", 100, "fallback"),))
    assert versions(rescued) == {}


def test_retries_hide_failures_from_callers_and_show_in_attempts() -> None:
    """A retry on another host turns most failures of one instance into successes, at the price of attempts."""
    layout = lay_out(MESH)
    service = next(s for s in layout.services if len(layout.members(s)) >= 3)
    sick = layout.instances[layout.members(service)[0]]
    plant = Plant(MESH, seed=2)
    policy = ServicePolicy(service, routes=(Route(retries=Retries(attempts=2, retry_on=("5xx",), budget=1.0)),))
    plant.steer({**MESH.policies, service: policy})
    damage.apply(InstanceErrors(sick, 1.0), plant)
    watch(plant, 3.0)
    found = watch(plant, 20.0)
    client = total({s: o for s, o in found.items() if s.callee == service}, Side.CLIENT)
    tried = attempts(found, service)
    assert client.error_ratio < 0.1 < tried.error_ratio
    assert tried.requests > 1.2 * client.requests


def test_an_overloaded_service_queues_then_turns_away() -> None:
    """Beyond their workers instances let requests wait, and beyond their queue they refuse them."""
    service = MESH.natures[-1].name
    plant = Plant(MESH, seed=2)
    watch(plant, 5.0)
    calm = plant.now.wait_s[plant.layout.members(service)].max()
    damage.apply(Surge(service, 12.0), plant)
    watch(plant, 10.0)
    members = plant.layout.members(service)
    assert plant.now.wait_s[members].max() > 5 * calm
    assert attempts(watch(plant, 5.0), service).codes.get(503, 0) > 0


def test_hanging_requests_end_in_time_outs_and_a_far_service_answers_late() -> None:
    """A half-open connection is known only when the caller gives up; a long way adds to every request over it."""
    layout = lay_out(MESH)
    service = next(s for s in layout.services if len(layout.members(s)) >= 3)
    sick = layout.instances[layout.members(service)[0]]
    plant = Plant(MESH, seed=2)
    usual = attempts(watch(plant, 10.0), service)
    damage.apply(InstanceHangs(sick, 1.0), plant)
    hung = total({s: o for s, o in watch(plant, 10.0).items() if s.instance == sick}, Side.ATTEMPT)
    assert hung.flags.get("UT", 0) > 0.5 * hung.requests
    damage.undo(InstanceHangs(sick, 1.0), plant)
    watch(plant, 4.0)
    assert "UT" not in attempts(watch(plant, 4.0), service).flags
    damage.apply(ServiceFar(service, 0.3), plant)
    watch(plant, 1.0)
    far = attempts(watch(plant, 10.0), service)
    assert percentile(far.latency, 0.5) > percentile(usual.latency, 0.5) + 0.25


def test_a_crash_loop_comes_and_goes_and_a_leak_grows() -> None:
    """Faults that change with time are as they are at their time."""
    layout = lay_out(MESH)
    service = two_versions(MESH)
    sick = layout.instances[layout.members(service)[0]]
    plant = Plant(MESH, seed=2)
    loop = InstanceCrashes(sick, down_s=2.0, up_s=3.0)
    seen = []
    for since in (0.0, 1.8, 2.2, 4.8, 5.2):
        damage.advance(loop, plant, since)
        seen.append(bool(plant.now.dead[layout.place[sick]]))
    assert seen == [True, True, False, False, True]
    leak = VersionLeaks(service, CANARY, 6.0)
    (who,) = (layout.place[name] for name in truth(leak, layout).guilty)
    damage.advance(leak, plant, 30.0)
    assert plant.now.slow[who] == pytest.approx(4.0)
    damage.undo(leak, plant)
    assert (plant.now.slow == 1.0).all()


def test_a_cut_strikes_one_caller_only() -> None:
    """Where one caller cannot connect, the others can; what is named is the caller, unless nobody else calls."""
    layout = lay_out(MESH)
    shared = next(s for k, s in enumerate(layout.services) if (layout.callee == k).sum() >= 2)
    calls = [
        c for c in np.flatnonzero(layout.callee == layout.number[shared]) if layout.caller[c] < len(layout.services)
    ]
    caller = layout.caller_name(int(calls[0]))
    cut = CallerCut(caller, shared, 1.0)
    plant = Plant(MESH, seed=2)
    damage.apply(cut, plant)
    found = {s: o for s, o in watch(plant, 20.0).items() if s.callee == shared and s.side is Side.CLIENT}
    ratios = {s.caller: o.error_ratio for s, o in found.items()}
    assert ratios.pop(caller) == 1.0
    assert max(ratios.values()) < 0.05
    whole = truth(cut, layout)
    assert whole.right(Cause(CauseKind.SERVICE, caller, "", Signal.ERRORS, 0.9))
    assert not whole.right(Cause(CauseKind.SERVICE, shared, "", Signal.ERRORS, 0.9))
    assert not whole.innocent(OpenBreaker(shared, caller, 100, "fail-fast"), layout)


def test_what_nothing_can_heal_is_a_persons() -> None:
    """A mesh heals by other instances that have room, or by a declared fallback; otherwise it can only call for help."""
    plant = Plant(MESH, seed=2)
    watch(plant, 5.0)
    several = [s for s in plant.layout.services if len(plant.layout.members(s)) >= 3]
    bare = next(s for s in several if MESH.policies[s].fallback is None)
    rescued = next(s for s in plant.layout.services if MESH.policies[s].fallback is not None)
    sick = plant.layout.instances[plant.layout.members(bare)[0]]
    assert not curable(single("", ServiceDown(bare)), plant, 0.5)
    assert curable(single("", ServiceDown(rescued)), plant, 0.5)
    assert curable(single("", InstanceErrors(sick, 1.0)), plant, 0.5)
    assert not curable(single("", InstanceErrors(sick, 1.0)), plant, 0.9), "less than the floor would be left"
    plant.now.load[plant.layout.members(bare)] *= 1000.0
    assert not curable(single("", InstanceErrors(sick, 1.0)), plant, 0.5), "the others have no room"


async def test_the_simulated_control_plane_is_an_actuator_like_any_other() -> None:
    """It passes the contract that the real control plane's actuator passes."""
    instances = tuple(
        replace(i, id=f"catalog-{v}-{i.id}", service="catalog", version=v)
        for i, v in zip(MESH.instances[:4], ("v1", "v1", "v2", "v2"), strict=True)
    )
    control = SimulatedControl(VirtualClock(), {"catalog": ServicePolicy("catalog")}, instances, frozenset())
    assert (await control.acquire_fence("agent", 5.0)).fence == 1
    await holds(control)


def test_the_truth_knows_every_right_name_and_every_innocent() -> None:
    """A canary of one instance may be called a version or an instance; its siblings are innocent."""
    layout = lay_out(MESH)
    service = two_versions(MESH)
    whole = truth(VersionErrors(service, CANARY, 1.0), layout)
    (sick,) = whole.guilty
    well = next(layout.instances[k] for k in layout.members(service) if layout.instances[k] != sick)

    def cause(kind: CauseKind, subject: str) -> Cause:
        return Cause(kind, service, subject, Signal.ERRORS, 0.9)

    assert whole.right(cause(CauseKind.VERSION, CANARY))
    assert whole.right(cause(CauseKind.INSTANCE, sick))
    assert not whole.right(cause(CauseKind.INSTANCE, well))
    assert not whole.right(replace(cause(CauseKind.VERSION, CANARY), service="other"))
    assert not whole.innocent(EjectInstance(service, sick), layout)
    assert whole.innocent(EjectInstance(service, well), layout)
    assert not whole.innocent(ShiftTraffic(service, {STABLE: 100, CANARY: 0}), layout)
    assert whole.innocent(ShiftTraffic(service, {STABLE: 0, CANARY: 100}), layout)
    assert whole.innocent(EjectInstance("other", sick), layout)
    all_bad = truth(ServiceDown(service), layout)
    assert not all_bad.innocent(ShiftTraffic(service, {STABLE: 100, CANARY: 0}), layout), "nothing of it is well"


async def test_an_incident_played_again_by_name_is_the_same() -> None:
    """The worst cases of a campaign can be looked at again."""
    mixture = Mixture({"instance-errors": 1.0})
    found, quiet = await play(Plan(12, 4, 2, mixture), 0)
    assert quiet.seconds > 60
    again, _ = await play(Plan(12, 4, 2, mixture), 0, only=1)
    assert again == [found[1]]
    with pytest.raises(InvalidInput, match="names no incident"):
        replay("one", 12, mixture)


def test_a_replay_is_told_in_words(capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing of the incidents before it on stderr, and no value of the program in what is told of truth and actions."""
    told = story(replay("1/0/0", 12, Mixture({"instance-errors": 1.0})))
    printed = capsys.readouterr()
    assert printed.out + printed.err == ""
    assert re.search(r"truth +\S+: .*instance \S+", told)
    assert not re.search(r"[<(\[{]\w*Kind|\w+\(\w+=", told)


def test_shares_come_with_exact_intervals() -> None:
    """Clopper–Pearson bounds as printed in tables (of 100: 95 → 88.7–98.4 %)."""
    share = Share(95, 100)
    assert (round(share.low, 3), round(share.high, 3)) == (0.887, 0.984)
    assert Share(0, 10).low == 0.0
    assert Share(10, 10).high == 1.0


def test_a_mixture_that_cannot_be_drawn_is_refused() -> None:
    """Unknown classes and empty mixtures say what there is."""
    with pytest.raises(InvalidInput, match="no fault class `gremlins`"):
        Mixture({"gremlins": 1.0})
    for share in (-1.0, 0.0, math.nan, math.inf):
        with pytest.raises(InvalidInput, match="one above 0"):
            Mixture({"surge": share})


def test_quiet_hours_are_counted_and_bound_what_they_cannot_show() -> None:
    """A minute without a false action says little about a month, and the bound says how little."""
    played, quiet = run(Campaign(incidents=1, services=12, seed=3, jobs=1, quiet_hours=1 / 60))
    result = score(played, quiet)
    assert quiet.seconds == pytest.approx(60.0 + 60.0 + 6.0)
    assert (result.false_actions_per_month, round(result.false_actions_at_most * quiet.seconds / MONTH_S, 2)) == (
        0,
        3.69,
    )


def test_scores_do_not_fall_below_the_recorded_ones() -> None:
    """A fixed set of incidents: all seen, the cause right, healed where that can be, nobody innocent touched, quiet when all is well."""
    played, quiet = run(Campaign(incidents=24, services=40, seed=11, jobs=1))
    result = score(played, quiet)
    assert result.detected.hits == 24
    assert result.cause_top1.hits >= 23
    assert result.cause_top3.hits >= 23
    assert result.cured.hits >= result.cured.total - 2
    assert result.innocent_hits == 0
    assert (quiet.incidents, quiet.actions) == (0, 0)


def test_the_command_prints_one_object_and_explains_bad_input() -> None:
    """`-o json` is for machines; a wrong mix says which part."""
    runner = CliRunner()
    done = runner.invoke(
        simulate, ["--incidents", "1", "--services", "12", "--jobs", "1", "--mix", "instance-errors=1", "-o", "json"]
    )
    figures = json.loads(done.output)
    assert {"detected", "cause_top1", "cause_top3", "mitigated", "innocent_hits"} <= set(figures)
    wrong = runner.invoke(simulate, ["--mix", "surge"])
    assert isinstance(wrong.exception, InvalidInput)


def test_the_measured_mesh_is_one_that_works() -> None:
    """What an hour costs is measured on a mesh with calls in it, per simulated hour, memory of the process included."""
    found = virtual.play(virtual.Size(10, 1.0, 1.0))
    assert found.rate > 10
    assert 1.0 < found.hour_s < 3600.0
    assert 0.01 < found.peak_gb < 4.0
