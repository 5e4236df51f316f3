"""The last minute of outcomes, cheap to ask "what happened since": fine bins when recent, whole seconds when older."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import Final

from models.detect.views import views
from models.signals import Outcomes, Series, Side

FINE_S: Final = 5.0
HORIZON_S: Final = 60.0

Slice = tuple[float, dict[Series, Outcomes]]


class History:
    """Outcomes by arrival time. `add` must be called with times that never go back."""

    def __init__(self) -> None:
        self._fine: deque[Slice] = deque()
        self._coarse: deque[Slice] = deque()
        self._seen: dict[Series, float] = {}
        self._raw: dict[Series, float] = {}
        self._callees: dict[str, dict[Series, None]] = {}  # the series of `_raw` by callee, in the order they came
        self._owned: set[Series] = set()  # sums of the newest second that are nobody else's
        self._swept_at = 0.0
        self._now = 0.0

    def add(self, at: float, outcomes: Mapping[Series, Outcomes]) -> None:
        """Keep what arrived at `at` (Unix s); forget what lies beyond the horizon."""
        self._now = at
        if at - self._swept_at >= HORIZON_S:
            self._swept_at = at
            self._seen = {s: t for s, t in self._seen.items() if t >= at - 2 * HORIZON_S}
            self._raw = {s: t for s, t in self._raw.items() if t >= at - 2 * HORIZON_S}
            self._callees = {}
            for series in self._raw:
                self._callees.setdefault(series.callee, {})[series] = None
        if outcomes:
            self._fine.append((at, dict(outcomes)))
            for series in outcomes:
                if series not in self._raw:
                    self._callees.setdefault(series.callee, {})[series] = None
                self._raw[series] = at
                self._seen[series] = at
                for key in views(series):
                    self._seen[key] = at
        while self._fine and self._fine[0][0] < at - FINE_S:
            self._merge(self._fine.popleft())
        while self._coarse and self._coarse[0][0] < at - HORIZON_S:
            self._coarse.popleft()

    def last_seen(self, series: Series) -> float:
        """Return when a reported or watched series last had outcomes (Unix s, 0 when never)."""
        return self._seen.get(series, 0.0)

    def since(self, at: float) -> dict[Series, Outcomes]:
        """Return the sums per series of everything that arrived at or after `at` (to the second beyond 5 s ago)."""
        return self.between(at, math.inf)

    def series(self, side: Side, services: frozenset[str]) -> tuple[Series, ...]:
        """Return the reported series of requests to `services` seen on one side within the horizon."""
        return tuple(s for s in self.towards(services) if s.side is side and self._raw[s] >= self._now - HORIZON_S)

    def between(self, start: float, end: float) -> dict[Series, Outcomes]:
        """Return the sums per series of what arrived in [start, end)."""
        total: dict[Series, Outcomes] = {}
        for bins in (self._coarse, self._fine):
            for at, outcomes in bins:
                if start <= at < end:
                    for series, found in outcomes.items():
                        _add(total, series, found)
        return total

    def reporters(self, start: float, callee: str) -> frozenset[str]:
        """Return the sidecars of callers that saw requests to `callee` since `start`."""
        mine = [series for series in self._callees.get(callee, ()) if series.side is not Side.SERVER]
        recent = [outcomes for bins in (self._coarse, self._fine) for at, outcomes in bins if at >= start]
        return frozenset(series.reporter for series in mine if any(series in outcomes for outcomes in recent))

    def total(
        self,
        start: float,
        match: Callable[[Series], bool],
        end: float = math.inf,
        *,
        of: Callable[[], Iterable[Series]] | None = None,
    ) -> Outcomes:
        """Return one sum over the matching series of what arrived in [start, end).

        `of` gives the only series that can match (see `towards`), where the mesh is too large to ask each.
        """
        total = Outcomes()
        chosen = tuple(series for series in of() if match(series)) if of is not None else None
        for bins in (self._coarse, self._fine):
            for at, outcomes in bins:
                if not start <= at < end:
                    continue
                if chosen is not None:
                    for series in chosen:
                        if (seen := outcomes.get(series)) is not None:
                            total += seen
                    continue
                for series, found in outcomes.items():
                    if match(series):
                        total += found
        return total

    def towards(self, services: frozenset[str]) -> tuple[Series, ...]:
        """Return the reported series of requests to `services`, of all sides."""
        return tuple(series for service in sorted(services) for series in self._callees.get(service, ()))

    def _merge(self, piece: Slice) -> None:
        at, outcomes = piece
        second = float(int(at))
        if not self._coarse or self._coarse[-1][0] != second:
            self._coarse.append((second, {}))
            self._owned = set()
        into = self._coarse[-1][1]
        for series, found in outcomes.items():
            have = into.get(series)
            if have is None:
                into[series] = found  # not a copy: most are alone in their second
                continue
            if series not in self._owned:
                self._owned.add(series)
                have = into[series] = _copy(have)
            have += found


def _add(into: dict[Series, Outcomes], series: Series, found: Outcomes) -> None:
    have = into.get(series)
    if have is None:
        into[series] = _copy(found)
    else:
        have += found


def _copy(found: Outcomes) -> Outcomes:
    return Outcomes(found.requests, found.errors, dict(found.flags), dict(found.codes), found.latency)
