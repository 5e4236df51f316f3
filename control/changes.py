"""The log of change events: numbered, bounded, waited for.

A change is the first suspect of an incident, so every module that changes something says so here. Sequence numbers go
on over restarts; a reader who was away too long is told that it lost some.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Mapping
from dataclasses import asdict

from pydantic import TypeAdapter

from control.clock import Clock
from control.store import Put, Trim, Write
from control.wire import Changes
from models.domain import ChangeEvent, ChangeKind
from models.plain import Json

_EVENT: TypeAdapter[ChangeEvent] = TypeAdapter(ChangeEvent)
_TRIM_EVERY = 100


class ChangeLog:
    """Change events of this mesh's life, the last `keep` of them."""

    def __init__(self, clock: Clock, *, keep: int) -> None:
        self._clock = clock
        self._keep = keep
        self._events: deque[ChangeEvent] = deque(maxlen=keep)
        self._sequence = 0
        self._news = asyncio.Event()
        self._closed = False

    @property
    def sequence(self) -> int:
        """Number of the newest event, 0 when there never was one."""
        return self._sequence

    def restore(self, rows: Mapping[str, Mapping[str, Json]]) -> None:
        """Take back what the store kept."""
        for body in rows.values():
            event = _EVENT.validate_python(body)
            self._events.append(event)
            self._sequence = max(self._sequence, event.sequence)

    def add(
        self,
        kind: ChangeKind,
        subject: str,
        *,
        service: str = "",
        version: str = "",
        actor: str = "",
        message: str = "",
    ) -> tuple[Write, ...]:
        """Note a change now, wake who waits for it, and return what to store of it."""
        self._sequence += 1
        at = self._clock.wall()
        event = ChangeEvent(self._sequence, at, kind, subject, service, version, actor, message)
        self._events.append(event)
        self._wake()
        put = Put("changes", f"{event.sequence:020d}", asdict(event))
        if self._sequence % _TRIM_EVERY or self._sequence <= self._keep:
            return (put,)
        return (put, Trim("changes", f"{self._sequence - self._keep + 1:020d}"))

    def since(self, sequence: int) -> Changes:
        """Return the events after `sequence`; a sequence of the future starts anew from the oldest."""
        if sequence > self._sequence:
            return Changes(tuple(self._events), self._sequence, lost=True)
        oldest = self._events[0].sequence if self._events else self._sequence + 1
        found = tuple(event for event in self._events if event.sequence > sequence)
        return Changes(found, self._sequence, lost=sequence + 1 < oldest and sequence > 0)

    async def wait(self, sequence: int, seconds: float) -> Changes:
        """Return the events after `sequence` as soon as there is one, at the latest after `seconds`."""
        try:
            async with asyncio.timeout(seconds):
                while not self._closed and self._sequence == sequence:
                    await self._news.wait()
        except TimeoutError:
            pass
        return self.since(sequence)

    def close(self) -> None:
        """Let everyone who waits go."""
        self._closed = True
        self._wake()

    def _wake(self) -> None:
        self._news.set()
        self._news = asyncio.Event()
