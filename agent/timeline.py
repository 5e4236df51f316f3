"""The agent's timeline: every line of every incident's story, in order, to be followed live.

Each line goes three ways at once: into the log (`incident.<stage>`), to whoever waits on `/v1/events`, and with the
incident into the store.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Mapping
from typing import Final

import structlog

from agent.codec import Event
from agent.incidents import Datum

KEPT: Final = 5000

log = structlog.get_logger(__name__)


class Timeline:
    """Sequenced events, the last `KEPT` of them in memory. Belongs to one event loop."""

    def __init__(self) -> None:
        self._events: deque[Event] = deque(maxlen=KEPT)
        self._last = 0
        self._arrival = asyncio.Event()

    @property
    def last(self) -> int:
        """Return the sequence of the newest event (0 before the first)."""
        return self._last

    def resume(self, events: tuple[Event, ...], last: int) -> None:
        """Continue after a restart: `events` are the newest kept ones, `last` the highest sequence ever given."""
        self._events.extend(events)
        self._last = max(last, self._last)

    def add(
        self, at: float, stage: str, message: str, incident: str = "", data: Mapping[str, Datum] = {}
    ) -> Event:  # never written to
        """Append one line, log it, wake who waits."""
        self._last += 1
        event = Event(self._last, at, incident, stage, message, dict(data))
        self._events.append(event)
        fields = {key: value for key, value in data.items() if key not in {"incident", "message", "event"}}
        if stage in {"escalated", "page", "blind", "warning"}:
            log.warning(
                f"incident.{stage}" if incident else f"agent.{stage}", incident=incident, text=message, **fields
            )
        else:
            log.info(f"incident.{stage}" if incident else f"agent.{stage}", incident=incident, text=message, **fields)
        self._arrival.set()
        self._arrival = asyncio.Event()
        return event

    def since(self, sequence: int, limit: int = 1000) -> tuple[Event, ...]:
        """Return the kept events above `sequence`, oldest first."""
        return tuple(event for event in self._events if event.sequence > sequence)[:limit]

    async def wait(self, sequence: int, seconds: float) -> tuple[Event, ...]:
        """Return events above `sequence`, waiting up to `seconds` for the first."""
        try:
            async with asyncio.timeout(seconds):
                while not (found := self.since(sequence)):
                    await self._arrival.wait()
        except TimeoutError:
            return ()
        return found
