"""A helper process of a measurement: started as a module, spoken to in lines, ended with the measurement."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from types import TracebackType
from typing import Any, Self

from models.errors import Broken
from proxy import tether

_LINE_BYTES = 1 << 20


def tethered() -> tuple[str, ...]:
    """Return what to put before a command so that the kernel ends it with us, were we killed."""
    return (sys.executable, "-I", "-S", tether.__file__, str(os.getpid()))


class Child:
    """Runs `python -m module arguments` while the context lasts."""

    def __init__(self, module: str, *arguments: str) -> None:
        self._module = module
        self._arguments = arguments
        self._process: asyncio.subprocess.Process | None = None

    async def __aenter__(self) -> Self:
        """Start it; returns before it is ready."""
        self._process = await asyncio.create_subprocess_exec(
            *(*tethered(), sys.executable, "-m", self._module, *self._arguments),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            limit=_LINE_BYTES,
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Kill it."""
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
            await self._process.wait()

    @property
    def pid(self) -> int:
        """Process id."""
        assert self._process is not None
        return self._process.pid

    def tell(self, order: object) -> None:
        """Send one line of JSON."""
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(order).encode() + b"\n")

    async def hear(self, within_s: float) -> Any:
        """Return the next line, decoded from JSON (a bare word stays one).

        Raises:
            Broken: it ended, or said nothing in time.
        """
        assert self._process is not None
        assert self._process.stdout is not None
        try:
            async with asyncio.timeout(within_s):
                line = (await self._process.stdout.readline()).decode().strip()
        except TimeoutError as error:
            raise Broken(
                f"{self._module} said nothing for {within_s:g} s", hint="is this machine overloaded?"
            ) from error
        if not line:
            raise Broken(f"{self._module} ended", hint="what it said stands above")
        return json.loads(line) if line[0] in "[{" else line
