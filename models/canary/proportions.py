"""Two failure ratios at the same time: bets that are fair whatever the ratio both versions share.

Null "no worse": in every tick the canary fails a request with probability at most `p + margin`, the stable version with
`p`, where `p` is anything and may change from request to request (a dependency that fails, a burst, the hour of the day).
For a bet of strength `a > 0`, with `R` canary requests per stable request,

    factor = (1 + a)^{canary errors} · (1 − R·a)^{stable errors} · exp(−margin · a · canary requests)

has expectation ≤ 1: one request gives `1 + (p + margin)·a` or `1 − p·R·a`, and with `R` to 1 the parts with `p` cancel, because
`ln(1+x) ≤ x`. It is the k-sample e-variable of Turner, Ly, Grünwald (2021) in its form for rare events, with a margin. Needs
`R·a < 1`: an equal share of traffic cannot give more than ln 2 of evidence per error, for a shared fault would look the same.

`R` is the ratio seen in the tick and in the last `MEMORY` requests of the rarer side before it: the tick's own, where it has
enough; nearby traffic, where it has not. Assumes that which version a request goes to does not depend on its fate.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from models.detect.baseline import FloatArray

WORSE_BETS: Final[FloatArray] = np.asarray([0.5, 1.5, 5.0, 30.0])
"""Strengths `a`: best against a canary that fails 1 + a times as often as `p + margin`."""

FINE_BETS: Final[FloatArray] = np.asarray([0.25, 0.6, 0.93])
"""Strengths `b` of the bets that the canary is within its margin: gentle where errors are common, bold where they are rare."""

MOST: Final = 0.9
"""`R·a` at most: nothing is staked whole."""

MEMORY: Final = 10.0
MEMORY_HALF_LIFE_S: Final = 300.0


class Pairing:
    """How many canary requests there are per stable request now, for each cell (lane, stratum)."""

    def __init__(self, cells: tuple[int, int]) -> None:
        self.canary: FloatArray = np.zeros(cells)
        self.stable: FloatArray = np.zeros(cells)

    def ratio(self, canary: FloatArray, stable: FloatArray, elapsed_s: float) -> FloatArray:
        """Take one tick's requests; return the ratio, 0 where there is nothing to compare with."""
        keep = 0.5 ** (elapsed_s / MEMORY_HALF_LIFE_S)
        self.canary = self.canary * keep + canary
        self.stable = self.stable * keep + stable
        both = (self.canary > 0) & (self.stable > 0)
        ratio: FloatArray = np.where(both, self.canary / np.where(both, self.stable, 1.0), 0.0)
        rarer = np.minimum(self.canary, self.stable)
        shrink = np.where(rarer > MEMORY, MEMORY / np.maximum(rarer, MEMORY), 1.0)
        self.canary *= shrink
        self.stable *= shrink
        return ratio

    def forget(self) -> None:
        """Start over: the shares of traffic were changed on purpose."""
        self.canary[:] = 0
        self.stable[:] = 0

    def grow(self, strata: int) -> None:
        """Make room for more strata."""
        add = ((0, 0), (0, max(0, strata - self.canary.shape[1])))
        self.canary, self.stable = np.pad(self.canary, add), np.pad(self.stable, add)


def worse(
    canary: tuple[FloatArray, FloatArray], stable: tuple[FloatArray, FloatArray], ratio: FloatArray, margin: float
) -> FloatArray:
    """Return the log factors of the bets against "no worse than margin", shape (..., bets).

    `canary` and `stable` are (requests, errors), `ratio` from `Pairing`; cells without anything to compare gain 0.

    >>> ones = np.ones(1)
    >>> gains = worse((20 * ones, 4 * ones), (180 * ones, 0 * ones), ones / 9, 0.005)
    >>> [round(float(gain), 1) for gain in gains[0]]
    [1.6, 3.5, 6.7, 8.0]
    """
    known = ratio > 0
    rate = np.where(known, ratio, 1.0)[..., None]
    strength = np.minimum(WORSE_BETS, MOST / rate)
    gain = (
        np.log1p(strength) * canary[1][..., None]
        + np.log1p(-rate * strength) * stable[1][..., None]
        - margin * strength * canary[0][..., None]
    )
    result: FloatArray = np.where(known[..., None], gain, 0.0)
    return result


def within(
    canary: tuple[FloatArray, FloatArray], stable: tuple[FloatArray, FloatArray], ratio: FloatArray, margin: float
) -> FloatArray:
    """Return the log factors of the bets against "worse by at least the margin", shape (..., bets).

    The mirror image of `worse`: factor `(1 − b)^{canary errors} · (1 + R·b)^{stable errors} · exp(margin · b · canary requests)`.
    """
    known = ratio > 0
    rate = np.where(known, ratio, 1.0)[..., None]
    gain = (
        np.log1p(-FINE_BETS) * canary[1][..., None]
        + np.log1p(rate * FINE_BETS) * stable[1][..., None]
        + margin * FINE_BETS * canary[0][..., None]
    )
    result: FloatArray = np.where(known[..., None], gain, 0.0)
    return result
