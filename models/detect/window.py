"""Latency histograms of many series in little memory: a window of the mesh's grid around each series' own median.

A window has `WIDTH` of the grid's `BUCKETS` at full resolution, from `BELOW` buckets below the median bucket (a third of
the median) upwards (to about 120 times the median); what lies outside is counted in its outermost buckets. Positions in
windows are relative to the median, so that windows of different series can be compared and added.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from models.detect.baseline import FloatArray, IntArray
from models.frame import Cells
from models.signals import BUCKETS

WIDTH: Final = 32
BELOW: Final = 6

Grid = FloatArray | IntArray | npt.NDArray[np.float32] | npt.NDArray[np.float16] | npt.NDArray[np.uint16]


def middle(counts: Grid) -> IntArray:
    """Return the bucket of the median of each row of `counts` (rows, buckets); 0 for an empty row."""
    below = np.cumsum(counts, axis=1, dtype=np.float64)
    found: IntArray = np.argmax(below >= below[:, -1:] / 2, axis=1)
    return found


def fold(counts: Grid, offset: IntArray) -> FloatArray:
    """Return the windows, shape (rows, WIDTH), of full histograms (rows, BUCKETS) that begin at bucket `offset` each."""
    below = np.zeros((len(counts), BUCKETS + 1))
    np.cumsum(counts, axis=1, out=below[:, 1:])
    edges = np.clip(offset[:, None] + np.arange(WIDTH + 1), 0, BUCKETS)
    edges[:, 0], edges[:, -1] = 0, BUCKETS
    return np.diff(np.take_along_axis(below, edges, axis=1), axis=1)


def narrowed(cells: Cells, offset: IntArray) -> Cells:
    """Return cells of the mesh's grid as cells of windows, row k's from bucket `offset[k]` on: the same as `fold`.

    `cells` are distinct and sorted by row, then bucket; so is what is returned.
    """
    place = cells.row * WIDTH + np.clip(cells.bucket - offset[cells.row], 0, WIDTH - 1)
    first = np.flatnonzero(np.diff(place, prepend=-1))
    if len(first) < len(place):  # what lies outside a window meets in its outermost buckets
        return Cells(place[first] // WIDTH, place[first] % WIDTH, np.add.reduceat(cells.count, first))
    return Cells(cells.row, place % WIDTH, cells.count)


def spread(cells: Cells, rows: IntArray) -> IntArray:
    """Return the full histograms, shape (rows, BUCKETS), of some of the rows, ascending."""
    found = np.zeros((len(rows), BUCKETS), dtype=np.int64)
    mine = cells.only(np.isin(cells.row, rows))
    found[np.searchsorted(rows, mine.row), mine.bucket] = mine.count
    return found


def unfold(windows: Grid, offset: IntArray) -> FloatArray:
    """Return full histograms, shape (rows, BUCKETS), of windows that begin at bucket `offset` each."""
    padded = np.zeros((len(windows), WIDTH + BUCKETS + WIDTH))
    np.put_along_axis(padded, offset[:, None] + np.arange(WIDTH, 2 * WIDTH), windows, axis=1)
    full = padded[:, WIDTH : WIDTH + BUCKETS]
    full[:, 0] += padded[:, :WIDTH].sum(axis=1)
    full[:, -1] += padded[:, WIDTH + BUCKETS :].sum(axis=1)
    return full


def moved(windows: Grid, old: IntArray, new: IntArray) -> FloatArray:
    """Return `windows` that began at bucket `old` as windows that begin at bucket `new`."""
    return fold(unfold(windows, old), new)
