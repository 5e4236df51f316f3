# mypy: disable-error-code="attr-defined"
"""One sidecar with a real Envoy, beside the smallest control plane that can configure it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import stat
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import aiohttp
import grpc
import pytest
from aiohttp import web
from envoy.config.cluster.v3 import cluster_pb2
from envoy.config.listener.v3 import listener_pb2
from envoy.extensions.filters.http.router.v3 import router_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2
from envoy.service.discovery.v3 import discovery_pb2
from google.protobuf import any_pb2, json_format

from models.errors import Broken
from proxy.admin import Admin
from proxy.run import supervise
from proxy.spec import SidecarSpec
from proxy.stopping import Stop
from proxy.supervisor import Timing

pytestmark = pytest.mark.integration

_LISTENER = "type.googleapis.com/envoy.config.listener.v3.Listener"
_CLUSTER = "type.googleapis.com/envoy.config.cluster.v3.Cluster"
_HCM = "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
_ROUTER = {
    "name": "envoy.filters.http.router",
    "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"},
}
_LOADED = (http_connection_manager_pb2, router_pb2)  # so that their Any can be parsed
_FAST = Timing(drain_deadline_s=5.0, settle_s=0.05, probe_interval_s=0.05, heartbeat_s=0.2, application_start_s=2.0)


async def until(condition: Callable[[], bool | Awaitable[bool]], what: str, within_s: float = 10.0) -> None:
    """Poll until `condition` holds; fail naming `what` otherwise."""
    give_up = time.monotonic() + within_s
    while True:
        met = condition()
        if met if isinstance(met, bool) else await met:
            return
        assert time.monotonic() < give_up, f"not within {within_s} s: {what}"
        await asyncio.sleep(0.01)


def free_port() -> int:
    """Return a port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def alive(pid: int) -> bool:
    """Tell whether a process runs (a zombie does not)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


@dataclass
class Ads:
    """Answers delta ADS with fixed listeners and clusters; refuses streams without the token."""

    spec: SidecarSpec
    nodes: list[str] = field(default_factory=list)
    held: asyncio.Event = field(default_factory=asyncio.Event)  # unset: no answer yet
    server: grpc.aio.Server | None = None

    async def start(self) -> None:
        """Serve on the sidecar's xDS socket."""
        handler = grpc.stream_stream_rpc_method_handler(
            self._stream,
            request_deserializer=discovery_pb2.DeltaDiscoveryRequest.FromString,
            response_serializer=discovery_pb2.DeltaDiscoveryResponse.SerializeToString,
        )
        service = "envoy.service.discovery.v3.AggregatedDiscoveryService"
        self.server = grpc.aio.server()
        self.server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler(service, {"DeltaAggregatedResources": handler}),)
        )
        self.server.add_insecure_port(f"unix:{self.spec.xds_socket}")
        await self.server.start()

    async def stop(self) -> None:
        """Die."""
        if self.server is not None:
            await self.server.stop(None)
            self.server = None

    async def _stream(self, requests: AsyncIterator[Any], context: Any) -> AsyncIterator[Any]:
        metadata = dict(context.invocation_metadata())
        if metadata.get("authorization") != f"Bearer {self.spec.token}":
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, "wrong token")
        self.nodes.append(metadata["x-fibrin-node"])
        async for request in requests:
            if request.response_nonce or request.initial_resource_versions:
                continue
            await self.held.wait()
            found = {_LISTENER: self._listeners, _CLUSTER: self._clusters}.get(request.type_url, list)()
            yield discovery_pb2.DeltaDiscoveryResponse(type_url=request.type_url, nonce="1", resources=found)

    def _clusters(self) -> list[Any]:
        address, port = self.spec.application
        endpoint = {"address": {"socket_address": {"address": address, "port_value": port}}}
        cluster = {
            "name": "inbound|app",
            "type": "STATIC",
            "connect_timeout": "1s",
            "load_assignment": {"cluster_name": "app", "endpoints": [{"lb_endpoints": [{"endpoint": endpoint}]}]},
        }
        return [_resource("inbound|app", json_format.ParseDict(cluster, cluster_pb2.Cluster()))]

    def _listeners(self) -> list[Any]:
        inbound = {"route": {"cluster": "inbound|app", "timeout": "0s"}}
        outbound = {"direct_response": {"status": 502, "body": {"inline_string": "no such service"}}}
        return [
            self._listener("inbound", self.spec.inbound_port, inbound, "INBOUND"),
            self._listener("outbound", self.spec.outbound_port, outbound, "OUTBOUND"),
        ]

    def _listener(self, name: str, port: int, action: dict[str, Any], direction: str) -> Any:
        routes = [{"match": {"prefix": "/"}, **action}]
        manager = {
            "@type": _HCM,
            "stat_prefix": name,
            "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": routes}]},
            "http_filters": [_ROUTER],
        }
        filters = [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]
        listener = {
            "name": name,
            "traffic_direction": direction,
            "address": {"socket_address": {"address": self.spec.address, "port_value": port}},
            "filter_chains": [{"filters": filters}],
        }
        assert all(module.DESCRIPTOR for module in _LOADED)
        return _resource(name, json_format.ParseDict(listener, listener_pb2.Listener()))


def _resource(name: str, message: Any) -> Any:
    packed = any_pb2.Any()
    packed.Pack(message)
    return discovery_pb2.Resource(name=name, version="1", resource=packed)


@dataclass
class Control:
    """The part of the control API that sidecars use; remembers what it was told."""

    calls: list[str] = field(default_factory=list)
    beats: list[dict[str, Any]] = field(default_factory=list)
    registered: dict[str, Any] = field(default_factory=dict)
    down: bool = False
    url: str = ""

    async def answer(self, request: web.Request) -> web.Response:
        """Answer any call."""
        if self.down:
            return web.Response(status=503, text="down")
        name, _, verb = request.match_info["rest"].partition(":")
        assert request.headers["Authorization"].startswith("Bearer ")
        self.calls.append(f"{request.method} {verb}".strip())
        if request.method == "PUT":
            self.registered[name] = await request.json()
        elif name not in self.registered:
            return web.json_response({"error": {"code": "NotFound"}}, status=404)
        elif request.method == "DELETE":
            del self.registered[name]
        elif verb == "heartbeat":
            self.beats.append(await request.json())
        return web.json_response({})

    @property
    def healthy(self) -> bool | None:
        """What the last heartbeat said."""
        return self.beats[-1]["healthy"] if self.beats else None


@dataclass
class App:
    """The application: `/healthz` obeys `well`, `/slow` answers once `release` is set."""

    well: bool = True
    entered: asyncio.Event = field(default_factory=asyncio.Event)
    release: asyncio.Event = field(default_factory=asyncio.Event)

    async def answer(self, request: web.Request) -> web.Response:
        """Answer any request."""
        if request.path == "/healthz":
            return web.Response(status=200 if self.well else 500)
        if request.path == "/slow":
            self.entered.set()
            await self.release.wait()
        return web.Response(text="hello")


async def _serve(
    handler: Callable[[web.Request], Awaitable[web.StreamResponse]], route: str, port: int
) -> web.AppRunner:
    app = web.Application()
    app.router.add_route("*", route, handler)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    return runner


@dataclass
class Bench:
    """Everything around one sidecar."""

    spec: SidecarSpec
    ads: Ads
    control: Control
    app: App

    async def get(self, path: str, port: int | None = None) -> tuple[int, str]:
        """Send one request through the sidecar."""
        url = f"http://127.0.0.1:{port or self.spec.inbound_port}{path}"
        async with aiohttp.ClientSession() as session, session.get(url) as response:
            return response.status, await response.text()

    @contextlib.asynccontextmanager
    async def sidecar(self, timing: Timing = _FAST) -> AsyncIterator[Stop]:
        """Run the sidecar in this process, and end it."""
        stop, ready = Stop(), asyncio.Event()
        task = asyncio.create_task(supervise(self.spec, self.control.url, stop, timing=timing, on_ready=ready.set))
        waiter = asyncio.create_task(ready.wait())
        await asyncio.wait({task, waiter}, return_when=asyncio.FIRST_COMPLETED, timeout=15)
        waiter.cancel()
        if task.done():
            await task
        assert ready.is_set()
        try:
            yield stop
        finally:
            stop()
            stop()
            await task

    async def process(self, **changes: Any) -> asyncio.subprocess.Process:
        """Run the sidecar in a process of its own."""
        plain = {key: str(value) if isinstance(value, Path) else value for key, value in asdict(self.spec).items()}
        code = (
            "import asyncio, json, sys\n"
            "from pathlib import Path\n"
            "from proxy.run import run_sidecar\n"
            "from proxy.spec import SidecarSpec\n"
            "a = json.loads(sys.argv[1])\n"
            "for name in ('xds_socket', 'otlp_socket', 'state_dir'): a[name] = Path(a[name])\n"
            "sys.exit(asyncio.run(run_sidecar(SidecarSpec(**a), sys.argv[2], **json.loads(sys.argv[3]))))\n"
        )
        return await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", code, json.dumps(plain), self.control.url, json.dumps(changes)),
            stdout=asyncio.subprocess.DEVNULL,
        )

    async def envoy_pid(self) -> int:
        """Return the process id of the running Envoy."""
        found = [
            int(path.parent.name)
            for path in Path("/proc").glob("[0-9]*/cmdline")
            if (words := _words(path)) and words[0].endswith("/envoy") and str(self.spec.bootstrap_file) in words
        ]
        assert len(found) == 1, found
        return found[0]


def _words(path: Path) -> list[str]:
    try:
        return path.read_text().split("\0")
    except OSError:
        return []


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    """Set an application, a control API and an ADS up for one sidecar; the sidecar is for the test to start."""
    spec = SidecarSpec(
        id="catalog-1",
        service="catalog",
        version="v1",
        zone="zone-a",
        address="127.0.0.1",
        xds_socket=tmp_path / "xds.sock",
        otlp_socket=tmp_path / "otlp.sock",
        state_dir=tmp_path / "p",
        token="secret",
        inbound_port=free_port(),
        outbound_port=free_port(),
        app_port=free_port(),
    )
    ads, control, app = Ads(spec), Control(), App()
    ads.held.set()
    api_port = free_port()
    control.url = f"http://127.0.0.1:{api_port}"
    runners = [
        await _serve(control.answer, "/v1/instances/{rest}", api_port),
        await _serve(app.answer, "/{rest:.*}", spec.app_port),
    ]
    await ads.start()
    yield Bench(spec, ads, control, app)
    app.release.set()
    await ads.stop()
    for runner in runners:
        await runner.cleanup()


async def test_serves_registers_and_leaves(bench: Bench) -> None:
    """A sidecar becomes ready with both listeners, registers, reports healthy, and leaves nothing behind."""
    async with bench.sidecar() as stop:
        assert await bench.get("/") == (200, "hello")
        assert await bench.get("/", bench.spec.outbound_port) == (502, "no such service")
        await until(lambda: bench.control.healthy is True, "healthy heartbeat")
        assert bench.ads.nodes == ["catalog-1"]
        assert bench.control.registered["catalog-1"]["port"] == bench.spec.inbound_port
        assert stat.S_IMODE(bench.spec.admin_socket.stat().st_mode) == 0o600
        assert stat.S_IMODE(bench.spec.bootstrap_file.stat().st_mode) == 0o600
        pid = await bench.envoy_pid()
        stop()
        await until(lambda: not alive(pid), "Envoy gone")
    assert bench.control.registered == {}
    assert bench.control.calls[0] == "PUT"
    assert "POST drain" in bench.control.calls
    assert bench.control.calls[-1] == "DELETE"


async def test_not_ready_without_configuration(bench: Bench) -> None:
    """A live Envoy without its listeners is registered (it needs a certificate) but neither ready nor healthy before they come."""
    bench.ads.held.clear()
    stop, ready = Stop(), asyncio.Event()
    task = asyncio.create_task(supervise(bench.spec, bench.control.url, stop, timing=_FAST, on_ready=ready.set))
    async with Admin(bench.spec.admin_socket) as admin:
        await until(admin.live, "Envoy live after its initial fetch timeouts")
        assert not ready.is_set()
        assert "catalog-1" in bench.control.registered
        assert {beat["detail"] for beat in bench.control.beats} == {"Envoy is not serving yet"}
        assert not any(beat["healthy"] for beat in bench.control.beats)
        bench.ads.held.set()
        await until(ready.is_set, "ready")
        await until(lambda: bench.control.healthy is True, "healthy")
        assert await bench.get("/") == (200, "hello")
    stop()
    await task


async def test_unhealthy_application_is_reported(bench: Bench) -> None:
    """Two failed probes make the instance unhealthy with the reason, two good ones heal it."""
    async with bench.sidecar():
        await until(lambda: bench.control.healthy is True, "healthy")
        bench.app.well = False
        await until(lambda: bench.control.healthy is False, "unhealthy", within_s=1.0)
        assert bench.control.beats[-1]["detail"] == "/healthz answered 500"
        bench.app.well = True
        await until(lambda: bench.control.healthy is True, "healthy again", within_s=1.0)


async def test_crashed_envoy_comes_back(bench: Bench) -> None:
    """An Envoy killed with -9 is reported at once, started again, and serves again."""
    async with bench.sidecar():
        await until(lambda: bench.control.healthy is True, "healthy")
        before = await bench.envoy_pid()
        os.kill(before, signal.SIGKILL)
        await until(lambda: bench.control.healthy is False, "reported", within_s=1.0)
        await until(lambda: bench.control.healthy is True, "healthy again")
        assert await bench.envoy_pid() != before
        assert await bench.get("/") == (200, "hello")


async def test_hanging_envoy_is_replaced(bench: Bench) -> None:
    """An Envoy that is there but does not answer is reported with the reason, then killed and started again."""
    async with bench.sidecar(replace(_FAST, hung_looks=5)):
        await until(lambda: bench.control.healthy is True, "healthy")
        before = await bench.envoy_pid()
        os.kill(before, signal.SIGSTOP)
        await until(lambda: bench.control.healthy is False, "reported")
        assert bench.control.beats[-1]["detail"] == "Envoy's admin does not answer"
        await until(lambda: bench.control.healthy is True, "healthy again")
        assert not alive(before)
        assert await bench.get("/") == (200, "hello")


async def test_control_plane_outage_is_survived(bench: Bench) -> None:
    """With the control plane gone traffic flows; one that comes back and forgot us is told again who we are."""
    async with bench.sidecar():
        await until(lambda: bench.control.healthy is True, "healthy")
        bench.control.down = True
        await bench.ads.stop()
        assert await bench.get("/") == (200, "hello")
        bench.control.registered.clear()
        bench.control.beats.clear()
        bench.control.down = False
        await until(lambda: "catalog-1" in bench.control.registered, "registered again")
        await until(lambda: bench.control.healthy is True, "healthy again")
        assert await bench.get("/") == (200, "hello")


async def test_request_in_flight_survives_sigterm(bench: Bench) -> None:
    """SIGTERM lets a request in flight finish, then everything ends with exit code 0."""
    runner = await bench.process(drain_deadline_s=8.0)
    await until(lambda: bench.control.healthy is True, "healthy")
    pid = await bench.envoy_pid()
    slow = asyncio.create_task(bench.get("/slow"))
    await bench.app.entered.wait()
    runner.send_signal(signal.SIGTERM)
    await until(lambda: "POST drain" in bench.control.calls, "drain told")
    async with Admin(bench.spec.admin_socket) as admin:
        assert await admin.in_flight() == 1
    assert alive(pid)
    async with aiohttp.ClientSession() as session:
        url = f"http://127.0.0.1:{bench.spec.inbound_port}/"

        async def told_to_go() -> bool:
            async with session.get(url) as response:
                return response.headers.get("connection") == "close"

        await until(told_to_go, "callers told to go elsewhere")
    bench.app.release.set()
    assert await slow == (200, "hello")
    assert await asyncio.wait_for(runner.wait(), 5) == 0
    assert not alive(pid)
    assert bench.control.registered == {}


async def test_deadline_and_impatience(bench: Bench) -> None:
    """A request that never ends is cut at the deadline; a second signal does not wait for it."""
    runner = await bench.process(drain_deadline_s=60.0)
    await until(lambda: bench.control.healthy is True, "healthy")
    slow = asyncio.create_task(bench.get("/slow"))
    await bench.app.entered.wait()
    runner.send_signal(signal.SIGINT)
    await until(lambda: "POST drain" in bench.control.calls, "drain told")
    runner.send_signal(signal.SIGTERM)
    assert await asyncio.wait_for(runner.wait(), 5) == 0
    with pytest.raises(aiohttp.ClientError):
        await slow
    bench.app.entered.clear()
    began = time.monotonic()
    async with bench.sidecar(replace(_FAST, drain_deadline_s=0.5)) as stop:
        slow = asyncio.create_task(bench.get("/slow"))
        await bench.app.entered.wait()
        stop()
        with pytest.raises(aiohttp.ClientError):
            await slow
    assert time.monotonic() - began < 10


async def test_killed_runner_leaves_no_envoy(bench: Bench) -> None:
    """`kill -9` of the runner takes Envoy with it, and a new runner starts on the same ports at once."""
    runner = await bench.process()
    await until(lambda: bench.control.healthy is True, "healthy")
    pid = await bench.envoy_pid()
    runner.kill()
    await runner.wait()
    await until(lambda: not alive(pid), "Envoy gone", within_s=2.0)
    async with bench.sidecar():
        assert await bench.get("/") == (200, "hello")


async def test_port_in_use(bench: Bench) -> None:
    """A taken port is an error that names it, before anything is started or registered."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", bench.spec.outbound_port))
        other.listen()
        with pytest.raises(Broken, match=f"127.0.0.1:{bench.spec.outbound_port}, wanted for the outbound listener"):
            await supervise(bench.spec, bench.control.url, Stop(), timing=_FAST)
    assert bench.control.calls == []
    assert not bench.spec.admin_socket.exists()


async def test_second_runner_is_refused(bench: Bench) -> None:
    """Two runners of one sidecar do not fight: the second is told who was first."""
    async with bench.sidecar():
        with pytest.raises(Broken, match=f"already runs here: .* is held by pid {os.getpid()}"):
            await supervise(bench.spec, bench.control.url, Stop(), timing=_FAST)
        assert await bench.get("/") == (200, "hello")


async def test_envoy_that_cannot_start(bench: Bench, tmp_path: Path) -> None:
    """An Envoy that ends again and again before it ever served is an error with its last words."""
    bad = tmp_path / "envoy"
    bad.write_text("#!/bin/sh\necho cannot cope >&2\nexit 7\n")
    bad.chmod(0o700)
    with pytest.raises(Broken, match=r"ended 3 times before it served \(exit code 7\)(.|\n)*cannot cope"):
        await supervise(bench.spec, bench.control.url, Stop(), timing=_FAST, binary=bad)
