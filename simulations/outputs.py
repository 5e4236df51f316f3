"""Where results go, looked at before anything runs: a place that takes nothing must not cost ten minutes of a demo."""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from models.errors import InvalidInput


def folder(path: Path | None) -> None:
    """Make a folder that results will be written to, unless None.

    Raises:
        InvalidInput: it cannot be made, or nothing can be written there.
    """
    if path is None:
        return
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        reason = "it is not a folder" if isinstance(error, FileExistsError | NotADirectoryError) else error.strerror
        raise InvalidInput(f"nothing can be written to {path}: {reason}", hint="name another folder") from error


def file(path: Path | None) -> None:
    """Look whether a file can be written, unless None; neither make nor change it.

    Raises:
        InvalidInput: it cannot.
    """
    if path is None:
        return
    try:
        if path.exists():
            with path.open("ab"):
                pass
        else:
            with tempfile.TemporaryFile(dir=path.parent):
                pass
    except OSError as error:
        raise InvalidInput(f"{path} cannot be written: {error.strerror}", hint="name another file") from error


def file_argument(text: str) -> Path:
    """Read a file's name from a command line of argparse; for `type=`."""
    path = Path(text)
    try:
        file(path)
    except InvalidInput as error:
        raise argparse.ArgumentTypeError(error.message) from error
    return path
