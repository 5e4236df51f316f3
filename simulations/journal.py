"""What users saw: one JSON line per request, written by the load generator, tailed by the demo.

The first line says when the run began and at which second of its schedule. Times are Unix seconds of one machine's
clock; `sent` is when the request was due, `seen` when its user saw the outcome.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Self

FLUSH_S = 0.1


@dataclass(frozen=True, slots=True)
class Record:
    """One user's request. `due` is its second in the schedule, `status` 0 means no answer, `trouble` names who spoiled it."""

    due: float
    sent: float
    name: str
    status: int
    latency_s: float
    missed: bool
    trouble: tuple[str, ...] = ()
    note: str = ""

    @property
    def seen(self) -> float:
        """When the user saw the outcome, Unix s."""
        return self.sent + self.latency_s

    def encode(self) -> str:
        """Render as one line of JSON (without the line end)."""
        return json.dumps(
            [
                round(self.due, 4),
                round(self.sent, 4),
                self.name,
                self.status,
                round(self.latency_s, 4),
                self.missed,
                self.trouble,
                self.note,
            ]
        )

    @classmethod
    def decode(cls, line: str) -> Self:
        """Read back one line that `encode` wrote."""
        due, sent, name, status, latency, missed, names, note = json.loads(line)
        return cls(due, sent, name, status, latency, missed, tuple(names), note)


class Journal:
    """The writing end: collects in memory, writes in a thread every `FLUSH_S`."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lines: list[str] = []
        self._closed = asyncio.Event()

    def began(self, at: float, start: float) -> None:
        """Say when the run began (Unix s) and at which second of the schedule."""
        self._lines.append(json.dumps({"began": at, "start": start}))

    def add(self, record: Record) -> None:
        """Record one request."""
        self._lines.append(record.encode())

    def close(self) -> None:
        """Let `write_until_closed` write what is left and return."""
        self._closed.set()

    async def write_until_closed(self) -> None:
        """Append to the file until `close`. Raises OSError when the file cannot be written."""
        closed = False
        while not closed:
            try:
                async with asyncio.timeout(FLUSH_S):
                    closed = await self._closed.wait()
            except TimeoutError:
                closed = False
            lines, self._lines = self._lines, []
            if lines:
                await asyncio.to_thread(self._append, lines)

    def _append(self, lines: Iterable[str]) -> None:
        with self._path.open("a", encoding="utf-8") as file:
            file.write("".join(f"{line}\n" for line in lines))


class Tail:
    """The reading end: `records` grows with every `read`."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0
        self.began: float | None = None
        self.start = 0.0
        self.records: list[Record] = []

    def read(self) -> tuple[Record, ...]:
        """Return the records written since the last call (none while the file does not exist yet)."""
        try:
            with self._path.open("rb") as file:
                file.seek(self._offset)
                data = file.read()
        except FileNotFoundError:
            return ()
        whole = data[: data.rfind(b"\n") + 1]
        self._offset += len(whole)
        fresh: list[Record] = []
        for line in whole.decode().splitlines():
            if line.startswith("{"):
                head = json.loads(line)
                self.began, self.start = float(head["began"]), float(head["start"])
            else:
                fresh.append(Record.decode(line))
        self.records.extend(fresh)
        return tuple(fresh)

    def window(self, since: float, until: float) -> tuple[Record, ...]:
        """Return the records of requests sent within [since, until), Unix s."""
        return tuple(r for r in self.records if since <= r.sent < until)
