"""One tick's outcomes of the whole mesh as columns: what is summed at every tick cannot be one object per series.

A `Frame` is a mapping of series to outcomes like any other, and the arrays behind it besides. Latencies are kept as the cells
that are not empty: a series sees a few requests per tick, of its 74 buckets nearly all are 0.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from models.signals import BUCKETS, Counts, Floats, Outcomes, Series

Small = npt.NDArray[np.int32]

Odd = tuple[dict[str, int], dict[int, int]]
"""Flags and codes of a series, as `Outcomes` has them."""

OK_CODE = 200


def told(odd: Odd | None, requests: int) -> Odd:
    """Return a copy of a series' flags and codes; one that is not odd had `requests` plain answers."""
    return (dict(odd[0]), dict(odd[1])) if odd is not None else ({}, {OK_CODE: requests})


DENSE: Final = 32
"""Where there are at most this many places for each number given, adding up in place beats sorting."""

_LOW: Final = 2**32 - 1


def added(places: Counts | Small, counts: Counts | Small) -> tuple[Counts, Counts]:
    """Return the distinct places (0 or more), ascending, and the sums of their counts (0 to 2³²); sums of 0 are left out."""
    if not len(places):
        return _EMPTY, _EMPTY
    if int(places.max()) < DENSE * len(places):
        sums = np.bincount(places, counts)  # exact: float64 holds every count below 2**53
        some = np.flatnonzero(sums != 0)
        return some, sums[some].astype(np.int64)
    packed = np.sort(
        places.astype(np.int64) << 32 | counts
    )  # one array sorts several times as fast as an order is found
    packed = packed[packed & _LOW > 0]
    found = packed >> 32
    first = np.flatnonzero(np.diff(found, prepend=-1))
    return found[first], np.add.reduceat(packed & _LOW, first) if len(first) else _EMPTY


@dataclass(frozen=True, slots=True)
class Cells:
    """Latency counts that are not 0: `count` requests of the series at position `row` fell into `bucket`."""

    row: Counts
    bucket: Counts
    count: Counts

    def only(self, chosen: npt.NDArray[np.bool_]) -> Cells:
        """Return the cells that `chosen` marks."""
        return Cells(self.row[chosen], self.bucket[chosen], self.count[chosen])

    @classmethod
    def table(cls, counts: Counts | Floats) -> Cells:
        """Return the cells of a whole table of counts, shape (series, BUCKETS)."""
        row, bucket = np.nonzero(counts)
        return cls(row, bucket, counts[row, bucket].astype(np.int64))

    @classmethod
    def of(cls, rows: Sequence[Counts]) -> Cells:
        """Return the cells of latency arrays; one of a wrong shape says nothing."""
        if not rows:
            return cls(_EMPTY, _EMPTY, _EMPTY)
        return cls.table(
            np.concatenate([row if row.shape == (BUCKETS,) else _NOTHING for row in rows]).reshape(-1, BUCKETS)
        )


class Register:
    """Series that a source of frames has given numbers, from 0 on; never changes one and forgets none."""

    def __init__(self) -> None:
        self._names = np.zeros(0, dtype=np.object_)
        self._size = 0

    def __len__(self) -> int:
        """Return the number of series."""
        return self._size

    def enter(self, series: Series) -> int:
        """Give a series that has none the next number."""
        if self._size == len(self._names):
            self._names = np.append(self._names, np.zeros(max(64, self._size), dtype=np.object_))
        self._names[self._size] = series
        self._size += 1
        return self._size - 1

    def names(self, numbers: Counts) -> list[Series]:
        """Return the series with these numbers."""
        named: list[Series] = self._names[numbers].tolist()
        return named


class Frame(Mapping[Series, Outcomes]):
    """Outcomes of distinct series. Never changes; what `[]` returns is a copy.

    `names` has n series, `requests` and `errors` shape (n,), `cells` are their latencies, sorted by row. `odd` holds flags
    and codes by position wherever not every request was answered by a plain 200. Where the source has a `register`,
    `numbers` (n,) are the series' numbers in it.
    """

    __slots__ = ("_callees", "_index", "cells", "errors", "names", "numbers", "odd", "register", "requests")

    def __init__(
        self,
        names: Sequence[Series],
        requests: Counts,
        errors: Counts,
        cells: Cells,
        odd: Mapping[int, Odd],
        *,
        register: Register | None = None,
        numbers: Counts | None = None,
    ) -> None:
        self.register = register
        self.numbers = _EMPTY if numbers is None else numbers
        self.names = names
        self.requests = requests
        self.errors = errors
        self.cells = cells
        self.odd = odd
        self._index: dict[Series, int] | None = None
        self._callees: dict[str, list[int]] | None = None

    @classmethod
    def of(cls, outcomes: Mapping[Series, Outcomes]) -> Frame:
        """Return a mapping's outcomes as columns; a frame is returned as it is."""
        if isinstance(outcomes, Frame):
            return outcomes
        values = list(outcomes.values())
        odd = {
            k: (dict(one.flags), dict(one.codes))
            for k, one in enumerate(values)
            if one.flags or len(one.codes) != 1 or one.codes.get(OK_CODE) != one.requests
        }
        return cls(
            list(outcomes),
            np.fromiter((one.requests for one in values), np.int64, len(values)),
            np.fromiter((one.errors for one in values), np.int64, len(values)),
            Cells.of([one.latency for one in values]),
            odd,
        )

    def __len__(self) -> int:
        """Return the number of series."""
        return len(self.names)

    def __iter__(self) -> Iterator[Series]:
        """Go through the series in the order they were given."""
        return iter(self.names)

    def __getitem__(self, series: Series) -> Outcomes:
        """Return the outcomes of one series.

        Raises:
            KeyError: it had none.
        """
        if self._index is None:
            self._index = {name: k for k, name in enumerate(self.names)}
        return self.at(self._index[series])

    def towards(self, callee: str) -> Sequence[int]:
        """Return the positions of the series of requests to one service, of all sides."""
        if self._callees is None:
            self._callees = {}
            for position, name in enumerate(self.names):
                self._callees.setdefault(name.callee, []).append(position)
        return self._callees.get(callee, ())

    def at(self, position: int) -> Outcomes:
        """Return the outcomes of the series at `position`."""
        first, last = np.searchsorted(self.cells.row, (position, position + 1))
        latency = np.zeros(BUCKETS, dtype=np.int64)
        latency[self.cells.bucket[first:last]] = self.cells.count[first:last]
        requests = int(self.requests[position])
        flags, codes = told(self.odd.get(position), requests)
        return Outcomes(requests, int(self.errors[position]), flags, codes, latency)


class Memo:
    """The number by which a reader of frames knows each series: of registered ones it is looked up by name only once."""

    def __init__(self) -> None:
        self._register: Register | None = None
        self._own: Counts = _EMPTY

    def of(self, frame: Frame, look_up: Callable[[Sequence[Series]], Counts]) -> Counts:
        """Return the numbers (0 or more) of a frame's series as `look_up` gives them."""
        if frame.register is None:
            return look_up(frame.names)
        if frame.register is not self._register:
            self._register, self._own = frame.register, _EMPTY
        if (missing := len(frame.register) - len(self._own)) > 0:
            self._own = np.append(self._own, np.full(missing, -1, dtype=np.int64))
        found = self._own[frame.numbers]
        if len(found) and found.min() < 0:
            found = look_up(frame.names)
            if self._register is frame.register:  # the reader may have begun to count anew
                self._own[frame.numbers] = found
        return found

    def forget(self) -> None:
        """Forget all numbers: the reader gives others from now on."""
        self._register, self._own = None, _EMPTY


_EMPTY: Counts = np.zeros(0, dtype=np.int64)
_NOTHING: Counts = np.zeros(BUCKETS, dtype=np.int64)

EMPTY = Frame((), _EMPTY, _EMPTY, Cells(_EMPTY, _EMPTY, _EMPTY), {})
