"""Reading the YAML that people name: files, directories, stdin; never a device or pipe, never more than is accepted."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from models.errors import InvalidInput
from models.placed import MAX_BYTES

_STDIN: Final = "-"
_YAML: Final = (".yaml", ".yml", ".json")


def read_manifests(files: Sequence[str], endings: Sequence[str] = _YAML) -> Mapping[str, str]:
    """Read YAML texts by source name from files, directories (what ends in `endings`) and stdin (`-`).

    Raises:
        InvalidInput: a path does not exist, is no file, cannot be read, is not text or too large, or a directory holds
            no manifest.
    """
    texts: dict[str, str] = {}
    for name in files:
        if name == _STDIN:
            texts["stdin"] = _text("stdin", sys.stdin.buffer.read(MAX_BYTES + 1))
            continue
        path = Path(name)
        found = [path]
        if path.is_dir():
            found = sorted(p for p in path.iterdir() if p.suffix in endings)
        if not found:
            raise InvalidInput(f"{name} holds no manifest", hint=f"expected files ending in {', '.join(endings)}")
        for each in found:
            texts[str(each)] = read_text(each)
    return texts


def read_text(path: Path) -> str:
    """Return the text of one regular file.

    Raises:
        InvalidInput: it does not exist, is no regular file, cannot be read, is not UTF-8, or is too large.
    """
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # a pipe nobody writes would hold us up
        with os.fdopen(handle, "rb") as file:
            if not stat.S_ISREG(os.fstat(handle).st_mode):
                raise InvalidInput(f"{path} is no regular file", hint="give a YAML file, or pipe it in with `-f -`")
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise InvalidInput(f"cannot read {path}: {error.strerror}", hint="give a YAML file") from error
    return _text(str(path), content)


def _text(source: str, content: bytes) -> str:
    if len(content) > MAX_BYTES:
        raise InvalidInput(f"{source} has more than the {MAX_BYTES} bytes accepted", hint="split it")
    try:
        return content.decode("utf-8").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        raise InvalidInput(f"cannot read {source}: it is not UTF-8 text", hint="give a YAML file") from error
