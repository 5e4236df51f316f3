"""By how much the mesh as a whole is slower than usual just now, in seconds, as one service should compare itself with it.

A starved machine adds much the same waiting to every request on it, fast services and slow ones alike. So what a service
must exceed is stated in seconds: some times the extra time that requests to *other* services take at the moment — a
high quantile over the services that a fault of this one would not reach, the most conspicuous of them left out — beyond what
that is on a usual day, since services of 100 ms have requests of 150 ms without any machine being starved.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

import numpy as np

from models.detect.baseline import BoolArray, FloatArray, IntArray
from models.detect.graph import Graph

HALF_LIVES_S: Final = (0.6, 4.0)
"""The extra time is averaged twice, over the last moment and over the last seconds; the larger counts."""

QUANTILE: Final = 0.8
FEWEST: Final = 1.0
"""Recent requests (decayed) that a service must have to be compared with."""

TIMES: Final = 3.0
"""How many times the others' extra time is still no news."""

WAITING: Final = 1.5
"""A service that waits for others is not slow by itself within this many times what all it calls takes longer."""

USUAL_S: Final = 900.0
"""Half-life of what is usual: requests differ, so at any moment some take longer than the mean, stalled or not."""

USUAL_TICKS: Final = 50.0
"""Ticks after which half of what was seen so far counts as usual; until then the mesh is thought more restless than it is."""

RESTLESS: Final = 1.3
"""From this many times the usual on the mesh is slower as a whole, and all of it counts: a stall must not be judged by its rest."""

NOTICED_S: Final = 0.001
"""Less than this is no shift."""

EXACT: Final = 64
"""With more services than this in question at once, all are compared with all."""


@dataclass(slots=True)
class MeshShift:
    """Extra seconds and requests by service, decayed. `tick_s` is the time between two ticks, seconds.

    `usual` has the same by service over a long time, `usual_high` the long sum of what the mesh showed per tick and of ticks.
    """

    tick_s: float
    sums: FloatArray = field(default_factory=lambda: np.zeros((0, len(HALF_LIVES_S), 2)))
    usual: FloatArray = field(default_factory=lambda: np.zeros((0, 2)))
    usual_high: FloatArray = field(default_factory=lambda: np.zeros(2))

    def see(self, services: IntArray, requests: FloatArray, extra_s: FloatArray) -> None:
        """Enter one tick: per row the callee, its requests and their extra time beyond the baseline's mean, summed."""
        size = int(services.max(initial=-1)) + 1
        if size > len(self.sums):
            self.usual = np.concatenate([self.usual, np.zeros((size - len(self.usual), 2))])
            self.sums = np.concatenate([self.sums, np.zeros((size - len(self.sums), *self.sums.shape[1:]))])
        keep = 0.5 ** (self.tick_s / USUAL_S)
        self.usual *= keep
        self.sums *= (0.5 ** (self.tick_s / np.asarray(HALF_LIVES_S)))[None, :, None]
        for part, values in enumerate((requests, extra_s)):
            seen = np.bincount(services, values, minlength=len(self.sums))
            self.sums[:, :, part] += seen[:, None]
            self.usual[:, part] += seen
        each, known = self._each()
        high, (total, ticks) = _high(each[known]), self.usual_high
        if ticks > USUAL_TICKS:  # a stall is not to become usual within its minute
            high = min(high, RESTLESS * float(total / ticks))
        self.usual_high = self.usual_high * keep + (high, 1.0)

    def tolerated(self, services: IntArray, graph: Graph) -> FloatArray:
        """Return for each of `services` (distinct) the extra seconds of one request that are no news about it."""
        each, known = self._each()
        usual = float(self.usual_high[0] / (self.usual_high[1] + USUAL_TICKS))
        if len(services) > EXACT:
            return np.full(len(services), TIMES * _beyond(np.asarray([_high(each[known])]), usual))
        waiting = np.maximum(0.0, each - self.usual[:, 1] / np.maximum(self.usual[:, 0] + FEWEST, 1e-9))
        high = _highs(each, graph.elsewhere(services, len(each)) & known)
        line, callee = graph.calls(services, len(each))
        waits = np.bincount(line, waiting[callee], minlength=len(services))
        return np.asarray(TIMES * _beyond(high, usual) + WAITING * waits)

    def _each(self) -> tuple[FloatArray, BoolArray]:
        """Return the extra seconds of one request of each service at the moment, and which services are known."""
        enough = self.sums[:, :, 0] >= FEWEST
        each = np.where(enough, self.sums[:, :, 1] / np.maximum(self.sums[:, :, 0], 1e-9), 0.0).max(axis=1)
        return np.asarray(each, dtype=np.float64), np.asarray(enough.any(axis=1), dtype=np.bool_)

    def forget(self, service: int, graph: Graph) -> None:
        """Drop what `service` and its callers showed lately: it has a fault of its own."""
        reached = graph.reached(service)
        self.sums[reached[reached < len(self.sums)]] = 0


def _beyond(high_s: FloatArray, usual_s: float) -> FloatArray:
    """Return what of the mesh's extra time is no usual difference between requests."""
    return np.where(high_s > RESTLESS * usual_s, high_s, np.maximum(0.0, high_s - usual_s))


def _high(extra_s: FloatArray) -> float:
    """Return a high quantile of the extra times but never the largest of them; 0 when there is nothing to compare with."""
    if len(extra_s) < 2:  # noqa: PLR2004 # one other service may be the sick one
        return 0.0
    ranked = np.sort(extra_s)
    high = float(ranked[min(len(ranked) - 2, int(QUANTILE * (len(ranked) - 1)))])
    return high if high >= NOTICED_S else 0.0


def _highs(extra_s: FloatArray, others: BoolArray) -> FloatArray:
    """Return `_high` of the extra times (services,) among those that each row of `others` marks, shape (rows,)."""
    found = np.zeros(len(others))
    if len(extra_s) < 2:  # noqa: PLR2004
        return found
    order = np.argsort(extra_s)
    among = np.cumsum(others[:, order], axis=1, dtype=np.int32)
    count = among[:, -1:]
    rank = np.minimum(count - 2, (QUANTILE * (count - 1)).astype(np.int64))
    some = np.flatnonzero(count >= 2)  # noqa: PLR2004
    found[some] = extra_s[order[np.argmax(among[some] > rank[some], axis=1)]]
    return np.where(found >= NOTICED_S, found, 0.0)
