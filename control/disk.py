"""What to say when a state directory fails us: which file, why, how much room there is, what to do."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Final

from models.errors import Broken

HINT: Final = "make room on this disk, or name another --state-dir"


def unwritable(place: Path, error: OSError) -> Broken:
    """Return the error to raise when `place` cannot be written."""
    return Broken(f"{place} cannot be written: {error.strerror}{room(place.parent)}", hint=HINT)


def unusable(directory: Path, error: OSError) -> Broken:
    """Return the error to raise when a state directory cannot be made or is not ours."""
    blocking = next((place for place in (directory, *directory.parents) if place.exists()), directory)
    if not blocking.is_dir():
        it = "it" if blocking == directory else str(blocking)
        reason, hint = f"{it} is a file, not a directory", "name another --state-dir, or move the file away"
    else:
        reason, hint = (
            f"{error.strerror}{room(directory)}",
            "make it writable for this user, or name another --state-dir",
        )
    return Broken(f"the state directory {directory} cannot be used: {reason}", hint=hint)


def damaged(reason: str) -> bool:
    """Tell whether SQLite's words mean that the file itself is no (longer a) database."""
    return any(word in reason for word in ("malformed", "not a database", "corrupt"))


def room(directory: Path) -> str:
    """Return `; N KiB are free in DIRECTORY`, "" when that cannot be told."""
    try:
        return f"; {shutil.disk_usage(directory).free // 1024} KiB are free in {directory}"
    except OSError:  # the directory itself is gone or closed to us: the error it goes with says so
        return ""
