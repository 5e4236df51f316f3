"""From surprise to alarms: one per phase of an episode, not one per sample.

An episode sets records again and again while it unfolds. A person wants to hear of its beginning, and again only when it
gets *much* more surprising than it was. So within `HOLD` samples of an alarm the next one must be a decade above it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

HOLD: Final = 100
"""Samples after an alarm over which it silences smaller ones."""

WORSE: Final = 1.0
"""Decades by which an episode must become more surprising to be told again: ten times less likely."""


@dataclass(slots=True)
class Onset:
    """The latest alarm: samples since then, and its surprise."""

    since: int = HOLD
    height: float = 0.0

    def passes(self, surprise: float) -> bool:
        """Tell whether `surprise` (decades, ≥ 0) begins something; learns it."""
        self.since = min(self.since + 1, HOLD + 1)
        silenced = self.height + WORSE if self.since <= HOLD else 0.0
        if surprise <= 0 or surprise <= silenced:
            return False
        self.since, self.height = 0, surprise
        return True
