"""The hold-out slice: what both sides say, and how rarely chance says it."""

from __future__ import annotations

import numpy as np
import pytest

from models.detect import Baseline
from models.holdout import Contrast, Effect, HoldOutTest
from models.incident import Signal
from models.signals import Outcomes
from models.verify import ODDS

from .conftest import outcomes

TICK_S = 0.2


def normal() -> Baseline:
    """A baseline of a thousand requests around 20 ms, almost none of which fail."""
    latency = outcomes(np.random.default_rng(0), 1000).latency.astype(np.float64)
    return Baseline(Signal.ERRORS, 0.001, latency, 0.02, 0.06, 50.0, 1000.0)


def run(seed: int, treated: float, untreated: float, ticks: int = 50) -> Contrast:
    """Play ten seconds in which both arms fail with the given probabilities, 40 requests a tick against 2."""
    rng, test = np.random.default_rng(seed), HoldOutTest(Signal.ERRORS, normal())
    for _ in range(ticks):
        well = Outcomes(requests=40, errors=int(rng.binomial(40, treated)))
        sick = Outcomes(requests=2, errors=int(rng.binomial(2, untreated)))
        test.add(well, sick, TICK_S)
        if test.contrast().effect is not Effect.OPEN:
            break
    return test.contrast()


def test_a_fault_that_only_the_untreated_have_is_the_acts_merit() -> None:
    """A fifth of the slice failing beside treated users who are well is proven within ten seconds."""
    found = [run(seed, 0.001, 0.2) for seed in range(20)]
    assert [one.effect for one in found] == [Effect.HELPED] * 20
    assert all(one.nats >= np.log(ODDS) for one in found)


def test_a_fault_that_passed_is_nobodys_merit() -> None:
    """When the slice is well again too, the act is not what helped."""
    found = [run(seed, 0.001, 0.001) for seed in range(20)]
    assert [one.effect for one in found].count(Effect.PASSED) >= 18
    assert Effect.HELPED not in {one.effect for one in found}


def test_chance_rarely_praises_an_act_that_changed_nothing() -> None:
    """Looked at after every tick, equal arms are told apart less often than stated, however bad both are."""
    for ratio in (0.02, 0.2, 0.6):
        wrong = sum(run(seed, ratio, ratio).effect is Effect.HELPED for seed in range(200))
        assert wrong / 200 <= 1 / ODDS, ratio


def test_slow_requests_are_told_from_usual_ones() -> None:
    """A slow slice beside usual treated users is proven by latency."""
    rng, test = np.random.default_rng(1), HoldOutTest(Signal.LATENCY, normal())
    for _ in range(25):
        test.add(outcomes(rng, 40), outcomes(rng, 2, median_s=0.3), TICK_S)
    assert test.contrast().effect is Effect.HELPED
    assert not test.treated_is_bad()


@pytest.mark.parametrize("signal", [Signal.TRAFFIC, Signal.SATURATION])
def test_what_single_requests_do_not_show_stays_open(signal: Signal) -> None:
    """Traffic and saturation have no bad requests to count: nothing is claimed."""
    test = HoldOutTest(signal, normal())
    test.add(Outcomes(requests=400), Outcomes(requests=20, errors=20), 10.0)
    assert (test.contrast().treated, test.contrast().untreated) == (0, 0)
    assert test.contrast().effect is not Effect.HELPED
