"""Line charts as inline SVG: no script, no font, no file beside the page."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from typing import Final

from simulations.drills.report.told import Moment, Series

WIDTH, HEIGHT = 560, 230
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 44, 66, 24
_ROWS = 3  # of words above a chart, so that moments close to each other can be read
COLOURS: Final = ("#0b6bcb", "#d1495b", "#2a9d5c", "#8f5bd6", "#c77d0a", "#4a5568")
MARKS: Final = {
    "onset": "#b91c1c",
    "detected": "#b45309",
    "acted": "#1d4ed8",
    "approved": "#6d28d9",
    "verified": "#047857",
    "recovered": "#047857",
    "escalated": "#7e22ce",
    "aborted": "#b91c1c",
    "undone": "#6b7280",
}


@dataclass(frozen=True, slots=True)
class Chart:
    """What is drawn: lines over seconds, moments as vertical lines, how values are written, and the least upper end."""

    title: str
    lines: Sequence[Series]
    marks: Sequence[Moment]
    unit: Callable[[float], str]
    least_top: float
    most_top: float = math.inf
    bottom: float = 0.0


def svg(chart: Chart) -> str:
    """Return the chart as an SVG element."""
    ends = [t for line in chart.lines for t in (*line.at[:1], *line.at[-1:])] or [0.0, 1.0]
    low, high = min(ends), max(*ends, min(ends) + 1)
    values = [v for line in chart.lines for v in line.values if v is not None]
    top = min(chart.most_top, max([chart.least_top, *values]) * (1.0 if chart.most_top < math.inf else 1.08))

    def x(t: float) -> float:
        return _LEFT + (WIDTH - _LEFT - _RIGHT) * (t - low) / (high - low)

    def y(v: float) -> float:
        share = (min(max(v, chart.bottom), top) - chart.bottom) / (top - chart.bottom)
        return HEIGHT - _BOTTOM - (HEIGHT - _TOP - _BOTTOM) * share

    parts = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(chart.title)}">']
    parts += _axes(chart, (low, high), top, x, y)
    parts += _marks(chart.marks, (low, high), x)
    for k, line in enumerate(chart.lines):
        parts.append(_path(line, COLOURS[k % len(COLOURS)], x, y))
    parts += [_label(chart.title, 0, 12, "title"), *_legend(chart.lines), "</svg>"]
    return "".join(parts)


def _axes(
    chart: Chart, span: tuple[float, float], top: float, x: Callable[[float], float], y: Callable[[float], float]
) -> list[str]:
    parts = []
    for k in range(5):
        value = chart.bottom + (top - chart.bottom) * k / 4
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{y(value):.1f}" y2="{y(value):.1f}"/>')
        if k % 2 == 0:
            parts.append(_label(chart.unit(value), _LEFT - 5, y(value) + 3, "tick", anchor="end"))
    step = max(1, 5 * round((span[1] - span[0]) / 40))
    seconds = range(step * math.ceil(span[0] / step), math.floor(span[1]) + 1, step)
    return [*parts, *(_label(f"{t} s", x(t), HEIGHT - 8, "tick", anchor="middle") for t in seconds)]


def _marks(marks: Sequence[Moment], span: tuple[float, float], x: Callable[[float], float]) -> list[str]:
    """Vertical lines with their words, each in the first row where it touches no other; without room it has none."""
    parts = []
    ends = [-math.inf] * _ROWS
    for mark in marks:
        if not span[0] <= mark.at <= span[1]:
            continue
        colour = MARKS.get(mark.kind, "#6b7280")
        at = x(mark.at)
        dash = ' stroke-dasharray="3 2"' if mark.kind in {"undone", "verified"} else ""
        row = next((k for k, end in enumerate(ends) if at > end), None)
        top = _TOP - 25 + 9 * (_ROWS - 1 if row is None else row)
        title = f"<title>{escape(mark.kind)}: {escape(mark.text)}</title>"
        parts.append(
            f'<line x1="{at:.1f}" x2="{at:.1f}" y1="{top}" y2="{HEIGHT - _BOTTOM}" stroke="{colour}"{dash}>{title}</line>'
        )
        if row is not None:
            ends[row] = at + 6 + 4.8 * len(mark.kind)
            parts.append(_label(mark.kind, at + 3, top + 7, "mark", fill=colour))
    return parts


def _path(line: Series, colour: str, x: Callable[[float], float], y: Callable[[float], float]) -> str:
    """One line; it has a gap where nothing is known."""
    commands, pen = [], "M"
    for t, value in zip(line.at, line.values, strict=True):
        if value is None:
            pen = "M"
            continue
        commands.append(f"{pen}{x(t):.1f} {y(value):.1f}")
        pen = "L"
    name = escape(line.name)
    return (
        f'<path d="{"".join(commands)}" fill="none" stroke="{colour}" stroke-width="1.6"><title>{name}</title></path>'
    )


def _legend(lines: Sequence[Series]) -> list[str]:
    if len(lines) < 2:  # noqa: PLR2004 - one line needs no name
        return []
    parts, left = [], 0.0
    for k, line in enumerate(lines):
        parts.append(f'<rect x="{left:.0f}" y="20" width="8" height="8" rx="2" fill="{COLOURS[k % len(COLOURS)]}"/>')
        parts.append(_label(line.name, left + 11, 27.5, "tick"))
        left += 5.4 * len(line.name) + 24
    return parts


def _label(text: str, x: float, y: float, kind: str, *, anchor: str = "start", fill: str = "") -> str:
    colour = f' fill="{fill}"' if fill else ""
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{colour}>{escape(text)}</text>'
