"""The socket on which sidecars push their golden signals.

A gRPC server with the one method Envoy's OpenTelemetry sink calls, on a Unix socket of mode 0600. Each export must name
its sidecar (`x-fibrin-node`) and carry the proxy token. What cannot be read is refused, counted and logged (at most once
a second), and never harms the exports beside it.
"""

from __future__ import annotations

import asyncio
import hmac
import os
import re
import socket
import stat
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import grpc
import grpc.aio
import structlog

from agent.telemetry import metrics
from agent.telemetry.decode import Decoder, Malformed, Resolve
from models.errors import Broken, InvalidInput
from models.signals import Report
from models.telemetry import AUTHORIZATION_HEADER, EXPORT_METHOD, NODE_HEADER

MAX_EXPORT_BYTES: Final = 4 * 1024 * 1024
"""About 3000 latency series in one flush of one sidecar; more is refused by gRPC."""

MAX_SIDECARS: Final = 20_000
FORGET_S: Final = 300.0
"""A sidecar that was silent for this long leaves no memory behind, seconds."""

_SOCKET_PATH_BYTES: Final = 107
_OWNER_ONLY: Final = 0o600
_PROBE_S: Final = 1.0
_LOG_EVERY_S: Final = 1.0
_NODE: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._~-]{0,252}")
_SERVICE, _METHOD = EXPORT_METHOD.strip("/").split("/")
_OPTIONS: Final = (
    ("grpc.max_receive_message_length", MAX_EXPORT_BYTES),
    ("grpc.max_metadata_size", 16 * 1024),
    # sidecars ping an idle connection every 10 s; by default gRPC would hang up on them
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 1000),
    ("grpc.http2.max_ping_strikes", 0),
)

_log = structlog.get_logger(__name__)


class OtlpReceiver:
    """Takes exports on the Unix socket `path` and hands each on as a `Report`, in the event loop.

    `on_report` must not block. `resolve` finds the instance behind an upstream `address:port` (the topology knows);
    call `forget` when the topology changed. `token` is the proxy token. `clock` is Unix time in seconds.
    """

    def __init__(
        self,
        path: Path,
        on_report: Callable[[Report], None],
        *,
        resolve: Resolve,
        token: str,
        clock: Callable[[], float] = time.time,
    ) -> None:
        if not token:
            raise InvalidInput("the telemetry receiver needs the proxy token", hint="start the control plane first")
        self._path = path
        self._on_report = on_report
        self._resolve = resolve
        self._expected = f"Bearer {token}".encode()
        self._clock = clock
        self._decoders: dict[str, Decoder] = {}
        self._heard: dict[str, float] = {}
        self._server: grpc.aio.Server | None = None
        self._inode = 0
        self._logged_at = float("-inf")

    async def start(self) -> None:
        """Listen. Returns once sidecars can connect.

        Raises:
            InvalidInput: the path is longer than the kernel takes.
            Broken: another process listens there, or the path is something else than a socket, or cannot be made.
        """
        await asyncio.to_thread(_make_way, self._path)
        server = grpc.aio.server(options=_OPTIONS)
        handler = grpc.unary_unary_rpc_method_handler(self._export)
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(_SERVICE, {_METHOD: handler}),))
        try:
            server.add_insecure_port(f"unix:{self._path}")
            await server.start()
            self._path.chmod(_OWNER_ONLY)
            self._inode = self._path.stat().st_ino
        except (RuntimeError, OSError) as error:
            await server.stop(0)
            hint = "check that the state directory exists and is yours"
            raise Broken(f"cannot listen for telemetry on {self._path}: {error}", hint=hint) from error
        self._server = server
        _log.info("telemetry.listening", path=str(self._path))

    async def stop(self, grace_s: float = 0.5) -> None:
        """Stop listening; exports in progress get `grace_s` seconds. The socket file is removed if it is still ours."""
        server, self._server = self._server, None
        if server is None:
            return
        await server.stop(grace_s)
        try:
            if self._path.stat().st_ino == self._inode:
                self._path.unlink()
        except FileNotFoundError:
            pass  # gRPC removes its own socket

    def forget(self) -> None:
        """Resolve addresses anew from now on (the topology changed)."""
        for decoder in self._decoders.values():
            decoder.forget()

    async def _export(self, payload: bytes, context: Any) -> bytes:
        """Take one export. An empty answer is OTLP's full success."""
        received_at = self._clock()
        begun = time.perf_counter()
        node, reason = self._admit(context)
        if reason:
            metrics.REFUSED.labels(reason).inc()
            self._warn("telemetry.refused", reason=reason, node=node)
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, f"telemetry refused: {reason}")
        try:
            report = self._decode(node, payload, received_at)
            self._on_report(report)
        except Malformed as error:
            metrics.MALFORMED.labels(error.reason).inc()
            self._warn("telemetry.malformed", reason=error.reason, node=node, message=error.message)
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, error.message)
        except Exception as error:  # noqa: BLE001  # rim of the request: one report must not harm the others
            metrics.FAILED.inc()
            _log.exception("telemetry.failed", node=node)
            await context.abort(grpc.StatusCode.INTERNAL, f"the agent could not take the report: {error}")
        metrics.REPORTS.inc()
        metrics.BYTES.inc(len(payload))
        metrics.DECODE.observe(time.perf_counter() - begun)
        return b""

    def _admit(self, context: Any) -> tuple[str, str]:
        """Return the sidecar's id and why it is refused ("" when it is not)."""
        node, token = "", b""
        for key, value in context.invocation_metadata() or ():
            if key == NODE_HEADER:
                node = value if isinstance(value, str) else value.decode("ascii", "replace")
            elif key == AUTHORIZATION_HEADER:
                token = value.encode() if isinstance(value, str) else value
        if not hmac.compare_digest(token, self._expected):
            return node[:64], "token"
        if not _NODE.fullmatch(node):
            return node[:64], "node"
        if node not in self._decoders and len(self._decoders) >= MAX_SIDECARS:
            return node, "too many sidecars"
        return node, ""

    def _decode(self, node: str, payload: bytes, received_at: float) -> Report:
        decoder = self._decoders.get(node)
        if decoder is None:
            self._sweep(received_at)
            decoder = self._decoders[node] = Decoder(node, self._resolve)
        self._heard[node] = received_at
        report = decoder.decode(payload, received_at)
        if decoder.unattributed:
            metrics.UNATTRIBUTED.inc(decoder.unattributed)
        metrics.DELAY.observe(max(0.0, received_at - report.sent_at))
        return report

    def _sweep(self, now: float) -> None:
        """Forget sidecars that went away; done when a new one comes, so memory follows the living."""
        for node in [node for node, heard in self._heard.items() if now - heard > FORGET_S]:
            del self._heard[node]
            self._decoders.pop(node, None)

    def _warn(self, event: str, **details: str) -> None:
        now = time.monotonic()
        if now - self._logged_at >= _LOG_EVERY_S:
            self._logged_at = now
            _log.warning(event, **details)


def _make_way(path: Path) -> None:
    """Remove the socket a dead agent left behind; never one that a living process listens on. Blocks briefly."""
    if len(os.fsencode(path)) > _SOCKET_PATH_BYTES:
        hint = f"the kernel takes {_SOCKET_PATH_BYTES} bytes; choose a shorter state directory"
        raise InvalidInput(f"the path of the telemetry socket is too long: {path}", hint=hint)
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    except OSError as error:
        raise Broken(f"cannot look at {path}: {error}", hint="check the state directory") from error
    if not stat.S_ISSOCK(mode):
        raise Broken(f"{path} is in the way and is not a socket", hint="move it away, then start again")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(_PROBE_S)
        try:
            probe.connect(os.fspath(path))
        except (ConnectionRefusedError, FileNotFoundError):
            path.unlink(missing_ok=True)
            _log.info("telemetry.stale_socket_removed", path=str(path))
            return
        except OSError as error:
            raise Broken(
                f"cannot tell who listens on {path}: {error}", hint="remove the file if nobody does"
            ) from error
    raise Broken(f"another process listens on {path}", hint="is another agent running with this state directory?")
