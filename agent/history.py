"""The last minute of outcomes, cheap to ask "what happened since": fine bins when recent, whole seconds when older.

Series have numbers here, and a bin is columns by number: adding a tick costs a few array operations, however many
series the mesh has, and only what is asked for becomes outcomes again.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Final

import numpy as np

from agent.bins import Bin, total
from models.detect.views import views
from models.frame import Frame, Memo
from models.signals import Counts, Outcomes, Series, Side

FINE_S: Final = 5.0
HORIZON_S: Final = 60.0


class History:
    """Outcomes by arrival time. `add` must be called with times that never go back."""

    def __init__(self) -> None:
        self._fine: deque[Bin] = deque()
        self._coarse: deque[Bin] = deque()  # of the newest second perhaps several, each known as that second
        self._names: list[Series] = []
        self._number: dict[Series, int] = {}
        self._seen_at = np.zeros(0)  # by number, Unix s
        self._members: dict[Series, list[int]] = {}  # numbers of the series that a watched key sums
        self._callees: dict[str, list[int]] = {}  # numbers of the series by callee, in the order they came
        self._memo = Memo()
        self._swept_at = 0.0
        self._now = 0.0

    def add(self, at: float, outcomes: Mapping[Series, Outcomes]) -> None:
        """Keep what arrived at `at` (Unix s); forget what lies beyond the horizon."""
        self._now = at
        while self._fine and self._fine[0].at < at - FINE_S:
            self._merge(self._fine.popleft())
        while self._coarse and self._coarse[0].at < at - HORIZON_S:
            self._coarse.popleft()
        if at - self._swept_at >= HORIZON_S:  # after the bins: even if the clock leapt, none tells of what is forgotten
            self._swept_at = at
            self._sweep(at - 2 * HORIZON_S)
        if outcomes:
            frame = Frame.of(outcomes)
            ids = self._memo.of(frame, self._numbers).astype(np.int32)
            self._seen_at[ids] = at
            self._fine.append(Bin.of(at, frame, ids))

    def forget(self, now: float) -> None:
        """Begin anew at `now`, which may lie before what came in: the clock went back."""
        self._fine.clear()
        self._coarse.clear()
        self._seen_at = np.minimum(self._seen_at, now)
        self._now = self._swept_at = now

    @property
    def oldest(self) -> float:
        """Return from when on anything is remembered (Unix s, to the second; infinite when nothing is)."""
        return min((bins[0].at for bins in (self._coarse, self._fine) if bins), default=math.inf)

    def last_seen(self, series: Series) -> float:
        """Return when a reported or watched series last had outcomes (Unix s, 0 when never)."""
        mine = self._members.get(series, ())
        found = max(map(self._seen_at.item, mine), default=0.0)
        number = self._number.get(series)
        return found if number is None else max(found, self._seen_at.item(number))

    def since(self, at: float) -> dict[Series, Outcomes]:
        """Return the sums per series of everything that arrived at or after `at` (to the second beyond 5 s ago)."""
        return self.between(at, math.inf)

    def series(self, side: Side, services: frozenset[str]) -> tuple[Series, ...]:
        """Return the reported series of requests to `services` seen on one side within the horizon."""
        since = self._now - HORIZON_S
        return tuple(
            self._names[k] for k in self._towards(services) if self._names[k].side is side and self._seen_at[k] >= since
        )

    def between(self, start: float, end: float) -> dict[Series, Outcomes]:
        """Return the sums per series of what arrived in [start, end)."""
        return total(start, tuple(self._bins(start, end))).outcomes(self._names)

    def sums(
        self, chosen: Iterable[Series], start: float, end: float = math.inf, *, plainly: bool = False
    ) -> dict[Series, Outcomes]:
        """Return the sums of the chosen reported series of what arrived in [start, end), in their order; those without any are absent.

        The cost follows the stretch of time, hardly the number of series. `plainly`: without flags and codes.
        """
        numbers = [self._number[series] for series in chosen]
        found = self._sum(start, end, numbers, plainly=plainly).outcomes(self._names)
        names = (self._names[number] for number in numbers)
        return {name: found[name] for name in names if name in found}

    def on(self, side: Side) -> tuple[Series, ...]:
        """Return the reported series of one side."""
        return tuple(name for name in self._names if name.side is side)

    def reporters(self, start: float, callee: str) -> frozenset[str]:
        """Return the sidecars of callers that saw requests to `callee` since `start`."""
        mine = (k for k in self._callees.get(callee, ()) if self._names[k].side is not Side.SERVER)
        return frozenset(self._names[k].reporter for k in mine if self._seen_at[k] >= start)

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
        candidates = self._names if of is None else of()
        return self._sum(start, end, (self._number[series] for series in candidates if match(series))).whole()

    def about(self, services: frozenset[str], start: float) -> dict[Series, Outcomes]:
        """Return the sums per series of requests to `services` that arrived at or after `start`."""
        return self._sum(start, math.inf, self._towards(services)).outcomes(self._names)

    def towards(self, services: frozenset[str]) -> tuple[Series, ...]:
        """Return the reported series of requests to `services`, of all sides."""
        return tuple(self._names[k] for k in self._towards(services))

    def _towards(self, services: frozenset[str]) -> Iterator[int]:
        return (k for service in sorted(services) for k in self._callees.get(service, ()))

    def _sum(self, start: float, end: float, numbers: Iterable[int], *, plainly: bool = False) -> Bin:
        """Return the sum of what arrived in [start, end) for the series with these numbers; `plainly`: without flags and codes."""
        asked = set(numbers)
        chosen = np.zeros(len(self._names), dtype=np.bool_)
        chosen[list(asked)] = True
        odd = frozenset[int]() if plainly else asked
        return total(start, [one.only(chosen, odd) for one in self._bins(start, end)])

    def _bins(self, start: float, end: float) -> Iterator[Bin]:
        return (one for bins in (self._coarse, self._fine) for one in bins if start <= one.at < end)

    def _numbers(self, names: Sequence[Series]) -> Counts:
        """Return the numbers of series; new ones get the next."""
        known = self._number
        try:
            return np.fromiter(map(known.__getitem__, names), np.int64, len(names))
        except KeyError:  # some are new
            pass
        for series in [name for name in names if name not in known]:
            known[series] = len(self._names)
            self._enter(len(self._names), series)
            self._names.append(series)
        if len(self._names) > len(self._seen_at):
            self._seen_at = np.concatenate([self._seen_at, np.zeros(len(self._names) - len(self._seen_at))])
        return np.fromiter(map(known.__getitem__, names), np.int64, len(names))

    def _enter(self, number: int, series: Series) -> None:
        self._callees.setdefault(series.callee, []).append(number)
        for key in views(series):
            if key != series:
                self._members.setdefault(key, []).append(number)

    def _merge(self, piece: Bin) -> None:
        """Move a bin that is no longer recent to its second; a second that is over becomes one bin."""
        second = float(int(piece.at))
        if self._coarse and self._coarse[-1].at != second:
            over = self._coarse[-1].at
            parts: list[Bin] = []
            while self._coarse and self._coarse[-1].at == over:
                parts.append(self._coarse.pop())
            self._coarse.append(total(over, parts[::-1]))
        self._coarse.append(piece.moved(second))

    def _sweep(self, before: float) -> None:
        """Forget series not seen since `before`; no bin tells of them any more."""
        keep = self._seen_at >= before
        if keep.all():
            return
        self._memo.forget()
        new = np.full(len(keep), -1, dtype=np.int32)
        new[keep] = np.arange(int(keep.sum()), dtype=np.int32)
        self._names = [name for k, name in enumerate(self._names) if keep[k]]
        self._number = {name: k for k, name in enumerate(self._names)}
        self._seen_at = self._seen_at[keep]
        self._callees, self._members = {}, {}
        for number, series in enumerate(self._names):
            self._enter(number, series)
        self._fine = deque(one.renumbered(new) for one in self._fine)
        self._coarse = deque(one.renumbered(new) for one in self._coarse)
