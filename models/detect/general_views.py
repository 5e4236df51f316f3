"""The questions asked of a series at every sample: one number per kind of evidence and time scale, larger = less usual.

    high, low    value above / below its slow level            day high, day low    the same against the time of day, and against
    step         change since the last sample, over the                             what that residual was in the last minutes
                 size usual of late                            day means            window means of that residual
    means        window means above / below the slow level     day activity         window means of its size
    activity     window means of |step|
    contrast     window mean against the window before

All are differences of samples or ratios of such, so they ignore a shift of the series; the differences scale with its unit, the ratios
(`PURE`) have none. What is unusual is decided against each one's own past (`general_records`). What is usual — the slow level, the habit of the day — is learnt
with bounded steps (Huber 1964): an incident must not become the yardstick, or its end and the same hour of the next day
would look like incidents too.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import accumulate
from typing import Final

from models.detect.general_profile import DayProfile
from models.detect.general_usual import Usual
from models.detect.general_windows import COARSE, SCALES, Windows

FAMILIES: Final = (
    1,
    1,
    1,
    len(SCALES),
    len(SCALES),
    len(SCALES),
    len(SCALES),
    2,
    2,
    len(COARSE),
    len(COARSE),
    len(COARSE),
)
"""Number of scales of each kind of evidence, in the order of `Views.measure`."""

FAMILY_ENDS: Final = tuple(accumulate(FAMILIES))
STATISTICS: Final = FAMILY_ENDS[-1]
FAMILY_OF: Final = tuple(k for k, size in enumerate(FAMILIES) for _ in range(size))

DAILY_FROM: Final = FAMILY_ENDS[6]
"""Statistics from this index on compare with the daily profile."""

PURE: Final = frozenset({2, DAILY_FROM + 1, DAILY_FROM + 3})
"""Statistics without a unit; they are 0 where what they measure is no larger than rounding."""

LEVEL_RATE: Final = 0.002
"""Rate of the slow level per sample (memory 500 samples): slower than an episode, faster than a season of the year."""

BOUND: Final = 4.0
"""A sample moves the level by at most what one this many times as far away as usual would."""

YOUNG: Final = 50
"""Samples before which nobody knows how far away is usual."""

NOISE_FLOOR: Final = 1e-12
"""Differences below this share of the series' magnitude are rounding, not evidence."""

MAGNITUDE_KEEP: Final = 0.999

INVERSE: Final = tuple(1.0 / w for w in SCALES)
COARSE_INVERSE: Final = tuple(1.0 / w for w in COARSE)


@dataclass(slots=True)
class Views:
    """Statistics of one series; constant memory."""

    seen: int = 0
    level: float = 0.0
    spread: float = 0.0
    last: float = 0.0
    magnitude: float = 0.0
    values: Windows = field(default_factory=lambda: Windows(SCALES))
    steps: Windows = field(default_factory=lambda: Windows(SCALES))
    step: Usual = field(default_factory=Usual)
    profile: DayProfile = field(default_factory=DayProfile)
    surprise: Usual = field(default_factory=Usual)
    residuals: Windows = field(default_factory=lambda: Windows(COARSE))
    deviations: Windows = field(default_factory=lambda: Windows(COARSE))

    def measure(self, timestamp: float, x: float) -> list[float]:
        """Return the `STATISTICS` numbers (each ≥ 0 where it speaks, below 0 where it is silent) and learn `x`."""
        if not self.seen:
            self.level = self.last = x
            self.values.fill(x)
        self.seen += 1
        self.magnitude = max(abs(x), self.magnitude * MAGNITUDE_KEEP)
        level, step = self.level, abs(x - self.last)
        self.last = x
        sums, before = self.values.push_pair(x)
        moves = self.steps.push(step)
        means = [s * i - level for s, i in zip(sums, INVERSE, strict=True)]
        rest = self.profile.residual(timestamp, x)
        fresh = self._fresh(rest)
        drift = [s * i for s, i in zip(self.residuals.push(rest), COARSE_INVERSE, strict=True)]
        sizes = self.deviations.push(abs(rest))
        self._follow(x - level)
        return [
            x - level,
            level - x,
            self.step.ratio(step, self.floor()),
            *means,
            *[-m for m in means],
            *[s * i for s, i in zip(moves, INVERSE, strict=True)],
            *[abs(s - b) * i for s, b, i in zip(sums, before, INVERSE, strict=True)],
            rest,
            fresh,
            -rest,
            -fresh,
            *drift,
            *[-d for d in drift],
            *[s * i for s, i in zip(sizes, COARSE_INVERSE, strict=True)],
        ]

    def _fresh(self, rest: float) -> float:
        """Return how far a residual is from those of the last few samples, over the size usual of late.

        A day that is busier as a whole moves all residuals; a dip within it moves one against its neighbours.
        """
        if not self.profile.visits[self.profile.current]:
            return 0.0
        return self.surprise.ratio(rest - self.residuals.sums[0] * COARSE_INVERSE[0], self.floor())

    def _follow(self, away: float) -> None:
        """Let the level follow a sample that is `away` from it."""
        rate = max(LEVEL_RATE, 1.0 / self.seen)
        if self.seen > YOUNG and self.spread > 0:
            away = min(max(away, -BOUND * self.spread), BOUND * self.spread)
        self.level += rate * away
        self.spread += rate * (abs(away) - self.spread)

    def floor(self) -> float:
        """Return the size below which a statistic is rounding error, in the series' unit."""
        return NOISE_FLOOR * self.magnitude
