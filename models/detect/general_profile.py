"""What a series usually is at this time of day: one slowly forgotten mean per quarter of an hour."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

DAY_S: Final = 86_400.0
BINS: Final = 96
BIN_S: Final = DAY_S / BINS

RATE: Final = 0.2
"""Weight of the newest day in a bin's mean: about a week is remembered, so weekdays and drift are followed."""

DAYS_KNOWN: Final = 3
"""Earlier days after which a deviation from the profile is evidence; one day does not make a habit."""


BOUND: Final = 3.0
"""A day moves a bin's mean by at most what one this many times as far away as usual would."""

MOVE_RATE: Final = 0.005
"""Rate, per bin, at which it is learnt how far away a day usually is."""


@dataclass(slots=True)
class DayProfile:
    """The mean of each quarter of an hour over past days.

    `visits` counts the days behind a mean. The quarter being filled enters its mean only when the clock leaves it, so a
    sample is never compared with itself.
    """

    means: list[float] = field(default_factory=lambda: [0.0] * BINS)
    visits: list[int] = field(default_factory=lambda: [0] * BINS)
    current: int = -1
    total: float = 0.0
    samples: int = 0
    move: float = 0.0
    moves: int = 0

    @property
    def known(self) -> bool:
        """Tell whether enough days stand behind what is usual at the latest sample."""
        return self.visits[self.current] >= DAYS_KNOWN

    def residual(self, timestamp: float, x: float) -> float:
        """Return `x` minus what is usual at `timestamp` (seconds, UTC); 0 where no earlier day is known. Learns `x`."""
        b = int((timestamp % DAY_S) / BIN_S) % BINS
        if b != self.current:
            self._close()
            self.current = b
        self.total += x
        self.samples += 1
        return x - self.means[b] if self.visits[b] else 0.0

    def _close(self) -> None:
        if self.samples:
            b, mean = self.current, self.total / self.samples
            self.visits[b] += 1
            away = mean - self.means[b]
            if self.visits[b] > 1:
                away = self._bounded(away)
            self.means[b] += max(RATE, 1.0 / self.visits[b]) * away
        self.total, self.samples = 0.0, 0

    def _bounded(self, away: float) -> float:
        """Return how far a day counts as being `away` from the mean of a bin; learns it."""
        if self.moves >= BINS and self.move > 0:
            away = min(max(away, -BOUND * self.move), BOUND * self.move)
        self.moves += 1
        self.move += max(MOVE_RATE, 1.0 / self.moves) * (abs(away) - self.move)
        return away
