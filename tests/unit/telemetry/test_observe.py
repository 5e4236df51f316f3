"""Ticks, windows, golden signals and trust, in virtual time."""

import dataclasses
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import generate_latest

from agent.observe import SERIES_IDLE_S, Observer
from agent.telemetry.exposition import MAX_EDGES, GoldenSignals
from agent.telemetry.trust import SILENT_S, Trust
from agent.telemetry.windows import Window
from models.signals import BOUNDS_US, BUCKETS, Outcomes, Report, Saturation, Series, Side, percentile

T0 = 1_800_000_000.0
EDGE = Series(Side.CLIENT, "web", "catalog", "", "", "web-1")
V1 = Series(Side.ATTEMPT, "web", "catalog", "v1", "catalog-v1-1", "web-1")
V2 = Series(Side.ATTEMPT, "web", "catalog", "v2", "catalog-v2-1", "web-1")
ENTRY = Series(Side.SERVER, "", "web", "v1", "web-1", "web-1")


def outcomes(requests: int = 1, errors: int = 0, bucket: int = 10, **flags: int) -> Outcomes:
    """Return outcomes with all latencies in one bucket."""
    found = Outcomes(requests, errors, dict(flags), {200: requests - errors, 500: errors})
    found.latency[bucket] = requests
    return found


def report(
    at: float,
    found: dict[Series, Outcomes] | None = None,
    *,
    reporter: str = "web-1",
    uptime: float | None = None,
    skew: float = -0.002,
    saturation: tuple[Saturation, ...] = (),
) -> Report:
    """Return a report that arrived at `at`."""
    up = float(int(at - T0 + 100)) if uptime is None else uptime
    return Report(reporter, "web", at + skew, at, up, live=True, outcomes=found or {}, saturation=saturation)


def heartbeats(observer: Observer, start: float, end: float, **options: object) -> None:
    """Send a report every 0.2 s in [start, end)."""
    for k in range(round((end - start) / 0.2)):
        observer.receive(report(start + 0.2 * k, **options))  # type: ignore[arg-type]


def test_a_report_that_comes_again_counts_once() -> None:
    """Delivered twice, or frozen: a report of the same moment adds nothing, and the next one counts as ever."""
    observer = Observer()
    again = report(T0, {EDGE: outcomes(3, 3)})
    for k in range(5):
        observer.receive(dataclasses.replace(again, received_at=T0 + k / 4))
    observer.receive(report(T0 + 1.5, {EDGE: outcomes(4)}))
    tick = observer.take_tick(T0 + 1.6)
    assert (tick[EDGE].requests, tick[EDGE].errors) == (7, 3)


def test_a_tick_holds_what_arrived_since_the_last_one() -> None:
    """Outcomes of one series add up, each is handed out once, and the reports stay as they were."""
    observer = Observer()
    first, second = outcomes(3, 1, UT=1), outcomes(4)
    observer.receive(report(T0, {EDGE: first, V1: outcomes(2)}))
    observer.receive(report(T0 + 0.1, {EDGE: second}))
    tick = observer.take_tick(T0 + 0.2)
    assert (tick[EDGE].requests, tick[EDGE].errors, tick[EDGE].flags) == (7, 1, {"UT": 1})
    assert tick[V1].requests == 2
    assert (first.requests, second.requests) == (3, 4)
    assert observer.take_tick(T0 + 0.4) == {}


def test_since_never_reaches_back_too_far() -> None:
    """A window from `t` holds what arrived after `t`, fine for seconds, by whole seconds for two minutes."""
    observer = Observer()
    for second in range(100):
        observer.receive(report(T0 + second + 0.5, {EDGE: outcomes(1)}))
    now = T0 + 100
    assert observer.since(T0 + 97.6, now)[EDGE].requests == 2
    assert observer.since(T0 + 97.4, now)[EDGE].requests == 3
    assert observer.since(T0 + 40, now)[EDGE].requests == 60
    assert observer.since(now, now) == {}


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.floats(0, 3), st.integers(0, 5), st.integers(0, BUCKETS - 1)), min_size=1, max_size=60),
    st.floats(0, 110),
)
def test_windows_agree_with_brute_force(steps: list[tuple[float, int, int]], reach: float) -> None:
    """A window sums exactly the arrivals from its start, rounded up to a slot."""
    window, now, arrived = Window(), T0, []
    for wait, requests, bucket in steps:
        now += wait
        window.add(now, outcomes(requests, 0, bucket))
        arrived.append((now, requests, bucket))
    width = 0.2 if reach <= 11.8 else 1.0
    first = np.ceil((now - reach) / width - 1e-6)
    inside = [(r, b) for at, r, b in arrived if np.floor(at / width + 1e-6) >= first]
    found = window.since(now - reach, now)
    expected = np.zeros(BUCKETS, dtype=np.int64)
    for requests, bucket in inside:
        expected[bucket] += requests
    assert found.requests == sum(r for r, _ in inside)
    assert np.array_equal(found.latency, expected)
    assert sum(found.codes.values()) == found.requests


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([0.5, 0.9, 0.99]), st.integers(20, 3000))
def test_percentiles_agree_with_numpy_within_a_bucket(seed: int, q: float, size: int) -> None:
    """The histogram's percentile is within one bucket's width of the sample's own."""
    sample = np.random.default_rng(seed).lognormal(np.log(0.02), 0.8, size)
    found = np.bincount(np.searchsorted(np.asarray(BOUNDS_US) / 1e6, sample), minlength=BUCKETS).astype(np.int64)
    exact = float(np.quantile(sample, q, method="inverted_cdf"))
    assert percentile(found, q) == pytest.approx(exact, rel=0.26)


def test_golden_signals_by_service_edge_version_and_instance() -> None:
    """The view says what callers got, what each version and instance did, and how busy they are, as JSON."""
    observer = Observer()
    for k in range(50):
        found = {EDGE: outcomes(4, 0), V1: outcomes(3, 0), V2: outcomes(2, 1, bucket=30), ENTRY: outcomes(1)}
        observer.receive(report(T0 + 0.2 * k, found))
    busy = (Saturation("catalog-v1-1", 3.0),)
    observer.receive(report(T0 + 9.9, {EDGE: outcomes(2, 2, BRK=2, BRKF=2)}, saturation=busy))
    signals = observer.signals(T0 + 10)
    edge = signals.edges[0]
    assert (edge.caller, edge.callee) == ("web", "catalog")
    assert edge.attempts == pytest.approx(250 / 202)
    assert (edge.golden.requests, edge.golden.errors, edge.golden.breaker) == (202, 2, 2)
    assert edge.golden.rps == pytest.approx(20.2)
    assert [(s.service, s.golden.requests) for s in signals.services] == [("catalog", 202), ("web", 50)]
    assert [(v.version, v.golden.error_ratio) for v in signals.versions if v.service == "catalog"] == [
        ("v1", 0.0),
        ("v2", 0.5),
    ]
    by_instance = {row.instance: row.golden for row in signals.instances}
    assert by_instance["catalog-v1-1"].saturation == 3.0
    assert by_instance["catalog-v2-1"].saturation is None
    p50 = by_instance["catalog-v2-1"].p50_s
    assert p50 is not None
    assert BOUNDS_US[29] / 1e6 <= p50 <= BOUNDS_US[30] / 1e6
    assert "NaN" not in json.dumps(dataclasses.asdict(signals))


def test_rates_of_a_young_observer_are_not_diluted() -> None:
    """Two seconds after the start a rate is per second of those two."""
    observer = Observer()
    heartbeats(observer, T0, T0 + 2, found={EDGE: outcomes(2)})
    assert observer.signals(T0 + 2).edges[0].golden.rps == pytest.approx(10.0)


def test_an_idle_sidecar_is_not_blind_and_a_silent_one_is() -> None:
    """Heartbeats without requests mean idle; no heartbeat for a second and a half means blind, until it is back."""
    observer = Observer()
    observer.expect(["web-1", "cart-1"], T0)
    assert observer.blind(T0 + 1) == frozenset()
    heartbeats(observer, T0, T0 + 10)
    assert observer.trust(T0 + 10)["web-1"] is Trust.IDLE
    assert observer.idle(T0 + 10) == {"web-1"}
    assert observer.blind(T0 + 10) == {"cart-1"}
    assert observer.reporters() == 1
    assert observer.blind(T0 + 9.8 + SILENT_S + 0.1) == {"web-1", "cart-1"}
    observer.receive(report(T0 + 12, {EDGE: outcomes()}))
    assert observer.trust(T0 + 12)["web-1"] is Trust.LIVE


def test_a_sidecar_that_registers_again_gets_its_time() -> None:
    """A returned instance is not blind before it could report, and is once it did not."""
    observer = Observer()
    observer.expect(["web-1"], T0)
    heartbeats(observer, T0, T0 + 1)
    observer.expect([], T0 + 20)
    observer.expect(["web-1"], T0 + 30)
    assert observer.blind(T0 + 31) == frozenset()
    assert observer.blind(T0 + 32) == {"web-1"}


def test_frozen_telemetry_is_recognised() -> None:
    """Reports that go on arriving with a stopped uptime, or a stopped clock, are not believed."""
    stuck = Observer()
    heartbeats(stuck, T0, T0 + 4, uptime=5.0)
    assert stuck.trust(T0 + 4)["web-1"] is Trust.FROZEN
    replayed = Observer()
    for k in range(20):
        replayed.receive(dataclasses.replace(report(T0 + 0.2 * k), sent_at=T0))
    assert replayed.blind(T0 + 4) == {"web-1"}


@pytest.mark.parametrize("skew", [-2.5, 2.5, 3600.0])
def test_skewed_telemetry_is_recognised(skew: float) -> None:
    """A clock more than two seconds off, either way, makes a sidecar blind; less does not."""
    observer = Observer()
    heartbeats(observer, T0, T0 + 1, skew=skew)
    assert observer.trust(T0 + 1)["web-1"] is Trust.SKEWED
    assert observer.blind(T0 + 1) == {"web-1"}
    heartbeats(observer, T0 + 1, T0 + 2, skew=1.5)
    assert observer.blind(T0 + 2) == frozenset()


def test_a_restarted_sidecar_is_told_and_not_blind() -> None:
    """An uptime that went back is a reset, for two seconds."""
    observer = Observer()
    heartbeats(observer, T0, T0 + 1)
    heartbeats(observer, T0 + 1, T0 + 2, uptime=0.0)
    assert observer.trust(T0 + 2)["web-1"] is Trust.RESET
    assert observer.blind(T0 + 2) == frozenset()


def test_memory_is_bounded() -> None:
    """Series idle for five minutes go; beyond the limit new ones are refused while known ones go on."""
    observer = Observer(max_series=2)
    observer.receive(report(T0, {EDGE: outcomes(), V1: outcomes(), V2: outcomes()}))
    assert set(observer.take_tick(T0)) == {EDGE, V1}
    observer.receive(report(T0 + SERIES_IDLE_S, {EDGE: outcomes()}))
    observer.receive(report(T0 + SERIES_IDLE_S + 11, {EDGE: outcomes()}))
    observer.receive(report(T0 + SERIES_IDLE_S + 12, {V2: outcomes()}))
    assert set(observer.take_tick(T0 + SERIES_IDLE_S + 12)) == {EDGE, V2}


def test_a_clock_that_steps_back_loses_nothing() -> None:
    """After our own clock stepped back, outcomes still count in the newest window."""
    observer = Observer()
    observer.receive(report(T0 + 50, {EDGE: outcomes(1)}))
    observer.receive(report(T0, {EDGE: outcomes(2)}))
    assert observer.since(T0 - 5, T0)[EDGE].requests == 3
    assert observer.take_tick(T0)[EDGE].requests == 3


def test_prometheus_sees_edges_and_entrances() -> None:
    """Totals per edge on a coarse grid that adds up; attempts are not counted twice."""
    observer = Observer()
    found = {EDGE: outcomes(5, 2), V1: outcomes(9), ENTRY: outcomes(4)}
    observer.receive(report(T0, found))
    observer.receive(report(T0 + 0.2, found))
    registry = CollectorRegistry()
    registry.register(observer.exposition)

    def sample(name: str, caller: str, callee: str, **more: str) -> float | None:
        return registry.get_sample_value(name, {"caller": caller, "callee": callee, **more})

    assert sample("fibrin_request_total", "web", "catalog") == 10
    assert sample("fibrin_request_errors_total", "web", "catalog") == 4
    assert sample("fibrin_request_total", "outside", "web") == 8
    assert sample("fibrin_request_duration_seconds_count", "web", "catalog") == 10
    assert sample("fibrin_request_duration_seconds_bucket", "web", "catalog", le="0.001") == 10
    assert sample("fibrin_request_duration_seconds_bucket", "web", "catalog", le="0.00046") == 0
    assert sample("fibrin_request_duration_seconds_sum", "web", "catalog") == pytest.approx(10 * 0.00062, rel=0.1)
    assert b"# TYPE fibrin_request_duration_seconds histogram" in generate_latest(registry)


def test_the_number_of_edges_on_metrics_is_bounded() -> None:
    """Beyond the limit requests are counted under `other`."""
    exposition = GoldenSignals()
    for n in range(MAX_EDGES + 5):
        exposition.add({dataclasses.replace(EDGE, callee=f"service-{n}"): outcomes()})
    requests = next(iter(exposition.collect()))
    assert len(requests.samples) == MAX_EDGES + 1
    assert sum(one.value for one in requests.samples) == MAX_EDGES + 5


def test_telemetry_that_comes_later_than_usual_tells_of_a_machine_that_is_held_up() -> None:
    """The lag is what most reports took longer than usual, whatever their clocks say; one slow sidecar is none."""
    observer = Observer()
    assert observer.lag(T0) == 0.0
    names = {"a-1": -0.3, "b-1": 0.5, "c-1": -0.002}  # clocks ahead and behind
    for name, skew in names.items():
        heartbeats(observer, T0, T0 + 10, reporter=name, skew=skew)
    assert observer.lag(T0 + 10) == pytest.approx(0.0, abs=1e-3)
    observer.receive(report(T0 + 10.0, reporter="a-1", skew=-0.6))
    assert observer.lag(T0 + 10) == pytest.approx(0.0, abs=1e-3)
    observer.receive(report(T0 + 10.1, reporter="b-1", skew=0.3))
    observer.receive(report(T0 + 10.1, reporter="c-1", skew=-0.152))
    assert observer.lag(T0 + 10.2) == pytest.approx(0.2, abs=5e-3)
