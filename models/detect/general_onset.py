"""From surprise to alarms: one per phase of an episode, not one per sample.

An episode sets records again and again while it unfolds. A person wants to hear of its beginning, and again only when it
gets *more* surprising than it was. So a surprise passes only if it tops every surprise of the last `HOLD` samples.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

HOLD: Final = 100
"""Samples over which a larger surprise silences smaller ones."""


@dataclass(slots=True)
class Onset:
    """Running maximum of the last `HOLD` surprises: candidates in falling order with the sample they stem from."""

    now: int = 0
    at: list[int] = field(default_factory=list)
    height: list[float] = field(default_factory=list)

    def passes(self, surprise: float) -> bool:
        """Tell whether `surprise` (decades, ≥ 0) begins something; learns it."""
        self.now += 1
        if self.at and self.at[0] < self.now - HOLD:
            del self.at[0], self.height[0]
        if surprise <= 0:
            return False
        first = not self.height or surprise > self.height[0]
        while self.height and self.height[-1] <= surprise:
            del self.at[-1], self.height[-1]
        self.at.append(self.now)
        self.height.append(surprise)
        return first
