"""The mesh's own localiser on random incidents and on the traps of its trade."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from models.detect import Baseline
from models.domain import ChangeEvent, ChangeKind, Edge, Instance, Topology
from models.incident import Anomaly, Cause, CauseKind, Signal
from models.localise import Evidence, localise
from models.localise.neighbourhood import MOST, neighbourhood
from models.localise.reach import explains
from models.signals import BUCKETS, Outcomes, Series, Side
from simulations.judgement.causes import main
from simulations.judgement.incidents import NOW, SORTS, Incident, incident
from simulations.judgement.large import large_incident

PARTS = {CauseKind.INSTANCE, CauseKind.VERSION, CauseKind.ZONE}


@pytest.fixture(scope="module")
def played() -> tuple[Incident, ...]:
    """Seventy random incidents of every sort on random meshes."""
    seeds = ((1000 * n + k, sort) for n in range(100, 107) for k, sort in enumerate(sorted(SORTS)))
    return tuple(found for seed, sort in seeds if (found := incident(seed, sort)) is not None)


def test_the_true_cause_stands_first(played: tuple[Incident, ...]) -> None:
    """Over all sorts of faults the first cause is right in at least 85 % of the cases, one of the first three in 90 %."""
    hits = [[found.right(c) for c in localise(found.evidence)] for found in played]
    assert np.mean([h[0] for h in hits]) >= 0.85
    assert np.mean([any(h[:3]) for h in hits]) >= 0.9


def test_near_certainty_is_right(played: tuple[Incident, ...]) -> None:
    """Of the causes given 0.9 or more at least 90 % are true, and there are many of them."""
    sure = [found.right(c) for found in played for c in localise(found.evidence) if c.probability >= 0.9]
    assert len(sure) >= len(played) // 3
    assert np.mean(sure) >= 0.9


def test_a_starved_host_is_never_blamed_on_one_version_or_instance(played: tuple[Incident, ...]) -> None:
    """Everything slower at once: `global`, or nothing confident about a part of one service."""
    stalls = [localise(found.evidence) for found in played if found.sort == "stall"]
    assert stalls
    assert not any(c.probability >= 0.5 for causes in stalls for c in causes if c.kind in PARTS)
    assert sum(causes[0].kind is CauseKind.GLOBAL for causes in stalls) >= len(stalls) - 1


def test_probabilities_stay_probabilities(played: tuple[Incident, ...]) -> None:
    """Causes come best first and never add to more than one."""
    for found in played:
        chances = [c.probability for c in localise(found.evidence)]
        assert chances == sorted(chances, reverse=True)
        assert sum(chances) <= 1 + 1e-9


def test_independent_faults_are_told_one_after_the_other(played: tuple[Incident, ...]) -> None:
    """What the first cause does not explain, asked about alone, names the second of two faults, as triage asks."""
    apart = 0
    for found in (found for found in played if found.sort == "two"):
        first = localise(found.evidence)[0]
        rest = _unexplained(found.evidence, first)
        second = localise(replace(found.evidence, anomalies=rest))[:1] if rest else ()
        apart += len({c.service for c in (first, *second) if found.right(c)}) > 1
    assert apart >= 2


def test_one_fault_leaves_nothing_unexplained() -> None:
    """A deep fault with symptoms in all its callers is one incident."""
    found = large_incident(100)
    cause = localise(found.evidence)[0]
    assert found.right(cause)
    assert _unexplained(found.evidence, cause) == ()


def _unexplained(evidence: Evidence, cause: Cause) -> tuple[Anomaly, ...]:
    return tuple(a for a in evidence.anomalies if not explains(cause, a, evidence.topology))


def test_the_cost_follows_the_incident_and_not_the_mesh() -> None:
    """Of a thousand services' series only those near the anomalies are looked at."""
    found = large_incident(1000)
    asked: list[Series] = []

    def counting(series: Series, signal: Signal) -> Baseline | None:
        asked.append(series)
        return found.evidence.baselines(series, signal)

    assert found.right(localise(replace(found.evidence, baselines=counting))[0])
    assert len(asked) < 0.1 * len(found.evidence.since_onset)


def test_a_mesh_wide_disturbance_is_looked_at_in_part() -> None:
    """However many services are anomalous, the neighbourhood stays bounded."""
    names = [f"s{k}" for k in range(5 * MOST)]
    anomalies = tuple(_anomaly(Series(Side.SERVER, "", n, "", "", "")) for n in names)
    assert len(neighbourhood(Evidence(anomalies, {}, _unknown, Topology()))) == MOST


def _unknown(_series: Series, _signal: Signal) -> Baseline | None:
    return None


def _anomaly(series: Series, signal: Signal = Signal.ERRORS) -> Anomaly:
    return Anomaly(series, signal, NOW, NOW - 2, 0.5, 0.001, 20.0, 100)


def _calls(
    caller: str, callee: str, requests: int, errors: int, *, flags: dict[str, int] | None = None, slow: int = 30
) -> dict[Series, Outcomes]:
    """What both ends report of one edge between services of one instance."""
    latency = np.zeros(BUCKETS, dtype=np.int64)
    latency[slow] = requests
    seen = Outcomes(requests, errors, flags or {}, latency=latency)
    turned = sum((flags or {}).values())
    served = Outcomes(requests - turned, errors - turned, latency=latency)
    return {
        Series(Side.ATTEMPT, caller, callee, "v1", f"{callee}-1", f"{caller}-1"): seen,
        Series(Side.CLIENT, caller, callee, "", "", f"{caller}-1"): seen,
        Series(Side.SERVER, caller, callee, "v1", f"{callee}-1", f"{callee}-1"): served,
    }


def _evidence(calls: list[dict[Series, Outcomes]], *, changes: tuple[ChangeEvent, ...] = ()) -> Evidence:
    since = {series: seen for part in calls for series, seen in part.items()}
    pairs = {(s.caller, s.callee) for s in since}
    names = sorted({n for pair in pairs for n in pair})
    instances = tuple(Instance(f"{n}-1", n, "v1", "a", f"127.0.0.{k}", 1) for k, n in enumerate(names))
    topology = Topology(instances, frozenset(Edge(a, b) for a, b in pairs))
    normal = np.zeros(BUCKETS)
    normal[28:33] = 100.0
    base = Baseline(Signal.ERRORS, 0.001, normal, 0.02, 0.04, 10.0, 500.0)
    anomalies = [_anomaly(s) for s, o in since.items() if o.errors > 0.02 * o.requests]
    anomalies += [_anomaly(s, Signal.LATENCY) for s, o in since.items() if o.latency[40:].sum() > 0.1 * o.requests]
    return Evidence(tuple(anomalies), since, lambda _s, _g: base, topology, changes, NOW)


def test_a_retry_storm_is_blamed_on_who_fails_and_not_on_who_is_hammered() -> None:
    """Payment fails; its callers' retries triple its load and overflow its ledger's pool a little: payment is named."""
    calls = [
        _calls("users", "shop", 100, 60),
        _calls("shop", "payment", 300, 240),
        _calls("payment", "ledger", 300, 15, flags={"UO": 15}),
    ]
    assert localise(_evidence(calls))[0].service == "payment"


def test_a_slow_dependency_that_exhausts_its_callers_pools_is_named() -> None:
    """The database got slow, the pools to it overflow, everyone above fails and waits: the database is named."""
    calls = [
        _calls("users", "shop", 200, 90, slow=50),
        _calls("shop", "cart", 200, 90, slow=50),
        _calls("cart", "db", 200, 90, flags={"UO": 90}, slow=50),
    ]
    causes = localise(_evidence(calls))
    assert {c.service for c in causes if c.probability >= 0.05} == {"db"}
    assert causes[0].kind is CauseKind.OVERLOAD


def test_a_blind_callers_view_is_filled_in_from_the_callee() -> None:
    """The caller's sidecar is silent; what the callee's sidecar served it still explains the caller."""
    calls = [_calls("users", "shop", 200, 100), _calls("shop", "cart", 200, 100)]
    calls = [{s: o for s, o in part.items() if s.side is Side.SERVER or s.caller != "shop"} for part in calls]
    calls[0] = {s: o for s, o in calls[0].items() if s.reporter != "shop-1"}
    assert localise(_evidence(calls))[0].service == "cart"


def test_who_sees_nothing_of_its_callees_is_not_blamed_with_certainty() -> None:
    """A failing service whose sidecars and callee are both unseen shares the odds with that callee."""
    calls = [_calls("users", "shop", 200, 100)]
    calls[0] = {s: o for s, o in calls[0].items() if s.reporter != "shop-1"}
    evidence = _evidence(calls)
    topology = replace(evidence.topology, edges=evidence.topology.edges | {Edge("shop", "bank")})
    causes = localise(replace(evidence, topology=topology))
    assert {c.service for c in causes[:2]} == {"shop", "bank"}
    assert causes[0].probability <= 0.5


def test_a_configuration_change_just_before_is_the_cause() -> None:
    """A service that fails as a whole two seconds after its configuration changed: the change is named and shown."""
    change = ChangeEvent(7, NOW - 4, ChangeKind.CONFIG, "VirtualService/cart", "cart", message="timeout 5s→5ms")
    causes = localise(_evidence([_calls("users", "shop", 200, 80), _calls("shop", "cart", 200, 80)], changes=(change,)))
    assert (causes[0].kind, causes[0].service) == (CauseKind.CHANGE, "cart")
    assert causes[0].changes == (change,)
    assert any("timeout 5s→5ms" in sentence for sentence in causes[0].evidence)


def test_the_report_prints_its_tables(capsys: pytest.CaptureFixture[str]) -> None:
    """Without data the report says so and still shows calibration and cost."""
    assert main(["--cases", "1", "--largest", "100"]) == 0
    said = capsys.readouterr().out
    assert "is left out" in said
    assert "probability" in said
    assert "held" in said or "MISSED" in said


def test_a_folder_without_the_evaluators_is_refused(tmp_path: object, capsys: pytest.CaptureFixture[str]) -> None:
    """A wrong --data folder ends with exit code 2 and the names of what is missing."""
    assert main(["--data", str(tmp_path)]) == 2
    assert "rca_eval.py" in capsys.readouterr().err


def test_a_cause_two_calls_below_the_only_alarm_is_found() -> None:
    """Where only the top of a chain has alarmed, the bad version far below is named, not the chance of its caller's instances."""
    instances = tuple(
        Instance(f"{name}-{version}-{k}", name, version, f"zone-{k}", f"10.0.{n}.{k + 2 * (version == 'v2')}", 80)
        for n, name in enumerate(("top", "middle", "bottom"))
        for version in (("v1", "v2") if name == "bottom" else ("v1",))
        for k in range(2 if name == "middle" else 1)
    )
    edges = frozenset({Edge("web", "top"), Edge("top", "middle"), Edge("middle", "bottom")})
    seen = {
        Series(Side.ATTEMPT, "web", "top", "v1", "top-v1-0", "web-1"): (116, 5),
        Series(Side.ATTEMPT, "top", "middle", "v1", "middle-v1-0", "top-v1-0"): (15, 3),
        Series(Side.ATTEMPT, "top", "middle", "v1", "middle-v1-1", "top-v1-0"): (17, 0),
        Series(Side.ATTEMPT, "middle", "bottom", "v1", "bottom-v1-0", "middle-v1-0"): (22, 0),
        Series(Side.ATTEMPT, "middle", "bottom", "v2", "bottom-v2-0", "middle-v1-0"): (22, 3),
    }
    since = {series: Outcomes(n, bad, {}, {200: n - bad, 500: bad}) for series, (n, bad) in seen.items()}

    def well(series: Series, signal: Signal) -> Baseline:
        del series
        return Baseline(signal, 1e-4, np.zeros(BUCKETS), 0.01, 0.05, 10.0, 10_000.0)

    alarm = Anomaly(next(iter(seen)), Signal.ERRORS, NOW, NOW - 3, 0.043, 1e-4, 10.0, 116)
    cause = localise(Evidence((alarm,), since, well, Topology(instances, edges)))[0]
    assert (cause.service, cause.kind) in {("bottom", CauseKind.VERSION), ("bottom", CauseKind.INSTANCE)}


@pytest.mark.parametrize(("flags", "code", "certain"), [({"UF": 20}, 503, True), ({}, 500, False)])
def test_a_service_that_is_not_reached_is_no_victim_of_a_callee_nobody_sees(
    flags: dict[str, int], code: int, certain: bool
) -> None:
    """Once a service is down its callees fall silent: refused connections are its own; of its answers they may be the reason."""
    instances = tuple(
        Instance(f"{n}-1", n, "v1", "zone-a", f"10.0.0.{k}", 80) for k, n in enumerate(("middle", "bottom"))
    )
    series = Series(Side.ATTEMPT, "top", "middle", "v1", "", "top-1")
    since = {series: Outcomes(20, 20, dict(flags), {code: 20})}

    def well(name: Series, signal: Signal) -> Baseline:
        del name
        return Baseline(signal, 1e-4, np.zeros(BUCKETS), 0.01, 0.05, 10.0, 10_000.0)

    edges = frozenset({Edge("top", "middle"), Edge("middle", "bottom")})
    alarm = Anomaly(series, Signal.ERRORS, NOW, NOW - 5, 1.0, 1e-4, 30.0, 20)
    causes = localise(Evidence((alarm,), since, well, Topology(instances, edges)))
    assert any(c.service == "bottom" for c in causes) is not certain
    assert not certain or causes[0].service == "middle"
