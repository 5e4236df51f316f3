"""The receiver's socket: who is heard, and what happens to everything else."""

import asyncio
import contextlib
import socket
import stat
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from prometheus_client import REGISTRY

from agent.telemetry.receiver import MAX_EXPORT_BYTES, OtlpReceiver
from models.errors import Broken, InvalidInput
from models.signals import Report, Side
from models.telemetry import EXPORT_METHOD

TOKEN = "secret"
HEADERS = (("x-fibrin-node", "web-1"), ("authorization", f"Bearer {TOKEN}"))


def nobody(_: str) -> None:
    """Resolve no address."""


class Taken(list[Report]):
    """Reports that came through; may be told to fail."""

    broken = False

    def take(self, report: Report) -> None:
        """Take a report."""
        if self.broken:
            raise RuntimeError("told to")
        self.append(report)


@contextlib.asynccontextmanager
async def listening(path: Path, taken: Taken) -> AsyncIterator[Any]:
    """Run a receiver and yield a call to its method."""
    receiver = OtlpReceiver(path, taken.take, resolve=nobody, token=TOKEN, clock=lambda: 1000.1)
    await receiver.start()
    try:
        async with grpc.aio.insecure_channel(f"unix:{path}") as channel:
            yield channel.unary_unary(EXPORT_METHOD, request_serializer=None, response_deserializer=None)
    finally:
        await receiver.stop()


def counted(name: str, **labels: str) -> float:
    """Return a metric's value."""
    return REGISTRY.get_sample_value(name, labels) or 0.0


async def refusal(call: Any, payload: bytes, headers: Any = HEADERS) -> grpc.StatusCode:
    """Return the status with which an export is refused."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call(payload, metadata=headers, timeout=5)
    return caught.value.code()


async def test_an_export_becomes_a_report(tmp_path: Path, export: Any) -> None:
    """What is pushed arrives decoded, counted and acknowledged with OTLP's empty success."""
    taken = Taken()
    before = counted("fibrin_telemetry_reports_total")
    async with listening(tmp_path / "otlp.sock", taken) as call:
        payload = export().requests(Side.CLIENT, 3, cluster="catalog", code="200", flags="-").bytes()
        assert await call(payload, metadata=HEADERS, timeout=5) == b""
    assert [(r.reporter, r.service, r.received_at) for r in taken] == [("web-1", "web", 1000.1)]
    assert sum(o.requests for o in taken[0].outcomes.values()) == 3
    assert counted("fibrin_telemetry_reports_total") == before + 1


@pytest.mark.parametrize(
    "headers",
    [
        (),
        (("x-fibrin-node", "web-1"),),
        (("x-fibrin-node", "web-1"), ("authorization", "Bearer wrong")),
        (("authorization", f"Bearer {TOKEN}"),),
        (("x-fibrin-node", "../../etc"), ("authorization", f"Bearer {TOKEN}")),
    ],
)
async def test_nobody_is_heard_without_name_and_token(tmp_path: Path, export: Any, headers: Any) -> None:
    """An export without a proper node id or the token is refused and leaves no trace."""
    taken = Taken()
    async with listening(tmp_path / "otlp.sock", taken) as call:
        assert await refusal(call, export().bytes(), headers) is grpc.StatusCode.UNAUTHENTICATED
    assert taken == []


async def test_bad_exports_do_no_harm_to_good_ones(tmp_path: Path, export: Any) -> None:
    """Malformed, oversized and unlucky exports are refused by kind; the next one passes."""
    taken = Taken()
    malformed = counted("fibrin_telemetry_malformed_total", reason="protobuf")
    async with listening(tmp_path / "otlp.sock", taken) as call:
        assert await refusal(call, b"\xff\xff\xff") is grpc.StatusCode.INVALID_ARGUMENT
        assert await refusal(call, b"\0" * (MAX_EXPORT_BYTES + 1)) is grpc.StatusCode.RESOURCE_EXHAUSTED
        taken.broken = True
        assert await refusal(call, export().bytes()) is grpc.StatusCode.INTERNAL
        taken.broken = False
        assert await call(export().bytes(), metadata=HEADERS, timeout=5) == b""
    assert len(taken) == 1
    assert counted("fibrin_telemetry_malformed_total", reason="protobuf") == malformed + 1


async def test_the_socket_is_the_owners_and_goes_with_the_receiver(tmp_path: Path) -> None:
    """Mode 0600 while it runs, gone afterwards; stopping twice is fine."""
    path = tmp_path / "otlp.sock"
    receiver = OtlpReceiver(path, Taken().take, resolve=nobody, token=TOKEN)
    await receiver.start()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    await receiver.stop()
    await receiver.stop()
    assert not path.exists()


async def test_a_dead_agents_socket_is_replaced(tmp_path: Path, export: Any) -> None:
    """A socket file nobody listens on does not keep the next agent from starting."""
    path = tmp_path / "otlp.sock"
    with socket.socket(socket.AF_UNIX) as left_behind:
        left_behind.bind(str(path))
    taken = Taken()
    async with listening(path, taken) as call:
        await call(export().bytes(), metadata=HEADERS, timeout=5)
    assert len(taken) == 1


async def test_a_living_agents_socket_is_not_taken(tmp_path: Path, export: Any) -> None:
    """A second agent on the same path is told so, and the first goes on."""
    path = tmp_path / "otlp.sock"
    taken = Taken()
    async with listening(path, taken) as call:
        with pytest.raises(Broken, match="another process listens"):
            await OtlpReceiver(path, taken.take, resolve=nobody, token=TOKEN).start()
        await call(export().bytes(), metadata=HEADERS, timeout=5)
    assert len(taken) == 1


async def test_a_path_that_cannot_be_is_refused_by_name(tmp_path: Path) -> None:
    """Too long, a plain file in the way, no directory, no token: each has its sentence."""
    blocked = tmp_path / "file"
    blocked.write_text("precious")
    for path, error, words in (
        (tmp_path / ("x" * 120), InvalidInput, "too long"),
        (blocked, Broken, "not a socket"),
        (tmp_path / "missing" / "otlp.sock", Broken, "cannot listen"),
    ):
        with pytest.raises(error, match=words):
            await OtlpReceiver(path, Taken().take, resolve=nobody, token=TOKEN).start()
    assert blocked.read_text() == "precious"
    with pytest.raises(InvalidInput, match="token"):
        OtlpReceiver(tmp_path / "otlp.sock", Taken().take, resolve=nobody, token="")


async def test_many_sidecars_at_once(tmp_path: Path, export: Any) -> None:
    """Two hundred concurrent exports of as many sidecars all arrive."""
    taken = Taken()
    payload = export().requests(Side.CLIENT, 1, cluster="catalog", code="200", flags="-").bytes()
    async with listening(tmp_path / "otlp.sock", taken) as call:
        await asyncio.gather(
            *(call(payload, metadata=(("x-fibrin-node", f"web-{n}"), HEADERS[1]), timeout=10) for n in range(200))
        )
    assert {report.reporter for report in taken} == {f"web-{n}" for n in range(200)}
