from __future__ import annotations

import doctest
import importlib
import itertools
import math
import pkgutil

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special

import models.canary
from models.canary import Comparison, Judgement, Margins, Risk, Verdict
from models.canary.comparison import Fleet
from models.canary.latency import SLOWER_ODDS, conditional_gains
from models.canary.proportions import Pairing, within, worse
from models.canary.wealth import stake
from models.errors import InvalidInput
from models.signals import BOUNDS_S, BUCKETS, Outcomes, Saturation, Series, Side
from simulations.judgement.canaries.tables import QUICK, delay_table, false_table, hard_table, latency_table, rollbacks
from simulations.judgement.canaries.traffic import World

TICK_S = 0.2
MODULES = [m.name for m in pkgutil.iter_modules(models.canary.__path__, "models.canary.")]


def series(version: str, caller: str = "gateway", instance: int = 1, side: Side = Side.ATTEMPT) -> Series:
    """Return a series towards catalog."""
    return Series(side, caller, "catalog", version, f"catalog-{version}-{instance}", f"{caller}-1")


def drawn(rng: np.random.Generator, requests: float, errors: float, median_s: float = 0.03) -> Outcomes:
    """Return random outcomes: `requests` expected, a share of `errors`."""
    n = int(rng.poisson(requests))
    bucket = np.searchsorted(BOUNDS_S, median_s * np.exp(0.4 * rng.standard_normal(n)))
    return Outcomes(n, int(rng.binomial(n, errors)), latency=np.bincount(bucket, minlength=BUCKETS))


def binomial(k: int, n: int, p: float) -> float:
    """Return the chance of `k` of `n`."""
    return float(special.binom(n, k)) * p**k * (1 - p) ** (n - k)


def play(
    comparison: Comparison,
    seconds: float,
    rps: float,
    *,
    errors: tuple[float, float] = (0.0, 0.0),
    slower: float = 1.0,
    seed: int = 1,
    share: float = 0.1,
) -> Judgement:
    """Play traffic until the canary is rolled back or time is up."""
    rng = np.random.default_rng(seed)
    for _ in range(round(seconds / TICK_S)):
        tick = {series("v2"): drawn(rng, rps * TICK_S, errors[0], 0.03 * slower)}
        for k in range(3):
            tick[series("v1", instance=k)] = drawn(rng, rps * TICK_S * (1 - share) / share / 3, errors[1])
        comparison.add(TICK_S, tick)
        if comparison.judgement().verdict is Verdict.ROLL_BACK:
            break
    return comparison.judgement()


@pytest.mark.parametrize("name", MODULES)
def test_examples_run(name: str) -> None:
    """Every example in the docstrings gives what it says."""
    assert doctest.testmod(importlib.import_module(name)).failed == 0


def test_good_canary_is_promoted() -> None:
    """A canary like its stable version passes after enough requests."""
    judgement = play(Comparison("catalog", "v2", "v1"), 60, 50, errors=(0.001, 0.001))
    assert judgement.verdict is Verdict.PROMOTE, judgement.reason


def test_failing_canary_is_rolled_back_within_two_seconds() -> None:
    """20 % more errors at 50 requests per second convict within 2 s."""
    comparison = Comparison("catalog", "v2", "v1")
    judgement = play(comparison, 2, 50, errors=(0.2, 0.001))
    assert judgement.verdict is Verdict.ROLL_BACK
    assert "fails" in judgement.reason


def test_slow_canary_is_rolled_back_for_latency() -> None:
    """A canary 1.5 times slower is rolled back, and latency is named."""
    judgement = play(Comparison("catalog", "v2", "v1"), 60, 50, slower=1.5)
    assert judgement.verdict is Verdict.ROLL_BACK
    assert "slower" in judgement.reason


def test_shared_failure_never_blames_the_canary() -> None:
    """When both versions fail 60 % at the same time, the canary is held, neither promoted nor rolled back."""
    comparison = Comparison("catalog", "v2", "v1")
    play(comparison, 20, 50, errors=(0.001, 0.001))
    judgement = play(comparison, 30, 50, errors=(0.6, 0.6))
    assert judgement.verdict is Verdict.KEEP_LOOKING
    assert judgement.shared_trouble


@pytest.mark.parametrize("silent", ["v1", "v2", "both"])
def test_no_traffic_is_keep_looking(silent: str) -> None:
    """A version without traffic proves nothing, however badly the other one does."""
    comparison = Comparison("catalog", "v2", "v1")
    loud = {"v1": "v2", "v2": "v1"}.get(silent)
    for _ in range(500):
        comparison.add(TICK_S, {series(loud): Outcomes(10, 5)} if loud else {})
    judgement = comparison.judgement()
    assert judgement.verdict is Verdict.KEEP_LOOKING
    assert "no traffic" in judgement.reason


def test_another_mix_of_callers_is_no_difference() -> None:
    """A caller that always fails 30 % and sends most of its traffic to the canary does not convict it (Simpson's paradox)."""
    rng = np.random.default_rng(3)
    comparison = Comparison("catalog", "v2", "v1")
    for _ in range(800):
        comparison.add(
            TICK_S,
            {
                series("v2", "noisy"): drawn(rng, 8, 0.3),
                series("v1", "noisy"): drawn(rng, 2, 0.3),
                series("v2", "calm"): drawn(rng, 2, 0.0),
                series("v1", "calm"): drawn(rng, 40, 0.0),
            },
        )
        assert comparison.judgement().verdict is not Verdict.ROLL_BACK


def test_one_bad_caller_among_many_convicts() -> None:
    """A canary that fails only one of five callers is rolled back."""
    rng = np.random.default_rng(4)
    comparison = Comparison("catalog", "v2", "v1")
    for _ in range(100):
        tick = {}
        for k in range(5):
            tick[series("v2", f"caller-{k}")] = drawn(rng, 4, 0.3 if k == 4 else 0.0)
            tick[series("v1", f"caller-{k}")] = drawn(rng, 36, 0.0)
        comparison.add(TICK_S, tick)
    assert comparison.judgement().verdict is Verdict.ROLL_BACK


def test_errors_hidden_by_retries_count() -> None:
    """Callers see no error, but each failed attempt at the canary was retried: it is rolled back all the same."""
    comparison = Comparison("catalog", "v2", "v1")
    for _ in range(50):
        comparison.add(
            TICK_S,
            {
                series("v2"): Outcomes(10, 3),
                series("v1"): Outcomes(93, 0),
                Series(Side.CLIENT, "gateway", "catalog", "", "", "gateway-1"): Outcomes(100, 0),
            },
        )
    assert comparison.judgement().verdict is Verdict.ROLL_BACK


def test_requests_that_find_no_instance_count_against_the_version_that_has_none() -> None:
    """With every canary instance out, requests without a host are the canary's failures."""
    comparison = Comparison("catalog", "v2", "v1")
    client = Series(Side.CLIENT, "gateway", "catalog", "", "", "gateway-1")
    fleets = (Fleet(1, frozenset({"catalog-v2-1"})), Fleet(3))
    comparison.add(TICK_S, {series("v2"): Outcomes(10, 0), series("v1"): Outcomes(90, 0)}, fleets=(Fleet(1), Fleet(3)))
    for _ in range(20):
        lost = Outcomes(100, 10, flags={"UH": 10})
        comparison.add(TICK_S, {series("v1"): Outcomes(90, 0), client: lost}, fleets=fleets)
    assert comparison.judgement().verdict is Verdict.ROLL_BACK


def test_instances_that_drop_out_again_and_again_convict() -> None:
    """Five ejections of canary instances with none of the stable version's ten are the canary's fault; one is not."""
    comparison = Comparison("catalog", "v2", "v1")
    verdicts = []
    for _ in range(8):
        for out in (frozenset({"catalog-v2-1"}), frozenset[str]()):
            comparison.add(TICK_S, {series("v1"): Outcomes(9)}, fleets=(Fleet(1, frozenset()), Fleet(10)))
            comparison.add(TICK_S, {series("v1"): Outcomes(9)}, fleets=(Fleet(1, out), Fleet(10)))
        verdicts.append(comparison.judgement().verdict)
    assert verdicts[0] is Verdict.KEEP_LOOKING
    assert verdicts[-1] is Verdict.ROLL_BACK


def test_saturated_canary_convicts() -> None:
    """A canary at its limit, beside a stable version at half of it, is rolled back for saturation."""
    comparison = Comparison("catalog", "v2", "v1")
    full = (Saturation("catalog-v2-1", 100, 100), Saturation("catalog-v1-1", 50, 100))
    for _ in range(3000):
        comparison.add(TICK_S, {series("v2"): Outcomes(5), series("v1"): Outcomes(45)}, saturation=full)
    judgement = comparison.judgement()
    assert judgement.verdict is Verdict.ROLL_BACK
    assert "full" in judgement.reason


def test_half_a_second_of_failure_does_not_convict() -> None:
    """One moment in which the only canary instance fails everything is not enough; half a minute later it is forgotten."""
    comparison = Comparison("catalog", "v2", "v1")
    rng = np.random.default_rng(6)
    for tick in range(400):
        failing = 1.0 if 50 <= tick < 53 else 0.0
        comparison.add(TICK_S, {series("v2"): drawn(rng, 10, failing), series("v1"): drawn(rng, 90, 0.0)})
        assert comparison.judgement().verdict is not Verdict.ROLL_BACK


def test_saved_state_goes_on_the_same() -> None:
    """Restored from its bytes, a comparison says what it said before."""
    comparison = Comparison("catalog", "v2", "v1")
    before = play(comparison, 20, 20, errors=(0.01, 0.01))
    again = Comparison("catalog", "v2", "v1")
    again.restore(comparison.saved())
    after = again.judgement()
    assert (after.verdict, after.reason, after.against) == (before.verdict, before.reason, before.against)
    play(again, 5, 20)


@pytest.mark.parametrize("data", [b"", b"nonsense", b"PK\x03\x04broken"])
def test_foreign_state_is_refused(data: bytes) -> None:
    """Bytes that are no saved state raise and change nothing."""
    comparison = Comparison("catalog", "v2", "v1")
    with pytest.raises(InvalidInput, match="saved state"):
        comparison.restore(data)
    assert comparison.judgement().verdict is Verdict.KEEP_LOOKING


def test_input_is_checked() -> None:
    """A canary of itself, and margins or risks outside their range, are refused with what was wanted."""
    with pytest.raises(InvalidInput, match="itself"):
        Comparison("catalog", "v1", "v1")
    with pytest.raises(InvalidInput, match="wanted"):
        Margins(errors=0.0)
    with pytest.raises(InvalidInput, match="wanted"):
        Risk(false_rollback=0.9)


@given(
    canary=st.integers(1, 6),
    stable=st.integers(1, 12),
    p=st.floats(0, 0.99),
    margin=st.floats(0.0001, 0.2),
)
@settings(max_examples=60)
def test_error_bets_are_fair(canary: int, stable: int, p: float, margin: float) -> None:
    """Under every null (p shared, canary up to margin worse) each bet's factor has expectation ≤ 1, in both directions."""
    high = min(1.0, p + margin)
    n, others = np.full(1, float(canary)), np.full(1, float(stable))
    ratio = Pairing((1, 1)).ratio(n[None], others[None], 0.2)[0]
    against, fair = 0.0, 0.0
    for e, b in itertools.product(range(canary + 1), range(stable + 1)):
        chance = binomial(e, canary, high) * binomial(b, stable, p)
        counts = ((n, np.full(1, float(e))), (others, np.full(1, float(b))))
        against = against + chance * np.exp(worse(*counts, ratio, margin)[0])
        if high < 1:
            fair = fair + chance * np.exp(within(*counts, ratio, margin)[0])
    assert np.all(against <= 1 + 1e-9)
    assert np.all(fair <= 1 + 1e-9)


@given(canary=st.integers(1, 8), stable=st.integers(1, 15), slow=st.integers(0, 23))
@settings(max_examples=60)
def test_latency_bets_are_fair(canary: int, stable: int, slow: int) -> None:
    """Whatever number of requests was slow in all, a bet on the canary's part of them has expectation exactly 1."""
    slow = min(slow, canary + stable)
    k = np.arange(min(canary, slow) + 1, dtype=float)
    chances = special.binom(canary, k) * special.binom(stable, slow - k) / special.binom(canary + stable, slow)
    chances = np.where(slow - k > stable, 0.0, chances)
    ones = np.ones(len(k))
    gains = conditional_gains(k, slow * ones, canary * ones, stable * ones, SLOWER_ODDS)
    impossible = slow - k > stable
    expected = (chances[:, None] * np.exp(np.where(impossible[:, None], 0, gains))).sum(axis=0)
    assert expected == pytest.approx(np.ones(3), abs=1e-6)


def test_stakes_never_exceed_one() -> None:
    """However long a canary lasts, all stakes together stay within the budget."""
    total = math.fsum(stake(k) for k in range(200_000))
    assert total <= 1 + 1e-9


@pytest.mark.parametrize(
    "world",
    [
        World(rps=5, errors=0.01),
        World(rps=5, errors=0.005, burst_every_s=60),
        World(rps=20, errors=0.005, burst_every_s=60, season=0.9, share=0.5),
        World(rps=5, errors=0.005, burst_every_s=60, retries=2),
        World(rps=0.05, errors=0.01, burst_every_s=60),
    ],
)
def test_good_canaries_in_bad_weather_stay(world: World) -> None:
    """Steady errors, shared bursts, swinging load, retries and little traffic roll back none of 300 good canaries."""
    back = rollbacks(world, 300, 600, 1.0, seed=9)
    assert back["Fibrin"] == 0.0


def test_tables_print() -> None:
    """The quick tables name all three rules, and ours rolls back no good canary in them."""
    text = "\n".join(table(QUICK) for table in (false_table, hard_table, delay_table, latency_table))
    assert "strikes (Flagger)" in text
    assert "ranks (Kayenta)" in text
    rows = [line.split("|") for line in text.splitlines() if line.startswith("| 5 | 1.0%")]
    assert [row[3].strip() for row in rows] == ["0.00%"]
