"""Did the act help? Sequential judgements that may be asked again at every tick.

Wald's sequential probability ratio test (1947) between "back within what is tolerated" and "still bad": each verdict is
wrong with probability at most about 1/`ODDS` however often one looks at the growing counts, because both likelihood
ratios are e-processes (Ville's inequality). What neither side has proved is UNDECIDED; no traffic proves nothing.
Signals are judged as shares: failed requests, or requests slower than almost all of the baseline's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

import numpy as np
from scipy import special

from models.detect.baseline import Baseline, quantile
from models.incident import Signal
from models.signals import BUCKETS, Outcomes, Series

ODDS: Final = 20.0
TOLERATED_ERRORS: Final = 0.01
BAD_ERRORS: Final = 0.1
SLOW_QUANTILE: Final = 0.95
SLOW_MARGIN_BUCKETS: Final = 2  # 12 per decade: slower than the quantile by another half
TOLERATED_SLOW: Final = 0.1
BAD_SLOW: Final = 0.35
TOLERATED_DOSED: Final = 0.04
"""Share of slow requests that is tolerated at least after a dose."""

SLOWER: Final = 1.5
SLOWER_S: Final = 0.005
TRAFFIC_BACK: Final = 0.5
TRAFFIC_GONE: Final = 0.1


class Verdict(StrEnum):
    """What the numbers say after an act."""

    RECOVERED = "recovered"
    STILL_BAD = "still-bad"
    UNDECIDED = "undecided"


@dataclass(frozen=True, slots=True)
class Judgement:
    """A verdict with its numbers.

    `observed` and `expected` are in the signal's unit (error ratio, seconds at the median, requests per second; NaN when
    there is nothing to say). `p_value` is the chance of so bad a window, or worse, were the signal just tolerable.
    """

    verdict: Verdict
    observed: float
    expected: float
    requests: int
    p_value: float


@dataclass(frozen=True, slots=True)
class Worse:
    """A neighbour that an act seems to have hurt."""

    series: Series
    signal: Signal
    judgement: Judgement


def judge(
    baseline: Baseline,
    after: Outcomes,
    signal: Signal,
    elapsed_s: float,
    *,
    anomalous: float | None = None,
    dosed: bool = False,
) -> Judgement:
    """Judge what has come in since the act took hold (cumulative `after`, over `elapsed_s` seconds).

    `anomalous` is the share (0–1) of failed or slow requests seen during the fault, when known: then half of it is "still
    bad", which decides sooner, and finds a dose that helps only half of the users out. `dosed` tells that the act was
    a dose and a larger one is left: then a share of slow requests that is tolerated elsewhere counts, and it takes more requests. Saturation cannot be judged from outcomes and stays UNDECIDED. What counts is what callers got: an
    open breaker's fallback is a success, its fail-fast answer an error.
    """
    match signal:
        case Signal.ERRORS:
            return _errors(baseline, after, anomalous)
        case Signal.LATENCY:
            return _latency(baseline, after, anomalous, dosed=dosed)
        case Signal.TRAFFIC:
            return _traffic(baseline, after, elapsed_s)
        case Signal.SATURATION:
            return Judgement(Verdict.UNDECIDED, math.nan, math.nan, max(0, after.requests), 1.0)


def neighbours_worse(
    baselines: Callable[[Series, Signal], Baseline | None],
    after: Mapping[Series, Outcomes],
    elapsed_s: float,
    *,
    spared: Callable[[Series], bool] = lambda _: False,
) -> tuple[Worse, ...]:
    """Return the series that are clearly bad since the act, worst first; `spared` ones (the sick themselves) are skipped.

    The p-value wanted is divided by the number of looks (Bonferroni over series and signals). Series without a baseline
    or traffic say nothing.
    """
    looks = [(s, o) for s, o in sorted(after.items()) if not spared(s) and o.requests > 0]
    worse: list[Worse] = []
    for series, outcomes in looks:
        for signal in (Signal.ERRORS, Signal.LATENCY):
            known = baselines(series, signal) if outcomes.errors or signal is not Signal.ERRORS else None
            if known is None or (signal is Signal.LATENCY and not _slow(known, outcomes)):
                continue
            judgement = judge(known, outcomes, signal, elapsed_s)
            if judgement.verdict is Verdict.STILL_BAD and judgement.p_value * 2 * len(looks) < 1 / ODDS:
                worse.append(Worse(series, signal, judgement))
    return tuple(sorted(worse, key=lambda w: (w.judgement.p_value, w.series, w.signal)))


def bad_of(baseline: Baseline, seen: Outcomes, signal: Signal) -> tuple[int, int]:
    """Return (bad, all) requests: failed ones, or for latency those slower than almost all of the baseline's.

    (0, 0) where single requests are neither good nor bad (traffic, saturation) or nothing is known to compare with.
    """
    match signal:
        case Signal.ERRORS:
            requests = max(0, seen.requests)
            return min(max(0, seen.errors), requests), requests
        case Signal.LATENCY:
            edge = _slow_edge(baseline)
            if edge is None or seen.latency.shape != (BUCKETS,):
                return 0, 0
            return int(seen.latency[edge + 1 :].sum()), int(seen.latency.sum())
        case Signal.TRAFFIC | Signal.SATURATION:
            return 0, 0


def _slow(baseline: Baseline, seen: Outcomes) -> bool:
    """Tell whether latency is clearly bad: what `judge` says, without the figures that few of very many are asked for."""
    slow, total = bad_of(baseline, seen, Signal.LATENCY)
    return _sprt(slow, total, TOLERATED_SLOW, BAD_SLOW)[0] is Verdict.STILL_BAD


def _slow_edge(baseline: Baseline) -> int | None:
    """Return the last latency bucket that does not count as slow, None without a baseline."""
    base = np.asarray(baseline.latency, dtype=np.float64)
    if base.shape != (BUCKETS,) or not base.sum() > 0:
        return None
    return int(np.searchsorted(np.cumsum(base), SLOW_QUANTILE * base.sum())) + SLOW_MARGIN_BUCKETS


def _sprt(bad: int, total: int, tolerated: float, wrong: float) -> tuple[Verdict, float]:
    """Return the verdict on `bad` of `total`, and the p-value against the tolerated share."""
    if total <= 0:
        return Verdict.UNDECIDED, 1.0
    ratio = bad * math.log(wrong / tolerated) + (total - bad) * math.log((1 - wrong) / (1 - tolerated))
    p_value = float(special.betainc(bad, total - bad + 1, tolerated)) if bad > 0 else 1.0  # P(X ≥ bad)
    if ratio >= math.log(ODDS):
        return Verdict.STILL_BAD, p_value
    return (Verdict.RECOVERED if -ratio >= math.log(ODDS) else Verdict.UNDECIDED), p_value


def _errors(baseline: Baseline, after: Outcomes, anomalous: float | None) -> Judgement:
    requests = max(0, after.requests)
    errors = min(max(0, after.errors), requests)
    normal = min(0.9, max(0.0, baseline.error_ratio))
    tolerated = min(0.95, max(2 * normal, TOLERATED_ERRORS))
    wrong = BAD_ERRORS if anomalous is None or not math.isfinite(anomalous) else min(0.5, max(anomalous, 0.0) / 2)
    wrong = min(0.99, max(wrong, 3 * tolerated if tolerated < 0.3 else tolerated + 0.5 * (1 - tolerated)))  # noqa: PLR2004
    verdict, p_value = _sprt(errors, requests, tolerated, wrong)
    observed = errors / requests if requests else math.nan
    return Judgement(verdict, observed, baseline.error_ratio, requests, p_value)


def _latency(baseline: Baseline, after: Outcomes, anomalous: float | None, *, dosed: bool) -> Judgement:
    seen = after.latency if after.latency.shape == (BUCKETS,) else Outcomes().latency
    total = int(seen.sum())
    edge = _slow_edge(baseline)
    if total <= 0 or edge is None:
        return Judgement(Verdict.UNDECIDED, math.nan, baseline.p50_s, max(0, total), 1.0)
    base = np.asarray(baseline.latency, dtype=np.float64)
    slow = int(seen[edge + 1 :].sum())
    wrong = BAD_SLOW if anomalous is None or not math.isfinite(anomalous) else anomalous / 2
    wrong = min(BAD_SLOW, max(wrong, 2 * (TOLERATED_DOSED if dosed else TOLERATED_SLOW)))
    verdict, p_value = _sprt(slow, total, min(TOLERATED_SLOW, wrong / 2), wrong)
    median, normal = quantile(seen, 0.5), quantile(base, 0.5)
    if verdict is Verdict.RECOVERED and median > SLOWER * normal and median - normal > SLOWER_S:
        verdict = Verdict.UNDECIDED
    return Judgement(verdict, median, normal, total, p_value)


def _traffic(baseline: Baseline, after: Outcomes, elapsed_s: float) -> Judgement:
    requests = max(0, after.requests)
    if requests == 0 or not elapsed_s > 0 or not baseline.rps > 0:
        return Judgement(Verdict.UNDECIDED, math.nan, baseline.rps, requests, 1.0)
    expected = baseline.rps * elapsed_s
    ratio = requests * math.log(TRAFFIC_GONE / TRAFFIC_BACK) + (TRAFFIC_BACK - TRAFFIC_GONE) * expected
    p_value = float(special.pdtr(requests, TRAFFIC_BACK * expected))
    verdict = Verdict.UNDECIDED
    if abs(ratio) >= math.log(ODDS):
        verdict = Verdict.STILL_BAD if ratio > 0 else Verdict.RECOVERED
    return Judgement(verdict, requests / elapsed_s, baseline.rps, requests, p_value)
