"""The arithmetic of the measurements, and their tables."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of text under a title. `ok` is None where no target applies."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""
    ok: bool | None = None

    def text(self) -> str:
        """Render with aligned columns."""
        rows = (self.columns, *self.rows)
        widths = [max(len(row[k]) for row in rows) for k in range(len(self.columns))]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
        verdict = {True: "target held", False: "TARGET MISSED", None: ""}[self.ok]
        end = " · ".join(part for part in (self.note, verdict) if part)
        return "\n".join([self.title, *(f"  {line}" for line in lines), *([f"  {end}"] if end else []), ""])


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
        """Render as `1.04 (1.01–1.08)`."""
        return f"{self.median:.3f} ({self.low:.3f}–{self.high:.3f})"


def ratio(ours: Sequence[float], limit: Sequence[float]) -> Ratio:
    """Return how the rounds of `ours` compare with the rounds of `limit` beside them (same length, all positive)."""
    pairs = [a / b for a, b in zip(ours, limit, strict=True)]
    return Ratio(statistics.median(pairs), min(pairs), max(pairs))


def milliseconds(seconds: float) -> str:
    """Render a duration as milliseconds."""
    return f"{seconds * 1e3:.2f} ms"
