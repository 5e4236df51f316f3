"""Pictures as SVG files: panels of lines, dots and shaded spans over two axes. No script, no font, no file beside it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Final, Protocol

WIDTH: Final = 420
HEIGHT: Final = 260
COLOURS: Final = ("#1f5fa8", "#b3541e", "#2a8a57", "#7a4fb5", "#8a8a8a", "#b0286a", "#6b7a10", "#0f8a94")
_LEFT, _RIGHT, _BOTTOM = 56, 14, 44
_LETTER: Final = 5.6
"""How wide a letter is, about."""

_ROW = 15
_NEAR = 60
"""Nearer than this to the right edge words stand left of their dot."""

_MOST_TICKS: Final = 6
_EASY: Final = (1.0, 2.0, 2.5, 5.0, 10.0)


@dataclass(frozen=True, slots=True)
class Axis:
    """What an axis says and spans. `ticks`: where it is labelled (chosen when empty); a logarithmic one has powers of ten.

    >>> Axis("s", 0.0, 8.0).marks()
    (0.0, 2.0, 4.0, 6.0, 8.0)
    >>> Axis("s", 0.1, 10.0, log=True).marks()
    (0.1, 1.0, 10.0)
    """

    label: str
    low: float
    high: float
    log: bool = False
    ticks: tuple[tuple[float, str], ...] = ()

    def share(self, value: float) -> float:
        """Return where a value lies on the axis, 0–1; values beyond an end lie on it."""
        inside = min(self.high, max(self.low, value))
        if self.log:
            return math.log(inside / self.low) / math.log(self.high / self.low)
        return (inside - self.low) / (self.high - self.low)

    def marks(self) -> tuple[float, ...]:
        """Return the values that are labelled."""
        if self.ticks:
            return tuple(at for at, _ in self.ticks)
        if self.log:
            powers = range(math.ceil(math.log10(self.low) - 1e-9), math.floor(math.log10(self.high) + 1e-9) + 1)
            return tuple(10.0**power for power in powers)
        size = 10.0 ** math.floor(math.log10((self.high - self.low) / _MOST_TICKS))
        step = next(size * k for k in _EASY if (self.high - self.low) / (size * k) <= _MOST_TICKS)
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        return tuple(k * step for k in range(first, last + 1))

    def said(self, mark: float) -> str:
        """Return the words of a label."""
        return dict(self.ticks).get(mark, f"{mark:g}")


@dataclass(frozen=True, slots=True)
class Line:
    """A line through points; a NaN is a gap. Without a name it is in no legend."""

    x: Sequence[float]
    y: Sequence[float]
    name: str = ""
    colour: int = 0
    dashed: bool = False
    steps: bool = False


@dataclass(frozen=True, slots=True)
class Dots:
    """Points, each with its words (as many as points, or none) and the ends of a bar around it (likewise)."""

    x: Sequence[float]
    y: Sequence[float]
    name: str = ""
    colour: int = 0
    words: Sequence[str] = ()
    bars: Sequence[tuple[float, float]] = ()  # on the x axis


@dataclass(frozen=True, slots=True)
class Panel:
    """One picture. `spans` are shaded parts of the x axis, `note` is a line of text below the title."""

    title: str
    x: Axis
    y: Axis
    lines: Sequence[Line] = ()
    dots: Sequence[Dots] = ()
    spans: Sequence[tuple[float, float]] = ()
    note: str = ""


class Estimate(Protocol):
    """A share of `total`, 0–1, with the bounds of its interval."""

    @property
    def total(self) -> int:
        """How many it is a share of."""

    @property
    def value(self) -> float:
        """The share."""

    @property
    def low(self) -> float:
        """Lower bound."""

    @property
    def high(self) -> float:
        """Upper bound."""


def shares(title: str, label: str, each: Mapping[str, Estimate]) -> Panel:
    """Return shares by name, the first at the bottom, with bars for their intervals; a share of nothing has a line and no dot."""
    rows = [(k + 0.5, name, share) for k, (name, share) in enumerate(each.items())]
    known = [(at, share) for at, _, share in rows if share.total]
    return Panel(
        title,
        Axis(label, 0.0, 1.0),
        Axis("", 0.0, float(max(1, len(rows))), ticks=tuple((at, name) for at, name, _ in rows)),
        dots=(Dots([s.value for _, s in known], [at for at, _ in known], bars=[(s.low, s.high) for _, s in known]),),
    )


def drawing(panels: Sequence[Panel], columns: int = 2) -> str:
    """Return the panels, in rows of `columns`, as the text of an SVG file."""
    rows = math.ceil(len(panels) / columns)
    wide, high = WIDTH * min(columns, len(panels)), HEIGHT * rows
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {wide} {high}" font-family="sans-serif" font-size="11">',
        f'<rect width="{wide}" height="{high}" fill="white"/>',
    ]
    for k, panel in enumerate(panels):
        parts.append(f'<g transform="translate({WIDTH * (k % columns)} {HEIGHT * (k // columns)})">')
        parts += _panel(panel)
        parts.append("</g>")
    return "\n".join([*parts, "</svg>", ""])


def _panel(panel: Panel) -> Iterator[str]:
    parts: list[Line | Dots] = [*panel.lines, *panel.dots]
    named = [each for each in parts if each.name]
    left_edge = max(_LEFT, 12 + _LETTER * max((len(panel.y.said(mark)) for mark in panel.y.marks()), default=0))
    top = 24 + _ROW * (bool(panel.note) + bool(named))

    def place(x: float, y: float) -> tuple[float, float]:
        across, up = panel.x.share(x), panel.y.share(y)
        return left_edge + across * (WIDTH - left_edge - _RIGHT), HEIGHT - _BOTTOM - up * (HEIGHT - _BOTTOM - top)

    for low, high in panel.spans:
        left, right = place(low, panel.y.low)[0], place(high, panel.y.low)[0]
        shape = f'x="{left:.1f}" y="{top}" width="{right - left:.1f}" height="{HEIGHT - _BOTTOM - top}"'
        yield f'<rect {shape} fill="#f6dede"/>'
    yield _text(panel.title, left_edge, 16, bold=True)
    if panel.note:
        yield _text(panel.note, left_edge, 16 + _ROW, colour="#555")
    yield from _legend(named, left_edge, top - 6)
    for mark in panel.x.marks():
        x, y = place(mark, panel.y.low)
        yield f'<path d="M{x:.1f} {top}V{y:.1f}" stroke="#e4e4e4"/>'
        yield _text(panel.x.said(mark), x, y + 14, anchor="middle")
    for mark in panel.y.marks():
        x, y = place(panel.x.low, mark)
        yield f'<path d="M{x:.1f} {y:.1f}H{WIDTH - _RIGHT}" stroke="#e4e4e4"/>'
        yield _text(panel.y.said(mark), x - 5, y + 4, anchor="end")
    yield _text(panel.x.label, (left_edge + WIDTH - _RIGHT) / 2, HEIGHT - 12, anchor="middle")
    middle = (top + HEIGHT - _BOTTOM) / 2
    yield f'<g transform="rotate(-90 13 {middle:.1f})">{_text(panel.y.label, 13, middle, anchor="middle")}</g>'
    for line in panel.lines:
        points = [place(x, y) if math.isfinite(y) else None for x, y in zip(line.x, line.y, strict=True)]
        dash = ' stroke-dasharray="4 3"' if line.dashed else ""
        yield f'<path d="{path(points, steps=line.steps)}" fill="none" stroke="{COLOURS[line.colour]}" stroke-width="1.5"{dash}/>'
    for dots in panel.dots:
        yield from _dots(dots, [place(x, y) for x, y in zip(dots.x, dots.y, strict=True)])
        for (low, high), y in zip(dots.bars, dots.y, strict=bool(dots.bars)):
            (left, level), (right, _) = place(low, y), place(high, y)
            yield f'<path d="M{left:.1f} {level:.1f}H{right:.1f}" stroke="{COLOURS[dots.colour]}"/>'


def path(points: Iterable[tuple[float, float] | None], *, steps: bool = False) -> str:
    """Return SVG's path data of a line through points, with a gap at None; `steps`: each level lasts until the next point."""
    parts, pen, level = [], "M", 0.0
    for point in points:
        if point is None:
            pen = "M"
            continue
        x, y = point
        if steps and pen == "L":
            parts.append(f"L{x:.1f} {level:.1f}")
        parts.append(f"{pen}{x:.1f} {y:.1f}")
        pen, level = "L", y
    return "".join(parts)


def _dots(dots: Dots, points: Sequence[tuple[float, float]]) -> Iterator[str]:
    for k, (x, y) in enumerate(points):
        yield f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="{COLOURS[dots.colour]}"/>'
        if dots.words:
            right = x < WIDTH - _RIGHT - _NEAR
            yield _text(dots.words[k], x + (6 if right else -6), y - 4, anchor="start" if right else "end", size=9)


def _legend(named: Sequence[Line | Dots], left: float, y: float) -> Iterator[str]:
    for each in named:
        yield f'<rect x="{left:.1f}" y="{y - 8:.1f}" width="9" height="9" rx="2" fill="{COLOURS[each.colour]}"/>'
        yield _text(each.name, left + 13, y)
        left += 24 + 5.8 * len(each.name)


def _text(
    words: str, x: float, y: float, *, anchor: str = "start", bold: bool = False, colour: str = "", size: int = 0
) -> str:
    look = ' font-weight="bold"' if bold else ""
    look += f' fill="{colour}"' if colour else ""
    look += f' font-size="{size}"' if size else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{look}>{escape(words)}</text>'
