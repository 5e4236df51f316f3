"""What to say when the disk under a state directory takes nothing more: which file, how much room there is, what to do."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Final

from models.errors import Broken

HINT: Final = "make room on this disk, or name another --state-dir"


def unwritable(place: Path, error: OSError) -> Broken:
    """Return the error to raise when `place` cannot be written."""
    return Broken(f"{place} cannot be written: {error.strerror}{room(place.parent)}", hint=HINT)


def room(directory: Path) -> str:
    """Return `; N KiB are free in DIRECTORY`, "" when that cannot be told."""
    try:
        return f"; {shutil.disk_usage(directory).free // 1024} KiB are free in {directory}"
    except OSError:  # the directory itself is gone or closed to us: the error it goes with says so
        return ""
