"""The shop in the simulator is the shop that runs, and two curves are compared as people would."""

from __future__ import annotations

import asyncio
import json
import math
from collections import Counter
from itertools import islice

import pytest

from agent.telemetry.views import Golden
from simulations.drills.loading import library
from simulations.drills.seen import Sample
from simulations.journal import Record
from simulations.likeness.__main__ import as_json, page, table
from simulations.likeness.curves import AFTER_S, BEFORE_S, Curve, Run, compare
from simulations.likeness.pairs import PAIRS, Compared, Pair, in_the_simulator
from simulations.likeness.twin import shop
from simulations.load import schedule
from simulations.shop.spec import ENTRY, PLACEMENTS, SERVICES, Operation

ONSET = 1000.0


def _operation(service: str, method: str, path: str) -> Operation:
    """Return the operation that a request takes; ids are the last part of a path."""
    for operation in SERVICES[service].operations:
        fixed, _, variable = operation.path.partition("{")
        if operation.method == method and (
            path == operation.path or (variable and path.startswith(fixed) and path != fixed)
        ):
            return operation
    raise AssertionError((service, method, path))


def test_every_call_is_as_frequent_in_the_twin_as_users_of_the_shop_make_it() -> None:
    """Walking real journeys through the shop's table gives the twin's mean calls per request, within 5 %."""
    asked: Counter[str] = Counter()
    calls: Counter[tuple[str, str]] = Counter()

    def walk(service: str, method: str, path: str) -> None:
        asked[service] += 1
        for call in (c for stage in _operation(service, method, path).stages for c in stage):
            calls[service, call.callee] += 1
            walk(call.callee, call.method, call.path)

    for due in islice(schedule(3, 50.0), 30_000):
        walk(ENTRY, due.method, due.path)
    twin = {(call.caller, call.callee): call.mean for call in shop(50.0).calls}
    assert twin.keys() == calls.keys()
    for (caller, callee), made in calls.items():
        assert twin[caller, callee] == pytest.approx(made / asked[caller], rel=0.05), (caller, callee)


def test_the_twin_runs_what_the_shop_runs_under_the_rules_that_its_people_declared() -> None:
    """Instances, versions, zones and policies are those of the shop."""
    mesh = shop(50.0)
    assert {(i.id, i.version, i.zone) for i in mesh.instances} == {(p.id, p.version, p.zone) for p in PLACEMENTS}
    assert mesh.policies["catalog"].routes[0].weights == {"v1": 50, "v2": 50}
    assert mesh.policies["recommendation"].fallback is not None
    assert mesh.policies["payment"].routes[0].retries.attempts == 0


def _run(missed_from: float, latency_s: float = 0.05) -> Run:
    """Return a run of ten requests a second, of which all miss from `missed_from` (seconds from the onset) for three seconds."""
    times = [k / 10 for k in range(-60, 101)]
    records = tuple(
        Record(0.0, ONSET + t - latency_s, "home", 200, latency_s, missed_from <= t < missed_from + 3) for t in times
    )
    golden = Golden(20, 0, 10.0, 0.0, latency_s, latency_s, latency_s)
    samples = tuple(Sample(ONSET + k * 0.4, {"cart": golden}) for k in range(-10, 26))
    return Run(ONSET, records, samples, 0.5, 0.6, 2.0, "instance cart-v1-2")


def test_equal_runs_are_no_distance_apart_and_a_later_one_is_some() -> None:
    """The distance of a curve from itself is 0; a fault two seconds later is half a curve away and as bad at its worst."""
    same = {curve.name: curve for curve in compare(_run(0.0), _run(0.0), ("cart",))}
    assert all(curve.distance == 0.0 for curve in same.values())
    later = {curve.name: curve for curve in compare(_run(0.0), _run(2.0), ("cart",))}["users: missed"]
    assert later.distance > 0.1
    assert later.before == (0.0, 0.0)
    assert later.worst == (1.0, 1.0)
    assert later.ended == (0.0, 0.0)
    assert (later.at[0], later.at[-1]) == (-BEFORE_S, AFTER_S)


def test_what_was_not_seen_is_no_number() -> None:
    """A service that nobody looked at has curves without values, and no distance."""
    unseen = next(c for c in compare(_run(0.0), _run(0.0), ("ads",)) if c.name == "ads: traffic")
    assert all(map(math.isnan, (*unseen.real, *unseen.before, *unseen.worst, unseen.distance)))


@pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: pair.drill)
def test_the_agent_heals_the_twin(pair: Pair) -> None:
    """Each fault is found, named and mitigated in the simulator, and users end as they began."""
    drill = next(drill for drill in library() if drill.name == pair.drill)
    run = asyncio.run(in_the_simulator(pair.fault, drill, 1))
    wanted = drill.spec.expect.cause
    assert wanted is not None
    assert wanted.service in run.cause
    assert run.mitigated_s is not None
    missed: Curve = compare(run, run, ())[0]
    assert missed.worst[0] > missed.before[0]
    assert missed.ended[0] < 0.03


def test_a_comparison_reads_as_text_json_and_picture() -> None:
    """All three tell the same: what happened when, and how far apart the curves are."""
    one = Compared(PAIRS[1], _run(0.0), _run(2.0), compare(_run(0.0), _run(2.0), ("cart",)))
    text = table(one)
    assert "detected after                  0.50 s      0.50 s" in text
    assert "100.0 % | 100.0 %" in text
    told = json.loads(as_json((one,)))["pairs"][0]
    assert told["real"]["mitigated_s"] == 2.0
    assert told["curves"][0]["distance"] == pytest.approx(one.curves[0].distance, abs=1e-6)
    assert page((one,)).count("<svg") == 5
