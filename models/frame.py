"""One tick's outcomes of the whole mesh as columns: what is summed at every tick cannot be one object per series.

A `Frame` is a mapping of series to outcomes like any other, and the arrays behind it besides. Latencies are kept as the cells
that are not empty: a series sees a few requests per tick, of its 74 buckets nearly all are 0.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from models.signals import BUCKETS, Counts, Outcomes, Series

Odd = tuple[dict[str, int], dict[int, int]]
"""Flags and codes of a series, as `Outcomes` has them."""

OK_CODE = 200


def told(odd: Odd | None, requests: int) -> Odd:
    """Return a copy of a series' flags and codes; one that is not odd had `requests` plain answers."""
    return (dict(odd[0]), dict(odd[1])) if odd is not None else ({}, {OK_CODE: requests})


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
    def of(cls, rows: Sequence[Counts]) -> Cells:
        """Return the cells of latency arrays; one of a wrong shape says nothing."""
        if not rows:
            return cls(_EMPTY, _EMPTY, _EMPTY)
        dense = np.concatenate([row if row.shape == (BUCKETS,) else _NOTHING for row in rows]).reshape(-1, BUCKETS)
        row, bucket = np.nonzero(dense)
        return cls(row, bucket, dense[row, bucket])


class Frame(Mapping[Series, Outcomes]):
    """Outcomes of distinct series. Never changes; what `[]` returns is a copy.

    `names` has n series, `requests` and `errors` shape (n,), `cells` are their latencies, sorted by row. `odd` holds flags
    and codes by position wherever not every request was answered by a plain 200.
    """

    __slots__ = ("_callees", "_index", "cells", "errors", "names", "odd", "requests")

    def __init__(
        self, names: Sequence[Series], requests: Counts, errors: Counts, cells: Cells, odd: Mapping[int, Odd]
    ) -> None:
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


_EMPTY: Counts = np.zeros(0, dtype=np.int64)
_NOTHING: Counts = np.zeros(BUCKETS, dtype=np.int64)

EMPTY = Frame((), _EMPTY, _EMPTY, Cells(_EMPTY, _EMPTY, _EMPTY), {})
