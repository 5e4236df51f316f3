from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.detect import DetectorBank, FalseAlarmBudget
from models.detect.bets import ASSUMED, BET_CAP, STEP, bets, pooled
from models.detect.common import CommonMode
from models.detect.graph import Graph
from models.detect.saturation import SaturationDetector
from models.detect.window import BELOW, WIDTH, fold, middle, moved, narrowed, unfold
from models.errors import InvalidInput
from models.frame import Cells
from models.incident import Anomaly, Signal
from models.signals import BUCKETS, Fills, Outcomes, Saturation, Series, Side

from .conftest import START, TICK_S, outcomes

SERVICES = 8
Tick = Callable[[np.random.Generator, int], dict[Series, Outcomes]]


def attempt(service: str, instance: str = "", version: str = "v1") -> Series:
    """Return the series of attempts from the gateway."""
    return Series(Side.ATTEMPT, "gateway", service, version, instance or f"{service}-1", "gateway-1")


WATCHED = Series(Side.ATTEMPT, "gateway", "catalog", "v2", "catalog-v2-1", "gateway-1")
KEY = Series(Side.ATTEMPT, "", "catalog", "v2", "catalog-v2-1", "")


def traffic(
    rng: np.random.Generator, rps: float, *, errors: float = 0.0, slower: float = 1.0, others: int = 6
) -> dict[Series, Outcomes]:
    """One tick: the watched series at `rps` and `others` healthy services."""
    tick = {WATCHED: outcomes(rng, int(rng.poisson(rps * TICK_S)), errors=errors, slower=slower)}
    for k in range(others):
        tick[attempt(f"s{k}")] = outcomes(rng, int(rng.poisson(3)), median_s=0.01)
    return tick


def learnt(rps: float, *, errors: float = 0.0, seconds: float = 40, seed: int = 5) -> bytes:
    """Return the saved state of a bank that saw a quiet time."""
    bank, rng = DetectorBank(), np.random.default_rng(seed)
    for k in range(round(seconds / TICK_S)):
        assert bank.update(START + TICK_S * (k + 1), traffic(rng, rps, errors=errors)) == ()
    return bank.save()


def delays(rps: float, *, before: float = 0.0, errors: float = 0.0, slower: float = 1.0, runs: int = 15) -> list[float]:
    """Return sorted seconds from onset to the first alarm about the watched series, over seeded runs."""
    state, found = learnt(rps, errors=before), []
    for run in range(runs):
        bank, rng = DetectorBank(), np.random.default_rng(100 + run)
        bank.restore(state)
        for k in range(100):
            new = bank.update(START + 40 + TICK_S * (k + 1), traffic(rng, rps, errors=errors or before, slower=slower))
            if any(a.series.callee == "catalog" for a in new):
                found.append((k + 1) * TICK_S)
                break
        else:
            found.append(math.inf)
    return sorted(found)


@pytest.mark.parametrize(
    ("case", "median_s", "p95_s"),
    [
        ({"rps": 50, "before": 0.001, "errors": 0.2}, 0.8, 1.4),
        ({"rps": 50, "errors": 0.2}, 0.8, 1.2),
        ({"rps": 20, "errors": 1.0}, 0.4, 0.6),
        ({"rps": 30, "slower": 10.0}, 0.6, 0.8),
        ({"rps": 15, "slower": 10.0}, 0.8, 1.0),
        ({"rps": 20, "slower": 2.0}, 4.6, 7.0),
    ],
    ids=["20% errors on 0.1%", "20% errors", "down", "10x at 30 rps", "10x at 15 rps", "2x at 20 rps"],
)
def test_a_fault_is_seen_in_time(case: dict[str, float], median_s: float, p95_s: float) -> None:
    """Seconds from onset to alarm, median and 95th percentile of seeded runs."""
    seen = delays(**case)  # type: ignore[arg-type] # keyword numbers
    assert seen[len(seen) // 2] <= median_s + 1e-6
    assert seen[int(0.95 * len(seen)) - 1] <= p95_s + 1e-6


def _mesh(kind: str) -> Tick:
    def tick(rng: np.random.Generator, k: int) -> dict[Series, Outcomes]:
        found: dict[Series, Outcomes] = {}
        stalled = kind in {"stalls", "partial"} and k % 37 in {0, 1}
        stall = float(rng.uniform(0.05, 0.5)) if stalled else 0.0
        hit = rng.random(SERVICES) < (rng.uniform(0.3, 0.7) if kind == "partial" else 1.0)
        for s in range(SERVICES):
            added = stall if hit[s] else 0.0
            rps = {"low traffic": 0.2 + 0.25 * s, "load": 20 * (1.05 + math.sin(k / 80))}.get(kind, 5 + 4 * s)
            usual = (0.0, 1e-4, 1e-3, 1e-2)[s % 4]
            requests = int(rng.poisson(rps * TICK_S))
            one = outcomes(rng, requests, errors=usual, median_s=0.002 * (s + 1), sigma=0.6, added_s=added)
            if kind == "clusters":
                burst = 1 + int(rng.poisson(2)) if rng.random() < usual * requests / 3 else 0
                one.errors = min(requests, burst)
            found[attempt(f"s{s}")] = one
            found[Series(Side.SERVER, "gateway", f"s{s}", "v1", f"s{s}-1", f"s{s}-1")] = one
        return found

    return tick


@pytest.mark.parametrize("kind", ["poisson", "low traffic", "load", "stalls", "partial", "clusters"])
@pytest.mark.parametrize("seed", [1, 2])
def test_a_healthy_mesh_raises_no_alarm(kind: str, seed: int) -> None:
    """Three quiet minutes of each kind of traffic, from cold start, without a single alarm."""
    bank, rng, tick = DetectorBank(), np.random.default_rng(seed), _mesh(kind)
    alarms: list[Anomaly] = []
    for k in range(900):
        alarms += bank.update(START + TICK_S * (k + 1), tick(rng, k))
    assert alarms == []


def test_one_burst_of_errors_is_not_an_incident() -> None:
    """Ten failures within one tick, then nothing, do not alarm."""
    bank, rng = DetectorBank(), np.random.default_rng(4)
    bank.restore(learnt(50))
    burst = traffic(rng, 50)
    burst[WATCHED] = outcomes(rng, 10, errors=1.0)
    assert bank.update(START + 40.2, burst) == ()
    for k in range(50):
        assert bank.update(START + 40.4 + TICK_S * k, traffic(rng, 50)) == ()


def test_one_error_in_two_requests_is_not_half_of_them() -> None:
    """At two errors in four requests there is not enough evidence, whatever the ratio."""
    bank, rng = DetectorBank(), np.random.default_rng(4)
    bank.restore(learnt(5))
    for k in range(2):
        one = outcomes(rng, 2)
        one.errors = 1
        assert bank.update(START + 40 + TICK_S * (k + 1), {WATCHED: one}) == ()


def test_an_anomaly_is_told_once_and_ends_when_the_series_is_back() -> None:
    """The alarm comes once; the anomaly stays active with fresh numbers and leaves a few seconds after the fault."""
    bank, rng = DetectorBank(), np.random.default_rng(6)
    bank.restore(learnt(50))
    told: list[Anomaly] = []
    at = START + 40
    for _ in range(25):
        at += TICK_S
        told += bank.update(at, traffic(rng, 50, errors=0.2))
    assert [a.series for a in told].count(KEY) == 1
    first = next(a for a in told if a.series == KEY)
    active = next(a for a in bank.active if a.series == KEY)
    assert active.at == first.at
    assert active.onset == first.onset
    assert START + 39.8 <= first.onset <= first.at
    assert active.requests > first.requests
    assert 0.05 < active.observed < 0.5
    assert active.expected < 0.01
    for _ in range(40):
        at += TICK_S
        bank.update(at, traffic(rng, 50))
    assert bank.active == ()


def test_baselines_do_not_learn_from_the_fault() -> None:
    """A minute of failures and slowness leaves the learnt normal where it was."""
    bank, rng = DetectorBank(), np.random.default_rng(6)
    bank.restore(learnt(50))
    before = bank.baseline(WATCHED, Signal.ERRORS)
    for k in range(300):
        bank.update(START + 40 + TICK_S * (k + 1), traffic(rng, 50, errors=0.2, slower=10))
    after = bank.baseline(WATCHED, Signal.ERRORS)
    assert before is not None
    assert after is not None
    assert after.error_ratio < 0.002
    assert after.p50_s == pytest.approx(before.p50_s, rel=0.15)


def test_reset_forgets_the_alarm_and_keeps_the_baseline() -> None:
    """After `reset` nothing is active, the baseline stays, and a fault that is still there alarms anew."""
    bank, rng = DetectorBank(), np.random.default_rng(6)
    bank.restore(learnt(50))
    for k in range(25):
        bank.update(START + 40 + TICK_S * (k + 1), traffic(rng, 50, errors=0.5))
    assert bank.active
    bank.reset(lambda series: series.callee == "catalog")
    assert bank.active == ()
    assert bank.baseline(WATCHED, Signal.LATENCY) is not None
    again = [a for k in range(10) for a in bank.update(START + 45 + TICK_S * (k + 1), traffic(rng, 50, errors=0.5))]
    assert KEY in {a.series for a in again}


def test_a_silent_series_says_nothing_and_is_let_go() -> None:
    """No traffic neither ends an anomaly at once nor keeps it for ever."""
    bank, rng = DetectorBank(), np.random.default_rng(6)
    bank.restore(learnt(50))
    at = START + 40
    for _ in range(10):
        at += TICK_S
        bank.update(at, traffic(rng, 50, errors=0.5))
    for _ in range(50):
        at += TICK_S
        bank.update(at, {})
    assert bank.active
    for _ in range(300):
        at += TICK_S
        bank.update(at, {})
    assert bank.active == ()


def test_a_breakers_answers_are_no_evidence() -> None:
    """Failures that an open breaker answered in the callee's place do not alarm."""
    bank, rng = DetectorBank(), np.random.default_rng(6)
    edge = Series(Side.CLIENT, "gateway", "catalog", "", "", "gateway-1")
    for k in range(200):
        assert bank.update(START + TICK_S * k, {edge: outcomes(rng, 10)}) == ()
    for k in range(50):
        broken = outcomes(rng, 10, median_s=0.0005)
        broken.errors, broken.flags = 10, {"BRK": 10, "BRKF": 10}
        assert bank.update(START + 40 + TICK_S * k, {edge: broken}) == ()


def test_a_fallen_service_is_told_by_its_traffic() -> None:
    """A service that falls to a trickle while the others keep their traffic alarms; the whole mesh falling does not."""
    rng = np.random.default_rng(8)
    names = [Series(Side.SERVER, "g", f"s{k}", "v1", f"s{k}-1", f"s{k}-1") for k in range(6)]
    bank = DetectorBank()
    for k in range(300):
        assert bank.update(START + TICK_S * k, {n: outcomes(rng, int(rng.poisson(6))) for n in names}) == ()
    state, alarmed = bank.save(), set[tuple[str, Signal]]()
    for k in range(120):
        rates = {n: 0.1 if n is names[0] else 6.0 for n in names}
        new = bank.update(START + 60 + TICK_S * k, {n: outcomes(rng, int(rng.poisson(r))) for n, r in rates.items()})
        alarmed |= {(a.series.callee, a.signal) for a in new}
    assert alarmed == {("s0", Signal.TRAFFIC)}
    bank.restore(state)
    for k in range(120):
        tick = {n: outcomes(rng, int(rng.poisson(0.1))) for n in names}
        assert bank.update(START + 60 + TICK_S * k, tick) == ()


def test_a_full_instance_is_told() -> None:
    """Two seconds at the declared limit alarm once; without a limit nothing is said."""
    bank = DetectorBank()
    new: list[Anomaly] = []
    for k in range(20):
        reports = (Saturation("a-1", 95, 100), Saturation("b-1", 95))
        new += bank.update(START + TICK_S * k, {}, reports)
    assert [(a.series.instance, a.signal) for a in new] == [("a-1", Signal.SATURATION)]
    assert new[0].observed == pytest.approx(0.95)
    bank.update(START + 10, {}, (Saturation("a-1", 10, 100),))
    assert bank.active == ()


def test_saved_state_continues_exactly() -> None:
    """A restored bank and its origin go on bit by bit alike, alarms included."""
    bank, rng = DetectorBank(), np.random.default_rng(11)
    ticks = [traffic(rng, 30, errors=0.0 if k < 150 else 0.3, slower=1 if k < 160 else 5) for k in range(200)]
    for k, tick in enumerate(ticks[:152]):
        bank.update(START + TICK_S * k, tick)
    twin = DetectorBank()
    twin.restore(bank.save())
    assert twin.save() == bank.save()
    for k, tick in enumerate(ticks[152:]):
        assert twin.update(START + 40 + TICK_S * k, tick) == bank.update(START + 40 + TICK_S * k, tick)
    assert twin.active == bank.active
    assert twin.save() == bank.save()


def test_the_order_of_series_does_not_matter() -> None:
    """The same ticks in another order of the mapping give the same state and alarms."""
    one, two, rng = DetectorBank(), DetectorBank(), np.random.default_rng(12)
    for k in range(120):
        tick = traffic(rng, 30, errors=0.5 if k > 100 else 0)
        turned = dict(reversed(list(tick.items())))
        assert one.update(START + TICK_S * k, tick) == two.update(START + TICK_S * k, turned)
    assert one.save() == two.save()


@pytest.mark.parametrize("damage", [b"", b"nonsense", b"PK\x03\x04 truncated"])
def test_damaged_state_is_refused(damage: bytes) -> None:
    """Bytes that are no saved state raise, and the bank is as it was."""
    bank = DetectorBank()
    before = bank.save()
    with pytest.raises(InvalidInput):
        bank.restore(damage)
    assert bank.save() == before


_names = st.sampled_from(["", "a", "b"])
_keys = st.builds(Series, st.sampled_from(Side), _names, _names, _names, _names, _names)


def _strange(requests: int, errors: int, width: int) -> Outcomes:
    return Outcomes(
        requests=requests, errors=errors, flags={"BRK": 1}, latency=np.full(width, requests, dtype=np.int64)
    )


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.dictionaries(
            _keys,
            st.builds(_strange, st.integers(-2, 50), st.integers(-2, 80), st.sampled_from([BUCKETS, 3])),
            max_size=6,
        ),
        max_size=12,
    ),
    st.floats(-10, 1e4),
)
def test_degenerate_ticks_never_raise(ticks: list[dict[Series, Outcomes]], step: float) -> None:
    """Impossible counts, foreign histograms, clocks that jump or go back: no exception, finite numbers."""
    bank = DetectorBank()
    for k, tick in enumerate(ticks):
        for anomaly in (*bank.update(START + k * step, tick), *bank.active):
            assert math.isfinite(anomaly.score)
            assert anomaly.onset <= anomaly.at


def test_the_budget_sets_the_threshold() -> None:
    """A thousand times the streams cost a factor of a thousand in evidence, and nonsense budgets are refused."""
    budget = FalseAlarmBudget()
    assert budget.threshold(1000) - budget.threshold(1) == pytest.approx(math.log(1000))
    assert budget.run_length(1) == pytest.approx(30 * 86_400 * 5)
    with pytest.raises(InvalidInput):
        FalseAlarmBudget(alarms=0)
    with pytest.raises(InvalidInput):
        FalseAlarmBudget(period_s=math.nan)


@given(st.integers(1, 4000), st.integers(0, 20), st.integers(1, 12))
@settings(max_examples=50, deadline=None)
def test_bets_are_fair_under_every_faster_distribution(requests: int, first: int, spread: int) -> None:
    """The expected bet is at most 1 under the learnt distribution, and bets never fall with latency."""
    counts = np.zeros((1, WIDTH), dtype=np.float32)
    counts[0, first : first + spread] = requests / spread
    logs = bets(counts, pooled(counts))
    assert (np.diff(logs[0].astype(int), axis=1) >= 0).all()
    assert logs.max() * STEP <= BET_CAP
    wager = np.exp(logs[0] * STEP)
    known = (counts[0] + 60 * pooled(counts)) / (counts.sum() + 60)  # what a series is believed to be
    assert (known @ wager.T <= 1 + 2e-3).all()


@pytest.mark.parametrize("requests", [30, 100, 1000])
@pytest.mark.parametrize("spread", [1.5, 3.5])
def test_a_series_that_began_with_its_fastest_requests_is_not_slow(requests: int, spread: float) -> None:
    """Where the learnt median is four standard errors too low, what the series does anyway is no evidence against it."""
    places = np.arange(WIDTH) - BELOW
    true, lucky = (
        np.exp(-0.5 * ((places - shift) / spread) ** 2) for shift in (0.0, -4 * 1.25 * spread / math.sqrt(requests))
    )
    learnt = (requests * lucky / lucky.sum())[None, :].astype(np.float32)
    logs = bets(learnt, pooled(np.repeat(learnt, 100, axis=0)))[0]
    assert (np.exp(logs * STEP) @ (true / true.sum()) <= 1.01).all()


def test_what_the_mesh_has_never_seen_is_worth_more_the_longer_it_looked() -> None:
    """A tenfold latency bets little in an unknown mesh and much in a known one, for the same young series."""
    young = np.zeros((1, WIDTH), dtype=np.float32)
    young[0, BELOW - 2 : BELOW + 3] = 10
    mesh = np.repeat(young * 10, 100, axis=0)
    unknown, known = bets(young, ASSUMED)[0, :, BELOW + 12], bets(young, pooled(mesh))[0, :, BELOW + 12]
    assert (known >= unknown).all()
    assert unknown.max() * STEP < 6.5
    assert known.max() * STEP > 7


@given(st.lists(st.integers(0, 30), min_size=BUCKETS, max_size=BUCKETS), st.integers(-8, 70), st.integers(-8, 70))
@settings(max_examples=50, deadline=None)
def test_windows_keep_every_request(counts: list[int], old: int, new: int) -> None:
    """Folding, unfolding and moving a window lose no request, and inside the window nothing moves."""
    full, at, to = np.asarray([counts]), np.asarray([old]), np.asarray([new])
    window = fold(full, at)
    assert window.sum() == sum(counts)
    assert unfold(window, at).sum() == sum(counts)
    assert moved(window, at, to).sum() == sum(counts)
    centred = np.maximum(middle(full) - BELOW, 0)
    assert (
        unfold(fold(full, centred), centred)[0, centred[0] + 1 : centred[0] + WIDTH - 1]
        == full[0, centred[0] + 1 : centred[0] + WIDTH - 1]
    ).all()


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, BUCKETS - 1)), max_size=30), st.integers(-8, 70))
@settings(deadline=None)
def test_cells_are_narrowed_to_what_folding_whole_histograms_gives(found: list[tuple[int, int]], begin: int) -> None:
    """A tick's few counts land in the same buckets of their windows as if every bucket had been looked at."""
    full = np.zeros((4, BUCKETS), dtype=np.int64)
    for row, bucket in found:
        full[row, bucket] += 1
    offset = begin + np.arange(4)
    cells = narrowed(Cells.table(full), offset)
    seen = np.zeros((4, WIDTH))
    seen[cells.row, cells.bucket] = cells.count
    assert np.array_equal(seen, fold(full, offset))
    assert len(set(zip(cells.row.tolist(), cells.bucket.tolist(), strict=True))) == len(cells.row)


@given(st.lists(st.lists(st.sampled_from([0.0, 50.0, 75.0, 95.0]), min_size=3, max_size=3), max_size=40))
def test_columns_of_fullness_alarm_as_reports_one_by_one(ticks: list[list[float]]) -> None:
    """What detector and decider make of saturation does not depend on how it is handed over."""
    names, limit = ("a-1", "b-1", "c-1"), np.asarray([100.0, 100.0, 0.0])
    one, other = SaturationDetector(), SaturationDetector()
    for k, active in enumerate(ticks):
        reports = tuple(map(Saturation, names, active, limit.tolist()))
        columns = Fills(names, np.asarray(active), limit)
        assert tuple(columns) == tuple(map(columns.at, range(3))) == reports
        assert one.update(START + k, reports) == other.update(START + k, columns)
        for name in names[:2]:
            was, now = one.instances[name], other.instances[name]
            assert (was.since, was.reports, was.alarmed) == (now.since, now.reports, now.alarmed)
            assert not was.reports or was.share == now.share


def _common() -> CommonMode:
    """Return the common mode of eight services that saw a long calm: one tick in a hundred shows some evidence."""
    common, rng, names = CommonMode(TICK_S), np.random.default_rng(3), np.arange(8)
    for k in range(2000):
        evidence = np.where(rng.random(8) < 0.01, 3.0, 0.0)
        common.caps(evidence, names, np.zeros(8, dtype=np.bool_), Graph())
        if k % 12 == 11:
            common.learn(2.4)
    return common


def test_a_slow_tick_of_one_service_is_news() -> None:
    """What no other service shows is worth as much as the long run allows."""
    caps = _common().caps(np.asarray([9.0] + [0.0] * 7), np.arange(8), np.zeros(8, dtype=np.bool_), Graph())
    assert caps[0] > 7.5


@pytest.mark.parametrize("hit", [3, 5, 8])
def test_a_slow_tick_of_many_services_is_none(hit: int) -> None:
    """What three or more of eight services show in one tick is worth at most what two in seven are."""
    evidence = np.where(np.arange(8) < hit, 9.0, 0.0)
    caps = _common().caps(evidence, np.arange(8), np.zeros(8, dtype=np.bool_), Graph())
    assert (caps[:hit] <= math.log(7 / (hit - 2)) + 0.01).all()


def test_a_faulty_service_is_not_excused_by_the_callers_it_slows() -> None:
    """Callers of the slow service do not count as others, and a second faulty service does not hide the first."""
    graph = Graph()
    for caller, callee in ((1, 0), (2, 1), (3, 1)):
        graph.add(caller, callee)
    evidence = np.asarray([9.0, 9.0, 9.0, 9.0, 9.0, 0.0, 0.0, 0.0])  # 1, 2, 3 call 0; 4 is sick by itself
    caps = _common().caps(evidence, np.arange(8), np.zeros(8, dtype=np.bool_), graph)
    assert caps[0] > 7.5
    assert caps[1] < 2


def test_slow_ticks_that_last_elsewhere_are_worth_less_each() -> None:
    """Where slow ticks follow on slow ticks in many services, a second one in a row is worth next to nothing."""
    common, slow = _common(), np.ones(8, dtype=np.bool_)
    for _ in range(10):
        common.caps(np.full(8, 3.0), np.arange(8), slow, Graph())
    caps = common.caps(np.asarray([9.0] + [0.0] * 7), np.arange(8), slow, Graph())
    assert caps[0] < 1


def test_slowness_that_the_whole_machine_shares_is_nobodys() -> None:
    """Every request of every service 15–40 ms slower, from one tick on and for a minute: no alarm about anyone."""
    bank, rng = DetectorBank(), np.random.default_rng(21)
    medians = np.asarray([0.002, 0.004, 0.008, 0.012, 0.02, 0.03, 0.05, 0.08])
    for k in range(500):
        added = rng.uniform(0.015, 0.04, SERVICES) if k >= 200 else np.zeros(SERVICES)
        tick = {
            attempt(f"s{s}"): outcomes(rng, int(rng.poisson(3)), median_s=medians[s], added_s=added[s])
            for s in range(SERVICES)
        }
        assert bank.update(START + TICK_S * (k + 1), tick) == ()


def test_one_slow_service_on_a_slow_machine_is_still_seen() -> None:
    """Where all wait 5 ms longer, one that takes 200 ms longer alarms within three seconds, and it alone."""
    bank, rng = DetectorBank(), np.random.default_rng(22)
    alarmed: dict[str, float] = {}
    for k in range(240):
        tick = {}
        for s in range(SERVICES):
            added = 0.0 if k < 200 else 0.2 if s == 0 and k >= 210 else 0.005
            tick[attempt(f"s{s}")] = outcomes(rng, int(rng.poisson(3)), median_s=0.02, added_s=added)
        for anomaly in bank.update(START + TICK_S * (k + 1), tick):
            alarmed.setdefault(anomaly.series.callee, (k - 209) * TICK_S)
    assert set(alarmed) == {"s0"}
    assert alarmed["s0"] <= 3.0


def test_a_machine_that_is_held_up_says_little_about_latency() -> None:
    """While telemetry comes late, a second of tenfold latency does not alarm; with telemetry in time it does."""
    state = learnt(30)
    for lag, alarms in ((0.2, False), (0.0, True)):
        bank, rng = DetectorBank(), np.random.default_rng(23)
        bank.restore(state)
        new = [
            anomaly
            for k in range(6)
            for anomaly in bank.update(START + 40 + TICK_S * (k + 1), traffic(rng, 30, slower=10), lag_s=lag)
        ]
        assert bool(new) is alarms
