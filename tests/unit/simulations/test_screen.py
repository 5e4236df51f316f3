"""The demo's screen draws what the state says; plain lines say the same."""

from __future__ import annotations

import asyncio
import io
from pathlib import Path

import pytest
from rich.console import Console

from agent.telemetry.views import Golden, ServiceSignals
from models.overlay import Overlay, Owner, ShiftTraffic
from simulations.alongside import alongside
from simulations.demo.account import Result
from simulations.demo.screen import render
from simulations.demo.story import PlainLines, State, Story
from simulations.journal import Record, Tail

RESULT = Result(
    name="canary-errors",
    cause="version catalog/v2 (errors)",
    cause_right=True,
    healed=True,
    innocent_hit=False,
    detected_s=0.4,
    mitigated_s=0.7,
    verified_s=2.0,
    lost_with=3,
    lost_without=120,
    requests=800,
    playbook="shift-away",
    actions=("shift traffic of catalog to v1 100, v2 0",),
)


def _state(tmp_path: Path) -> State:
    state = State(began=1000.0, phase="the canary fails", onset=1010.0)
    users = Tail(tmp_path / "none")
    users.records = [Record(1.0, 1011.0 + k / 10, "home", 200, 0.1, missed=k == 0) for k in range(10)]
    state.users = users
    state.services = (ServiceSignals("catalog", Golden(540, 113, 54.0, 0.21, 0.012, 0.02, None, saturation=3.0)),)
    change = ShiftTraffic("catalog", {"v1": 100, "v2": 0})
    state.overlays = {"ov": Overlay("ov", change, Owner.AGENT, "agent-1", "", 1010.5, 1040.5, 30.0)}
    state.results = [RESULT]
    return state


def test_screen_shows_everything_at_once(tmp_path: Path) -> None:
    """Services, overlays, story, users, clock and results are all on one screen."""
    console = Console(width=180, height=40, file=io.StringIO(), record=True)
    state = _state(tmp_path)
    Story(state, PlainLines(Console(file=io.StringIO()), 1000.0)).tell("detected", "errors of catalog", 1010.4)
    console.print(render(state, 1012.5))
    text = console.export_text()
    for wanted in (
        "12.5 s",
        "+2.5 s since the onset",
        "catalog",
        "21.0 %",
        "12 ms",
        "shift traffic of catalog",
        "28 s left",
        "+0.40 s",
        "errors of catalog",
        "90.0 % well served",
        "canary-errors",
    ):
        assert wanted in text, wanted


def test_a_long_line_goes_on_below_and_the_newest_line_is_always_there(tmp_path: Path) -> None:
    """Evidence is not cut off at the edge; what there is no room for are the oldest lines."""
    console = Console(width=120, height=24, file=io.StringIO(), record=True)
    state = _state(tmp_path)
    story = Story(state, PlainLines(Console(file=io.StringIO()), 1000.0))
    for number in range(30):
        story.tell("demo", f"old {number}", 1009.0 + number / 100)
    story.tell("correlated", "cause: version catalog/v2 " + "because of this and that " * 4 + "so it says", 1010.4)
    story.tell("resolved", "verified at last", 1012.0)
    console.print(render(state, 1012.5))
    text = console.export_text()
    assert all(wanted in text for wanted in ("cause: version", "so it says", "verified at last", "old 29"))
    assert "old 0" not in text


def test_what_is_told_late_stands_where_it_happened(tmp_path: Path) -> None:
    """The screen's story is in order of time, not of arrival."""
    console = Console(width=180, height=40, file=io.StringIO(), record=True)
    state = _state(tmp_path)
    story = Story(state, PlainLines(Console(file=io.StringIO()), 1000.0))
    story.tell("resolved", "verified at last", 1012.0)
    story.tell("SLI back", "users are served again", 1011.0)
    console.print(render(state, 1012.5))
    text = console.export_text()
    assert text.index("users are served again") < text.index("verified at last")


def test_empty_state_can_be_drawn() -> None:
    """Before anything runs there is a screen too."""
    console = Console(width=80, height=24, file=io.StringIO(), record=True)
    console.print(render(State(began=1000.0), 1000.0))
    assert "no users" in console.export_text()


def test_plain_lines_are_not_markup() -> None:
    """Brackets in a message are printed as they are, times are those of the run and of the onset."""
    out = io.StringIO()
    state = State(began=1000.0, onset=1010.0)
    Story(state, PlainLines(Console(file=out), 1000.0)).tell("acting", "weights [v1: 100]", 1010.5)
    assert out.getvalue() == "  10.50 s   +0.50 s  acting     weights [v1: 100]\n"


async def test_block_error_is_raised_as_itself_and_ends_the_works() -> None:
    """An error of the block is not wrapped in a group, and what ran beside it is cancelled."""
    ended = asyncio.Event()

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    async def block() -> None:
        async with alongside({"work": work()}):
            await asyncio.sleep(0)
            raise ValueError("boom")

    with pytest.raises(ValueError, match="boom"):
        await block()
    assert ended.is_set()
