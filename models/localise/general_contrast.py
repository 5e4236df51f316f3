"""How much a series moved when the failure was noticed, measured by the moves it makes anyway.

The move is the mean of the larger half of (values after − median just before): half, because a fault may end or begin
inside the window. The same statistic taken at up to `POSITIONS` earlier moments says what is usual for this series: its
centre is subtracted and its upper tail gives the scale, so heavy tails, autocorrelation, slow seasons, quantised
histograms and the bias of "larger half" are all accounted for without a model of the noise (cf. the block permutation
view of change detection; Politis & Romano 1994 on dependent blocks).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from models.detect.baseline import FloatArray

POSITIONS: Final = 300
"""Earlier moments looked at, at most: more sharpen the tail little and cost time."""

LEAST: Final = 4
"""Samples before the failure without which a series says nothing."""

TO_SIGMA: Final = 1.4826
"""Median absolute deviation → standard deviation of a Gaussian."""

TINY: Final = 1e-12


@dataclass(frozen=True, slots=True)
class Move:
    """An excess in one direction and the size that is usual, both in the series' own unit and at least 0."""

    excess: float
    scale: float

    @property
    def strength(self) -> float:
        """Excess in units of what is usual."""
        return self.excess / max(self.scale, TINY)


def move(
    values: FloatArray, split: int, *, upwards: bool = True, reference: int = 7, tail: float = 0.975, floor: float = 0.0
) -> Move | None:
    """Return how far `values[split:]` lie beyond the level just before, None when there is too little to say.

    `values` shape (n,), NaN where nothing was reported. `reference` samples (as many as come after, if more) give the
    level. `tail` is the quantile of earlier moves that counts as 1.96 standard deviations. `floor` is the least scale
    as a share (0–1) of the usual level.

    >>> import numpy as np
    >>> series = np.r_[np.tile([1.0, 1.2], 20), 3.0, 3.2, 3.1]
    >>> move(series, 40).strength > 10
    True
    """
    before, after = values[:split], values[split:]
    before, after = before[np.isfinite(before)], after[np.isfinite(after)]
    if len(before) < LEAST or not len(after):
        return None
    sign = 1.0 if upwards else -1.0
    span = min(max(reference, len(after)), max(2, len(before) // 3))
    width = min(len(after), max(1, (len(before) - span) // 4))
    seen = _larger_half(sign * (after - np.median(before[-span:])))
    usual, scale = _usual(sign * before, span, width, tail)
    return Move(max(0.0, seen - usual), max(scale, floor * abs(float(np.median(before))), TINY))


def _usual(before: FloatArray, span: int, width: int, tail: float) -> tuple[float, float]:
    """Return centre and scale of the statistic at earlier moments."""
    count = len(before) - span - width + 1
    if count < LEAST:
        return 0.0, float(np.std(before))
    at = np.unique(np.linspace(0, count - 1, min(count, POSITIONS)).astype(int))
    levels = np.median(sliding_window_view(before, span)[at], axis=-1)
    moves = np.sort(sliding_window_view(before[span:], width)[at] - levels[:, None], axis=-1)
    earlier = moves[:, width // 2 :].mean(axis=-1)
    centre = float(np.median(earlier))
    spread = TO_SIGMA * float(np.median(np.abs(earlier - centre)))
    return centre, max(spread, (float(np.quantile(earlier, tail)) - centre) / 1.96)


def _larger_half(moves: FloatArray) -> float:
    return float(np.sort(moves)[len(moves) // 2 :].mean())
