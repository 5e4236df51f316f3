"""The relay and the tap, on real sockets: what they do to connections and reports, and that they undo it."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from agent.telemetry.schema import ExportRequest
from models.telemetry import AUTHORIZATION_HEADER, EXPORT_METHOD, NODE_HEADER
from simulations.addresses import free_port
from simulations.drills.relay import FINE, Condition, Relay
from simulations.drills.tap import Spoil, Tap, frames, misdated

HOST = "127.0.0.1"
SERVICE, METHOD = EXPORT_METHOD.strip("/").split("/")


async def _echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        while piece := await reader.read(65536):
            writer.write(piece)
            await writer.drain()
    writer.close()


@pytest.fixture
async def relay() -> AsyncIterator[tuple[Relay, int]]:
    """A relay in front of an echo."""
    server = await asyncio.start_server(_echo, HOST, 0)
    port = free_port()
    relay = Relay((HOST, port), (HOST, int(server.sockets[0].getsockname()[1])))
    await relay.start()
    yield relay, port
    await relay.stop()
    server.close()
    await server.wait_closed()


async def _ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, size: int = 4) -> float:
    """Send and take back some bytes; return how long it took."""
    began = time.monotonic()
    writer.write(b"x" * size)
    await writer.drain()
    assert await reader.readexactly(size) == b"x" * size
    return time.monotonic() - began


async def test_delay_bandwidth_and_loss_make_waiting(relay: tuple[Relay, int]) -> None:
    """Each adds the time it stands for, in both directions, and none of it stays when the network is fine again."""
    line, port = relay
    reader, writer = await asyncio.open_connection(HOST, port)
    usual = await _ask(reader, writer)
    line.condition = Condition(delay_s=0.1)
    assert await _ask(reader, writer) >= 0.2
    line.condition = Condition(bytes_per_s=2000.0)
    assert await _ask(reader, writer, 200) >= 0.2
    line.condition = Condition(loss=0.99)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.15):
            await _ask(reader, writer)
    line.condition = FINE
    writer.close()
    reader, writer = await asyncio.open_connection(HOST, port)
    assert await _ask(reader, writer) < 0.1 + usual
    writer.close()


async def test_a_partition_is_silence_and_ends(relay: tuple[Relay, int]) -> None:
    """Old and new connections hang without an error, and go on where they were afterwards."""
    line, port = relay
    old = await asyncio.open_connection(HOST, port)
    await _ask(*old)
    line.condition = Condition(partition=True)
    new = await asyncio.open_connection(HOST, port)
    waiting = [asyncio.create_task(_ask(*each)) for each in (old, new)]
    done, _ = await asyncio.wait(waiting, timeout=0.2)
    assert not done
    line.condition = FINE
    await asyncio.gather(*waiting)
    for _, writer in (old, new):
        writer.close()


async def test_half_open_connections_hang_and_new_ones_work(relay: tuple[Relay, int]) -> None:
    """Only what was open before is stuck; when the fault ends it is reset."""
    line, port = relay
    old = await asyncio.open_connection(HOST, port)
    await _ask(*old)
    line.condition = Condition(half_open=True)
    new = await asyncio.open_connection(HOST, port)
    await _ask(*new)
    stuck = asyncio.create_task(_ask(*old))
    done, _ = await asyncio.wait([stuck], timeout=0.2)
    assert not done
    line.condition = FINE
    with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
        await stuck
    await _ask(*new)
    for _, writer in (old, new):
        writer.close()


async def test_resets_are_resets(relay: tuple[Relay, int]) -> None:
    """A connection that is cut ends with an error, not with an orderly end."""
    line, port = relay
    reader, writer = await asyncio.open_connection(HOST, port)
    await _ask(reader, writer)
    line.condition = Condition(resets=1.0)
    with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
        await _ask(reader, writer)
    writer.close()


async def test_the_tap_passes_spoils_and_records(tmp_path: Path) -> None:
    """Reports go on unchanged; dropped ones do not, frozen ones repeat the last; a recording reads back as it was."""
    taken: list[tuple[str, bytes]] = []

    async def export(payload: bytes, context: Any) -> bytes:
        metadata = dict(context.invocation_metadata())
        assert metadata[AUTHORIZATION_HEADER] == "Bearer t"
        taken.append((metadata[NODE_HEADER], payload))
        return b""

    agent = grpc.aio.server()
    handler = grpc.unary_unary_rpc_method_handler(export)
    agent.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, {METHOD: handler}),))
    agent.add_insecure_port(f"unix:{tmp_path}/agent.sock")
    await agent.start()
    tap = Tap(tmp_path / "tap.sock", tmp_path / "agent.sock")
    await tap.start()
    channel: Any = grpc.aio.insecure_channel(f"unix:{tmp_path}/tap.sock")
    send = channel.unary_unary(EXPORT_METHOD)

    async def report(payload: bytes, node: str = "cart-v1-1") -> None:
        await send(payload, metadata=((NODE_HEADER, node), (AUTHORIZATION_HEADER, "Bearer t")))

    tap.record()
    await report(b"1")
    tap.spoil = Spoil("dropped", ("cart",))
    await report(b"2")
    await report(b"3", "catalog-v1-1")
    tap.spoil = Spoil("frozen")
    await report(b"4")
    tap.spoil = None
    await report(b"5")
    wanted = [("cart-v1-1", b"1"), ("catalog-v1-1", b"3"), ("cart-v1-1", b"1"), ("cart-v1-1", b"5")]
    assert taken == wanted
    assert tap.save(tmp_path / "r.gz") == 4
    assert [(frame.node, frame.payload) for frame in frames(tmp_path / "r.gz")] == wanted
    await channel.close()
    await tap.stop()
    await agent.stop(0)


def test_a_misdated_report_says_the_same_at_another_time() -> None:
    """Only the time of its points moves; even what our schema does not know of a report is kept."""
    export = ExportRequest()
    metric = export.resource_metrics.add(resource=b"").scope_metrics.add().metrics.add(name="server.uptime")
    metric.gauge.data_points.add(time_unix_nano=5_000_000_000, as_int=7)
    unknown = b"\x9a\x06\x02hi"  # field 99
    moved = misdated(export.SerializeToString() + unknown, 60.0)
    assert moved.endswith(unknown)
    metric.gauge.data_points[0].time_unix_nano = 65_000_000_000
    assert moved.removesuffix(unknown) == export.SerializeToString()
