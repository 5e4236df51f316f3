"""Is the canary slower? The whole distribution, compared block by block with the stable version's at the same time.

A request is *slow* if it took longer than a quantile of the stable version's recent latencies; for the canary that limit is
the margin (and the floor) higher. Null: in each block the canary's odds of being slow are no higher than the stable version's.
Given how many requests of a block were slow in all, the canary's part of them has Fisher's noncentral hypergeometric
distribution whatever the common load was (a slow database slows both), and

    factor = ω^{slow canary requests} / E₀[ω^{slow canary requests}],   E₀ over the central hypergeometric distribution

has expectation ≤ 1 for every ω > 1 (conditional likelihood ratio; Turner, Ly, Grünwald 2021). ω < 1 bets the other way.

Slow requests come in clusters (a paused process), so evidence is divided by the cluster size (`models.canary.clusters`) and no
block adds more than `MOST_NATS`.
Resolution: the telemetry grid, 12 buckets per decade; margins are rounded to whole buckets of a factor 1.21.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np
from scipy import special

from models.canary.clusters import Clusters
from models.canary.margins import Margins
from models.canary.wealth import Wealth, mix_strata
from models.detect.baseline import BUCKETS_PER_DECADE, BoolArray, FloatArray, IntArray
from models.signals import BOUNDS_S, BUCKETS

QUANTILES: Final[FloatArray] = np.asarray([0.5, 0.9, 0.99])
PROVEN: Final = 2
"""A canary must prove the first so many quantiles; the 99th percentile would take thousands of requests."""

SLOWER_ODDS: Final[FloatArray] = np.log([1.5, 3.0, 10.0])
FASTER_ODDS: Final[FloatArray] = np.log([0.75, 0.4, 0.1])
BLOCK_S: Final = 1.0
BLOCK_REQUESTS: Final = 5.0
REFERENCE_REQUESTS: Final = 50.0
REFERENCE_HALF_LIFE_S: Final = 600.0
PRIOR_SIZE: Final = 2.0

MOST_NATS: Final = 2.0
"""What one block adds at most: a paused process does not convict."""


def conditional_gains(
    slow: FloatArray, total_slow: FloatArray, n: FloatArray, others: FloatArray, odds: FloatArray
) -> FloatArray:
    """Return the log factors of bets on `odds` (log odds ratios), shape (cells, bets).

    `slow` of the canary's `n` and `total_slow` of all `n + others` requests were slow; all have shape (cells,).

    >>> one = np.ones(1)
    >>> [round(float(g), 2) for g in conditional_gains(4 * one, 5 * one, 5 * one, 45 * one, SLOWER_ODDS)[0]]
    [1.38, 3.53, 6.4]
    """
    most = int(np.minimum(total_slow, n).max(initial=0.0))
    fact = special.gammaln(np.arange(int((n + others).max(initial=0.0)) + 2) + 1.0)
    k = np.arange(most + 1)[None, :]
    e, a, b = (x.astype(np.int64)[:, None] for x in (total_slow, n, others))
    possible = (k <= np.minimum(e, a)) & (e - k <= b)
    left = np.where(possible, e - k, 0)
    mine = np.where(possible, k, 0)
    log_h = fact[a] - fact[mine] - fact[a - mine] + fact[b] - fact[left] - fact[b - left]
    log_h = log_h - (fact[a + b] - fact[e] - fact[a + b - e])
    log_h = np.where(possible, log_h, -np.inf)
    expected = special.logsumexp(log_h[:, :, None] + k[:, :, None] * odds, axis=1)
    gains: FloatArray = slow[:, None] * odds - expected
    return gains


class PairedLatency:
    """Sequential comparison of two latency distributions, stratified and paired in time. Shapes as in `PairedEvents`."""

    def __init__(self, cells: tuple[int, int], margins: Margins, *, prior_size: float = PRIOR_SIZE) -> None:
        lanes, _ = cells
        self._limit = _limits(margins)
        self.reference: FloatArray = np.zeros((*cells, BUCKETS))
        self.canary: FloatArray = np.zeros((*cells, BUCKETS))
        self.stable: FloatArray = np.zeros((*cells, 1, BUCKETS))
        self.waited_s: FloatArray = np.zeros(cells)
        self.clusters = Clusters((*cells, len(QUANTILES)), prior_size)
        bets = len(QUANTILES) * len(SLOWER_ODDS)
        self.pooled = Wealth((lanes, 1), bets)
        self.alone = Wealth(cells, bets)
        self.fine = Wealth((lanes, PROVEN), len(FASTER_ODDS))

    def add(self, canary: FloatArray, stable: FloatArray, elapsed_s: float) -> None:
        """Take one tick: latency counts of the canary (lanes, strata, BUCKETS), of the stable version by instance
        (lanes, strata, instances, BUCKETS), and the seconds since the tick before.
        """
        self.canary += canary
        if stable.shape[2] > self.stable.shape[2]:
            self.stable = np.pad(self.stable, ((0, 0), (0, 0), (0, stable.shape[2] - self.stable.shape[2]), (0, 0)))
        self.stable[:, :, : stable.shape[2]] += stable
        self.waited_s += elapsed_s
        n, others = self.canary.sum(axis=-1), self.stable.sum(axis=(-2, -1))
        full = (self.waited_s >= BLOCK_S) & (n >= BLOCK_REQUESTS) & (others >= BLOCK_REQUESTS)
        lanes, strata = full.shape
        against = np.zeros((lanes, strata, len(QUANTILES) * len(SLOWER_ODDS)))
        fair = np.zeros((lanes, strata, PROVEN, len(FASTER_ODDS)))
        if full.any():
            self._close(full, against, fair)
        self.pooled.add(against.sum(axis=1, keepdims=True), elapsed_s=elapsed_s)
        self.alone.add(against, elapsed_s=elapsed_s)
        self.fine.add(fair.sum(axis=1), elapsed_s=elapsed_s)

    def against(self) -> FloatArray:
        """Return the log evidence that the canary is slower than its margin, shape (lanes,)."""
        return mix_strata(self.pooled.log()[:, 0], self.alone.log())

    def in_favour(self) -> FloatArray:
        """Return the log evidence, since the last `step`, that it is not, at the least proven quantile, shape (lanes,)."""
        least: FloatArray = self.fine.log().min(axis=1)
        return least

    def step(self) -> None:
        """Begin a new step: drop the open block, prove anew."""
        self.canary[:], self.stable[:], self.waited_s[:] = 0, 0, 0
        self.fine = Wealth((self.fine.value.shape[0], PROVEN), len(FASTER_ODDS))

    def grow(self, strata: int) -> None:
        """Make room for more strata."""
        more = (0, max(0, strata - self.canary.shape[1]))
        self.reference = np.pad(self.reference, ((0, 0), more, (0, 0)))
        self.canary = np.pad(self.canary, ((0, 0), more, (0, 0)))
        self.stable = np.pad(self.stable, ((0, 0), more, (0, 0), (0, 0)))
        self.waited_s = np.pad(self.waited_s, ((0, 0), more))
        self.clusters.grow(strata)
        self.alone.grow(strata)

    def _close(self, full: BoolArray, against: FloatArray, fair: FloatArray) -> None:
        canary, by_instance, reference = self.canary[full], self.stable[full], self.reference[full]
        stable = by_instance.sum(axis=1)
        known = reference.sum(axis=1) >= REFERENCE_REQUESTS
        size = self.clusters.size()[full]
        cumulative = np.cumsum(reference, axis=1) / np.maximum(reference.sum(axis=1), 1.0)[:, None]
        events = np.zeros((len(canary), len(QUANTILES), by_instance.shape[1]))
        worse, better = np.zeros_like(against[full]), np.zeros_like(fair[full])
        for q, share in enumerate(QUANTILES):
            at = np.minimum((cumulative < share).sum(axis=1), BUCKETS - 1)
            above = np.minimum(at + 1, BUCKETS - 1)  # the share of slow ones is at most, and at least, 1 − q
            events[:, q] = _slow(by_instance, above[:, None])
            columns = slice(q * len(SLOWER_ODDS), (q + 1) * len(SLOWER_ODDS))
            worse[:, columns] = self._gains(canary, stable, above, SLOWER_ODDS) / size[:, q, None]
            if q < PROVEN:
                better[:, q] = self._gains(canary, stable, at, FASTER_ODDS) / size[:, q, None]
        against[full], fair[full] = np.minimum(worse, MOST_NATS) * known[:, None], better * known[:, None, None]
        self._learn(full, by_instance, events * known[:, None, None])

    def _gains(self, canary: FloatArray, stable: FloatArray, at: IntArray, odds: FloatArray) -> FloatArray:
        slow, other = _slow(canary, self._limit[at]), _slow(stable, at)
        return conditional_gains(slow, slow + other, canary.sum(axis=1), stable.sum(axis=1), odds)

    def _learn(self, full: BoolArray, by_instance: FloatArray, events: FloatArray) -> None:
        trials = np.zeros((*full.shape, 1, by_instance.shape[1]))
        bad = np.zeros((*full.shape, len(QUANTILES), by_instance.shape[1]))
        trials[full], bad[full] = by_instance.sum(axis=2)[:, None, :], events
        self.clusters.learn(trials, bad)
        keep = 0.5 ** (self.waited_s[full] / REFERENCE_HALF_LIFE_S)
        self.reference[full] = self.reference[full] * keep[:, None] + by_instance.sum(axis=1)
        self.canary[full], self.stable[full], self.waited_s[full] = 0, 0, 0


def _slow(counts: FloatArray, bucket: IntArray) -> FloatArray:
    """Return how many of `counts` (..., BUCKETS) lie in `bucket` (..., may be BUCKETS: none) or above."""
    padded = np.concatenate(
        [np.cumsum(counts[..., ::-1], axis=-1)[..., ::-1], np.zeros((*counts.shape[:-1], 1))], axis=-1
    )
    where = np.broadcast_to(bucket, counts.shape[:-1])
    found: FloatArray = np.take_along_axis(padded, where[..., None], axis=-1)[..., 0]
    return found


def _limits(margins: Margins) -> IntArray:
    """Return, for each bucket where "slow" begins for the stable version, the one where it begins for the canary."""
    shift = round(BUCKETS_PER_DECADE * math.log10(margins.latency))
    low = np.concatenate([[0.0], BOUNDS_S])
    floor = np.searchsorted(low, low + margins.latency_floor_s - 1e-12, side="left")
    limits: IntArray = np.minimum(np.maximum(np.arange(BUCKETS) + shift, floor), BUCKETS).astype(np.int64)
    return limits
