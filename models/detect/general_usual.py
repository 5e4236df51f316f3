"""How large something is beside its usual size of late: for metrics whose noise follows their level.

A step of ten requests is nothing at noon and much at night. Dividing by the mean size over the last hour or so makes both
comparable, whatever the unit. The mean is learnt with bounded steps (Huber 1964) and never counts as less than a share of the long-term one, so
that a still stretch does not turn the next small step into news.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

RECENT_RATE: Final = 1 / 64
"""Rate of the recent mean per sample: about an hour of minutes."""

LONG_RATE: Final = 0.002
"""Rate of the long-term mean per sample."""

SHARE: Final = 0.3
"""Share of the long-term mean below which the recent one does not count."""

BOUND: Final = 8.0
"""A sample teaches at most what one this many times as large as usual would."""

YOUNG: Final = 50
"""Samples before which nobody knows what is usual."""

LARGEST: Final = 1000.0
"""Largest ratio told, also where nothing at all was usual."""


@dataclass(slots=True)
class Usual:
    """Mean size of one stream, recent and long-term."""

    seen: int = 0
    recent: float = 0.0
    long: float = 0.0

    def ratio(self, x: float, floor: float) -> float:
        """Return `x` (with its sign) over the usual size, 0 while young or where |x| ≤ `floor`; learns `x`."""
        size, usual = abs(x), max(self.recent, SHARE * self.long)
        told = 0.0
        if self.seen > YOUNG and size > floor:
            told = min(size / usual, LARGEST) if usual > floor else LARGEST
        if self.seen > YOUNG and usual > 0:
            size = min(size, BOUND * usual)
        self.seen += 1
        even = 1.0 / self.seen
        self.recent += max(RECENT_RATE, even) * (size - self.recent)
        self.long += max(LONG_RATE, even) * (size - self.long)
        return told if x >= 0 else -told
