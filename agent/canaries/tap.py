"""A second reader of the telemetry that the loop takes: the outcomes towards services that have a canary."""

from __future__ import annotations

from collections.abc import Mapping

from agent.ports import Sight
from models.signals import Outcomes, Saturation, Series, Side


class Tap:
    """A `Sight` that passes on what users met, and keeps a copy of what concerns `watched` services until it is taken.

    `shadows` are (service, version) that see copies of requests: what their own sidecars tell of them is no user's trouble.
    """

    def __init__(self, sight: Sight) -> None:
        self._sight = sight
        self._kept: dict[Series, Outcomes] = {}
        self.watched: frozenset[str] = frozenset()
        self.shadows: frozenset[tuple[str, str]] = frozenset()

    def take_tick(self, now: float) -> Mapping[Series, Outcomes]:
        """Return and forget the outcomes that arrived since the last call."""
        taken = self._sight.take_tick(now)
        for series, found in taken.items():
            if series.callee in self.watched:
                kept = self._kept.setdefault(series, Outcomes())
                kept += found
        if not self.shadows:
            return taken
        return {
            s: o for s, o in taken.items() if s.side is not Side.SERVER or (s.callee, s.version) not in self.shadows
        }

    def take(self) -> dict[Series, Outcomes]:
        """Return and forget the copy."""
        kept, self._kept = self._kept, {}
        return kept

    def blind(self, now: float) -> frozenset[str]:
        """Return the reporters whose telemetry is missing or cannot be trusted."""
        return self._sight.blind(now)

    def saturation(self, now: float) -> tuple[Saturation, ...]:
        """Return how full each instance is."""
        return tuple(self._sight.saturation(now))

    def lag(self, now: float) -> float:
        """Return by how many seconds telemetry comes later than usual."""
        return self._sight.lag(now)

    def reporters(self) -> int:
        """Return how many sidecars have ever reported and are still expected to."""
        return self._sight.reporters()
