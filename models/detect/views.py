"""Which series are watched, and what of a window counts as the callee's doing.

The sidecars report very fine series. Detectors watch sums of them, named by `Series` keys in which "" stands for
"summed over":

| side | caller | callee | version | instance | reporter | is |
|---|---|---|---|---|---|---|
| ATTEMPT | "" | c | v | i | "" | one instance, over its callers |
| ATTEMPT | "" | c | v | "" | "" | one version, over its callers and instances (attempts that reached no host included) |
| CLIENT | a | c | "" | "" | "" | one edge: what caller a got from callee c after retries |
| SERVER | "" | c | "" | "" | "" | one service: what its applications answered |
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final

from models.detect.baseline import FloatArray
from models.signals import BUCKETS, Counts, Outcomes, Series, Side
from models.telemetry import BREAKER_FAILED_FLAG, BREAKER_FLAG

REMEMBERED: Final = 200_000
"""Series whose views are kept at hand; more than any mesh of ours reports."""


@lru_cache(maxsize=REMEMBERED)
def views(series: Series) -> tuple[Series, ...]:
    """Return the watched keys that `series` is part of, finest first."""
    match series.side:
        case Side.ATTEMPT:
            whole = Series(Side.ATTEMPT, "", series.callee, series.version, "", "")
            if series.instance:
                return (Series(Side.ATTEMPT, "", series.callee, series.version, series.instance, ""), whole)
            return (whole,) if series.version else ()
        case Side.CLIENT:
            return (Series(Side.CLIENT, series.caller, series.callee, "", "", ""),)
        case Side.SERVER:
            return (Series(Side.SERVER, "", series.callee, "", "", ""),)


def counted(outcomes: Outcomes) -> tuple[int, int]:
    """Return (requests, errors) that the callee answers for: without what an open breaker answered in its place.

    Impossible counts are clipped, not raised: 0 ≤ errors ≤ requests.
    """
    requests, errors = outcomes.requests, outcomes.errors
    if outcomes.flags:
        requests -= outcomes.flags.get(BREAKER_FLAG, 0)
        errors -= outcomes.flags.get(BREAKER_FAILED_FLAG, 0)
    requests = max(0, requests)
    return requests, min(max(0, errors), requests)


def answered(outcomes: Outcomes) -> Counts | FloatArray:
    """Return the latency array without a breaker's answers (the fastest ones); zeros when it has the wrong shape."""
    latency = outcomes.latency
    if latency.shape != (BUCKETS,):
        return Outcomes().latency
    broken = outcomes.flags.get(BREAKER_FLAG, 0)
    if broken <= 0:
        return latency
    taken = latency.cumsum().clip(max=broken)
    taken[1:] -= taken[:-1].copy()
    rest: Counts = latency - taken
    return rest
