"""Good and valid requests of many objectives over time, in fixed memory, cheap to sum over any window up to 90 days.

Three rings of time slots: 10 s wide for 2 h, 5 min wide for 3 days, 1 h wide for 90 days. A slot holds one pair of counts per objective,
so that adding a tick and summing a window are one numpy operation for all of them: about 55 KB per objective, whatever the load.

A window never contains anything older than itself: it begins with the first whole slot. The clock may be set back: what was
counted in slots that now lie ahead is counted as of now, so that nothing is lost and nothing stays ahead for ever.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from models.objective import Tally

Pairs = npt.NDArray[np.int64]
"""Good and valid requests: shape (objectives, 2)."""

DAY_S: Final = 86_400
WIDTHS: Final = ((10, 7200), (300, 3 * DAY_S), (3600, 90 * DAY_S))
"""Of each ring: width of a slot and reach, seconds."""

MOST_WINDOW_S: Final = float(WIDTHS[-1][1])


@dataclass(frozen=True, slots=True, order=True)
class Slot:
    """What is kept of one slot on disk: `counted` names the requests, `index` is its beginning over its width."""

    counted: str
    width_s: int
    index: int
    good: int
    valid: int


class Counts:
    """Counts of the objectives named in `rows`. Times are Unix seconds; a step back counts as now."""

    def __init__(self) -> None:
        self._rows: dict[str, int] = {}
        self._rings = tuple(_Ring(width, reach // width + 1) for width, reach in WIDTHS)

    @property
    def known(self) -> frozenset[str]:
        """Return what is counted."""
        return frozenset(self._rows)

    def track(self, counted: Iterable[str]) -> None:
        """Count these from now on and no others; what is known of those that stay is kept."""
        names = sorted(set(counted))
        before = [self._rows.get(name, -1) for name in names]
        for ring in self._rings:
            ring.rearrange(before)
        self._rows = {name: row for row, name in enumerate(names)}

    def add(self, now: float, found: Mapping[str, tuple[int, int]]) -> None:
        """Enter (good, valid) requests by what is counted; counts that make no sense are clipped to 0 ≤ good ≤ valid."""
        pairs = np.zeros((len(self._rows), 2), dtype=np.int64)
        for name, (good, valid) in found.items():
            if (row := self._rows.get(name)) is not None:
                pairs[row] = max(0, min(good, valid)), max(0, valid)
        for ring in self._rings:
            ring.add(now, pairs)

    def tallies(self, now: float, windows: Mapping[str, Sequence[float]]) -> Mapping[str, tuple[Tally, ...]]:
        """Return a tally per window (seconds, at most 90 days) by what is counted; windows of the same length cost one sum."""
        for ring in self._rings:
            ring.settle(now)
        first = self._first(now)
        sums: dict[float, Pairs] = {}
        for window_s in {w for wanted in windows.values() for w in wanted}:
            ring = next((r for r in self._rings if r.reach_s >= window_s), self._rings[-1])
            sums[window_s] = ring.since(now - window_s)
        found: dict[str, tuple[Tally, ...]] = {}
        for name, wanted in windows.items():
            row = self._rows[name]
            seen = max(0.0, now - float(first[row]))
            found[name] = tuple(Tally(w, int(sums[w][row, 0]), int(sums[w][row, 1]), min(w, seen)) for w in wanted)
        return found

    def changed(self) -> tuple[Slot, ...]:
        """Return the slots that changed since `kept` was called."""
        names = {row: name for name, row in self._rows.items()}
        return tuple(
            Slot(names[row], ring.width_s, index, good, valid)
            for ring in self._rings
            for index, row, good, valid in ring.changed()
        )

    def kept(self) -> None:
        """Note that everything that changed has been kept."""
        for ring in self._rings:
            ring.kept()

    def restore(self, slots: Iterable[Slot]) -> None:
        """Take back what was kept of what is tracked; older slots than a ring reaches are left out."""
        by_width = {ring.width_s: ring for ring in self._rings}
        for slot in sorted(slots, key=lambda each: each.index):
            row, ring = self._rows.get(slot.counted), by_width.get(slot.width_s)
            if row is not None and ring is not None and 0 <= slot.good <= slot.valid:
                ring.put(slot.index, row, slot.good, slot.valid)

    def _first(self, now: float) -> npt.NDArray[np.float64]:
        """Return when each objective's first known request was counted, as finely as it is known (now: none was)."""
        first = self._rings[-1].first(now)
        for ring in reversed(self._rings[:-1]):
            inside = first >= now - ring.reach_s
            first = np.where(inside, np.maximum(first, ring.first(now)), first)
        return first


class _Ring:
    """`slots` rows, one per `width_s` seconds; an old row is overwritten by the one that takes its place."""

    def __init__(self, width_s: int, slots: int) -> None:
        self.width_s = width_s
        self.reach_s = float(width_s * (slots - 1))
        self._slots = slots
        self._index = np.full(slots, -1, dtype=np.int64)
        self._pairs = np.zeros((slots, 0, 2), dtype=np.int64)
        self._dirty: set[int] = set()  # rows

    def rearrange(self, before: Sequence[int]) -> None:
        """Take new objectives: `before` names the former place of each, -1 for a new one."""
        old, kept = self._pairs, [(new, was) for new, was in enumerate(before) if was >= 0]
        self._pairs = np.zeros((self._slots, len(before), 2), dtype=np.int64)
        for new, was in kept:
            self._pairs[:, new] = old[:, was]

    def add(self, now: float, pairs: Pairs) -> None:
        row = self._row(self.settle(now))
        if pairs.any():
            self._pairs[row] += pairs
            self._dirty.add(row)

    def settle(self, now: float) -> int:
        """Return the slot of `now`; what was counted in later ones (the clock was set back) is counted in it."""
        index = math.floor(now / self.width_s)
        ahead = np.flatnonzero(self._index > index)
        if len(ahead):
            total = self._pairs[ahead].sum(axis=0)
            self._pairs[ahead] = 0
            self._index[ahead] = -1
            self._dirty -= set(ahead.tolist())
            row = self._row(index)
            self._pairs[row] += total
            self._dirty.add(row)
        return index

    def put(self, index: int, objective: int, good: int, valid: int) -> None:
        """Enter a kept slot, unless a newer one has taken its place."""
        row = index % self._slots
        if self._index[row] <= index:
            self._pairs[self._row(index), objective] = good, valid

    def since(self, start: float) -> Pairs:
        """Return the sums over the slots that begin at `start` or later."""
        rows = np.flatnonzero(self._index >= math.ceil(start / self.width_s - 1e-9))
        total: Pairs = self._pairs[rows].sum(axis=0)
        return total

    def first(self, now: float) -> npt.NDArray[np.float64]:
        """Return the beginning of each objective's first slot with requests (now: there is none)."""
        index = np.where(self._pairs[:, :, 1] > 0, self._index[:, None], np.iinfo(np.int64).max)
        oldest = self._index >= math.ceil((now - self.reach_s) / self.width_s - 1)
        index = np.where(oldest[:, None], index, np.iinfo(np.int64).max)
        begun: npt.NDArray[np.int64] = index.min(axis=0, initial=np.iinfo(np.int64).max)
        return np.minimum(begun.astype(np.float64) * self.width_s, now)

    def changed(self) -> Iterable[tuple[int, int, int, int]]:
        """Return (index, objective, good, valid) of what changed."""
        for row in sorted(self._dirty):
            for objective in np.flatnonzero(self._pairs[row, :, 1]).tolist():
                good, valid = self._pairs[row, objective].tolist()
                yield int(self._index[row]), objective, good, valid

    def kept(self) -> None:
        self._dirty.clear()

    def _row(self, index: int) -> int:
        row = index % self._slots
        if self._index[row] != index:
            self._index[row] = index
            self._pairs[row] = 0
        return row
