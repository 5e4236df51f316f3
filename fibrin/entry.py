"""Where `fibrin` begins: ends quietly on a signal while the rest is still being imported, which takes half a second."""

from __future__ import annotations

import importlib
import os
import signal
from types import FrameType


def main() -> None:
    """Import the command line and run it."""
    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) is not signal.SIG_IGN:  # a shell's background job ignores Ctrl-C: so do we
            signal.signal(number, _leave)
    importlib.import_module("fibrin.cli").main()


def _leave(number: int, _: FrameType | None) -> None:
    """End at once: nothing has been begun that would have to be taken back."""
    os._exit(128 + number)
