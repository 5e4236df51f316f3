"""How full the instances of both versions are: a bet on the difference of two levels in 0–1.

Null: the canary's mean level exceeds the stable version's of the same time by at most `margin`. With `X = canary − stable −
margin`, bounded below by `−(1 + margin)`, capital times `1 + λX` is a supermartingale for each fixed λ in [0, 1/(1 + margin)]
(betting on bounded means: Waudby-Smith, Ramdas 2024). Queues fill and empty over seconds, so a level enters once per
`BLOCK_S` as its mean. Only instances with a declared limit have a level.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from models.canary.wealth import Wealth
from models.detect.baseline import FloatArray

BLOCK_S: Final = 5.0
BETS: Final[FloatArray] = np.asarray([0.2, 0.9])


class PairedLevels:
    """Sequential comparison of two levels, one pair per lane.

    Example:
        >>> test = PairedLevels(1, margin=0.1)
        >>> for tick in range(600):  # two minutes: canary full, stable half full
        ...     test.add(np.ones(1), np.full(1, 0.5), 0.2)
        >>> round(float(test.against()[0]), 1)
        5.8
    """

    def __init__(self, lanes: int, margin: float) -> None:
        self.margin = margin
        self.wealth = Wealth((lanes, 1), len(BETS))
        self.sum: FloatArray = np.zeros(lanes)
        self.seen: FloatArray = np.zeros(lanes)
        self.waited_s = 0.0

    def add(self, canary: FloatArray, stable: FloatArray, elapsed_s: float) -> None:
        """Take one tick's levels, shape (lanes,), 0–1; NaN where one is not known."""
        known = np.isfinite(canary) & np.isfinite(stable)
        difference = np.clip(np.nan_to_num(canary), 0, 1) - np.clip(np.nan_to_num(stable), 0, 1)
        self.sum += np.where(known, difference, 0.0)
        self.seen += known
        self.waited_s += elapsed_s
        if self.waited_s < BLOCK_S:
            return
        mean = self.sum / np.maximum(self.seen, 1.0) - self.margin
        strength = BETS / (1 + self.margin)
        gains = np.where((self.seen > 0)[:, None], np.log1p(strength * mean[:, None]), 0.0)
        self.wealth.add(gains[:, None, :], elapsed_s=self.waited_s)
        self.sum[:], self.seen[:], self.waited_s = 0, 0, 0.0

    def against(self) -> FloatArray:
        """Return the log evidence that the canary is fuller than its margin, shape (lanes,)."""
        return self.wealth.log()[:, 0]
