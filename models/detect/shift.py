"""By how much the mesh as a whole is slower than usual just now, in seconds, as one service should compare itself with it.

A starved machine adds much the same waiting to every request on it, fast services and slow ones alike. So what a service
must exceed is stated in seconds: some times the extra time that requests to *other* services take at the moment — a
high quantile over the services that a fault of this one would not reach, the most conspicuous of them left out.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

import numpy as np

from models.detect.baseline import FloatArray, IntArray
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

NOTICED_S: Final = 0.001
"""Less than this is no shift."""

EXACT: Final = 64
"""With more services than this in question at once, all are compared with all."""


@dataclass(slots=True)
class MeshShift:
    """Extra seconds and requests by service, decayed. `tick_s` is the time between two ticks, seconds."""

    tick_s: float
    sums: FloatArray = field(default_factory=lambda: np.zeros((0, len(HALF_LIVES_S), 2)))

    def see(self, services: IntArray, requests: FloatArray, extra_s: FloatArray) -> None:
        """Enter one tick: per row the callee, its requests and their extra time beyond the baseline's mean, summed."""
        size = int(services.max(initial=-1)) + 1
        if size > len(self.sums):
            self.sums = np.concatenate([self.sums, np.zeros((size - len(self.sums), *self.sums.shape[1:]))])
        self.sums *= (0.5 ** (self.tick_s / np.asarray(HALF_LIVES_S)))[None, :, None]
        for part, values in enumerate((requests, extra_s)):
            self.sums[:, :, part] += np.bincount(services, values, minlength=len(self.sums))[:, None]

    def tolerated(self, services: IntArray, graph: Graph) -> FloatArray:
        """Return for each of `services` (distinct) the extra seconds of one request that are no news about it."""
        enough = self.sums[:, :, 0] >= FEWEST
        each = np.where(enough, self.sums[:, :, 1] / np.maximum(self.sums[:, :, 0], 1e-9), 0.0).max(axis=1)
        known = np.asarray(enough.any(axis=1), dtype=np.bool_)
        if len(services) > EXACT:
            return np.full(len(services), TIMES * _high(each[known]))
        found = np.zeros(len(services))
        for i, service in enumerate(services.tolist()):
            others = known.copy()
            others[[name for name in (service, *graph.upstream(service)) if name < len(others)]] = False
            waits = [name for name in graph.callees(service) if name < len(each)]
            found[i] = TIMES * _high(each[others]) + WAITING * float(each[waits].sum())
        return found

    def forget(self, service: int, graph: Graph) -> None:
        """Drop what `service` and its callers showed lately: it has a fault of its own."""
        self.sums[[name for name in (service, *graph.upstream(service)) if name < len(self.sums)]] = 0


def _high(extra_s: FloatArray) -> float:
    """Return a high quantile of the extra times but never the largest of them; 0 when there is nothing to compare with."""
    if len(extra_s) < 2:  # noqa: PLR2004 # one other service may be the sick one
        return 0.0
    ranked = np.sort(extra_s)
    high = float(ranked[min(len(ranked) - 2, int(QUANTILE * (len(ranked) - 1)))])
    return high if high >= NOTICED_S else 0.0
