"""The real processes of a simulation: started with a log each, tied to us, stopped in order.

Every process is tied to its parent by the kernel (`proxy.tether`): when the demo is killed, even by SIGKILL, nothing stays
behind. Each runs in a session of its own, so that Ctrl-C at the terminal reaches the demo alone, which then stops the others
in order.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from models.errors import Broken
from proxy import tether

_LAST_WORDS = 6  # lines of a log worth showing
_TAIL_BYTES = 4000


@dataclass(slots=True)
class _Child:
    name: str
    process: asyncio.subprocess.Process
    log: Path


class Processes:
    """Starts, watches and stops children by name. `log_dir` gets one file per name."""

    def __init__(self, log_dir: Path) -> None:
        self._log_dir = log_dir
        self._children: dict[str, _Child] = {}
        self._expected_gone: set[str] = set()

    async def start(self, name: str, module: str, arguments: Sequence[str]) -> None:
        """Start `python -m module arguments` under `name`; returns before it is ready.

        Must be called on the main thread: the kernel ties a child to the thread that made it.
        """
        log = self._log_dir / f"{name}.log"
        sink = await asyncio.to_thread(os.open, log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-I", "-S", tether.__file__, str(os.getpid())),
                *(sys.executable, "-m", module, *arguments),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=sink,
                stderr=sink,
                start_new_session=True,
            )
        finally:
            os.close(sink)
        self._children[name] = _Child(name, process, log)
        self._expected_gone.discard(name)

    def pid(self, name: str) -> int:
        """Return the process id of `name`. Raises KeyError when it was never started."""
        return self._children[name].process.pid

    def pids(self) -> dict[str, int]:
        """Return the process ids of everything that runs, by name."""
        return {c.name: c.process.pid for c in self._children.values() if c.process.returncode is None}

    def exit_code(self, name: str) -> int | None:
        """Return how a process ended (negative: by which signal), None while it runs."""
        return self._children[name].process.returncode

    def ended(self) -> dict[str, str]:
        """Return how processes ended that nobody stopped, in words, by name."""
        return {
            child.name: f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
            for child in self._children.values()
            if (code := child.process.returncode) is not None and child.name not in self._expected_gone
        }

    def may_end(self, names: Iterable[str]) -> None:
        """Take it as no surprise when these end by themselves; a new start makes it one again."""
        self._expected_gone.update(names)

    def require_running(self, names: Iterable[str] | None = None) -> None:
        """Raise Broken when a process (of `names`, or any) ended that nobody stopped, with its last words."""
        ended = self.ended()
        for name in ended if names is None else [name for name in names if name in ended]:
            raise Broken(
                f"{name} ended by itself ({ended[name]}); its last words:\n{self.last_words(name)}",
                hint=f"its whole log is {self._children[name].log}",
            )

    def last_words(self, name: str) -> str:
        """Return the last lines of a process's log, indented."""
        try:
            with self._children[name].log.open("rb") as file:
                file.seek(max(0, os.fstat(file.fileno()).st_size - _TAIL_BYTES))
                lines = file.read().decode("utf-8", errors="replace").strip().splitlines()[-_LAST_WORDS:]
        except OSError as error:
            return f"    (no log: {error.strerror})"
        return "\n".join(f"    {line}" for line in lines) or "    (it said nothing)"

    async def kill(self, name: str) -> None:
        """SIGKILL, as an out-of-memory kill would; returns when it is gone. One that is gone already is fine."""
        await self._end(name, signal.SIGKILL, 10.0)

    async def stop(self, name: str, deadline_s: float) -> bool:
        """SIGTERM, then SIGKILL after `deadline_s`. Returns False when it had to be killed."""
        if await self._end(name, signal.SIGTERM, deadline_s):
            return True
        await self._end(name, signal.SIGKILL, 10.0)
        return False

    async def stop_many(self, names: Iterable[str], deadline_s: float) -> tuple[str, ...]:
        """Stop several side by side; return the names of those that had to be killed. Unknown names are passed over."""
        known = [name for name in names if name in self._children]
        ended = await asyncio.gather(*(self.stop(name, deadline_s) for name in known))
        return tuple(name for name, orderly in zip(known, ended, strict=True) if not orderly)

    async def _end(self, name: str, number: signal.Signals, deadline_s: float) -> bool:
        self._expected_gone.add(name)
        process = self._children[name].process
        if process.returncode is None:
            try:
                process.send_signal(number)
            except ProcessLookupError:
                return True
        try:
            async with asyncio.timeout(deadline_s):
                await process.wait()
        except TimeoutError:
            return False
        return True
