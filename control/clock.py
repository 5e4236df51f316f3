"""Time as a port: deadlines run on the monotonic clock, what people read and what survives a restart on the wall clock."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """Two readings of time, both in seconds."""

    def monotonic(self) -> float:
        """Return a time that only moves forward, of no fixed origin."""

    def wall(self) -> float:
        """Return Unix time."""


class SystemClock:
    """The machine's clocks."""

    def monotonic(self) -> float:
        """Return a time that only moves forward, of no fixed origin."""
        return time.monotonic()

    def wall(self) -> float:
        """Return Unix time."""
        return time.time()
