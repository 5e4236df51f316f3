"""Telling many readers of one thing, none of whom may hold us up.

`Broadcast` hands every event to every reader and drops a reader that does not keep up (it asks again and gets the whole
state). `Latest` only ever holds the newest value, so a slow reader skips what lies between.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Final, Generic, TypeVar

from control import metrics

T = TypeVar("T")

_QUEUE: Final = 1024


class Broadcast(Generic[T]):
    """Events for any number of readers, each with a queue of its own."""

    def __init__(self, name: str, *, queue: int = _QUEUE) -> None:
        self._name = name
        self._size = queue
        self._readers: set[asyncio.Queue[T | None]] = set()
        self._closed = False

    def send(self, event: T) -> None:
        """Give `event` to every reader; a reader whose queue is full is cut off."""
        for queue in tuple(self._readers):
            if queue.full():
                metrics.STREAMS_DROPPED.labels(self._name).inc()
                self._readers.discard(queue)
                queue.get_nowait()
                queue.put_nowait(None)
            else:
                queue.put_nowait(event)

    async def read(self, *first: T) -> AsyncGenerator[T, None]:
        """Yield `first`, then every event from now on, until closed or cut off."""
        queue: asyncio.Queue[T | None] = asyncio.Queue(self._size)
        self._readers.add(queue)
        try:
            for event in first:
                yield event
            while not (self._closed and queue.empty()):
                found = await queue.get()
                if found is None:
                    return
                yield found
        finally:
            self._readers.discard(queue)

    def close(self) -> None:
        """Let every reader finish."""
        self._closed = True
        for queue in self._readers:
            if queue.full():
                queue.get_nowait()
            queue.put_nowait(None)


class Latest(Generic[T]):
    """The newest value of something."""

    def __init__(self, value: T) -> None:
        self._value = value
        self._number = 0
        self._news = asyncio.Event()
        self._closed = False

    @property
    def value(self) -> T:
        """The newest value."""
        return self._value

    def set(self, value: T) -> None:
        """Replace the value and wake all readers."""
        self._value = value
        self._number += 1
        self._wake()

    async def read(self) -> AsyncGenerator[T, None]:
        """Yield the value there is and then every newer one a reader has time for, until closed."""
        seen = -1
        while not self._closed:
            if seen == self._number:
                await self._news.wait()
            else:
                seen = self._number
                yield self._value

    def close(self) -> None:
        """Let every reader finish."""
        self._closed = True
        self._wake()

    def _wake(self) -> None:
        self._news.set()
        self._news = asyncio.Event()
