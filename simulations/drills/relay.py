"""A TCP relay that does to connections what bad networks do, where the kernel has no `tc netem`.

It stands between a sidecar and its application. Delay and jitter hold pieces of data back, each direction by itself. A lost
packet shows to TCP's users as a pause: a lost piece waits 200 ms for its retransmission, twice as long each time it is lost
again (Linux' least retransmission time-out, RFC 6298). Resets send RST. In a partition nothing gets through, connections
of before and new ones hang; after `half_open` only those of before hang, as when the other host went away without a word.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import struct
from dataclasses import dataclass
from typing import Final

PIECE: Final = 16 * 1024
RETRANSMIT_S: Final = 0.2
MOST_RETRANSMISSIONS: Final = 6
CONNECT_S: Final = 2.0

_AT_ONCE: Final = struct.pack("ii", 1, 0)  # SO_LINGER: close sends RST


@dataclass(frozen=True, slots=True)
class Condition:
    """What the network is like. Seconds, shares 0–1, bytes per second and direction of a connection (0: no limit)."""

    delay_s: float = 0.0
    jitter_s: float = 0.0
    loss: float = 0.0
    bytes_per_s: float = 0.0
    resets: float = 0.0
    partition: bool = False
    half_open: bool = False


FINE: Final = Condition()


class Relay:
    """Listens at `here` and passes on to `there` while its `async with` block runs. `condition` may change at any time."""

    def __init__(self, here: tuple[str, int], there: tuple[str, int], seed: int = 0) -> None:
        self._here = here
        self._there = there
        self._random = random.Random(f"{seed}:{here}")
        self._condition = FINE
        self._whole = asyncio.Event()
        self._whole.set()
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()
        self._stuck: set[asyncio.Task[None]] = set()

    @property
    def condition(self) -> Condition:
        """What the network is like now."""
        return self._condition

    @condition.setter
    def condition(self, condition: Condition) -> None:
        if condition.half_open and not self._condition.half_open:
            self._stuck = set(self._connections)
        if self._condition.half_open and not condition.half_open:
            for task in self._stuck:
                task.cancel()  # the other side has forgotten them: it answers with RST
            self._stuck = set()
        self._condition = condition
        if condition.partition:
            self._whole.clear()
        else:
            self._whole.set()

    async def start(self) -> None:
        """Listen. Raises OSError when the address is taken."""
        self._server = await asyncio.start_server(self._serve, *self._here, backlog=1024, reuse_address=True)

    async def stop(self) -> None:
        """Close everything."""
        if self._server is not None:
            self._server.close()
        for task in list(self._connections):
            task.cancel()
        if self._connections:
            await asyncio.wait(self._connections, timeout=2.0)
        if self._server is not None:
            await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None, "a connection is served in a task"
        self._connections.add(task)
        inner: asyncio.StreamWriter | None = None
        try:
            await self._whole.wait()
            async with asyncio.timeout(CONNECT_S):
                back, inner = await asyncio.open_connection(*self._there)
            async with asyncio.TaskGroup() as group:
                group.create_task(self._pump(task, reader, inner), name="relay in")
                group.create_task(self._pump(task, back, writer), name="relay out")
        except* (OSError, TimeoutError, _Reset):
            _reset(writer)  # nobody there, or the line was cut: the other side hears of it
            if inner is not None:
                _reset(inner)
        except* asyncio.CancelledError:
            _reset(writer)
            if inner is not None:
                _reset(inner)
        finally:
            self._connections.discard(task)
            for each in (writer, inner):
                if each is not None:
                    each.close()
                    with contextlib.suppress(OSError):
                        await each.wait_closed()

    async def _pump(
        self, connection: asyncio.Task[None], source: asyncio.StreamReader, sink: asyncio.StreamWriter
    ) -> None:
        while piece := await source.read(PIECE):
            await self._suffer(connection, len(piece))
            sink.write(piece)
            await sink.drain()
        if sink.can_write_eof():
            sink.write_eof()

    async def _suffer(self, connection: asyncio.Task[None], size: int) -> None:
        """Let one piece of data go through what the network is like."""
        await self._whole.wait()
        if connection in self._stuck:
            await asyncio.Event().wait()  # until the connection is cancelled
        now = self._condition
        if now.resets and self._random.random() < now.resets:
            raise _Reset
        wait = max(0.0, now.delay_s + now.jitter_s * self._random.uniform(-1, 1))
        again = RETRANSMIT_S
        for _ in range(MOST_RETRANSMISSIONS):
            if self._random.random() >= now.loss:
                break
            wait += again
            again *= 2
        if now.bytes_per_s:
            wait += size / now.bytes_per_s
        if wait:
            await asyncio.sleep(wait)
            await self._whole.wait()


class _Reset(Exception):
    """The connection is to be reset now."""


def _reset(writer: asyncio.StreamWriter) -> None:
    """Close with RST."""
    raw = writer.get_extra_info("socket")
    if raw is not None:
        with contextlib.suppress(OSError):
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _AT_ONCE)
    writer.transport.abort()
