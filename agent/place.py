"""The agent's place on this machine: its state directory, held by one agent at a time."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import secrets
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import structlog

from control.disk import unusable, unwritable
from models.errors import Broken, Unavailable

log = structlog.get_logger(__name__)

DEFAULT_CONTROL_URL: Final = "http://127.0.0.1:15080"
TOKEN_WAIT_S: Final = 10.0


async def token(path: Path) -> str:
    """Return a token the control plane wrote, waiting a while for it to appear."""
    deadline = time.monotonic() + TOKEN_WAIT_S
    while True:
        text = ""
        try:
            text = (await asyncio.to_thread(path.read_text, encoding="utf-8")).strip()
        except FileNotFoundError:
            log.debug("agent.waits", missing=str(path))
        except OSError as error:
            raise Broken(f"cannot read {path}: {error.strerror}", hint="is this state directory yours?") from error
        if text:
            return text
        if time.monotonic() >= deadline:
            raise Unavailable(
                f"{path} is missing: the control plane makes it", hint="start `fibrin control` on this state directory"
            )
        await asyncio.sleep(0.1)


def control_url(directory: Path) -> str:
    """Return where the control plane of this state directory said it is, else its usual address."""
    try:
        return str(json.loads((directory / "control.json").read_text(encoding="utf-8"))["url"])
    except (OSError, ValueError, KeyError, TypeError):
        return DEFAULT_CONTROL_URL


def own_name(directory: Path) -> str:
    """Return this agent's name among replicas: made once, kept in its state directory.

    Raises:
        Broken: the file cannot be read or written.
    """
    place = directory / "agent.id"
    try:
        if not place.exists():
            fresh = place.with_suffix(".id.new")
            fresh.write_text(f"agent-{secrets.token_hex(4)}\n", encoding="ascii")
            fresh.replace(place)
        return place.read_text(encoding="ascii").strip()
    except OSError as error:
        raise unwritable(place, error) from error


def make_directory(directory: Path) -> None:
    """Make the state directory, for its owner's eyes only; Broken when that is impossible."""
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise unusable(directory, error) from error


@asynccontextmanager
async def only_one(directory: Path) -> AsyncIterator[None]:
    """Hold the state directory for this agent alone; the kernel lets go of it however the process ends."""
    place = directory / "agent.lock"
    try:
        handle = os.open(place, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise Broken(f"cannot open {place}: {error.strerror}", hint="is this state directory yours?") from error
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            pid = os.pread(handle, 32, 0).decode("ascii", "replace").strip()
            raise Broken(
                f"another agent (pid {pid or 'unknown'}) runs on {directory}",
                hint="stop it, or give this one its own state directory",
            ) from error
        try:
            os.ftruncate(handle, 0)
            os.pwrite(handle, f"{os.getpid()}\n".encode(), 0)
        except OSError as error:
            raise unwritable(place, error) from error
        yield
    finally:
        os.close(handle)


def announce(directory: Path, url: str) -> None:
    """Write `agent.json`: where the agent is found.

    Raises:
        Broken: it cannot be written.
    """
    place = directory / "agent.json"
    text = json.dumps({"url": url, "pid": os.getpid(), "started_at": time.time()})
    temporary = place.with_suffix(".tmp")
    try:
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(place)
    except OSError as error:
        raise unwritable(place, error) from error


def withdraw(directory: Path) -> None:
    """Remove `agent.json`."""
    (directory / "agent.json").unlink(missing_ok=True)
