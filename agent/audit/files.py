"""Files that survive a power cut: whole writes, replacements in one step, and where the parts of a log stand."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Final

from models.errors import Broken

DATA_BYTES: Final = 16 << 20
"""What a record may hold, as JSON: a decision about a mesh of a thousand instances needs a tenth of it."""

LINE_BYTES: Final = 2 * DATA_BYTES
"""The longest line that is read: no record is longer, so whatever is behind it is none of ours."""

_BLOCK: Final = 65_536
_DIGITS: Final = 12


def open_regular(place: Path) -> BinaryIO:
    """Open a file for reading; never waits, whatever stands there.

    Raises:
        Broken: it is a device, a pipe, a directory …: such a thing may have no end.
        OSError: it cannot be opened.
    """
    fd = os.open(place, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        refuse_irregular(fd, place)
    except Broken:
        os.close(fd)
        raise
    return os.fdopen(fd, "rb")


def refuse_irregular(fd: int, place: Path) -> None:
    """Raise Broken unless the open file is a regular one."""
    mode = os.fstat(fd).st_mode
    if stat.S_ISREG(mode):
        return
    kinds = (
        (stat.S_ISCHR, "a device"),
        (stat.S_ISBLK, "a device"),
        (stat.S_ISDIR, "a directory"),
        (stat.S_ISFIFO, "a pipe"),
    )
    found = next((name for test, name in kinds if test(mode)), "something else")
    aim = place.resolve()
    led = f" (a link to {aim})" if place.is_symlink() else ""
    raise Broken(f"{place}{led} is {found}, not a regular file", hint="find out who put it there, and move it away")


def bounded_lines(place: Path) -> Iterator[bytes]:
    """Yield the lines of a regular file with their ends; one longer than `LINE_BYTES` comes cut off at that and is the last.

    Raises:
        Broken: it is no regular file.
        OSError: it cannot be read.
    """
    with open_regular(place) as file:
        while line := file.readline(LINE_BYTES + 1):
            yield line
            if len(line) > LINE_BYTES:
                return


def write_all(fd: int, blob: bytes) -> None:
    """Write every byte; a short write is what a disk that is about to be full does."""
    rest = memoryview(blob)
    while rest:
        rest = rest[os.write(fd, rest) :]


def replace_file(place: Path, content: bytes) -> None:
    """Replace a file in one step (mode 0600), so that it is always a whole one."""
    fresh = place.with_name(place.name + ".new")
    fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        write_all(fd, content)
        os.fsync(fd)
    finally:
        os.close(fd)
    fresh.replace(place)


def append_line(place: Path, line: bytes) -> None:
    """Add one line to a file (mode 0600), on disk when this returns."""
    fd = os.open(place, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        write_all(fd, line)
        os.fsync(fd)
    finally:
        os.close(fd)


def sync_directory(path: Path) -> None:
    """Make names that were added to or removed from a directory durable."""
    directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def last_line_end(fd: int, size: int) -> int:
    """Return how many bytes of the file belong to whole lines."""
    position = size
    while position > 0:
        start = max(0, position - _BLOCK)
        found = os.pread(fd, position - start, start).rfind(b"\n")
        if found >= 0:
            return start + found + 1
        position = start
    return 0


def segment_path(path: Path, first: int) -> Path:
    """Return where the part of the log at `path` that begins with record `first` is kept once it is full."""
    return path.with_name(f"{path.name}.{first:0{_DIGITS}d}")


def segments(path: Path) -> tuple[Path, ...]:
    """Return the full parts of the log at `path`, oldest first (the one being written is not among them)."""
    pattern = f"{path.name}.{'[0-9]' * _DIGITS}"
    return tuple(sorted(path.parent.glob(pattern)))
