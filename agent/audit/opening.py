"""Opening the audit log: one writer at a time, and what a `kill -9` left half-written put aside, never lost."""

from __future__ import annotations

import fcntl
import hashlib
import os
from pathlib import Path
from typing import Final

import structlog
from prometheus_client import Counter

from agent.audit.files import LINE_BYTES, append_line, last_line_end, refuse_irregular
from agent.audit.reading import torn_path
from models.errors import Broken
from models.plain import Json

_log = structlog.get_logger(__name__)

TORN: Final = Counter("fibrin_audit_torn_total", "Cut-off last lines that were put aside at a start.")


def open_log(path: Path) -> int:
    """Return a descriptor of the log for appending, made if missing (mode 0600).

    Raises:
        Broken: it is no regular file.
        OSError: it cannot be opened.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    fd = os.open(path, flags, 0o600)
    try:
        refuse_irregular(fd, path)
    except Broken:
        os.close(fd)
        raise
    return fd


def take_lock(path: Path) -> int:
    """Return a descriptor that holds the log at `path` for this process; the kernel lets go of it however it ends.

    Raises:
        Broken: another process writes the log; the message names it.
        OSError: the lock file cannot be made.
    """
    place = path.with_suffix(".lock")
    lock = os.open(place, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        holder = os.pread(lock, 32, 0).decode("ascii", "replace").strip() or "unknown"
        os.close(lock)
        hint = "one agent per state directory: stop the other one, or give this one a directory of its own"
        raise Broken(f"the audit log {path} is being written by process {holder}", hint=hint) from error
    try:
        os.ftruncate(lock, 0)
        os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
    except OSError as error:  # the pid is for the message above only; the lock holds without it
        _log.info("audit.lock_unnamed", path=str(place), message=error.strerror)
    return lock


def put_aside_torn(path: Path, fd: int) -> dict[str, Json] | None:
    """Cut off a last line without an end and keep it in `.torn`; return what to note about it.

    Raises:
        Broken: it is longer than any record, so it is not what a kill leaves.
        OSError: the disk fails us.
    """
    size = os.fstat(fd).st_size
    whole = last_line_end(fd, size)
    if whole == size:
        return None
    if size - whole > LINE_BYTES:
        hint = "somebody else wrote into it; keep it as evidence, move it aside and restart the agent"
        raise Broken(f"the audit log {path} ends with {size - whole} bytes that are no record", hint=hint)
    rest = os.pread(fd, size - whole, whole)
    aside = torn_path(path)
    append_line(aside, rest + b"\n")
    os.ftruncate(fd, whole)
    os.fsync(fd)
    TORN.inc()
    _log.warning("audit.recovered", path=str(path), bytes=len(rest), kept_in=str(aside))
    return {"bytes": len(rest), "kept_in": aside.name, "sha256": hashlib.sha256(rest).hexdigest()}
