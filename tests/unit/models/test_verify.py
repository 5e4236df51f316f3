from __future__ import annotations

import math

import numpy as np
import pytest

from models.detect import Baseline
from models.incident import Signal
from models.signals import Outcomes, Series, Side
from models.verify import Verdict, judge, neighbours_worse

from .conftest import outcomes


def normal(error_ratio: float = 0.001, rps: float = 50.0) -> Baseline:
    """A baseline of a thousand requests around 20 ms."""
    latency = outcomes(np.random.default_rng(0), 1000).latency.astype(np.float64)
    return Baseline(Signal.ERRORS, error_ratio, latency, 0.02, 0.06, rps, 1000.0)


def test_no_traffic_proves_nothing() -> None:
    """Without requests every signal is undecided."""
    for signal in Signal:
        found = judge(normal(), Outcomes(), signal, 5.0)
        assert found.verdict is Verdict.UNDECIDED
        assert found.requests == 0


@pytest.mark.parametrize(
    ("requests", "errors", "verdict"),
    [(50, 0, Verdict.RECOVERED), (10, 0, Verdict.UNDECIDED), (50, 12, Verdict.STILL_BAD), (4, 1, Verdict.UNDECIDED)],
)
def test_errors_are_judged_by_what_the_counts_prove(requests: int, errors: int, verdict: Verdict) -> None:
    """Fifty clean requests are a recovery, a quarter failing is not, and few requests prove nothing."""
    found = judge(normal(), Outcomes(requests=requests, errors=errors), Signal.ERRORS, 1.0)
    assert found.verdict is verdict
    assert found.observed == errors / requests


def test_knowing_the_fault_decides_sooner() -> None:
    """Against a dependency that failed always, a dozen good answers suffice."""
    found = judge(normal(), Outcomes(requests=12), Signal.ERRORS, 1.0, anomalous=1.0)
    assert found.verdict is Verdict.RECOVERED


def test_a_service_that_always_failed_some_may_go_on() -> None:
    """The tolerated ratio grows with the baseline's own."""
    found = judge(normal(error_ratio=0.1), Outcomes(requests=200, errors=22), Signal.ERRORS, 1.0)
    assert found.verdict is Verdict.RECOVERED


@pytest.mark.parametrize(("slower", "verdict"), [(1.0, Verdict.RECOVERED), (5.0, Verdict.STILL_BAD)])
def test_latency_is_judged_by_the_share_of_slow_requests(slower: float, verdict: Verdict) -> None:
    """Sixty requests at the old speed are a recovery; five times slower is still bad."""
    after = outcomes(np.random.default_rng(1), 60, slower=slower)
    assert judge(normal(), after, Signal.LATENCY, 2.0).verdict is verdict


def test_after_a_dose_half_of_a_quarter_is_no_cure() -> None:
    """A zone with a quarter of the traffic was slow, half of it left: an eighth is still slow, which counts while more can be done."""
    still = outcomes(np.random.default_rng(4), 210)
    still += outcomes(np.random.default_rng(3), 30, slower=10.0)
    assert judge(normal(), still, Signal.LATENCY, 2.0, anomalous=0.25, dosed=True).verdict is Verdict.STILL_BAD
    assert judge(normal(), still, Signal.LATENCY, 2.0, anomalous=0.25).verdict is not Verdict.STILL_BAD
    well = outcomes(np.random.default_rng(5), 60)
    assert judge(normal(), well, Signal.LATENCY, 2.0, anomalous=0.25, dosed=True).verdict is Verdict.RECOVERED
    few = outcomes(np.random.default_rng(5), 33)
    assert judge(normal(), few, Signal.LATENCY, 2.0, anomalous=0.25, dosed=True).verdict is Verdict.UNDECIDED


def test_half_a_dose_is_no_cure_of_slowness() -> None:
    """A fifth of the requests is as slow as half of them were before: where that is known, a fifth is still bad."""
    slow = outcomes(np.random.default_rng(3), 56, slower=10.0)
    after = outcomes(np.random.default_rng(4), 244)
    after += slow
    assert judge(normal(), after, Signal.LATENCY, 2.0, anomalous=0.5).verdict is Verdict.STILL_BAD
    assert judge(normal(), after, Signal.LATENCY, 2.0).verdict is not Verdict.STILL_BAD
    well = outcomes(np.random.default_rng(5), 60)
    assert judge(normal(), well, Signal.LATENCY, 2.0, anomalous=0.5).verdict is Verdict.RECOVERED


def test_a_fast_failure_is_no_recovery_of_traffic() -> None:
    """Traffic is back when the rate is, and gone when a trickle is left."""
    assert judge(normal(), Outcomes(requests=100), Signal.TRAFFIC, 2.0).verdict is Verdict.RECOVERED
    assert judge(normal(), Outcomes(requests=2), Signal.TRAFFIC, 2.0).verdict is Verdict.STILL_BAD


def test_verdicts_looked_at_again_and_again_are_rarely_wrong() -> None:
    """Judging a bad service after every request calls it recovered in at most 5 % of runs, and the other way round."""
    rng, wrong = np.random.default_rng(2), 0
    for ratio, lie in ((0.1, Verdict.RECOVERED), (0.01, Verdict.STILL_BAD)):
        for _ in range(200):
            errors = 0
            for n, failed in enumerate(rng.random(150) < ratio, start=1):
                errors += int(failed)
                found = judge(normal(), Outcomes(requests=n, errors=errors), Signal.ERRORS, n / 50)
                if found.verdict is not Verdict.UNDECIDED:
                    wrong += found.verdict is lie
                    break
    assert wrong <= 0.05 * 400


def test_degenerate_baselines_do_not_raise() -> None:
    """Ratios of 0 and 1, no latency, infinite hints: a verdict each time."""
    for ratio in (0.0, 1.0):
        empty = Baseline(Signal.ERRORS, ratio)
        for signal in Signal:
            for hint in (None, math.inf, 0.0, 5.0):
                found = judge(empty, Outcomes(requests=5, errors=9), signal, 0.0, anomalous=hint)
                assert 0 <= found.p_value <= 1


def test_neighbours_that_suffer_are_named_and_the_sick_are_spared() -> None:
    """A neighbour that fails since the act is named; the healthy, the unknown and the spared are not."""
    keys = {n: Series(Side.CLIENT, "a", n, "", "", "a-1") for n in ("sick", "hurt", "fine", "unknown")}
    after = {key: Outcomes(requests=100, errors=0 if name == "fine" else 40) for name, key in keys.items()}
    found = neighbours_worse(
        lambda series, _: None if series.callee == "unknown" else normal(),
        after,
        2.0,
        spared=lambda series: series.callee == "sick",
    )
    assert [w.series.callee for w in found] == ["hurt"]
