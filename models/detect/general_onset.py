"""From surprise to alarms: one per phase of an episode, not one per sample.

An episode sets records again and again while it unfolds. A person wants to hear of its beginning, and again only when it
gets *much* more surprising than it was. So within `HOLD` samples of an alarm the next one must be a decade above it. How
many incidents there were of late is remembered: the more, the less a further one says.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import exp
from typing import Final

HOLD: Final = 100
"""Samples after an alarm over which it silences smaller ones."""

WORSE: Final = 1.0
"""Decades by which an episode must become more surprising to be told again: ten times less likely."""

INCIDENT: Final = 6.0
"""Decades from which an episode is an incident: something that is not to become the yardstick for the next."""

LASTS: Final = HOLD // 2
"""Samples after which what an incident changed is how things are now, and is learnt."""

MEMORY: Final = 4000.0
"""Samples over which an incident is remembered (to 37 %)."""

KEEP: Final = exp(-1.0 / MEMORY)


@dataclass(slots=True)
class Onset:
    """The latest alarm: samples since then, and its surprise; how many incidents there were of late."""

    since: int = HOLD
    height: float = 0.0
    incidents: float = 0.0

    @property
    def lasting(self) -> bool:
        """Tell whether an incident began so long ago that it is no news, but not so long that it is over."""
        return self.height >= INCIDENT and LASTS <= self.since <= HOLD

    def passes(self, surprise: float) -> bool:
        """Tell whether `surprise` (decades, ≥ 0) begins something; learns it."""
        self.since = min(self.since + 1, HOLD + 1)
        self.incidents *= KEEP
        held = self.height if self.since <= HOLD else 0.0
        if surprise <= 0 or (held > 0 and surprise <= held + WORSE):
            return False
        if surprise >= INCIDENT > held:
            self.incidents += 1
        self.since, self.height = 0, surprise
        return True
