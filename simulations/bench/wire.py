"""A load generator and an application that cost next to nothing: bare HTTP/1.1 over asyncio protocols.

A full HTTP client would spend ten times what the sidecars spend, and on a small machine its noise would be all one sees.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from dataclasses import dataclass, field

RESPONSE = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-type: text/plain\r\n\r\nok"
GRACE_S = 2.0
"""How long answers are waited for after the last request."""
_END = b"\r\n\r\n"


class Application(asyncio.Protocol):
    """Answers every request with the same two bytes."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._buffer = b""

    def data_received(self, data: bytes) -> None:
        """Answer once for every complete request head (requests carry no body)."""
        self._buffer += data
        whole = self._buffer.count(_END)
        if whole:
            self._buffer = self._buffer.rpartition(_END)[2]
            self._transport.write(RESPONSE * whole)


@dataclass(slots=True)
class Tally:
    """What a load run saw: latencies in seconds, how many of these answers were not 200, how many never came."""

    latencies: list[float] = field(default_factory=list)
    failed: int = 0
    unanswered: int = 0


class Connection(asyncio.Protocol):
    """One keep-alive connection; `send` may be called again once the answer is there."""

    def __init__(self, request: bytes, tally: Tally, free: deque[Connection]) -> None:
        self._request = request
        self._tally = tally
        self._free = free
        self._sent = 0.0
        self._buffer = b""
        self.waiting = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Offer the connection for use."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._free.append(self)

    def send(self) -> None:
        """Send one request."""
        self.waiting = True
        self._sent = time.perf_counter()
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        """Take the answer (its body is two bytes, in the same or the next segment)."""
        self._buffer += data
        head, found, body = self._buffer.partition(_END)
        if not found or len(body) < _length(head):
            return
        self._tally.latencies.append(time.perf_counter() - self._sent)
        if not head.startswith(b"HTTP/1.1 200"):
            self._tally.failed += 1
        self._buffer = b""
        self.waiting = False
        self._free.append(self)


def _length(head: bytes) -> int:
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            return int(line.partition(b":")[2])
    return 0


async def load(place: tuple[str, int], request: bytes, *, rate: float, seconds: float, connections: int = 16) -> Tally:
    """Send `request` at an even `rate` per second for `seconds`; a late tick sends what is due, never more.

    Requests for which no connection is free are sent as soon as one is, so the load stays open up to `connections`.
    """
    loop = asyncio.get_running_loop()
    tally = Tally()
    free: deque[Connection] = deque()
    opened = [
        await loop.create_connection(lambda: Connection(request, tally, free), *place) for _ in range(connections)
    ]
    began = time.perf_counter()
    sent = 0
    while (now := time.perf_counter() - began) < seconds:
        due = int(now * rate)
        while sent < due and free:
            free.popleft().send()
            sent += 1
        await asyncio.sleep(0.001)
    deadline = time.perf_counter() + GRACE_S
    while len(free) < connections and time.perf_counter() < deadline:  # noqa: ASYNC110 - answers come to protocols
        await asyncio.sleep(0.005)
    for transport, connection in opened:
        tally.unanswered += connection.waiting
        transport.close()
    return tally


async def serve(place: tuple[str, int]) -> asyncio.Server:
    """Start the application on `place`."""
    return await asyncio.get_running_loop().create_server(Application, *place)
