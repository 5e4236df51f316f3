"""A held demo's processes come back when a visitor kills them."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from models.errors import Broken
from simulations.demo.hold import Supervisor
from simulations.processes import Processes

NAME = "one"


@pytest.fixture
async def processes(tmp_path: Path) -> AsyncIterator[Processes]:
    """Real children, one of which runs."""
    found = Processes(tmp_path)
    await serve(found)
    yield found
    await found.stop_many([NAME], 8.0)


async def serve(processes: Processes) -> None:
    """Start the child."""
    await processes.start(NAME, "http.server", ["--bind", "127.0.0.1", "0"])


async def killed(processes: Processes) -> int:
    """Kill the child as a visitor does; return its process id."""
    pid = processes.pid(NAME)
    os.kill(pid, signal.SIGKILL)
    while processes.exit_code(NAME) is None:
        await asyncio.sleep(0.01)
    return pid


async def test_what_a_visitor_kills_comes_back_and_is_told(processes: Processes) -> None:
    """Killed twice, started twice; nothing is started while it runs."""
    told: list[str] = []
    supervisor = Supervisor(processes, {NAME: lambda: serve(processes)}, told.append, back_s=0.0)
    await supervisor.look()
    assert told == []
    for _ in range(2):
        pid = await killed(processes)
        await supervisor.look()
        assert processes.pid(NAME) != pid
        assert processes.ended() == {}
    assert told == ["one ended (signal SIGKILL); it is started again in 0 s", "one runs again"] * 2


async def test_a_start_that_fails_is_tried_again(processes: Processes) -> None:
    """A process that is killed while it starts, or cannot start yet, does not end the demo."""
    tries: list[int] = []

    async def start() -> None:
        tries.append(len(tries))
        if len(tries) == 1:
            raise Broken("the port is not free yet", hint="")
        await serve(processes)

    supervisor = Supervisor(processes, {NAME: start}, lambda _: None, back_s=0.0)
    await killed(processes)
    await supervisor.look()
    assert processes.ended() != {}
    await supervisor.look()
    assert processes.ended() == {}


async def test_what_nobody_can_start_ends_the_demo(processes: Processes) -> None:
    """Without the process that runs the sidecars nothing is left to hold: its end is an error that names it."""
    await killed(processes)
    with pytest.raises(Broken, match="one ended by itself"):
        await Supervisor(processes, {}, lambda _: None).look()
