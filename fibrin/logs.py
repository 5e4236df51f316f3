"""Where log lines go: to stderr, and when that takes none (a full disk) they are counted, never the end of a process."""

from __future__ import annotations

from typing import Final, TextIO

from prometheus_client import Counter

LOST: Final = Counter("fibrin_log_lines_lost_total", "Log lines that could not be written.")


class Sink:
    """A stream for structlog that outlives its disk; it says how many lines are missing once it can write again."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._missing = 0

    def write(self, text: str) -> int:
        """Write and flush one line, or count it as lost."""
        try:
            if self._missing:
                self._stream.write(f"{self._missing} log lines before this one could not be written\n")
                self._stream.flush()
                self._missing = 0
            self._stream.write(text)
            self._stream.flush()
        except (OSError, ValueError):  # ValueError: the stream is closed
            self._missing += 1
            LOST.inc()
        return len(text)

    def flush(self) -> None:
        """Do nothing: `write` has flushed."""
