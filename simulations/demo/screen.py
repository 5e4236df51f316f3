"""The live screen: services with their golden signals, overlays in force, the story, the users and a clock."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Final

from rich.console import Console, ConsoleOptions, Group, RenderResult
from rich.layout import Layout
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from agent.story import deed
from agent.telemetry.views import ServiceSignals
from simulations.alongside import alongside
from simulations.demo import report
from simulations.demo.story import Line, State
from simulations.journal import Record

_REFRESH_S: Final = 0.25
_RECENT_S: Final = 5.0
_BAD_RATIO, _ODD_RATIO = 0.05, 0.005
_INDENT: Final = 29
_MOST_ROWS: Final = 5
"""Of one line of the story: its evidence is worth reading, but not worth pushing everything else off the screen."""

_STYLES: Final = {
    "onset": "bold red",
    "lost": "bold red",
    "detected": "bold yellow",
    "correlated": "yellow",
    "planned": "cyan",
    "acting": "bold cyan",
    "verifying": "cyan",
    "SLI back": "bold green",
    "resolved": "bold green",
    "escalated": "bold magenta",
    "undoing": "magenta",
    "repair": "blue",
    "demo": "dim",
}


class Screen:
    """Draws `State` a few times a second while its `async with` block runs. The agent's pace does not depend on it."""

    def __init__(self, console: Console, state: State) -> None:
        self._console = console
        self._state = state

    def line(self, line: Line) -> None:
        """Nothing to do: the next drawing shows the line from the state."""

    @asynccontextmanager
    async def shown(self) -> AsyncIterator[None]:
        """Show the screen until the block ends; the terminal is then as it was before."""
        with Live(console=self._console, screen=True, auto_refresh=False) as live:
            async with alongside({"screen": self._draw(live)}):
                yield

    async def _draw(self, live: Live) -> None:
        while True:
            live.update(render(self._state, time.time()), refresh=True)
            await asyncio.sleep(_REFRESH_S)


def render(state: State, now: float) -> Layout:
    """Draw the whole screen as of Unix time `now`."""
    layout = Layout()
    rows = [Layout(_head(state, now), name="head", size=3), Layout(name="body")]
    if state.results:
        rows.append(Layout(report.as_table(state.results, brief=True), name="results", size=5 + len(state.results)))
    layout.split_column(*rows)
    left = Layout(name="left", ratio=5)
    left.split_column(
        Layout(_services(state.services), name="services", ratio=3),
        Layout(_overlays(state, now), name="overlays", size=7),
    )
    lines = sorted(state.lines, key=lambda line: line.at)  # what is known only afterwards is told late
    right = Layout(Panel(_Told(lines, state.began), title="What happens", title_align="left"), name="story", ratio=7)
    layout["body"].split_row(left, right)
    return layout


def _head(state: State, now: float) -> Panel:
    clock = Text(f"{now - state.began:6.1f} s  ", style="bold")
    if state.onset is not None:
        clock.append(f"{now - state.onset:+.1f} s since the onset  ", style="bold red")
    mode = Text(
        "agent heals  " if state.healing else "agent only looks  ", style="green" if state.healing else "yellow"
    )
    return Panel(Text.assemble(clock, mode, Text(state.phase, style="bold"), "  ", _users(state, now)), title="Fibrin")


def _users(state: State, now: float) -> Text:
    records: list[Record] = [] if state.users is None else state.users.records
    recent: list[Record] = []
    for record in reversed(records):
        if record.sent < now - 2 * _RECENT_S:
            break
        if record.seen > now - _RECENT_S:
            recent.append(record)
    if not recent:
        return Text("no users", style="dim")
    missed = sum(r.missed for r in recent)
    text = f"users: {len(recent) / _RECENT_S:.0f}/s, {100 * (1 - missed / len(recent)):.1f} % well served"
    return Text(text, style="red" if missed else "green")


def _services(rows: Iterable[ServiceSignals]) -> Panel:
    table = Table(expand=True, box=None)
    for name in ("SERVICE", "RPS", "ERRORS", "P50", "P99", "BUSY"):
        table.add_column(name, justify="left" if name == "SERVICE" else "right", no_wrap=True)
    for row in rows:
        golden = row.golden
        style = "red" if golden.error_ratio >= _BAD_RATIO else "yellow" if golden.error_ratio >= _ODD_RATIO else ""
        table.add_row(
            row.service,
            f"{golden.rps:.0f}",
            Text(f"{100 * golden.error_ratio:.1f} %", style=style),
            _milliseconds(golden.p50_s),
            _milliseconds(golden.p99_s),
            "<none>" if golden.saturation is None else f"{golden.saturation:.0f}",
        )
    return Panel(table, title="Golden signals of the last 10 s", title_align="left")


def _overlays(state: State, now: float) -> Panel:
    lines = [
        Text(f"{deed(o.change)}  ({o.actor}, {o.expires_at - now:.0f} s left)", style="cyan")
        for o in sorted(state.overlays.values(), key=lambda o: o.created_at)
    ]
    return Panel(Group(*lines) if lines else Text("<none>", style="dim"), title="Overlays in force", title_align="left")


class _Told:
    """The newest lines of the story, in order of time, as many as there is room for; long ones go on below."""

    def __init__(self, lines: Sequence[Line], began: float) -> None:
        self._lines = lines
        self._began = began

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Draw into `options.max_width` × `options.height` cells."""
        room = options.height or options.max_height
        rows: list[Text] = []
        for line in reversed(self._lines):
            more = self._rows(line, console, options.max_width)
            if len(rows) + len(more) > room:
                break
            rows = more + rows
        yield from rows

    def _rows(self, line: Line, console: Console, width: int) -> list[Text]:
        after = "" if line.after_onset is None else f"{line.after_onset:+.2f} s"
        head = Text(no_wrap=True, overflow="ellipsis")
        head.append(f"{line.at - self._began:6.1f} {after:>9} ", style="dim")
        head.append(f"{line.kind:<10}  ", style=_STYLES.get(line.kind, ""))
        parts = Text(line.text).wrap(console, max(_INDENT, width - _INDENT))
        first, *others = parts[:_MOST_ROWS] or [Text()]
        if len(parts) > _MOST_ROWS:
            others[-1].truncate(max(1, width - _INDENT - 1))
            others[-1].append("…")
        return [head.append_text(first), *(Text(" " * _INDENT, no_wrap=True).append_text(other) for other in others)]


def _milliseconds(seconds: float | None) -> str:
    return "<none>" if seconds is None else f"{seconds * 1000:.0f} ms"
