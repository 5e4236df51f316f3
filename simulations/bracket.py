"""What every running mesh of a simulation has in common: processes between a start and a stop that is never skipped.

A start that fails half-way stops what it had started. Waiting has a deadline, sees processes that end by themselves, and names
what was not there by then, with the last words of whoever should have brought it.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import aiohttp

from models.errors import Broken, FibrinError
from simulations.processes import Processes

DEADLINE_S: Final = 60.0
"""Longest wait for any one part, on a slow and busy machine."""

_POLL_S: Final = 0.03


class Bracket:
    """Use as `async with`; subclasses say how to start and how to stop. `state_dir` holds the logs."""

    def __init__(self, state_dir: Path) -> None:
        self.state_dir = state_dir
        self.logs = state_dir / "logs"
        self.processes = Processes(self.logs)

    async def __aenter__(self) -> Self:
        """Start everything and wait for it. Raises Broken naming what did not come up."""
        try:
            await self._start()
        except BaseException:
            await self._stop()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop everything, in order."""
        await asyncio.shield(self._stop())

    async def _start(self) -> None:
        raise NotImplementedError

    async def _stop(self) -> None:
        raise NotImplementedError

    async def wait_for(
        self, what: str, ready: Callable[[], Awaitable[str]], *names: str, deadline_s: float = DEADLINE_S
    ) -> None:
        """Wait until `ready` returns "" (nothing missing); errors of ours and of the network count as missing.

        Raises:
            Broken: a process ended by itself, or the deadline passed; with the last words of the processes `names`.
        """
        deadline = time.monotonic() + deadline_s
        missing = "nothing yet"
        while time.monotonic() < deadline:
            self.processes.require_running()
            try:
                missing = await ready()
            except (FibrinError, aiohttp.ClientError, OSError) as error:
                missing = str(error) or type(error).__name__
            if not missing:
                return
            await asyncio.sleep(_POLL_S)
        words = "".join(f"\n{name} said last:\n{self.processes.last_words(name)}" for name in names)
        raise Broken(
            f"not within {deadline_s:g} s: {what}: {missing}{words}",
            hint=f"the logs are in {self.logs}; is this machine overloaded?",
        )

    async def until(self, condition: Callable[[], Awaitable[bool]], what: str, deadline_s: float = DEADLINE_S) -> None:
        """Wait until `condition` holds, as `wait_for` does."""

        async def missing() -> str:
            return "" if await condition() else "not yet"

        await self.wait_for(what, missing, deadline_s=deadline_s)


async def hang_up(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Serve as an application that takes a connection, which is all a probe without a path asks for, and nothing more."""
    writer.close()
    with contextlib.suppress(ConnectionError):
        await writer.wait_closed()
