"""Outcomes of one series over the last two minutes, in fixed memory, cheap to sum over any window.

Two rings of time slots: 0.2 s wide for the last 12 s (what verification and the live view ask for), 1 s wide for two
minutes. A slot is a row of a matrix, so a window is one `sum` over rows. About 55 KB per series, whatever the load.
"""

from __future__ import annotations

import math
from typing import Final, TypeVar

import numpy as np
import numpy.typing as npt

from models.signals import BUCKETS, Outcomes

K = TypeVar("K", int, str)

FINE_S: Final = 0.2
COARSE_S: Final = 1.0
FINE_REACH_S: Final = 12.0
REACH_S: Final = 120.0
"""How far back a window may begin, seconds."""

_FINE_SLOTS: Final = round(FINE_REACH_S / FINE_S) + 1
_COARSE_SLOTS: Final = round(REACH_S / COARSE_S) + 1


class Window:
    """The recent outcomes of one series. Times are Unix seconds; `add` takes them in order (a step back counts as now)."""

    __slots__ = ("_coarse", "_fine", "last_at")

    def __init__(self) -> None:
        self._fine = _Ring(_FINE_SLOTS, FINE_S)
        self._coarse = _Ring(_COARSE_SLOTS, COARSE_S)
        self.last_at = float("-inf")

    def add(self, at: float, outcomes: Outcomes) -> None:
        """Enter what arrived at `at`."""
        self.last_at = max(self.last_at, at)
        latency = outcomes.latency.astype(np.uint32)
        self._fine.add(at, outcomes, latency)
        self._coarse.add(at, outcomes, latency)

    def since(self, start: float, now: float) -> Outcomes:
        """Return everything that arrived from `start` to `now`, never anything from before `start`.

        `start` is rounded up to a whole slot: 0.2 s if it lies less than 12 s before `now`, else 1 s.
        """
        ring = self._fine if now - start <= FINE_REACH_S - FINE_S else self._coarse
        return ring.since(start)


class _Ring:
    """`slots` rows, one per `width_s` seconds; an old row is overwritten by the one that takes its place."""

    __slots__ = ("_codes", "_counts", "_flags", "_index", "_latency", "_latest", "_slots", "_width_s")

    def __init__(self, slots: int, width_s: float) -> None:
        self._slots = slots
        self._width_s = width_s
        self._latest = -1
        self._index = np.full(slots, -1, dtype=np.int64)
        self._counts = [[0, 0] for _ in range(slots)]  # requests, errors
        self._latency = np.zeros((slots, BUCKETS), dtype=np.uint32)
        self._codes: dict[int, dict[int, int]] = {}
        self._flags: dict[int, dict[str, int]] = {}

    def add(self, at: float, outcomes: Outcomes, latency: npt.NDArray[np.uint32]) -> None:
        index = math.floor(at / self._width_s + 1e-6)
        row = max(index, self._latest) % self._slots
        if index > self._latest:
            self._latest = index
            self._index[row] = index
            self._counts[row] = [0, 0]
            self._latency[row] = 0
            self._codes[row] = {}
            self._flags[row] = {}
        counts = self._counts[row]
        counts[0] += outcomes.requests
        counts[1] += outcomes.errors
        self._latency[row] += latency
        _merge(self._codes[row], outcomes.codes)
        _merge(self._flags[row], outcomes.flags)

    def since(self, start: float) -> Outcomes:
        rows = np.flatnonzero(self._index >= math.ceil(start / self._width_s - 1e-6))
        total = Outcomes()
        if not len(rows):
            return total
        total.latency = self._latency[rows].sum(axis=0, dtype=np.int64)
        for row in rows.tolist():
            requests, errors = self._counts[row]
            total.requests += requests
            total.errors += errors
            _merge(total.codes, self._codes[row])
            _merge(total.flags, self._flags[row])
        return total


def _merge(into: dict[K, int], more: dict[K, int]) -> None:
    for key, count in more.items():
        into[key] = into.get(key, 0) + count
