"""Bets that requests have become slower: from a learnt latency histogram to what one request in each bucket is worth.

Null: latencies are stochastically not larger than `f0`, the series' learnt histogram slowed by `MARGIN` — a service
within 15 % of its normal is well. Alternatives: `f0` slowed by a factor on the log scale, for all or for a quarter
of the requests. The bet on a request in bucket `b` is the likelihood ratio, made non-decreasing in `b`, capped, and
normalised so that `Σ f0·bet = 1`: monotone bets have expectation ≤ 1 under *every* distribution stochastically
below `f0` (testing by betting: Shafer 2021; Waudby-Smith & Ramdas 2023).

What a series has not shown yet is taken from what the whole mesh shows, relative to each series' median (empirical
Bayes): after a minute nobody knows a tail of one in ten thousand from one series, but from all of them together.
Before that the assumed tail is heavy and bets are low: an honest, wide beginning. Where a young series' median itself is not
known to within `MARGIN`, the null is slowed by its confidence bound instead: among thousands of new series some begin with
their fastest requests.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from models.detect.baseline import BUCKETS_PER_DECADE, FloatArray
from models.detect.window import BELOW, WIDTH

SLOWDOWNS: Final[tuple[tuple[float, float], ...]] = ((1.8, 1.0), (2.5, 1.0), (5.0, 1.0), (10.0, 1.0), (8.0, 0.25))
"""(factor, share of requests slowed), one CUSUM each."""

MARGIN: Final = 1.15
DOUBT: Final = 4.5
"""Standard errors of the learnt median that a well series may be slower than it: passed by one in 300 000."""

MEDIAN_ERROR: Final = 1.25
"""Standard error of a median over that of a mean, normal distribution: √(π/2)."""

BET_CAP: Final = 10.5
STEP: Final = 1 / 12
"""Bets are kept as whole multiples of this many nats in one byte, rounded down."""

MESH_REQUESTS: Final = 60.0
"""Requests that the experience of the whole mesh counts for in one series."""

ASSUMED_REQUESTS: Final = 300.0
"""Requests that the assumed shape counts for in the experience of the whole mesh."""

Logs = npt.NDArray[np.int8]
Small = npt.NDArray[np.float32]

_LOW, _HIGH = 0.16, 0.84
"""Quantiles that lie two standard deviations apart, normal distribution."""


def _assumed() -> FloatArray:
    """Return what a latency distribution is taken for before anything is known: log-normal body, heavy tail."""
    steps = (np.arange(WIDTH) - BELOW) / BUCKETS_PER_DECADE  # decades from the median
    body = np.exp(-0.5 * (steps / 0.25) ** 2)
    tail = np.where(steps >= 0, 0.3 ** np.maximum(steps, 0), 0.0)
    shape = 0.98 * body / body.sum() + 0.02 * tail / tail.sum()
    return np.asarray(shape / shape.sum())


ASSUMED: Final[FloatArray] = _assumed()


def _shift(factor: float) -> FloatArray:
    """Return the (WIDTH, WIDTH) matrix that slows a row distribution by `factor`; the last bucket absorbs."""
    places = np.log10(factor) * BUCKETS_PER_DECADE
    whole, part = int(np.floor(places)), float(places - np.floor(places))
    matrix = np.zeros((WIDTH, WIDTH))
    for b in range(WIDTH):
        matrix[b, min(b + whole, WIDTH - 1)] += 1 - part
        matrix[b, min(b + whole + 1, WIDTH - 1)] += part
    return matrix


def _blur() -> FloatArray:
    kernel = np.eye(WIDTH) * 0.5 + np.eye(WIDTH, k=1) * 0.25 + np.eye(WIDTH, k=-1) * 0.25
    return np.asarray(kernel / kernel.sum(axis=1, keepdims=True))


_BLUR: Final = _blur().astype(np.float32)
_NULL: Final = _shift(MARGIN).astype(np.float32)
_SLOWED: Final = tuple(
    (share * _shift(factor) + (1 - share) * np.eye(WIDTH)).astype(np.float32) for factor, share in SLOWDOWNS
)
_MOST: Final = np.float32(np.exp(BET_CAP))
_LEAST: Final = np.float32(1e-3)


def pooled(windows: npt.NDArray[np.float32]) -> FloatArray:
    """Return the shape of the mesh's latencies, shape (WIDTH,), sum 1, from the windows of many series (rows, WIDTH).

    A busy series counts as little more than a quiet one.
    """
    totals = windows.sum(axis=1, dtype=np.float64)
    weights = np.minimum(1.0, 200.0 / np.maximum(totals, 1.0))
    sums = ASSUMED_REQUESTS * ASSUMED + weights @ windows
    return np.asarray(sums / sums.sum())


def _doubted(null: npt.NDArray[np.float32], known: npt.NDArray[np.float32], requests: npt.NDArray[np.float32]) -> Small:
    """Return `null` (rows, WIDTH), slowed further where few `requests` (rows,) leave the median of `known` in doubt."""
    below = np.cumsum(known, axis=1)
    spread = ((below < _HIGH).sum(axis=1) - (below < _LOW).sum(axis=1)) / 2  # buckets; one standard deviation
    doubt = DOUBT * MEDIAN_ERROR * spread / np.sqrt(np.maximum(requests, 1.0))
    further = doubt - np.log10(MARGIN) * BUCKETS_PER_DECADE
    rows = np.flatnonzero(further > 0)
    if not len(rows):
        return null
    whole = np.floor(further[rows]).astype(np.int64)[:, None]
    part = (further[rows] - whole[:, 0])[:, None]
    # what comes from below the window is nothing
    padded = np.concatenate([np.zeros((len(rows), 1)), null[rows]], axis=1)
    near, far = (
        np.take_along_axis(padded, np.maximum(np.arange(1, WIDTH + 1) - whole - more, 0), axis=1) for more in (0, 1)
    )
    slowed = (1 - part) * near + part * far
    slowed[:, -1] += 1 - slowed.sum(axis=1)
    found = null.copy()
    found[rows] = slowed
    return found


def bets(windows: npt.NDArray[np.float32], shape: FloatArray) -> Logs:
    """Return log bets in steps of `STEP`, shape (rows, slowdowns, WIDTH), for learnt windows (rows, WIDTH) of counts.

    `shape` is what `pooled` returned.
    """
    total = windows.sum(axis=1, keepdims=True)
    mesh = np.float32(MESH_REQUESTS) * shape.astype(np.float32)
    known = (windows @ _BLUR + mesh) / (total + np.float32(MESH_REQUESTS))
    null = np.maximum(_doubted(known @ _NULL, known, total[:, 0]), np.float32(1e-12))
    logs = np.empty((len(windows), len(SLOWDOWNS), WIDTH), dtype=np.int8)
    for k, matrix in enumerate(_SLOWED):
        ratio = np.maximum.accumulate((known @ matrix) / null, axis=1)
        np.minimum(ratio, _MOST, out=ratio)
        ratio /= np.einsum("rb,rb->r", null, ratio)[:, None]
        np.clip(ratio, _LEAST, _MOST, out=ratio)
        logs[:, k] = np.floor(np.log(ratio) / np.float32(STEP))
    return logs
