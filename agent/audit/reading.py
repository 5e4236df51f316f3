"""Reading the audit log: its records, oldest or newest first, over all of its files. The writer may be at work.

A log is `audit.log`, which is being written, and before it the full parts `audit.log.<first record>`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

from agent.audit.chain import Record
from agent.audit.files import LINE_BYTES, open_regular, segments
from models.errors import Broken, NotFound

_BLOCK: Final = 65_536


def torn_path(path: Path) -> Path:
    """Return where a cut-off last line is kept: `audit.log` → `audit.torn`."""
    return path.with_suffix(".torn")


def read(path: Path, limit: int | None = None) -> tuple[Record, ...]:
    """Return the last `limit` records (all when None), oldest first.

    Lines that are not records are left out; `verify` is there to name them.

    Raises:
        NotFound: there is no log.
        Broken: the file cannot be read.
    """
    records: list[Record] = []
    for record in newest_first(path):
        if limit is not None and len(records) >= limit:
            break
        records.append(record)
    return tuple(reversed(records))


def find(path: Path, seq: int) -> Record:
    """Return one record by its number.

    Raises:
        NotFound: there is no log, or no such record in it (any more).
        Broken: a file cannot be read.
    """
    for record in newest_first(path):
        if record.seq == seq:
            return record
        if record.seq < seq:
            break
    raise NotFound(f"the audit log {path} has no record {seq}", hint="`fibrin audit list` shows what there is")


def newest_first(path: Path) -> Iterator[Record]:
    """Yield every record, newest first.

    Raises:
        NotFound: there is no log.
        Broken: a file cannot be read.
    """
    oldest: int | None = None
    place: Path | None = present(path)
    done: set[Path] = set()
    while place is not None:
        done.add(place)
        try:
            for record in newest_first_of(place):
                if oldest is None or record.seq < oldest:  # the file may have been moved aside while we read it
                    oldest = record.seq
                    yield record
        except FileNotFoundError:  # cut by retention, or between two files: the older ones have the rest
            pass
        except OSError as error:
            raise Broken(f"the audit log {place} cannot be read: {error.strerror}") from error
        place = next((part for part in reversed(segments(path)) if part not in done), None)


def newest_first_of(part: Path) -> Iterator[Record]:
    """Yield the records of one file, newest first; lines that are not records are left out.

    Raises:
        Broken: it is no regular file, or a line of it is longer than any record.
        OSError: it cannot be read.
    """
    for line in _backwards(part):
        try:
            yield Record.parse(line)
        except ValueError:
            continue


def present(path: Path) -> Path:
    """Return `path` if a log is there, or parts of one; raise NotFound otherwise."""
    if not path.exists() and not segments(path):
        raise missing(path)
    return path


def missing(path: Path) -> NotFound:
    """Return the error for a log that does not exist."""
    if not path.parent.is_dir():
        return NotFound(f"there is no state directory {path.parent}", hint="name a mesh's with --state-dir")
    return NotFound(f"there is no audit log at {path}", hint="has an agent run with this state directory?")


def _backwards(path: Path) -> Iterator[bytes]:
    """Yield the whole lines of a file without their ends, last first; a last line without an end is left out."""
    with open_regular(path) as file:
        position = file.seek(0, 2)
        pieces: list[bytes] = []  # of the line whose beginning is further up, last piece first
        held = 0
        ended = False
        while position > 0:
            size = min(_BLOCK, position)
            position -= size
            file.seek(position)
            beginning, *lines = file.read(size).split(b"\n")
            if lines:
                pieces.append(lines.pop())
                if ended:
                    yield b"".join(reversed(pieces))
                yield from reversed(lines)
                pieces, held, ended = [], 0, True
            pieces.append(beginning)
            held += len(beginning)
            if held > LINE_BYTES:
                hint = "`fibrin audit verify` names the line; keep the file as evidence and move it aside"
                raise Broken(f"the audit log {path} has a line longer than {LINE_BYTES >> 20} MiB", hint=hint)
        if ended and pieces:
            yield b"".join(reversed(pieces))
