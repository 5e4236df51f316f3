"""From named series to numbered rows: which rows a reported series is part of, and the sums of a tick over them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np

from models.detect.baseline import FloatArray, IntArray
from models.detect.engine import NOTHING, Engine, Tick
from models.detect.views import answered, counted, views
from models.frame import Cells, Frame, Memo, added
from models.signals import BUCKETS, Counts, Outcomes, Series, Side
from models.telemetry import BREAKER_FAILED_FLAG, BREAKER_FLAG

MAX_ROUTES: Final = 200_000
MOST_VIEWS: Final = 2
"""Rows that one series can be part of (see `views`)."""


class Rows:
    """The names of an engine's rows. Opens rows as series appear, in sorted order, whatever the order of the mapping."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.by_key: dict[Series, int] = {}
        self.keys: dict[int, Series] = {}
        self._memo = Memo()
        self._slots: dict[Series, int] = {}  # of every series seen: its line in `_routes`
        self._routes = np.zeros((0, MOST_VIEWS), dtype=np.int64)  # the rows it is part of, -1 for none

    def gather(self, outcomes: Mapping[Series, Outcomes]) -> Tick:
        """Sum the tick's series into watched rows."""
        frame = Frame.of(outcomes)
        slots = self._memo.of(frame, self._slots_of)
        mine = self._routes[slots]
        touched = np.zeros(len(self.engine.opened) + 1, dtype=np.bool_)  # the last stands for -1, no row
        touched[mine] = True
        rows = np.flatnonzero(touched[:-1])
        if not len(rows):
            return NOTHING
        place_of = np.full(len(touched), -1, dtype=np.int64)
        place_of[rows] = np.arange(len(rows))
        requests, errors, cells = _answered(frame)
        sums, places, counts = np.zeros((2, len(rows))), [], []
        for place in place_of[mine].T:
            some = place >= 0
            for total, values in zip(sums, (requests, errors), strict=True):
                np.add(total, _sums(place[some], values[some], len(rows)), out=total)
            at = place[cells.row]
            some = at >= 0
            places.append(at[some] * BUCKETS + cells.bucket[some])
            counts.append(cells.count[some])
        cell, count = added(np.concatenate(places), np.concatenate(counts))
        return Tick(rows, sums[0], sums[1], Cells(cell // BUCKETS, cell % BUCKETS, count))

    def watch(self, keys: list[Series]) -> IntArray:
        """Return the rows of watched `keys` (distinct), opened where they are not."""
        new = [key for key in keys if key not in self.by_key]
        if new:
            numbers = np.asarray([self.engine.graph.number(key.callee) for key in new], dtype=np.int64)
            servers = np.asarray([key.side is Side.SERVER for key in new], dtype=np.bool_)
            for key, row in zip(new, self.engine.open(numbers, servers).tolist(), strict=True):
                self.by_key[key], self.keys[row] = row, key
        return np.asarray([self.by_key[key] for key in keys], dtype=np.int64)

    def forget(self, rows: IntArray) -> None:
        """Close rows."""
        for row in rows.tolist():
            del self.by_key[self.keys.pop(row)]
        self._forget_routes()
        self.engine.close(rows)

    def _slots_of(self, names: Sequence[Series]) -> IntArray:
        """Return each series' line in `_routes`."""
        slots = self._slots
        try:
            return np.fromiter(map(slots.__getitem__, names), np.int64, len(names))
        except KeyError:  # some are new
            pass
        new = [series for series in names if series not in slots]
        if len(slots) + len(new) > MAX_ROUTES:
            self._forget_routes()
            new = list(names)
        self._learn(sorted(new))
        return np.fromiter(map(slots.__getitem__, names), np.int64, len(names))

    def _forget_routes(self) -> None:
        self._memo.forget()
        self._slots.clear()
        self._routes = self._routes[:0]

    def _learn(self, series: list[Series]) -> None:
        """Find the rows of series that were never seen."""
        graph = self.engine.graph
        routes = np.full((len(series), MOST_VIEWS), -1, dtype=np.int64)
        for line, one in zip(routes, series, strict=True):
            found = self.watch(list(views(one)))
            line[: len(found)] = found
            self._slots[one] = len(self._slots)
            if one.caller:
                graph.add(graph.number(one.caller), graph.number(one.callee))
        self._routes = np.concatenate([self._routes, routes])


def _answered(frame: Frame) -> tuple[Counts, Counts, Cells]:
    """Return requests, errors and latencies that the callees answer for (see `counted` and `answered`), none below 0."""
    requests, errors, cells = np.maximum(frame.requests, 0), frame.errors, frame.cells
    errors = np.minimum(np.maximum(errors, 0), requests)
    if broken := [k for k, (flags, _) in frame.odd.items() if BREAKER_FLAG in flags or BREAKER_FAILED_FLAG in flags]:
        found = [frame.at(k) for k in broken]
        requests[broken], errors[broken] = np.asarray([counted(one) for one in found]).T
        rest = Cells.of([np.asarray(answered(one), dtype=np.int64) for one in found])
        kept = cells.only(~np.isin(cells.row, broken))
        cells = Cells(
            np.concatenate([kept.row, np.asarray(broken)[rest.row]]),
            np.concatenate([kept.bucket, rest.bucket]),
            np.concatenate([kept.count, rest.count]),
        )
    return requests, errors, Cells(cells.row, cells.bucket, np.maximum(cells.count, 0))


def _sums(groups: IntArray, counts: Counts, size: int) -> FloatArray:
    """Return the sum of counts of each group, shape (size,): exact, as floats."""
    return np.bincount(groups, counts.astype(np.float64), minlength=size).astype(np.float64, copy=False)
