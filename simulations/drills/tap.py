"""Stands between the sidecars and the agent's telemetry socket: passes reports on, spoils them on demand, and records them.

It knows nothing of what is in a report but whose it is and when it was made. A recording is a gzip file of JSON lines, one report each, in the order
in which they were passed on; `frames` reads it back, and `agent.telemetry.decode.Decoder` takes its payloads.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import gzip
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import grpc

from agent.telemetry.schema import ExportRequest
from models.telemetry import AUTHORIZATION_HEADER, EXPORT_METHOD, NODE_HEADER
from simulations.shop.spec import placement

_SERVICE, _METHOD = EXPORT_METHOD.strip("/").split("/")
_PASSED: Final = (NODE_HEADER, AUTHORIZATION_HEADER)
_RECONNECT_MS: Final = 300
_ANSWER_S: Final = 2.0
_NANO: Final = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Frame:
    """One report: when it was passed on (Unix s), by which sidecar, and its bytes."""

    at: float
    node: str
    payload: bytes


@dataclass(frozen=True, slots=True)
class Spoil:
    """What becomes of the reports of `services` (none: all): lost, the last one again, late by `by_s` seconds, or dated ahead by it."""

    how: Literal["dropped", "frozen", "skewed", "misdated"]
    services: tuple[str, ...] = ()
    by_s: float = 0.0

    def strikes(self, node: str) -> bool:
        """Tell whether it is about this sidecar."""
        return not self.services or placement(node).service in self.services


class Tap:
    """Listens at `here` for sidecars and passes on to the agent's socket at `there`."""

    def __init__(self, here: Path, there: Path) -> None:
        self._here = here
        self._there = there
        self._server: Any = None
        self._channel: Any = None
        self._send: Any = None
        self._last: dict[str, bytes] = {}
        self._late: set[asyncio.Task[None]] = set()
        self._recording: list[Frame] | None = None
        self.spoil: Spoil | None = None

    async def start(self) -> None:
        """Listen; the agent need not be there yet."""
        options = (
            ("grpc.max_reconnect_backoff_ms", _RECONNECT_MS),
            ("grpc.initial_reconnect_backoff_ms", _RECONNECT_MS),
        )
        self._channel = grpc.aio.insecure_channel(f"unix:{self._there}", options=options)
        self._send = self._channel.unary_unary(EXPORT_METHOD)
        self._server = grpc.aio.server()
        handler = grpc.unary_unary_rpc_method_handler(self._export)
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(_SERVICE, {_METHOD: handler}),))
        self._server.add_insecure_port(f"unix:{self._here}")
        await self._server.start()
        self._here.chmod(0o600)

    async def stop(self) -> None:
        """Listen no more."""
        for task in list(self._late):
            task.cancel()
        if self._server is not None:
            await self._server.stop(0.2)
        if self._channel is not None:
            await self._channel.close()

    def record(self) -> None:
        """Keep what passes from now on."""
        self._recording = []

    def save(self, path: Path) -> int:
        """Write what was kept since `record` and stop keeping; return how many reports. Blocks."""
        kept, self._recording = self._recording or [], None
        with gzip.open(path, "wt", encoding="ascii") as file:
            for frame in kept:
                payload = base64.b64encode(frame.payload).decode()
                file.write(json.dumps({"at": frame.at, "node": frame.node, "payload": payload}) + "\n")
        return len(kept)

    async def _export(self, payload: bytes, context: Any) -> bytes:
        metadata = tuple((key, value) for key, value in context.invocation_metadata() or () if key in _PASSED)
        node = str(dict(metadata).get(NODE_HEADER, ""))
        spoil = self.spoil
        if spoil is None or not spoil.strikes(node):
            self._last[node] = payload
            return await self._pass(node, payload, metadata, context)
        if spoil.how == "frozen":
            return await self._pass(node, self._last.get(node, payload), metadata, context)
        if spoil.how == "misdated":
            return await self._pass(node, misdated(payload, spoil.by_s), metadata, context)
        if spoil.how == "skewed":
            task = asyncio.create_task(self._later(spoil.by_s, node, payload, metadata), name=f"late report of {node}")
            self._late.add(task)
            task.add_done_callback(self._late.discard)
        return b""

    async def _later(self, by_s: float, node: str, payload: bytes, metadata: tuple[Any, ...]) -> None:
        await asyncio.sleep(by_s)
        with contextlib.suppress(grpc.aio.AioRpcError):  # as lost as any report while the agent is away
            await self._forward(node, payload, metadata)

    async def _pass(self, node: str, payload: bytes, metadata: tuple[Any, ...], context: Any) -> bytes:
        try:
            return await self._forward(node, payload, metadata)
        except grpc.aio.AioRpcError as error:
            await context.abort(error.code(), error.details() or "the agent is away")
            raise  # abort does not return

    async def _forward(self, node: str, payload: bytes, metadata: tuple[Any, ...]) -> bytes:
        if self._recording is not None:
            self._recording.append(Frame(time.time(), node, payload))
        return bytes(await self._send(payload, metadata=metadata, timeout=_ANSWER_S))


def misdated(payload: bytes, by_s: float) -> bytes:
    """Return a report as a sidecar would have sent it whose clock is ahead by `by_s` seconds."""
    export = ExportRequest.FromString(payload)
    for resource in export.resource_metrics:
        for scope in resource.scope_metrics:
            for metric in scope.metrics:
                for point in (*metric.gauge.data_points, *metric.sum.data_points):
                    point.time_unix_nano += round(by_s * _NANO)
    return bytes(export.SerializeToString())  # what the schema does not name is kept as it was


def frames(path: Path) -> Iterator[Frame]:
    """Read a recording."""
    with gzip.open(path, "rt", encoding="ascii") as file:
        for line in file:
            row = json.loads(line)
            yield Frame(float(row["at"]), str(row["node"]), base64.b64decode(row["payload"]))
