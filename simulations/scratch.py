"""The folder of a mesh that is started for one occasion: gone when that is over, unless somebody will want to read its logs.

Whatever ends the occasion (success, Ctrl-C, SIGTERM, a start that failed half-way), either the folder is removed or a word is
said about where it is and why. Only a holder that is killed (SIGKILL) leaves it silently.
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from models.errors import FibrinError


@dataclass(slots=True)
class Scratch:
    """A folder, and why it is to be left behind ("": it is not)."""

    path: Path
    kept: str = ""


@asynccontextmanager
async def scratch(tell: Callable[[str], None]) -> AsyncIterator[Scratch]:
    """Make a folder for the block. It is left behind if `kept` is set, or if the block ends with one of our errors.

    `tell` hears where it is left and why, after everything else.
    """
    folder = Scratch(Path(await asyncio.to_thread(tempfile.mkdtemp, prefix="fibrin-")))
    try:
        yield folder
    except FibrinError:
        folder.kept = folder.kept or "the error"  # it names logs
        raise
    finally:
        if folder.kept:
            tell(f"state and logs are left in {folder.path}, because of {folder.kept}")
        else:
            await asyncio.to_thread(shutil.rmtree, folder.path, ignore_errors=True)
