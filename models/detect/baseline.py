"""What a series looks like when it is well: the reference that detectors learn and that people and judges read."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

import numpy as np
import numpy.typing as npt

from models.incident import Signal
from models.signals import BOUNDS_S, BUCKETS

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]
SmallArray = npt.NDArray[np.float32]

BUCKETS_PER_DECADE: Final = 12

MIDS_S: Final[FloatArray] = np.append(BOUNDS_S / 10 ** (0.5 / BUCKETS_PER_DECADE), BOUNDS_S[-1] * 1.1)
"""Representative value of each latency bucket in seconds: geometric middle; the overflow bucket just above the last bound."""


@dataclass(frozen=True, slots=True)
class Baseline:
    """The learnt normal of one series.

    `error_ratio` 0–1 is the posterior mean (never exactly 0). `latency` has shape (BUCKETS,), float counts that
    are exponentially forgotten. `p50_s` and `p99_s` are its quantiles in seconds (NaN without latency data). `rps` is
    the learnt request rate per second. `requests` is the effective number of requests behind all of this.
    """

    signal: Signal
    error_ratio: float
    latency: FloatArray = field(default_factory=lambda: np.zeros(BUCKETS))
    p50_s: float = float("nan")
    p99_s: float = float("nan")
    rps: float = 0.0
    requests: float = 0.0


def quantile(distribution: FloatArray | IntArray, q: float) -> float:
    """Return the `q` quantile (0–1) in seconds of a latency array of any positive weights; NaN when it is empty.

    As `models.signals.percentile`, but for weights that are not whole numbers.
    """
    weights = np.asarray(distribution, dtype=np.float64)
    total = float(weights.sum())
    if not total > 0:
        return float("nan")
    cumulative = np.cumsum(weights)
    k = int(np.searchsorted(cumulative, q * total, side="left"))
    if k >= len(BOUNDS_S):
        return float(BOUNDS_S[-1])
    upper = float(BOUNDS_S[k])
    width = 10 ** (1 / BUCKETS_PER_DECADE)
    before = float(cumulative[k - 1]) if k else 0.0
    share = (q * total - before) / float(weights[k]) if weights[k] > 0 else 1.0
    return float(upper / width * width ** min(1.0, max(0.0, share)))


def mean_s(distribution: FloatArray | IntArray) -> float:
    """Return the mean in seconds of a latency array (bucket middles); 0 when it is empty."""
    weights = np.asarray(distribution, dtype=np.float64)
    total = float(weights.sum())
    return float(weights @ MIDS_S) / total if total > 0 else 0.0
