from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.detect import Baseline, DetectorBank
from models.domain import ChangeEvent, ChangeKind, Edge, Instance, Topology
from models.incident import Anomaly, Cause, CauseKind, Signal
from models.localise import Evidence, localise
from models.localise.evidence import sights
from models.signals import BUCKETS, Outcomes, Series, Side
from models.telemetry import KEPT

from .conftest import TICK_S, Fault, Shop, Well

SEEDS = range(4)


@dataclass(slots=True)
class Played:
    """An incident of the simulated shop: what was localised, and how long after the onset."""

    causes: tuple[Cause, ...]
    evidence: Evidence
    delay_s: float

    @property
    def first(self) -> tuple[CauseKind, str, str]:
        """The best cause."""
        return (self.causes[0].kind, self.causes[0].service, self.causes[0].subject)


def play(
    well: Well, fault: Fault, seed: int, *, changes: tuple[ChangeEvent, ...] = (), rps: float = 20, wait: int = 2
) -> Played:
    """Break the healthy shop, wait for the first alarm and `wait` ticks more, and localise."""
    bank = DetectorBank()
    bank.restore(well.state)
    shop = Shop(np.random.default_rng(1000 + seed), fault)
    at, since = well.at, dict[Series, Outcomes]()
    left = -1
    for _ in range(150):
        at += TICK_S
        tick = shop.run(rps)
        for series, found in tick.items():
            total = since.setdefault(series, Outcomes())
            total += found
        alarmed = bank.update(at, tick)
        left = wait if left < 0 and alarmed else left - (left > 0)
        if left == 0:
            break
    assert left == 0, "nothing was detected within 30 s"
    evidence = Evidence(bank.active, since, bank.baseline, shop.topology, changes, at)
    return Played(localise(evidence), evidence, at - well.at)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_bad_version_is_named(well: Well, seed: int) -> None:
    """A canary that fails a fifth of its requests is named as the version, on the strength of its weight change."""
    change = ChangeEvent(
        1, well.at - 3, ChangeKind.WEIGHT, "VirtualService/catalog", "catalog", "v2", message="10→25 %"
    )
    fault = Fault(lambda i: i.service == "catalog" and i.version == "v2", errors=0.2)
    played = play(well, fault, seed, changes=(change,))
    assert played.first == (CauseKind.VERSION, "catalog", "v2")
    assert played.causes[0].probability > 0.5
    assert change in played.causes[0].changes


@pytest.mark.parametrize("seed", SEEDS)
def test_a_bad_version_is_named_without_a_change(well: Well, seed: int) -> None:
    """A version's only instance being bad beside a healthy version is the version's fault."""
    fault = Fault(lambda i: i.service == "catalog" and i.version == "v2", errors=0.3)
    assert play(well, fault, seed).first == (CauseKind.VERSION, "catalog", "v2")


@pytest.mark.parametrize("seed", SEEDS)
def test_a_slow_instance_is_named(well: Well, seed: int) -> None:
    """One instance of three that is ten times slower is named as the instance, not its callers that wait."""
    fault = Fault(lambda i: i.id == "cart-v1-1", slower=10)
    played = play(well, fault, seed)
    assert played.first == (CauseKind.INSTANCE, "cart", "cart-v1-1")
    assert played.causes[0].signal is Signal.LATENCY


@pytest.mark.parametrize("seed", SEEDS)
def test_a_dependency_that_is_down_is_named(well: Well, seed: int) -> None:
    """A service whose hosts cannot be reached is a dead dependency, though its callers fail alike."""
    played = play(well, Fault(down=frozenset({"payment"})), seed)
    assert played.first == (CauseKind.DEPENDENCY, "payment", "")
    assert played.causes[0].edge == Edge("checkout", "payment")


@pytest.mark.parametrize("seed", SEEDS)
def test_all_instances_failing_is_the_dependency(well: Well, seed: int) -> None:
    """A single-instance service that fails every request is a dead dependency, not a bad instance."""
    fault = Fault(lambda i: i.service == "currency", errors=1.0)
    assert play(well, fault, seed).first == (CauseKind.DEPENDENCY, "currency", "")


@pytest.mark.parametrize("seed", SEEDS)
def test_a_degraded_service_is_named(well: Well, seed: int) -> None:
    """A third of failures on all instances alike is the service."""
    fault = Fault(lambda i: i.service == "cart", errors=0.35)
    assert play(well, fault, seed, wait=5).first == (CauseKind.SERVICE, "cart", "")


@pytest.mark.parametrize("seed", SEEDS)
def test_a_bad_zone_is_named(well: Well, seed: int) -> None:
    """Both of a service's instances in one zone failing, across versions, is the zone."""
    fault = Fault(lambda i: i.service == "catalog" and i.zone == "b", errors=0.5)
    assert play(well, fault, seed, wait=5).first == (CauseKind.ZONE, "catalog", "b")


@pytest.mark.parametrize("seed", SEEDS)
def test_a_deep_slow_service_is_named(well: Well, seed: int) -> None:
    """A slow leaf makes recommendation and storefront slow too; the leaf is named."""
    fault = Fault(lambda i: i.service == "catalog", slower=6)
    played = play(well, fault, seed)
    assert played.first == (CauseKind.SERVICE, "catalog", "")


@pytest.mark.parametrize("seed", SEEDS)
def test_a_fault_in_the_caller_is_not_blamed_on_its_callees(well: Well, seed: int) -> None:
    """A checkout version that fails by itself while its five callees are well is named."""
    fault = Fault(lambda i: i.service == "checkout" and i.version == "v2", errors=0.5)
    assert play(well, fault, seed).first == (CauseKind.VERSION, "checkout", "v2")


@pytest.mark.parametrize("seed", SEEDS)
def test_a_caller_whose_requests_are_refused_is_named(well: Well, seed: int) -> None:
    """When cart refuses only what checkout v2 sends, and serves storefront well, checkout v2 is at fault."""
    played = play(well, Fault(bad_caller=("checkout", "v2", "cart")), seed, wait=4)
    assert played.first == (CauseKind.VERSION, "checkout", "v2")


@pytest.mark.parametrize("seed", SEEDS)
def test_two_faults_at_once_are_both_named(well: Well, seed: int) -> None:
    """Two independent faults stand first and second."""
    fault = Fault(lambda i: i.service == "ads", errors=1.0, down=frozenset({"payment"}))
    played = play(well, fault, seed, wait=4)
    assert {c.service for c in played.causes[:2]} == {"ads", "payment"}


def test_probabilities_are_probabilities_and_sentences_have_numbers(well: Well) -> None:
    """Causes come best first, sum to at most one, and each says why in numbers."""
    causes = play(well, Fault(lambda i: i.service == "cart", errors=0.5), 9).causes
    chances = [c.probability for c in causes]
    assert chances == sorted(chances, reverse=True)
    assert sum(chances) <= 1 + 1e-9
    assert all(any(ch.isdigit() for ch in c.evidence[0]) for c in causes)


def test_the_order_of_the_evidence_does_not_matter(well: Well) -> None:
    """Shuffled series and anomalies give the same causes."""
    evidence = play(well, Fault(lambda i: i.id == "cart-v1-1", errors=0.6), 3).evidence
    turned = Evidence(
        evidence.anomalies[::-1],
        dict(reversed(list(evidence.since_onset.items()))),
        evidence.baselines,
        evidence.topology,
        evidence.changes,
        evidence.now,
    )
    assert localise(turned) == localise(evidence)


def test_a_breakers_answers_are_not_the_callees_failure() -> None:
    """Fail-fast answers of an open breaker do not make the callee a suspect."""
    series = Series(Side.CLIENT, "checkout", "payment", "", "", "checkout-1")
    found = Outcomes(requests=50, errors=50, flags={"BRK": 50, "BRKF": 50})
    anomaly = Anomaly(series, Signal.ERRORS, 10.0, 9.0, 1.0, 0.0, 12.0, 50)
    causes = localise(Evidence((anomaly,), {series: found}, lambda _s, _g: None, Topology()))
    assert all(c.probability <= 0.5 and c.numbers == {} for c in causes)


def test_a_service_without_anybody_left_is_down_not_its_first_dead_instance() -> None:
    """Probes took both instances out before a second attempt was made: callers find nobody, and that is no instance's fault."""
    lat = np.zeros(BUCKETS, dtype=np.int64)
    topology = Topology(
        instances=tuple(
            Instance(f"{name}-{k}", name, "v1", "z", f"10.0.{k}.1", 1) for name in ("front", "dep") for k in (1, 2)
        ),
        edges=frozenset({Edge("users", "front"), Edge("front", "dep")}),
    )
    since = {
        Series(Side.ATTEMPT, "front", "dep", "v1", "dep-1", "front-1"): Outcomes(1, 1, {"UF": 1}, {0: 1}, lat),
        Series(Side.CLIENT, "front", "dep", "v1", "dep-1", "front-1"): Outcomes(1, 1, {"UF": 1}, {503: 1}, lat),
        Series(Side.CLIENT, "front", "dep", "", "", "front-1"): Outcomes(12, 12, {"UH": 12}, {503: 12}, lat),
        Series(Side.SERVER, "users", "front", "v1", "front-1", "front-1"): Outcomes(32, 13, {}, {502: 13}, lat),
        Series(Side.ATTEMPT, "users", "front", "v1", "front-1", "users-1"): Outcomes(32, 13, {}, {502: 13}, lat),
        Series(Side.CLIENT, "users", "front", "v1", "front-1", "users-1"): Outcomes(32, 13, {}, {502: 13}, lat),
    }
    key = Series(Side.CLIENT, "front", "dep", "", "", "")
    anomalies = (Anomaly(key, Signal.ERRORS, 10.3, 10.0, 1.0, 0.001, 9.0, 13),)
    normal = Baseline(Signal.ERRORS, 0.0016, np.zeros(BUCKETS), requests=500.0)
    causes = localise(Evidence(anomalies, since, lambda _series, _signal: normal, topology, (), 10.3))
    assert (causes[0].kind, causes[0].service) == (CauseKind.DEPENDENCY, "dep")
    assert causes[0].probability > 0.6


def test_a_hold_out_slice_is_no_version() -> None:
    """Requests that found nobody are the service's, also those of a slice that keeps its retries: no version is called so."""
    attempt = Series(Side.ATTEMPT, "front", "dep", "v1", "dep-1", "front-1")
    kept = Series(Side.CLIENT, "front", "dep", KEPT, "", "front-1")
    since = {attempt: Outcomes(20, 1), kept: Outcomes(12, 12, {"UH": 12}, {503: 12})}
    found = sights(Evidence((), since, lambda _series, _signal: None, Topology()), Signal.ERRORS)
    assert set(found["dep"].members) == {("v1", "dep-1"), ("", "")}


def test_an_overflowing_pool_is_overload() -> None:
    """Errors that are mostly overflowing connection pools are overload."""
    series = Series(Side.ATTEMPT, "checkout", "payment", "v1", "payment-1", "checkout-1")
    found = Outcomes(requests=100, errors=60, flags={"UO": 60})
    anomaly = Anomaly(series, Signal.ERRORS, 10.0, 9.0, 0.6, 0.0, 12.0, 100)
    causes = localise(Evidence((anomaly,), {series: found}, lambda _s, _g: None, Topology()))
    assert causes[0].kind is CauseKind.OVERLOAD


def test_what_only_one_version_shows_is_the_version_even_where_counts_prove_nothing() -> None:
    """Seven failures among thousands prove nothing by their counts; the alarm itself was about one version of two."""
    instances = [Instance(f"catalog-{v}-{k}", "catalog", v, "", "", 0) for v in ("v1", "v2") for k in (1, 2)]
    since = {
        Series(Side.ATTEMPT, "storefront", "catalog", i.version, i.id, "storefront-1"): Outcomes(
            requests=300 if i.version == "v2" else 1000, errors={"catalog-v2-1": 4, "catalog-v2-2": 3}.get(i.id, 0)
        )
        for i in instances
    }
    version = Series(Side.ATTEMPT, "", "catalog", "v2", "", "")
    edge = Series(Side.CLIENT, "storefront", "catalog", "", "", "")
    anomalies = tuple(Anomaly(s, Signal.ERRORS, 10.0, 9.0, 0.012, 0.0003, 9.5, 600) for s in (version, edge))
    (cause,) = localise(Evidence(anomalies, since, lambda _s, _g: None, Topology(tuple(instances))))
    assert (cause.kind, cause.subject) == (CauseKind.VERSION, "v2")
    assert cause.probability == 0.5


def test_everything_failing_by_itself_is_global() -> None:
    """Ten unrelated services failing at once have a cause beyond each of them."""
    since = {
        Series(Side.ATTEMPT, "users", f"s{k}", "v1", f"s{k}-1", "users-1"): Outcomes(requests=50, errors=30)
        for k in range(10)
    }
    anomalies = tuple(Anomaly(s, Signal.ERRORS, 10.0, 9.0, 0.6, 0.0, 12.0, 50) for s in since)
    assert localise(Evidence(anomalies, since, lambda _s, _g: None, Topology()))[0].kind is CauseKind.GLOBAL


def test_no_anomaly_no_cause() -> None:
    """Without anomalies there is nothing to explain."""
    assert localise(Evidence((), {}, lambda _s, _g: None, Topology())) == ()


def test_a_cycle_of_callers_ends() -> None:
    """Two services that call each other and both fail are both suspects; nothing loops."""
    since = {
        Series(Side.ATTEMPT, a, b, "v1", f"{b}-1", f"{a}-1"): Outcomes(requests=80, errors=40)
        for a, b in (("a", "b"), ("b", "a"))
    }
    anomalies = tuple(Anomaly(s, Signal.ERRORS, 10.0, 9.0, 0.5, 0.0, 12.0, 80) for s in since)
    assert {c.service for c in localise(Evidence(anomalies, since, lambda _s, _g: None, Topology()))} == {"a", "b"}


_names = st.sampled_from(["", "a", "b", "c"])
_series = st.builds(Series, st.sampled_from(Side), _names, _names, _names, _names, _names)
_counts = st.integers(0, 60)


def _strange(requests: int, errors: int, slow: int) -> Outcomes:
    latency = np.zeros(BUCKETS, dtype=np.int64)
    latency[slow % BUCKETS] = requests
    return Outcomes(requests=requests, errors=errors, flags={"UF": errors}, latency=latency)


@settings(max_examples=60, deadline=None)
@given(
    since=st.dictionaries(_series, st.builds(_strange, _counts, _counts, _counts), max_size=8),
    alarmed=st.lists(st.tuples(_series, st.sampled_from(Signal)), max_size=4),
    known=st.booleans(),
)
def test_degenerate_evidence_never_raises(
    since: dict[Series, Outcomes], alarmed: list[tuple[Series, Signal]], known: bool
) -> None:
    """Whatever the counts and names, localisation answers with probabilities."""
    anomalies = tuple(Anomaly(s, g, 2.0, 1.0, 0.5, 0.0, 9.0, 1) for s, g in alarmed)
    flat = Baseline(Signal.LATENCY, 0.0, np.ones(BUCKETS), 0.01, 0.1, 1.0, 74.0)
    topology = Topology(instances=(Instance("a", "a", "a", "", "127.0.0.1", 1),))
    causes = localise(Evidence(anomalies, since, lambda _s, _g: flat if known else None, topology))
    assert sum(c.probability for c in causes) <= 1 + 1e-9
    assert all(0 <= c.probability <= 1 for c in causes)


def test_a_small_slowdown_below_the_slowest_of_a_good_day_is_placed() -> None:
    """All requests of one instance a little slower, none slower than ever: the body of the distribution tells, the tail does not."""
    instances = tuple(Instance(f"cart-{k}", "cart", "v1", "zone-a", f"10.0.0.{k}", 1) for k in range(3))
    usual = np.zeros(BUCKETS)
    usual[20:31] = [2, 8, 20, 30, 20, 10, 5, 3, 1, 0.7, 0.3]
    well, slow = usual.astype(np.int64), np.zeros(BUCKETS, dtype=np.int64)
    slow[27] = 100  # below the 98th percentile of a good day
    seen = {
        Series(Side.ATTEMPT, "shop", "cart", "v1", i.id, "shop-1"): Outcomes(100, 0, {}, {200: 100}, latency)
        for i, latency in zip(instances, (slow, well, well), strict=True)
    }
    normal = Baseline(Signal.LATENCY, 0.0, latency=10 * usual, requests=1000.0)
    where = Series(Side.ATTEMPT, "", "cart", "v1", "cart-0", "")
    alarm = Anomaly(where, Signal.LATENCY, at=9.0, onset=1.0, observed=0.04, expected=0.02, score=12.0, requests=100)
    topology = Topology(instances=instances, edges=frozenset({Edge("shop", "cart")}))
    causes = localise(Evidence((alarm,), seen, lambda _series, _signal: normal, topology, (), 10.0))
    assert (causes[0].kind, causes[0].subject) == (CauseKind.INSTANCE, "cart-0")
    assert causes[0].probability > 0.8
