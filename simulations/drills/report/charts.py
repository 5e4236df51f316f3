"""Line charts as inline SVG: no script, no font, no file beside the page."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Final

from simulations.drills.report.told import Moment, Series
from simulations.plot import path

WIDTH, HEIGHT = 560, 239
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 44, 75, 24
_ROWS = 4  # of words above a chart, so that moments close to each other can be read
_EASY: Final = (1, 2, 4, 6, 8, 10)
_STEPS_S: Final = (1, 2, 5, 10, 20, 30, 60, 120, 300)
_MOST_TICKS: Final = 12
COLOURS: Final = (
    *("#0b6bcb", "#d1495b", "#2a9d5c", "#8f5bd6", "#c77d0a", "#4a5568", "#0e9aa7", "#b83280", "#7c8a12", "#8b5e3c"),
)
USERS: Final = "users"
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
class Scene:
    """What the charts of one drill share: their time (seconds from the onset), moments as vertical lines, the colour of each
    line's name, and until when the fault lasted.
    """

    low: float
    high: float
    marks: Sequence[Moment]
    colours: Mapping[str, str]
    lasted_s: float


@dataclass(frozen=True, slots=True)
class Chart:
    """What is drawn: lines over seconds, how values are written, and the least and most that the upper end may be."""

    title: str
    lines: Sequence[Series]
    unit: Callable[[float], str]
    least_top: float
    most_top: float = math.inf
    bottom: float = 0.0


def scene(lines: Sequence[Series], marks: Sequence[Moment], lasted_s: float) -> Scene:
    """Return the scene for all lines of a drill's charts."""
    ends = [t for line in lines for t in (*line.at[:1], *line.at[-1:])] or [0.0, 1.0]
    low, high = min(ends), max(*ends, lasted_s, min(ends) + 1)
    names = sorted({line.name for line in lines})
    return Scene(low, high, marks, {name: COLOURS[k % len(COLOURS)] for k, name in enumerate(names)}, lasted_s)


def svg(chart: Chart, around: Scene) -> str:
    """Return the chart as an SVG element."""
    values = [v for line in chart.lines for v in line.values if v is not None]
    top = min(chart.most_top, _round_up(max([chart.least_top, *values])))

    def x(t: float) -> float:
        return _LEFT + (WIDTH - _LEFT - _RIGHT) * (t - around.low) / (around.high - around.low)

    def y(v: float) -> float:
        share = (min(max(v, chart.bottom), top) - chart.bottom) / (top - chart.bottom)
        return HEIGHT - _BOTTOM - (HEIGHT - _TOP - _BOTTOM) * share

    parts = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(chart.title)}">']
    if around.lasted_s:
        wide = x(around.lasted_s) - x(0)
        parts.append(
            f'<rect class="fault" x="{x(0):.1f}" y="{_TOP}" width="{wide:.1f}" height="{HEIGHT - _BOTTOM - _TOP}"/>'
        )
    parts += _axes(chart, (around.low, around.high), top, x, y)
    parts += _marks(around.marks, (around.low, around.high), x)
    parts += [_path(line, around.colours[line.name], x, y) for line in chart.lines]
    parts += [_label(chart.title, 0, 12, "title"), *_legend(chart.lines, around.colours), "</svg>"]
    return "".join(parts)


def _round_up(value: float) -> float:
    """Return the next number whose quarters are easy to read."""
    size = 10.0 ** math.floor(math.log10(value))
    return next(k * size for k in _EASY if k * size >= value * (1 - 1e-9))


def _axes(
    chart: Chart, span: tuple[float, float], top: float, x: Callable[[float], float], y: Callable[[float], float]
) -> list[str]:
    parts = []
    for k in range(5):
        value = chart.bottom + (top - chart.bottom) * k / 4
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{y(value):.1f}" y2="{y(value):.1f}"/>')
        if k % 2 == 0:
            parts.append(_label(chart.unit(value), _LEFT - 5, y(value) + 3, "tick", anchor="end"))
    step = next((s for s in _STEPS_S if (span[1] - span[0]) / s <= _MOST_TICKS), 600)
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
        top = _TOP + 2 - 9 * _ROWS + 9 * (_ROWS - 1 if row is None else row)
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
    points = (None if v is None else (x(t), y(v)) for t, v in zip(line.at, line.values, strict=True))
    name = escape(line.name)
    return f'<path d="{path(points)}" fill="none" stroke="{colour}" stroke-width="1.6"><title>{name}</title></path>'


def _legend(lines: Sequence[Series], colours: Mapping[str, str]) -> list[str]:
    if [line.name for line in lines] == [USERS]:  # the title says so
        return []
    parts, left = [], 0.0
    for line in lines:
        parts.append(f'<rect x="{left:.0f}" y="20" width="8" height="8" rx="2" fill="{colours[line.name]}"/>')
        parts.append(_label(line.name, left + 11, 27.5, "tick"))
        left += 5.4 * len(line.name) + 24
    return parts


def _label(text: str, x: float, y: float, kind: str, *, anchor: str = "start", fill: str = "") -> str:
    colour = f' fill="{fill}"' if fill else ""
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{colour}>{escape(text)}</text>'
