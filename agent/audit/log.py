"""The writer of the audit log: an append that returned is on disk, or it raised.

One thread writes; records that arrive together go to disk together, with one fsync. Before each write the file must be
the one it left behind: same inode, same size. A write that fails half-way (disk full) is cut back, so the log stays
valid and the same append may succeed later. A last line that a `kill -9` cut off is put aside at the next start and
that is noted as a record. The order is always log first, anchor second.
"""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import os
import time
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import structlog
from prometheus_client import Counter

from agent.audit.chain import GENESIS, Record, plain
from agent.audit.reading import Head, head_path, read, torn_path, verify
from models.errors import Broken
from models.manifest import Json

_log = structlog.get_logger(__name__)

_BLOCK: Final = 65_536

APPENDED: Final = Counter("fibrin_audit_records_total", "Audit records that are on disk.")
FAILED: Final = Counter("fibrin_audit_failures_total", "Audit records that could not be kept.")
TORN: Final = Counter("fibrin_audit_torn_total", "Cut-off last lines that were put aside at a start.")
UNANCHORED: Final = Counter("fibrin_audit_anchor_failures_total", "Times the anchor could not be written.")


@dataclass(frozen=True, slots=True)
class _Item:
    """A record on its way to disk; `done` gets its number."""

    kind: str
    at: float
    data: Mapping[str, Json]
    done: Future[int] = field(default_factory=Future)


@dataclass(slots=True)
class _File:
    """The open log: descriptors of the log and of its lock, and what is known to be in it."""

    fd: int
    lock: int
    size: int
    head: Head
    poisoned: str = ""


class AuditLog:
    """The one writer of the log at `path` (beside it: `.head`, `.lock`, and `.torn` if ever needed).

    Opens at `start` or at the first append. Use as an async context manager, or call `stop` at the end. Any number of
    tasks of one event loop may append at once. `clock` gives Unix time in seconds.
    """

    def __init__(self, path: Path, *, clock: Callable[[], float] = time.time) -> None:
        self.path = path
        self._clock = clock
        self._queue: deque[_Item] = deque()
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="audit")
        self._file: _File | None = None
        self._stopped = False

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    @property
    def head(self) -> Head:
        """Return number and hash of the last record on disk (0 and zeros for an empty or unopened log)."""
        return self._file.head if self._file else Head(0, GENESIS)

    async def start(self) -> None:
        """Open the log, check all of it, and mend what a `kill -9` may have left.

        Raises:
            Broken: another process writes it, it was tampered with, or the disk fails us; the message says which.
        """
        await asyncio.get_running_loop().run_in_executor(self._thread, self._opened)

    async def stop(self) -> None:
        """Write what is queued, release the lock. The log cannot be used afterwards; stopping twice is harmless."""
        if self._stopped:
            return
        self._stopped = True
        await asyncio.get_running_loop().run_in_executor(self._thread, self._close)
        self._thread.shutdown(wait=True)

    async def append(self, kind: str, data: Mapping[str, object]) -> int:
        """Write one record; return its number once it is on disk.

        A caller that is cancelled meanwhile does not stop the write.

        Raises:
            InvalidInput: `data` holds something that JSON cannot say.
            Broken: it is not on disk (disk full, tampered, locked by another process). Nothing of it is in the log.
        """
        body = {str(key): plain(value, f"data.{key}") for key, value in data.items()}
        if self._stopped:
            raise Broken(f"the audit log {self.path} is closed", hint="the agent is shutting down")
        item = _Item(kind, float(self._clock()), body)
        self._queue.append(item)
        self._thread.submit(self._drain)
        return await asyncio.shield(asyncio.wrap_future(item.done))

    def _drain(self) -> None:
        """Write everything queued with one fsync (in the writer's thread)."""
        batch: list[_Item] = []
        while self._queue:
            batch.append(self._queue.popleft())
        if not batch:
            return
        try:
            numbers = self._write(self._opened(), batch)
        except Exception as error:  # noqa: BLE001 - the rim of the writer's thread: nobody may be left waiting
            FAILED.inc(len(batch))
            _log.error("audit.failed", path=str(self.path), records=len(batch), message=str(error))
            told = error if isinstance(error, Broken) else Broken(f"the audit log {self.path} failed: {error!r}")
            for item in batch:
                item.done.set_exception(told)
        else:
            APPENDED.inc(len(batch))
            for item, number in zip(batch, numbers, strict=True):
                item.done.set_result(number)

    def _write(self, file: _File, batch: list[_Item]) -> list[int]:
        self._check_untouched(file)
        head = file.head
        lines: list[bytes] = []
        numbers: list[int] = []
        for item in batch:
            record = Record.following(head.seq + 1, head.hash, item.at, item.kind, item.data)
            head = Head(record.seq, record.hash)
            lines.append(record.line())
            numbers.append(record.seq)
        blob = b"".join(lines)
        try:
            _write_all(file.fd, blob)
        except OSError as error:
            self._cut_back(file)
            hint = "free space on this disk; nothing was recorded and the log is still valid"
            raise Broken(f"the audit log {self.path} cannot be written: {error.strerror}", hint=hint) from error
        try:
            os.fsync(file.fd)
        except OSError as error:  # what the kernel holds after a failed fsync is unknown: do not go on
            self._cut_back(file)
            file.poisoned = f"the disk under the audit log {self.path} failed: {error.strerror}"
            raise Broken(file.poisoned, hint="replace the disk, then restart the agent") from error
        file.size += len(blob)
        file.head = head
        self._anchor(head)
        return numbers

    def _check_untouched(self, file: _File) -> None:
        """Refuse to write behind a log that is not as we left it."""
        hint = f"somebody else changed it; keep {self.path} as evidence, move it aside and restart the agent"
        if file.poisoned:
            raise Broken(file.poisoned, hint="replace the disk, then restart the agent")
        try:
            named = self.path.stat()
        except OSError as error:
            raise Broken(f"the audit log {self.path} is gone: {error.strerror}", hint=hint) from error
        ours = os.fstat(file.fd)
        if (named.st_dev, named.st_ino) != (ours.st_dev, ours.st_ino):
            raise Broken(f"the audit log {self.path} was replaced by another file", hint=hint)
        if ours.st_size != file.size:
            raise Broken(f"the audit log {self.path} was changed: {ours.st_size} bytes, not {file.size}", hint=hint)

    def _cut_back(self, file: _File) -> None:
        try:
            os.ftruncate(file.fd, file.size)
            os.fsync(file.fd)
        except OSError as error:
            file.poisoned = f"the audit log {self.path} cannot be cut back to its last record: {error.strerror}"

    def _anchor(self, head: Head) -> None:
        """Move the anchor; the record is safe already, so a failure only costs the tail's protection."""
        try:
            _write_anchor(head_path(self.path), head)
        except OSError as error:
            UNANCHORED.inc()
            _log.warning("audit.unanchored", path=str(self.path), seq=head.seq, message=error.strerror)

    def _opened(self) -> _File:
        if self._file is None:
            try:
                self._file = self._open()
            except OSError as error:
                hint = "check that the directory exists and belongs to you"
                raise Broken(f"the audit log {self.path} cannot be opened: {error.strerror}", hint=hint) from error
        return self._file

    def _open(self) -> _File:
        lock = self._lock()
        fd = -1
        try:
            flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
            fd = os.open(self.path, flags, 0o600)
            torn = self._put_aside_torn(fd)
            _sync_directory(self.path.parent)
            head = self._checked_head()
            file = _File(fd, lock, os.fstat(fd).st_size, head)
            _write_anchor(head_path(self.path), head)  # it may lag by what a kill came between
            if torn is not None:
                self._write(file, [_Item("audit.recovered", float(self._clock()), torn)])
        except BaseException:
            if fd >= 0:
                os.close(fd)
            os.close(lock)
            raise
        return file

    def _lock(self) -> int:
        place = self.path.with_suffix(".lock")
        lock = os.open(place, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = os.pread(lock, 32, 0).decode("ascii", "replace").strip() or "unknown"
            os.close(lock)
            hint = "one agent per state directory: stop the other one, or give this one a directory of its own"
            raise Broken(f"the audit log {self.path} is being written by process {holder}", hint=hint) from error
        try:
            os.ftruncate(lock, 0)
            os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
        except OSError as error:  # the pid is for the message above only; the lock holds without it
            _log.info("audit.lock_unnamed", path=str(place), message=error.strerror)
        return lock

    def _put_aside_torn(self, fd: int) -> dict[str, Json] | None:
        """Cut off a last line without an end and keep it in `.torn`; return what to note about it."""
        size = os.fstat(fd).st_size
        whole = _last_line_end(fd, size)
        if whole == size:
            return None
        rest = os.pread(fd, size - whole, whole)
        aside = torn_path(self.path)
        kept = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            _write_all(kept, rest + b"\n")
            os.fsync(kept)
        finally:
            os.close(kept)
        os.ftruncate(fd, whole)
        os.fsync(fd)
        TORN.inc()
        _log.warning("audit.recovered", path=str(self.path), bytes=len(rest), kept_in=str(aside))
        return {"bytes": len(rest), "kept_in": aside.name, "sha256": hashlib.sha256(rest).hexdigest()}

    def _checked_head(self) -> Head:
        """Check the whole log; return its end."""
        found = verify(self.path)
        if not found.ok:
            hint = (
                f"keep {self.path} as evidence: move it and {head_path(self.path).name} aside, then restart the agent"
            )
            raise Broken(f"the audit log {self.path} was tampered with: {found.message}", hint=hint)
        if not found.records:
            return Head(0, GENESIS)
        (last,) = read(self.path, 1)
        return Head(last.seq, last.hash)

    def _close(self) -> None:
        self._drain()
        if self._file is not None:
            os.close(self._file.fd)
            os.close(self._file.lock)
            self._file = None


def _write_all(fd: int, blob: bytes) -> None:
    """Write every byte; a short write is what a disk that is about to be full does."""
    rest = memoryview(blob)
    while rest:
        rest = rest[os.write(fd, rest) :]


def _write_anchor(place: Path, head: Head) -> None:
    """Replace the anchor in one step, so that it is always a whole one."""
    fresh = place.with_suffix(".head.new")
    fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        _write_all(fd, head.dumps())
        os.fsync(fd)
    finally:
        os.close(fd)
    fresh.replace(place)


def _sync_directory(path: Path) -> None:
    directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def _last_line_end(fd: int, size: int) -> int:
    """Return how many bytes of the file belong to whole lines."""
    position = size
    while position > 0:
        start = max(0, position - _BLOCK)
        found = os.pread(fd, position - start, start).rfind(b"\n")
        if found >= 0:
            return start + found + 1
        position = start
    return 0
