"""What arrived within one bin of time, by numbers of series: columns that add in a few array operations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Final, TypeVar

import numpy as np
import numpy.typing as npt

from models.frame import OK_CODE, Frame, Odd, added, told
from models.signals import BUCKETS, Outcomes, Series

Numbers = npt.NDArray[np.int32]
Chosen = npt.NDArray[np.bool_]
_Key = TypeVar("_Key", str, int)


class Bin:
    """Sums of one stretch of time that is known as `at`. Never changes.

    `ids` are distinct numbers of series in the order they appeared, `requests` and `errors` belong to them. `cells` are
    `number * BUCKETS + bucket` with `counts`; a cell may stand there more than once. `odd` is by number (see `Frame`).
    """

    __slots__ = ("at", "cells", "counts", "errors", "ids", "odd", "requests")

    def __init__(
        self,
        *,
        at: float,
        ids: Numbers,
        requests: Numbers,
        errors: Numbers,
        cells: Numbers,
        counts: Numbers,
        odd: Mapping[int, Odd],
    ) -> None:
        self.at = at
        self.ids = ids
        self.requests = requests
        self.errors = errors
        self.cells = cells
        self.counts = counts
        self.odd = odd

    @classmethod
    def of(cls, at: float, frame: Frame, ids: Numbers) -> Bin:
        """Return a frame's outcomes; `ids` are the numbers of its series."""
        cells = frame.cells
        return cls(
            at=at,
            ids=ids,
            requests=frame.requests.astype(np.int32),
            errors=frame.errors.astype(np.int32),
            cells=(ids[cells.row] * BUCKETS + cells.bucket).astype(np.int32),
            counts=cells.count.astype(np.int32),
            odd={int(ids[k]): odd for k, odd in frame.odd.items()},
        )

    def moved(self, at: float) -> Bin:
        """Return the same outcomes known as another time."""
        return self._with(at, self.ids, self.cells, self.odd)

    def renumbered(self, new: Numbers) -> Bin:
        """Return the same outcomes with series k numbered `new[k]`."""
        cells = (new[self.cells // BUCKETS] * BUCKETS + self.cells % BUCKETS).astype(np.int32)
        odd = {int(new[k]): value for k, value in self.odd.items()}
        return self._with(self.at, new[self.ids], cells, odd)

    def _with(self, at: float, ids: Numbers, cells: Numbers, odd: Mapping[int, Odd]) -> Bin:
        return Bin(at=at, ids=ids, requests=self.requests, errors=self.errors, cells=cells, counts=self.counts, odd=odd)

    def only(self, chosen: Chosen, odd: AbstractSet[int]) -> Bin:
        """Return the outcomes of the series whose numbers are marked in `chosen`, with the flags and codes of those of them in `odd`."""
        mine, theirs = chosen[self.ids], chosen[self.cells // BUCKETS]
        return Bin(
            at=self.at,
            ids=self.ids[mine],
            requests=self.requests[mine],
            errors=self.errors[mine],
            cells=self.cells[theirs],
            counts=self.counts[theirs],
            odd={number: self.odd[number] for number in self.odd.keys() & odd},
        )

    def whole(self) -> Outcomes:
        """Return the sum of all series."""
        latency = np.bincount(self.cells % BUCKETS, weights=self.counts, minlength=BUCKETS).astype(np.int64)
        requests = plain = int(self.requests.sum())
        flags: dict[str, int] = {}
        codes: dict[int, int] = {}
        if self.odd:
            for number, count in zip(self.ids.tolist(), self.requests.tolist(), strict=True):
                if (odd := self.odd.get(number)) is not None:
                    plain -= count
                    _add(flags, odd[0])
                    _add(codes, odd[1])
        if plain:
            _add(codes, {OK_CODE: plain})
        return Outcomes(requests, int(self.errors.sum()), flags, codes, latency)

    def outcomes(self, names: Sequence[Series]) -> dict[Series, Outcomes]:
        """Return everything, in the order it appeared; `names[k]` is series k."""
        latency = np.zeros((len(self.ids), BUCKETS), dtype=np.int64)
        order = np.argsort(self.ids)
        rows = order[np.searchsorted(self.ids, self.cells // BUCKETS, sorter=order)]
        np.add.at(latency, (rows, self.cells % BUCKETS), self.counts)
        found: dict[Series, Outcomes] = {}
        for k, (number, requests, errors) in enumerate(
            zip(self.ids.tolist(), self.requests.tolist(), self.errors.tolist(), strict=True)
        ):
            flags, codes = told(self.odd.get(number), requests)
            found[names[number]] = Outcomes(requests, errors, flags, codes, latency[k])
        return found


def total(at: float, bins: Sequence[Bin]) -> Bin:
    """Return the sum of bins, known as `at`; series in the order they first appeared."""
    if len(bins) == 1:
        return bins[0].moved(at)
    if not bins:
        return Bin(at=at, ids=_NONE, requests=_NONE, errors=_NONE, cells=_NONE, counts=_NONE, odd={})
    every = np.concatenate([b.ids for b in bins])
    first = np.full(int(every.max(initial=-1)) + 1, -1, dtype=np.int64)  # by number: where it first appeared
    first[every[::-1]] = np.arange(len(every))[::-1]  # of several the last assignment stays
    ids = every[np.sort(first[first >= 0])]
    requests = _sums(every, [b.requests for b in bins])[ids]
    cells, counts = added(np.concatenate([b.cells for b in bins]), np.concatenate([b.counts for b in bins]))
    return Bin(
        at=at,
        ids=ids,
        requests=requests,
        errors=_sums(every, [b.errors for b in bins])[ids],
        cells=cells.astype(np.int32),
        counts=counts.astype(np.int32),
        odd=_odd(bins, dict(zip(ids.tolist(), requests.tolist(), strict=True)) if any(b.odd for b in bins) else {}),
    )


def _odd(bins: Sequence[Bin], requests: Mapping[int, int]) -> dict[int, Odd]:
    """Add up flags and codes of series that were odd in any bin; where they were not, all their codes were 200."""
    found: dict[int, Odd] = {}
    plain: dict[int, int] = {}
    for one in bins:
        if not one.odd:
            continue
        positions = dict(zip(one.ids.tolist(), one.requests.tolist(), strict=True))
        for number, (flags, codes) in one.odd.items():
            if (into := found.get(number)) is None:
                found[number] = (dict(flags), dict(codes))
                plain[number] = requests[number] - positions[number]
                continue
            if flags:
                _add(into[0], flags)
            _add(into[1], codes)
            plain[number] -= positions[number]
    for number, count in plain.items():
        if count:
            _add(found[number][1], {OK_CODE: count})
    return found


def _add(into: dict[_Key, int], more: Mapping[_Key, int]) -> None:
    for key, count in more.items():
        into[key] = into.get(key, 0) + count


def _sums(groups: Numbers, parts: Sequence[Numbers]) -> Numbers:
    """Return sums of counts by group (exact: float64 holds every count below 2**53)."""
    return np.bincount(groups, weights=np.concatenate(parts)).astype(np.int32)


_NONE: Final[Numbers] = np.zeros(0, dtype=np.int32)
