"""A tick's outcomes as columns say exactly what the same outcomes say one by one."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.bins import Bin, total
from agent.history import History
from models.detect.budget import FalseAlarmBudget, level, lowest
from models.detect.engine import Engine, Tick
from models.detect.rows import Rows
from models.detect.views import answered, counted, views
from models.frame import Cells, Frame, Register, added
from models.signals import BUCKETS, Outcomes, Series, Side
from models.telemetry import BREAKER_FAILED_FLAG, BREAKER_FLAG

NAMES = [
    *(Series(Side.CLIENT, f"web-{k}", "catalog", "", "", f"web-{k}-1") for k in range(3)),
    *(Series(Side.ATTEMPT, "web-0", "catalog", "v1", name, "web-0-1") for name in ("catalog-1", "catalog-2", "")),
    Series(Side.SERVER, "", "catalog", "v1", "catalog-1", "catalog-1"),
]


@st.composite
def outcomes(draw: st.DrawFn) -> Outcomes:
    """Draw outcomes, plain ones and such with flags, codes, more errors than requests, or a latency of a wrong shape."""
    requests = draw(st.integers(0, 20))
    latency = np.zeros(BUCKETS, dtype=np.int64)
    for bucket in draw(st.lists(st.integers(0, BUCKETS - 1), max_size=6)):
        latency[bucket] += 1
    if draw(st.booleans()):
        return Outcomes(requests, 0, {}, {200: requests}, latency)
    flags = draw(st.dictionaries(st.sampled_from(["UF", BREAKER_FLAG, BREAKER_FAILED_FLAG]), st.integers(0, 20)))
    codes = draw(st.dictionaries(st.sampled_from([0, 200, 503]), st.integers(1, 20)))
    wrong = draw(st.integers(0, 9)) == 0
    return Outcomes(requests, draw(st.integers(0, 30)), flags, codes, latency[:3] if wrong else latency)


ticks = st.lists(st.dictionaries(st.sampled_from(NAMES), outcomes(), max_size=len(NAMES)), min_size=1, max_size=4)


def same(one: Outcomes, other: Outcomes) -> bool:
    """Tell whether two outcomes say the same; a code that nobody got says nothing."""
    codes = [{code: n for code, n in o.codes.items() if n} for o in (one, other)]
    wrong = other.latency.shape != (BUCKETS,)
    return (
        (one.requests, one.errors, one.flags) == (other.requests, other.errors, other.flags)
        and codes[0] == codes[1]
        and np.array_equal(one.latency, np.zeros(BUCKETS) if wrong else other.latency)
    )


@given(ticks)
def test_a_frame_is_the_mapping_it_was_made_of(given_: list[dict[Series, Outcomes]]) -> None:
    """Nothing is lost or reordered, and what is taken out can be changed without harm."""
    for mapping in given_:
        frame = Frame.of(mapping)
        assert list(frame) == list(mapping)
        assert all(same(frame[name], mapping[name]) for name in mapping)
        for name in mapping:
            frame[name].codes[599] = 1
        assert all(same(frame[name], mapping[name]) for name in mapping)
        found = [frame.names[k] for k in frame.towards("catalog")]
        assert found == list(mapping)
        assert not list(frame.towards("nobody"))
    with pytest.raises(KeyError):
        Frame.of({})[NAMES[0]]


@given(ticks)
def test_bins_add_up_to_what_adding_one_by_one_gives(given_: list[dict[Series, Outcomes]]) -> None:
    """The sum of several ticks, series by series, in the order they first appeared."""
    expected: dict[Series, Outcomes] = {}
    for mapping in given_:
        for name, found in Frame.of(mapping).items():
            expected.setdefault(name, Outcomes()).__iadd__(found)
    numbers = {name: k for k, name in enumerate(NAMES)}
    bins = [
        Bin.of(float(at), Frame.of(mapping), np.asarray([numbers[name] for name in mapping], dtype=np.int32))
        for at, mapping in enumerate(given_)
    ]
    whole = total(0.0, bins)
    summed = whole.outcomes(NAMES)
    assert list(summed) == list(expected)
    assert all(same(summed[name], expected[name]) for name in expected)
    every = np.ones(len(NAMES), dtype=np.bool_)
    all_of_it = Outcomes()
    for name, k in numbers.items():
        one = whole.only(np.arange(len(NAMES)) == k, {k}).outcomes(NAMES)
        assert list(one) == [name] * (name in expected)
        assert all(same(one[n], expected[n]) for n in one)
        all_of_it += expected.get(name, Outcomes())
    assert same(whole.only(every, set(numbers.values())).whole(), all_of_it)


@given(ticks)
def test_rows_sum_what_the_callees_answer_for(given_: list[dict[Series, Outcomes]]) -> None:
    """Each watched row gets the counts of its series without a breaker's answers, impossible counts clipped."""
    rows = Rows(Engine(FalseAlarmBudget()))
    for mapping in given_:
        tick = rows.gather(mapping)
        expected: dict[Series, tuple[int, int, np.ndarray]] = {}
        for name, found in mapping.items():
            requests, errors = counted(found)
            for key in views(name):
                before = expected.get(key, (0, 0, np.zeros(BUCKETS)))
                latency = before[2] + np.maximum(answered(found), 0)
                expected[key] = (before[0] + requests, before[1] + errors, latency)
        assert {rows.keys[row] for row in tick.rows.tolist()} == set(expected)
        for k, row in enumerate(tick.rows.tolist()):
            requests, errors, latency = expected[rows.keys[row]]
            assert (tick.requests[k], tick.errors[k]) == (requests, errors)
            cells = tick.latency.only(tick.latency.row == k)
            assert np.array_equal(cells.bucket, np.flatnonzero(latency))
            assert np.array_equal(cells.count, latency[cells.bucket])


@given(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 5)), max_size=30), st.sampled_from([1, 1_000_003]))
def test_counts_add_up_the_same_wherever_they_lie(found: list[tuple[int, int]], apart: int) -> None:
    """Close by each other or far apart, each place has the sum of its counts, ascending, those of 0 left out."""
    expected: dict[int, int] = {}
    for place, count in found:
        expected[place * apart] = expected.get(place * apart, 0) + count
    places, counts = np.asarray(found, dtype=np.int64).reshape(-1, 2).T
    summed = added(places * apart, counts)
    assert list(zip(*(part.tolist() for part in summed), strict=True)) == sorted(
        (k, n) for k, n in expected.items() if n
    )


@given(ticks)
def test_numbered_series_are_read_as_named_ones(given_: list[dict[Series, Outcomes]]) -> None:
    """Rows and history make the same of a frame whose source numbers its series, also after they began to count anew."""
    rows, history = [Rows(Engine(FalseAlarmBudget())) for _ in range(2)], [History(), History()]
    register = Register()
    numbers: dict[Series, int] = {}
    for at, mapping in enumerate(given_):
        plain = Frame.of(mapping)
        for name in mapping:
            numbers[name] = numbers[name] if name in numbers else register.enter(name)
        codes = np.asarray([numbers[name] for name in mapping], dtype=np.int64)
        parts = (plain.names, plain.requests, plain.errors, plain.cells, plain.odd)
        numbered = Frame(*parts, register=register, numbers=codes)
        assert register.names(codes) == list(mapping)
        one, other = rows[0].gather(plain), rows[1].gather(numbered)
        assert np.array_equal(one.rows, other.rows)
        assert np.array_equal(one.requests, other.requests)
        assert np.array_equal(one.latency.count, other.latency.count)
        now = 1000.0 + 130.0 * at  # each tick later than the one before is remembered
        history[0].add(now, plain)
        history[1].add(now, numbered)
        assert list(history[0].since(0)) == list(history[1].since(0))
        assert [history[0].last_seen(name) for name in NAMES] == [history[1].last_seen(name) for name in NAMES]
        for one_of in rows:
            one_of.forget(np.asarray(list(one_of.keys)[:1], dtype=np.int64))


@given(st.lists(st.floats(0, 30), max_size=30))
def test_streams_that_cannot_count_may_be_left_out_of_the_level(evidence: list[float]) -> None:
    """Only evidence at or above `lowest` decides at which level the streams of a tick alarm."""
    every = np.asarray(evidence, dtype=np.float64)
    near = every[every >= lowest(20.0, len(every))]
    assert level(20.0, near, len(every)) == level(20.0, every)


def test_evidence_that_could_reach_a_level_is_never_left_out() -> None:
    """`near` keeps every row whose evidence is at least what is asked for."""
    engine = Engine(FalseAlarmBudget())
    rows = engine.open(np.zeros(50, dtype=np.int64), watched=np.ones(50, dtype=np.bool_))
    random = np.random.default_rng(5)
    for tick in range(80):
        requests = random.poisson(20, 50).astype(np.float64)
        errors = random.binomial(requests.astype(np.int64), 0.3 if tick > 70 else 0.01).astype(np.float64)
        latency = np.zeros((50, BUCKETS))
        latency[np.arange(50), 30 + (tick > 70) * 6] = requests
        engine.advance(1000.0 + 0.2 * tick, Tick(rows, requests, errors, Cells.table(latency)))
        for test in (engine.errors, engine.latency, engine.traffic):
            evidence = test.evidence(rows)
            for nats in (1.0, 5.0, 15.0):
                assert set(rows[evidence >= nats]) <= set(test.near(rows, nats))
    assert engine.errors.evidence(rows).max() > 15


def test_a_series_found_in_another_process_is_still_found() -> None:
    """The hash that is kept does not travel: strings hash otherwise elsewhere."""
    name = NAMES[0]
    assert hash(name) == hash(
        Series(*(getattr(name, f) for f in ("side", "caller", "callee", "version", "instance", "reporter")))
    )
    copied = pickle.loads(pickle.dumps(name))
    assert not hasattr(copied, "_hash")
    assert {name: 1}[copied] == 1
