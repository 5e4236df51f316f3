"""From named series to numbered rows: which rows a reported series is part of, and the sums of a tick over them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import numpy as np

from models.detect.baseline import FloatArray, IntArray
from models.detect.engine import NOTHING, Engine, Tick
from models.detect.views import answered, counted, views
from models.signals import Counts, Outcomes, Series, Side

MAX_ROUTES: Final = 200_000


class Rows:
    """The names of an engine's rows. Opens rows as series appear, in sorted order, whatever the order of the mapping."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.by_key: dict[Series, int] = {}
        self.keys: dict[int, Series] = {}
        self._routes: dict[Series, tuple[int, ...]] = {}

    def gather(self, outcomes: Mapping[Series, Outcomes]) -> Tick:
        """Sum the tick's series into watched rows."""
        routes = self._routes
        if new := [series for series in outcomes if series not in routes]:
            if len(routes) + len(new) > MAX_ROUTES:
                routes.clear()
                new = list(outcomes)
            self._learn(sorted(new))
        targets: list[int] = []
        sources: list[int] = []
        numbers: list[tuple[int, int]] = []
        arrays: list[Counts | FloatArray] = []
        for k, (series, seen) in enumerate(outcomes.items()):
            for row in routes[series]:
                targets.append(row)
                sources.append(k)
            numbers.append(counted(seen))
            arrays.append(answered(seen))
        if not targets:
            return NOTHING
        order = np.argsort(np.asarray(targets), kind="stable")
        rows, starts = np.unique(np.asarray(targets, dtype=np.int64)[order], return_index=True)
        parts = np.asarray(sources)[order]
        pairs = np.add.reduceat(np.asarray(numbers, dtype=np.float64)[parts], starts, axis=0)
        latency = np.add.reduceat(np.maximum(np.stack(arrays), 0)[parts], starts, axis=0, dtype=np.float64)
        return Tick(rows, pairs[:, 0], pairs[:, 1], latency)

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
        self._routes.clear()
        self.engine.close(rows)

    def _learn(self, series: list[Series]) -> None:
        """Find the rows of series that were never seen."""
        graph = self.engine.graph
        for one in series:
            self._routes[one] = tuple(self.watch(list(views(one))).tolist())
            if one.caller:
                graph.add(graph.number(one.caller), graph.number(one.callee))
