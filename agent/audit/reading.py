"""Reading the audit log and proving that nobody changed it. Needs nothing but the files; the writer may be at work.

The chain shows a changed, removed, added or reordered record. What it cannot show, a cut tail, the anchor shows: beside
`audit.log` stands `audit.head` with the number and hash of the last record known to be on disk.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from agent.audit.chain import GENESIS, Record
from models.errors import Broken, NotFound

_BLOCK: Final = 65_536
_ATTEMPTS: Final = 5
"""How often verification starts anew because the writer was in the middle of a line."""


@dataclass(frozen=True, slots=True)
class Verification:
    """Whether the log is whole. `records` are good ones before the first bad one; `first_bad` is its number (seq) and
    `line` its line, None and 0 when all is well. `message` says it for people.
    """

    ok: bool
    records: int
    first_bad: int | None
    message: str
    line: int = 0


@dataclass(frozen=True, slots=True)
class Head:
    """The anchor: number and hash of the last record known to be durable."""

    seq: int
    hash: str

    def dumps(self) -> bytes:
        """Return it as it stands in its file."""
        return json.dumps({"hash": self.hash, "seq": self.seq}, sort_keys=True).encode() + b"\n"


def head_path(path: Path) -> Path:
    """Return where the anchor of the log at `path` stands: `audit.log` → `audit.head`."""
    return path.with_suffix(".head")


def torn_path(path: Path) -> Path:
    """Return where a cut-off last line is kept: `audit.log` → `audit.torn`."""
    return path.with_suffix(".torn")


def read_head(path: Path) -> Head | None:
    """Return the anchor of the log at `path`, or None when there is none.

    Raises:
        ValueError: the anchor is there but is not one.
    """
    try:
        body = json.loads(head_path(path).read_bytes())
    except FileNotFoundError:
        return None
    if not isinstance(body, dict) or not isinstance(body.get("seq"), int) or not isinstance(body.get("hash"), str):
        raise ValueError("the anchor is not readable")  # noqa: TRY004 - its content is wrong, not a type of ours
    return Head(body["seq"], body["hash"])


def read(path: Path, limit: int | None = None) -> tuple[Record, ...]:
    """Return the last `limit` records (all when None), oldest first.

    Lines that are not records are left out; `verify` is there to name them.

    Raises:
        NotFound: there is no log.
        Broken: the file cannot be read.
    """
    records: list[Record] = []
    try:
        for line in _backwards(path):
            if limit is not None and len(records) >= limit:
                break
            try:
                records.append(Record.parse(line))
            except ValueError:
                continue
    except FileNotFoundError as error:
        raise _missing(path) from error
    except OSError as error:
        raise Broken(f"the audit log {path} cannot be read: {error.strerror}") from error
    return tuple(reversed(records))


def verify(path: Path) -> Verification:
    """Check every record of the log and its anchor. Blocking: reads the whole file.

    Raises:
        NotFound: there is no log.
        Broken: the file cannot be read.
    """
    try:
        for _ in range(_ATTEMPTS):
            size = path.stat().st_size
            result = _verify_once(path)
            if result.ok or path.stat().st_size == size:
                return result
    except FileNotFoundError as error:
        raise _missing(path) from error
    except OSError as error:
        raise Broken(f"the audit log {path} cannot be read: {error.strerror}") from error
    return result


def _verify_once(path: Path) -> Verification:
    try:
        head = read_head(path)  # before the log: the writer moves the anchor last, so it can only lag behind
    except ValueError:
        return Verification(ok=False, records=0, first_bad=1, message=f"the anchor {head_path(path)} is not readable")
    prev, seq = GENESIS, 0
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            fault = ""
            try:
                if not line.endswith(b"\n"):
                    fault = "is cut off: the writer died while it wrote, or the file was cut"
                else:
                    record = Record.parse(line[:-1])
                    fault = _misplaced(record, seq, prev)
            except ValueError as error:
                fault = str(error)
            if not fault and head is not None and head.seq == record.seq and head.hash != record.hash:
                fault = "is not the record that the anchor names: the log was written anew"
            if fault:
                message = f"line {number}: record {seq + 1} {fault}"
                return Verification(ok=False, records=seq, first_bad=seq + 1, message=message, line=number)
            prev, seq = record.hash, record.seq
    return _end(path, head, seq)


def _misplaced(record: Record, seq: int, prev: str) -> str:
    if record.seq != seq + 1:
        return f"is missing: record {record.seq} stands in its place"
    if record.prev != prev:
        return "does not follow the record before it"
    return ""


def _end(path: Path, head: Head | None, seq: int) -> Verification:
    """Compare the end of a flawless log with its anchor."""
    if head is None and seq:
        message = f"the anchor {head_path(path)} is missing: whether records were cut off cannot be told"
        return Verification(ok=False, records=seq, first_bad=seq + 1, message=message, line=seq + 1)
    if head is not None and head.seq > seq:
        message = f"records {seq + 1} to {head.seq} are missing: the log was cut off behind record {seq}"
        return Verification(ok=False, records=seq, first_bad=seq + 1, message=message, line=seq + 1)
    return Verification(ok=True, records=seq, first_bad=None, message=f"{seq} records, unbroken")


def _backwards(path: Path) -> Iterator[bytes]:
    """Yield the whole lines of a file without their ends, last first; a last line without an end is left out."""
    with path.open("rb") as file:
        position = file.seek(0, 2)
        tail = b""
        first = True
        while position > 0:
            size = min(_BLOCK, position)
            position -= size
            file.seek(position)
            *lines, last = (file.read(size) + tail)[::-1].split(b"\n")
            tail = last[::-1]
            for line in lines:
                if not first:
                    yield line[::-1]
                first = False
        if tail and not first:
            yield tail


def _missing(path: Path) -> NotFound:
    return NotFound(f"there is no audit log at {path}", hint="has an agent run with this state directory?")
