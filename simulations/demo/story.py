"""The demo's story as it happens: one line per thing that happened, and where to show it.

A `Display` is told; it never asks. `PlainLines` prints, `simulations.demo.screen.Screen` draws.
"""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass, field
from typing import Protocol

from rich.console import Console

from agent.telemetry.views import ServiceSignals
from models.overlay import Overlay
from simulations.demo.account import Result
from simulations.journal import Tail


@dataclass(frozen=True, slots=True)
class Line:
    """One line: when (Unix s), how long after the onset of the breakage being played (None: none is), what kind, what."""

    at: float
    after_onset: float | None
    kind: str
    text: str


@dataclass(slots=True)
class State:
    """Everything a screen may show; written by the scenario, read by the screen."""

    began: float = field(default_factory=time.time)
    phase: str = "starting"
    healing: bool = True
    onset: float | None = None
    lines: deque[Line] = field(default_factory=lambda: deque(maxlen=400))
    services: tuple[ServiceSignals, ...] = ()
    overlays: dict[str, Overlay] = field(default_factory=dict)
    users: Tail | None = None
    results: list[Result] = field(default_factory=list)


class Display(Protocol):
    """Where the story is told."""

    def line(self, line: Line) -> None:
        """Show one line of the story."""


class PlainLines:
    """One line of text per event, for logs and machines."""

    def __init__(self, console: Console, began: float) -> None:
        self._console = console
        self._began = began

    def line(self, line: Line) -> None:
        """Print `  12.34 s  +0.41 s  detected   text`."""
        after = "" if line.after_onset is None else f"{line.after_onset:+.2f} s"
        text = f"{line.at - self._began:7.2f} s {after:>9}  {line.kind:<10} {line.text}"
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)


class Story:
    """Tells lines to a display and keeps them for the screen."""

    def __init__(self, state: State, display: Display) -> None:
        self.state = state
        self._display = display

    def tell(self, kind: str, text: str, at: float | None = None) -> None:
        """Tell that `text` happened (at Unix time `at`, else now)."""
        when = time.time() if at is None else at
        onset = self.state.onset
        line = Line(when, None if onset is None else when - onset, kind, text)
        self.state.lines.append(line)
        self._display.line(line)

    def phase(self, text: str) -> None:
        """Tell what the demo is doing now."""
        self.state.phase = text
        self.tell("demo", text)
