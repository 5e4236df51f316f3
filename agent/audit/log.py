"""The writer of the audit log: an append that returned is on disk, or it raised.

One thread writes; records that arrive together go to disk together, with one fsync. Before each write the file must be
the one it left behind: same inode, same size. A write that fails half-way (disk full) is cut back, so the log stays
valid and the same append may succeed later. A last line that a `kill -9` cut off is put aside at the next start and
that is noted as a record. The order is always log first, anchor second.

A full file is moved aside under the number of its first record, and the chain goes on in a new one. Files older than
the retention are removed, after a record says which records that were and with what hash they ended.
"""

from __future__ import annotations

import asyncio
import errno
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

from agent.audit.anchors import Head, anchors_path, head_path
from agent.audit.chain import GENESIS, Record, canonical, plain
from agent.audit.files import (
    DATA_BYTES,
    append_line,
    replace_file,
    segment_path,
    segments,
    sync_directory,
    write_all,
)
from agent.audit.keys import Signer, encoded, key_path, load_signer, new_signer, next_path, publish, read_signer
from agent.audit.opening import open_log, put_aside_torn, take_lock
from agent.audit.proof import CUT, NEW_KEY, verify_end
from agent.audit.reading import newest_first, newest_first_of
from agent.audit.redaction import redacted
from models.errors import Broken, InvalidInput
from models.plain import Json

_log = structlog.get_logger(__name__)

APPENDED: Final = Counter("fibrin_audit_records_total", "Audit records that are on disk.")
FAILED: Final = Counter("fibrin_audit_failures_total", "Audit records that could not be kept.")
UNANCHORED: Final = Counter("fibrin_audit_anchor_failures_total", "Times the anchor could not be written.")
ROTATED: Final = Counter("fibrin_audit_rotations_total", "Full files of the audit log that were moved aside.")
RETAINED: Final = Counter("fibrin_audit_retention_failures_total", "Old files of the log that could not be removed.")


@dataclass(frozen=True, slots=True)
class Keeping:
    """How the log is kept. `anchors`: where anchors are collected (None: beside the log); one is added after
    `anchor_records` records or `anchor_s` seconds, whichever comes first. `file_bytes`: size from which a new file is
    begun. `keep_s`: files whose last record is older are removed (0: never). `redact`: fields that do not enter
    the log (`agent.audit.redaction`).
    """

    anchors: Path | None = None
    anchor_records: int = 1000
    anchor_s: float = 60.0
    file_bytes: int = 16 << 20
    keep_s: float = 0.0
    redact: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Item:
    """A record on its way to disk; `done` gets its number."""

    kind: str
    at: float
    data: Mapping[str, Json]
    done: Future[int] = field(default_factory=Future)


@dataclass(slots=True)
class _File:
    """The open log: descriptors of the log and of its lock, and what is known to be in it (`first`: its first record)."""

    fd: int
    lock: int
    size: int
    first: int
    head: Head
    signer: Signer
    anchored: Head = field(default_factory=lambda: Head(0, GENESIS))
    poisoned: str = ""


class AuditLog:
    """The one writer of the log at `path`. Beside it stand `.head`, `.anchors`, `.key`, `.pub`, `.lock`, full
    files, and `.torn` if ever needed.

    Opens at `start` or at the first append. Use as an async context manager, or call `stop` at the end. Any number of
    tasks of one event loop may append at once. `clock` gives Unix time in seconds.
    """

    def __init__(self, path: Path, keeping: Keeping | None = None, *, clock: Callable[[], float] = time.time) -> None:
        self.path = path
        self.keeping = keeping or Keeping()
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

    @property
    def part(self) -> int:
        """Return the number of the first record of the file being written: changes when a new file is begun."""
        return self._file.first if self._file else 0

    @property
    def key(self) -> str:
        """Return the id of the key that signs ("" before the log is open)."""
        return self._file.signer.id if self._file else ""

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

    async def rotate_key(self, why: str) -> str:
        """Let a new key sign from now on, announced by a record that the old one signs; return its id.

        Raises:
            Broken: the log cannot be written; the old key stays in force then.
        """
        if self._stopped:
            raise Broken(f"the audit log {self.path} is closed", hint="the agent is shutting down")
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, self._rotate_key, why)
        except OSError as error:
            hint = "free space, check permissions, and ask again"
            raise Broken(f"the audit log's key cannot be changed: {error.strerror}", hint=hint) from error

    async def append(self, kind: str, data: Mapping[str, object], *, at: float | None = None) -> int:
        """Write one record; return its number once it is on disk. `at`: when it happened, if not now (Unix s).

        A caller that is cancelled meanwhile does not stop the write.

        Raises:
            InvalidInput: `data` holds something that JSON cannot say, or more than a record may.
            Broken: it is not on disk (disk full, tampered, locked by another process). Nothing of it is in the log.
        """
        body = {str(key): plain(value, f"data.{key}") for key, value in data.items()}
        if (size := len(canonical(body))) > DATA_BYTES:
            raise InvalidInput(
                f"a record {kind} of {size >> 20} MiB; the audit log takes {DATA_BYTES >> 20} MiB at most"
            )
        if self._stopped:
            raise Broken(f"the audit log {self.path} is closed", hint="the agent is shutting down")
        item = _Item(kind, float(self._clock()) if at is None else at, body)
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
        secret = file.signer.secret("redaction")
        for item in batch:
            data = redacted(item.data, self.keeping.redact, secret)
            record = Record.following(head.seq + 1, head.hash, item.at, item.kind, data, signer=file.signer)
            head = Head(record.seq, record.hash)
            lines.append(record.line())
            numbers.append(record.seq)
        blob = b"".join(lines)
        try:
            write_all(file.fd, blob)
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
        self._anchor(file)
        if file.size >= self.keeping.file_bytes:
            self._next_file(file)
        return numbers

    def _next_file(self, file: _File) -> None:
        """Move the full file aside and begin another; a failure leaves the log to be opened anew by the next append."""
        full = segment_path(self.path, file.first)
        try:
            self.path.rename(full)
            os.close(file.fd)
            file.fd = open_log(self.path)
            sync_directory(self.path.parent)
        except OSError as error:
            os.close(file.lock)
            self._file = None
            _log.warning("audit.not_rotated", path=str(self.path), message=error.strerror)
            return
        file.size, file.first = 0, file.head.seq + 1
        ROTATED.inc()
        _log.info("audit.rotated", path=str(full), last=file.head.seq)
        self._anchor(file, collect=True)
        self._retain(file)

    def _retain(self, file: _File) -> None:
        """Remove full files that are older than the retention: the record of it first, the files second."""
        if not self.keeping.keep_s:
            return
        oldest = self._clock() - self.keeping.keep_s
        parts = [*segments(self.path), self.path]
        old = 0
        while old < len(parts) - 1 and (last := next(newest_first_of(parts[old]), None)) and last.at < oldest:
            old += 1
            through = last
        if not old:
            return
        names = [part.name for part in parts[:old]]
        said: dict[str, Json] = {"through": through.seq, "hash": through.hash, "files": list(names)}
        try:
            self._write(file, [_Item(CUT, float(self._clock()), said)])
            for part in parts[:old]:
                part.unlink(missing_ok=True)
            sync_directory(self.path.parent)
        except (Broken, OSError) as error:  # what is not removed now is removed after the next full file
            RETAINED.inc()
            _log.warning("audit.not_cut", files=names, message=str(error))

    def _rotate_key(self, why: str) -> str:
        file = self._opened()
        fresh = new_signer()
        replace_file(next_path(self.path), fresh.pem())
        publish(self.path, fresh.public)
        said: dict[str, Json] = {"key": fresh.id, "public": encoded(fresh.public), "why": why}
        self._write(file, [_Item(NEW_KEY, float(self._clock()), said)])
        next_path(self.path).replace(key_path(self.path))
        file = self._opened()
        file.signer = fresh
        self._anchor(file, collect=True)
        _log.info("audit.key_rotated", key=fresh.id, why=why)
        return fresh.id

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

    def _anchor(self, file: _File, *, collect: bool = False) -> None:
        """Move the anchor; the record is safe already, so a failure only costs the tail's protection."""
        now = float(self._clock())
        head = file.head.sealed(now, file.signer)
        due = (
            head.seq - file.anchored.seq >= self.keeping.anchor_records
            or now - file.anchored.at >= self.keeping.anchor_s
        )
        place = head_path(self.path)
        try:
            replace_file(place, head.dumps())
            if head.seq > file.anchored.seq and (due or collect):
                place = self.keeping.anchors or anchors_path(self.path)
                append_line(place, head.dumps())
                file.anchored = head
                _log.info("audit.anchor", seq=head.seq, hash=head.hash, key=head.key)
        except OSError as error:
            UNANCHORED.inc()
            _log.warning("audit.unanchored", path=str(place), seq=head.seq, message=error.strerror)

    def _opened(self) -> _File:
        if self._file is None:
            try:
                self._file = self._open()
            except OSError as error:
                full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
                hint = "make room on this disk" if full else "check that the directory exists and belongs to you"
                raise Broken(f"the audit log {self.path} cannot be opened: {error.strerror}", hint=hint) from error
        return self._file

    def _open(self) -> _File:
        lock = take_lock(self.path)
        fd = -1
        try:
            fd = open_log(self.path)
            torn = put_aside_torn(self.path, fd)
            sync_directory(self.path.parent)
            signer = self._signer()
            head, first = self._checked_head()
            file = _File(fd, lock, os.fstat(fd).st_size, first, head, signer)
            self._anchor(file)  # it may lag by what a kill came between
            if torn is not None:
                self._write(file, [_Item("audit.recovered", float(self._clock()), torn)])
        except BaseException:
            if fd >= 0:
                os.close(fd)
            os.close(lock)
            raise
        return file

    def _signer(self) -> Signer:
        """Return the key in force, finishing or dropping a rotation that a kill came between."""
        last = next(newest_first(self.path), None)
        waiting = next_path(self.path)
        if waiting.exists():
            candidate = read_signer(waiting)
            if last is not None and last.kind == NEW_KEY and last.data.get("key") == candidate.id:
                waiting.replace(key_path(self.path))
            else:
                waiting.unlink()
        return load_signer(self.path, fresh=last is None)

    def _checked_head(self) -> tuple[Head, int]:
        """Check the newest file; return the log's end, and the number of the first record of the file being written."""
        found = verify_end(self.path, anchors=self.keeping.anchors)
        if not found.ok:
            hint = f"keep {self.path} as evidence: move it and its companions aside, then restart the agent"
            raise Broken(f"the audit log {self.path} was tampered with: {found.message}", hint=hint)
        last = next(newest_first(self.path), None)
        if last is None:
            return Head(0, GENESIS), 1
        count = self.path.stat().st_size and found.records
        return Head(last.seq, last.hash), last.seq - count + 1

    def _close(self) -> None:
        self._drain()
        if self._file is not None:
            self._anchor(self._file, collect=True)
            os.close(self._file.fd)
            os.close(self._file.lock)
            self._file = None
