"""The measuring parts themselves: what a load run counts, what the hand-made HTTP/2 stream understands."""

from __future__ import annotations

import asyncio
import os
import socket
import time

import pytest

from models.errors import Broken
from simulations.addresses import free_port
from simulations.bench import frames, wire
from simulations.bench.overhead import Disturbed, Way, sample
from simulations.bench.pollers import Poll
from simulations.bench.quiet import Ledger
from simulations.bench.rig import cpu_seconds

_GET = b"GET / HTTP/1.1\r\n\r\n"


class _Answers(asyncio.Protocol):
    """Answers every request with `answer`, or never."""

    answer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        """Answer."""
        assert data
        self.transport.write(self.answer)


async def served(answer: bytes) -> tuple[asyncio.Server, tuple[str, int]]:
    """Serve `answer` on a port of its own."""
    place = ("127.0.0.1", free_port())
    kind = type("Answers", (_Answers,), {"answer": answer})
    return await asyncio.get_running_loop().create_server(kind, *place), place


async def test_an_error_is_no_fast_answer() -> None:
    """A round with failed answers is refused, however fast they were."""
    server, place = await served(b"HTTP/1.1 503 No\r\ncontent-length: 0\r\n\r\n")
    async with server:
        with pytest.raises(Disturbed, match="were no 200"):
            await sample(Way(place, ()), 200.0, 0.05)


async def test_an_answer_that_does_not_come_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """A request without an answer is counted as such."""
    monkeypatch.setattr(wire, "GRACE_S", 0.05)
    server, place = await served(b"")
    async with server:
        tally = await wire.load(place, _GET, rate=100.0, seconds=0.05, connections=2)
    assert (tally.unanswered, tally.latencies) == (2, [])


async def test_a_rate_not_reached_is_refused() -> None:
    """A round in which the generator could not send what was due does not count."""
    place = ("127.0.0.1", free_port())
    async with await wire.serve(place):
        with pytest.raises(Disturbed, match="requests a second"):
            await sample(Way(place, ()), 1e7, 0.05)


def test_cpu_clock_counts_what_this_process_uses() -> None:
    """The clock of a process moves with its work, finer than a tick of 10 ms."""
    before, own = cpu_seconds([os.getpid()]), time.process_time()
    while time.process_time() < own + 0.003:
        pass
    assert 0.003 <= cpu_seconds([os.getpid()]) - before <= 0.5


def test_what_others_take_is_told_apart() -> None:
    """Work of a stranger counts as taken by others, our own and our children's does not."""
    before = Ledger(at=0.0, busy=100.0, stolen=1.0, own=10.0)
    assert Ledger(at=10.0, busy=112.0, stolen=2.0, own=15.0).others(before) == pytest.approx(0.8)
    assert Ledger(at=10.0, busy=104.9, stolen=1.0, own=15.0).others(before) == 0.0
    now = Ledger.now()
    assert now.busy > 0
    assert now.own > 0


def test_messages_come_out_whole_however_they_are_cut() -> None:
    """A gRPC message cut anywhere, and what lies between, is put together again; pings and settings are answered."""
    ping = frames.frame(frames.PING, 0, 0, b"12345678")
    sent = frames.frame(frames.SETTINGS, 0, 0, b"") + frames.message(b"one") + ping + frames.message(b"x" * 300)
    for step in (1, 7, len(sent)):
        reader = frames.Reader()
        found = [body for k in range(0, len(sent), step) for body in reader.feed(sent[k : k + step])]
        assert found == [b"one", b"x" * 300]
        acknowledged = frames.frame(frames.PING, frames.ACK, 0, b"12345678")
        assert reader.answers == frames.frame(frames.SETTINGS, frames.ACK, 0, b"") + acknowledged


def test_the_end_of_a_stream_is_an_error() -> None:
    """A stream that the server ends is no silence."""
    with pytest.raises(Broken, match="ended"):
        list(frames.Reader().feed(frames.frame(frames.HEADERS, frames.END_STREAM, 1, b"")))


def test_fields_of_a_message() -> None:
    """Length-delimited fields are found between fields of other kinds."""
    body = b"\x08\x96\x01" + b"\x22\x03abc" + b"\x29" + b"\0" * 8 + b"\x2a\x02zz"
    assert list(frames.fields(body)) == [(4, b"abc"), (5, b"zz")]


def test_a_poll_waits_for_the_old_answer_first() -> None:
    """A sidecar that still answers as after the change before the last has not changed; it has once it went there and back."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        poll = Poll(ours, 0.0)
        seen = []
        for status in (503, 200, 200, 503):
            poll.ask(0.0)
            theirs.sendall(b"HTTP/1.1 %d X\r\ncontent-length: 2\r\n\r\nok" % status)
            poll.take(200, 503)
            seen.append((poll.answered, poll.changed_at > 0, poll.waiting))
        assert seen == [(False, False, False), (True, False, False), (True, False, False), (True, True, False)]
        theirs.sendall(b"HTTP/1.1 404 X\r\ncontent-length: 0\r\n\r\n")
        with pytest.raises(RuntimeError, match="answered 404"):
            poll.take(200, 503)
