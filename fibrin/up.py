"""`fibrin up` and `fibrin down`: control plane and agent of one machine, as two supervised processes.

The two stay separate processes (each its own CPU budget, each may crash alone); this module only starts them, restarts a
crashed one with back-off, and stops them in order: the agent first, so that no action is half-way when the control plane goes.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import structlog

from control import statedir
from control.disk import unwritable
from models.errors import Broken, Conflict, Unavailable

log = structlog.get_logger(__name__)

ORDER: Final = ("control", "agent")
SUPERVISOR: Final = "up"
STOP_DEADLINE_S: Final = 10.0
START_DEADLINE_S: Final = 20.0
STABLE_S: Final = 10.0
MAX_BACKOFF_S: Final = 5.0
_PR_SET_PDEATHSIG: Final = 1


@dataclass(slots=True)
class _Child:
    name: str
    argv: Sequence[str]
    process: asyncio.subprocess.Process | None = None
    failures: int = 0
    stopping: bool = field(default=False)


async def up(state_dir: Path, extra: Sequence[str], on_ready: Callable[[], None]) -> int:
    """Run both processes until a signal arrives; return the exit code.

    Args:
        state_dir: where both keep their state; created when missing.
        extra: global flags to hand on (`--config`, `--log-level`).
        on_ready: called once when both have written their address files.

    Raises:
        Conflict: a mesh is up on this state directory already.
        Broken: a process ended before it was ready; its own message is on stderr.
    """
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    base = [sys.executable, "-m", "fibrin", "--state-dir", str(state_dir), *extra]
    children = [_Child(name, [*base, name]) for name in ORDER]
    place = state_dir / f"{SUPERVISOR}.json"
    try:
        _claim(state_dir, place)
        for child in children:
            await _start(child)
            await _until_ready(child, state_dir, stop)
        if not stop.is_set():
            on_ready()
        async with asyncio.TaskGroup() as group:
            keepers = [group.create_task(_keep(c, stop), name=f"keep {c.name}") for c in children]
            await stop.wait()
            for keeper in keepers:
                keeper.cancel()
    finally:
        for child in reversed(children):
            await _stop(child)
        if _pid_of(state_dir, SUPERVISOR) == os.getpid():
            place.unlink()
    return 0


async def down(state_dir: Path) -> list[str]:
    """Stop the agent, then the control plane of `state_dir`; return what was stopped.

    Raises:
        Unavailable: nothing runs there.
        Broken: a process did not end by its deadline and had to be killed.
    """
    stopped: list[str] = []
    stubborn: list[str] = []
    for name in (SUPERVISOR, *reversed(ORDER)):  # the supervisor first, or it would start the others again
        pid = _pid_of(state_dir, name)
        if pid is None:
            continue
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
            if not await _gone(pid, STOP_DEADLINE_S * (len(ORDER) + 1) if name == SUPERVISOR else STOP_DEADLINE_S):
                stubborn.append(f"{name} (pid {pid})")
                os.kill(pid, signal.SIGKILL)
        stopped += ORDER[::-1] if name == SUPERVISOR else [name]
    if stubborn:
        raise Broken(
            f"{', '.join(stubborn)} did not stop within {STOP_DEADLINE_S:g} s and was killed", hint="read its log"
        )
    if not stopped:
        raise Unavailable(f"nothing runs on {state_dir}", hint="start a mesh with `fibrin up`")
    return stopped


def _claim(state_dir: Path, place: Path) -> None:
    """Note that this process supervises `state_dir`; Conflict when another one does."""
    statedir.make(state_dir)
    other = _pid_of(state_dir, SUPERVISOR)
    if other is not None:
        raise Conflict(f"a mesh is up on {state_dir} already (pid {other})", hint="stop it with `fibrin down`")
    try:
        place.write_text(json.dumps({"pid": os.getpid()}), encoding="utf-8")
    except OSError as error:
        raise unwritable(place, error) from error


def _pid_of(state_dir: Path, name: str) -> int | None:
    """Return the live process that `<name>.json` names; a recycled pid (another command line) does not count."""
    try:
        found = json.loads((state_dir / f"{name}.json").read_text(encoding="utf-8"))
        pid = int(found["pid"])
        command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return pid if name.encode() in command else None


async def _gone(pid: int, deadline_s: float) -> bool:
    deadline = time.monotonic() + deadline_s
    while time.monotonic() < deadline:
        if not _alive(pid):
            return True
        await asyncio.sleep(0.05)
    return False


def _alive(pid: int) -> bool:
    """Tell whether `pid` still runs; a zombie waiting for its parent does not count."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[0]
    except (OSError, IndexError):
        return False
    return state != "Z"


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


async def _start(child: _Child) -> None:
    child.process = await asyncio.create_subprocess_exec(
        *child.argv, start_new_session=True, preexec_fn=_die_with_parent
    )
    log.info("up.started", process=child.name, pid=child.process.pid)


async def _until_ready(child: _Child, state_dir: Path, stop: asyncio.Event) -> None:
    assert child.process is not None
    deadline = time.monotonic() + START_DEADLINE_S
    while not stop.is_set():
        if child.process.returncode is not None:
            raise Broken(f"{child.name} ended before it was ready", hint="its message stands above")
        if _pid_of(state_dir, child.name) == child.process.pid:
            return
        if time.monotonic() > deadline:
            raise Broken(f"{child.name} was not ready within {START_DEADLINE_S:g} s", hint="run with --log-level debug")
        await asyncio.sleep(0.05)


async def _keep(child: _Child, stop: asyncio.Event) -> None:
    """Restart `child` whenever it ends, with exponential back-off that forgets after a stable while."""
    while not stop.is_set():
        assert child.process is not None
        began = time.monotonic()
        code = await child.process.wait()
        child.failures = 1 if time.monotonic() - began > STABLE_S else child.failures + 1
        delay = min(MAX_BACKOFF_S, 0.1 * 2**child.failures)
        log.warning("up.restarting", process=child.name, exit_code=code, failures=child.failures, delay_s=delay)
        await asyncio.sleep(delay)
        await _start(child)


async def _stop(child: _Child) -> None:
    process = child.process
    if process is None or process.returncode is not None:
        return
    with contextlib.suppress(ProcessLookupError):
        process.terminate()
    try:
        await asyncio.wait_for(process.wait(), STOP_DEADLINE_S)
    except TimeoutError:
        log.warning("up.killed", process=child.name, deadline_s=STOP_DEADLINE_S)
        process.kill()
        await process.wait()
