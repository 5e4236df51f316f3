"""How much more than before is a service asked for? Under a surge capacity that is taken away is missed the most."""

from __future__ import annotations

import math
from collections import Counter
from typing import Final

from agent.history import History
from agent.track import Track
from models.signals import Side

NOW_S: Final = 2.0
"""What came within this time is the present load, seconds."""

BEFORE_S: Final = 30.0
APART_S: Final = 5.0
"""What came in the `BEFORE_S` until this long before the onset is the load before: a surge takes a while to hurt."""

LEAST: Final = 20
"""Of fewer requests before nothing follows."""


class Surges:
    """Compares the requests of now with those before an incident, at the callers and before retries: a failing callee that
    is asked again is not in demand.
    """

    def __init__(self, history: History) -> None:
        self._history = history
        self._at = -math.inf
        self._now: Counter[str] = Counter()  # requests of the last `NOW_S` by callee

    def of(self, track: Track, now: float) -> float | None:
        """Return the present requests to the service in question over those before the incident, surely (one standard deviation less
        than seen). None where too little is known: the time before was forgotten, or there were hardly any requests.
        """
        service = track.incident.cause.service if track.incident.cause else ""
        if not service:
            return None
        if track.before is None or track.before[0] != service:
            track.before = (service, self._before(service, track.incident.onset))
        usual = track.before[1]
        if usual is None:
            return None
        if now != self._at:
            self._look(now)
        surely = max(0.0, math.sqrt(self._now[service]) - 1) ** 2
        return surely / NOW_S / usual

    def _look(self, now: float) -> None:
        self._at = now
        self._now.clear()
        for series, seen in self._history.sums(self._history.on(Side.CLIENT), now - NOW_S, plainly=True).items():
            self._now[series.callee] += max(0, seen.requests)

    def _before(self, service: str, onset: float) -> float | None:
        """Return the requests per second to a service before the onset."""
        end = onset - APART_S
        start = max(end - BEFORE_S, self._history.oldest)
        if end - start < NOW_S:
            return None
        series = self._history.series(Side.CLIENT, frozenset({service}))
        seen = self._history.sums(series, start, end, plainly=True).values()
        requests = sum(max(0, one.requests) for one in seen)
        return requests / (end - start) if requests >= LEAST else None
