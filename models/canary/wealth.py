"""The capital of many bets against a null: a mixture test martingale that may start late.

Each bet multiplies its capital by a factor whose expectation is at most 1 while the null holds. All stakes add up to at
most 1, so the capital of all bets together is a non-negative supermartingale that starts at ≤ 1, and the chance that it
ever reaches `1/α` is at most `α` (Ville's inequality), however often one looks.

A fault that begins late finds capital that an hour of good behaviour has eaten (and a canary that is well after a shared outage,
capital that the outage has eaten). So only `FIRST` is staked at the start; the
rest enters bit by bit, one stake each `EPOCH_S` (half of what is left over each `SPREAD_S`), which keeps the sum at 1.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np
from scipy import special

from models.detect.baseline import FloatArray

FIRST: Final = 0.75
EPOCH_S: Final = 10.0
SPREAD_S: Final = 3600.0


def stake(epoch: int) -> float:
    """Return the stake that enters at the beginning of `epoch` (0 is the start).

    >>> round(sum(stake(k) for k in range(20_000)), 6)
    1.0
    """
    if epoch == 0:
        return FIRST
    per_hour = SPREAD_S / EPOCH_S
    hour = int((epoch - 1) // per_hour)
    return float((1 - FIRST) * 0.5 ** (hour + 1) / per_hour)


class Wealth:
    """Log capital of `bets` bets for each cell of an array of shape `cells`; bets have equal stakes.

    Example:
        >>> wealth = Wealth((1, 1), bets=1)
        >>> for tick in range(20):
        ...     wealth.add(np.full((1, 1, 1), 0.4), elapsed_s=0.2)
        >>> round(float(wealth.log()[0, 0]), 2)  # 20 gains of 0.4 nats on a stake of 0.75
        7.71
    """

    def __init__(self, cells: tuple[int, int], bets: int) -> None:
        self.value: FloatArray = np.full((*cells, bets), math.log(FIRST / bets))
        self.elapsed_s = 0.0

    def add(self, gains: FloatArray, *, elapsed_s: float) -> None:
        """Let every bet gain (log factors, shape (*cells, bets)) after `elapsed_s` more seconds."""
        before = int(self.elapsed_s // EPOCH_S)
        self.elapsed_s += elapsed_s
        now = int(self.elapsed_s // EPOCH_S)
        if now > before:
            fresh = sum(stake(epoch) for epoch in range(before + 1, now + 1))
            self.value = np.logaddexp(self.value, math.log(fresh / self.value.shape[-1]))
        self.value = self.value + gains

    def grow(self, strata: int) -> None:
        """Make room for more strata (second axis); a new one starts with what an untouched one would hold."""
        lanes, have, bets = self.value.shape
        if strata > have:
            held = sum(stake(epoch) for epoch in range(int(self.elapsed_s // EPOCH_S) + 1))
            fresh = np.full((lanes, strata - have, bets), math.log(held / bets))
            self.value = np.concatenate([self.value, fresh], axis=1)

    def log(self) -> FloatArray:
        """Return the natural log of the capital of all bets, shape `cells`."""
        mixed: FloatArray = special.logsumexp(self.value, axis=-1)
        return mixed


def mix_strata(pooled: FloatArray, strata: FloatArray) -> FloatArray:
    """Return the log capital of half on all strata together (shape (lanes,)), half on each alone (shape (lanes, strata)).

    The k-th stratum to appear gets the share 1/(k(k+1)), so however many appear, the shares add up to at most 1.
    """
    k = np.arange(1, strata.shape[1] + 1)
    alone: FloatArray = special.logsumexp(strata - np.log(k * (k + 1.0)), axis=1)
    both: FloatArray = np.logaddexp(pooled, alone) - math.log(2)
    return both
