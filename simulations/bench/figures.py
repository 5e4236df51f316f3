"""The arithmetic of the measurements, their targets, and their tables."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

QUIET_CORES = 0.1
"""Cores that others may take without being worth a warning."""


@dataclass(frozen=True, slots=True)
class Target:
    """A figure that has to stay at or under `limit`; both in `unit`."""

    name: str
    figure: float
    limit: float
    unit: str = ""

    @property
    def held(self) -> bool:
        """Tell whether the figure is there and small enough."""
        return self.figure <= self.limit  # false for nan: nothing measured holds nothing

    def text(self) -> str:
        """Render as `p99 ≤ 30 ms: held (12.1 ms)`."""
        verdict = "held" if self.held else "MISSED"
        return f"{self.name} ≤ {self.limit:g}{self.unit}: {verdict} ({self.figure:.4g}{self.unit})"


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of text under a title, and the targets they are held to.

    `judged` is False when there were too few samples to hold a target or to miss one. `others` is how many cores other
    processes of this machine took meanwhile.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""
    targets: tuple[Target, ...] = ()
    judged: bool = True
    others: float = 0.0

    @property
    def missed(self) -> tuple[Target, ...]:
        """The targets missed; none when nothing was judged."""
        return tuple(target for target in self.targets if not target.held) if self.judged else ()

    def text(self) -> str:
        """Render with aligned columns, the note and a line for each target."""
        rows = (self.columns, *self.rows)
        widths = [max(len(row[k]) for row in rows) for k in range(len(self.columns))]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
        lines += [self.note] if self.note else []
        disturbed = "; not quiet, the figures are too high" if self.others > QUIET_CORES else ""
        lines.append(f"other processes took {self.others:.2f} cores meanwhile{disturbed}")
        if self.judged:
            lines += [target.text() for target in self.targets]
        elif self.targets:
            lines.append("targets not judged: too few samples (--quick)")
        return "\n".join([self.title, *(f"  {line}" for line in lines), ""])


def quantile(values: Sequence[float], q: float) -> float:
    """Return the smallest value that at least the share `q` (0–1) of `values` does not exceed; nan when empty."""
    if not values:
        return float("nan")
    ordered = sorted(values)
    rank = -(-round(q * 1_000_000) * len(ordered) // 1_000_000)
    return ordered[max(0, min(len(ordered), rank) - 1)]


@dataclass(frozen=True, slots=True)
class Ratio:
    """Median, lowest and highest of the ratios of paired rounds."""

    median: float
    low: float
    high: float

    def text(self) -> str:
        """Render as `1.040 (1.010–1.080)`."""
        return f"{self.median:.3f} ({self.low:.3f}–{self.high:.3f})"


def ratio(ours: Sequence[float], limit: Sequence[float]) -> Ratio:
    """Return how the rounds of `ours` compare with the rounds of `limit` beside them (same length, all positive)."""
    pairs = [a / b for a, b in zip(ours, limit, strict=True)]
    return Ratio(statistics.median(pairs), min(pairs), max(pairs))


def milliseconds(seconds: float) -> str:
    """Render a duration as milliseconds."""
    return f"{seconds * 1e3:.2f} ms"
