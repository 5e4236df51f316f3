"""Sidecars, real Envoys and the real xDS server: what a caller sees while a sidecar leaves or its Envoy dies."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import signal
import socket
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from control.identity.authority import Authority
from control.identity.leaves import Leaves
from control.xds.server import AdsServer
from control.xds.world import World
from models.domain import Health, Instance
from proxy.admin import Admin
from proxy.run import supervise
from proxy.spec import SidecarSpec
from proxy.stopping import Stop
from proxy.supervisor import Timing

pytestmark = pytest.mark.integration

_TIMING = Timing(drain_deadline_s=5.0, probe_interval_s=0.1)
_NUMBERS = itertools.count(1)
_API_PORT = 15080


async def until(condition: Callable[[], bool], what: str, within_s: float = 15.0) -> None:
    """Poll until `condition` holds; fail naming `what` otherwise."""
    give_up = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < give_up, f"not within {within_s} s: {what}"
        await asyncio.sleep(0.01)


def accepts(host: str, port: int) -> bool:
    """Tell whether somebody takes connections there."""
    try:
        socket.create_connection((host, port), 1.0).close()
    except ConnectionRefusedError:
        return False
    return True


def address() -> str:
    """Return a loopback address that no other test uses."""
    pid = os.getpid()
    return f"127.{200 + pid // 62500 % 50}.{pid // 250 % 250}.{pid % 250 + next(_NUMBERS) % 4 + 1}"


@dataclass
class Mesh:
    """A registry of instances behind the control API's paths, an xDS server, and sidecars of this process."""

    directory: Path
    ads: AdsServer
    url: str = ""
    instances: dict[str, Instance] = field(default_factory=dict)
    specs: dict[str, SidecarSpec] = field(default_factory=dict)
    seen: Counter[str] = field(default_factory=Counter)
    runners: list[web.AppRunner] = field(default_factory=list)

    async def answer(self, request: web.Request) -> web.Response:
        """Answer sidecars as the control API does."""
        name, _, verb = request.match_info["rest"].partition(":")
        body = await request.json() if request.can_read_body else {}
        before = self.instances.get(name)
        if request.method == "PUT":
            self.instances[name] = Instance(id=name, health=Health.UNHEALTHY, **body)
        elif before is None:
            return web.Response(status=404)
        elif request.method == "DELETE":
            del self.instances[name]
        elif verb == "drain":
            self.instances[name] = replace(before, health=Health.DRAINING)
        elif before.health is not Health.DRAINING:
            health = Health.HEALTHY if body["healthy"] else Health.UNHEALTHY
            self.instances[name] = replace(before, health=health)
        if self.instances.get(name) != before:
            self.ads.set_world(World(instances=tuple(self.instances.values())))
        return web.json_response({})

    async def serve(self, handler: Callable[[web.Request], object], host: str, port: int) -> None:
        """Serve `handler` on every path below one."""
        app = web.Application()
        app.router.add_route("*", "/v1/instances/{rest}" if port == _API_PORT else "/{rest:.*}", handler)  # type: ignore[arg-type]
        runner = web.AppRunner(app, shutdown_timeout=0.1, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, host, port).start()
        self.runners.append(runner)

    @contextlib.asynccontextmanager
    async def sidecar(self, name: str, service: str) -> AsyncIterator[Stop]:
        """Run one application with its sidecar until the block ends."""
        spec = SidecarSpec(
            id=name,
            service=service,
            version="v1",
            zone="z1",
            address=address(),
            xds_socket=self.directory / "xds.sock",
            otlp_socket=self.directory / "otlp.sock",
            state_dir=self.directory / name,
            token="secret",
        )
        self.specs[name] = spec

        async def application(request: web.Request) -> web.Response:
            if request.path != "/healthz":
                self.seen[name] += 1
                await asyncio.sleep(0.02)  # so that requests are in flight
            return web.Response(text=name)

        await self.serve(application, spec.address, spec.app_port)
        stop = Stop()
        task = asyncio.create_task(supervise(spec, self.url, stop, timing=_TIMING))
        try:
            await until(lambda: task.done() or self.healthy(name), f"{name} healthy")
            yield stop
        finally:
            stop()
            await task

    def healthy(self, name: str) -> bool:
        """Tell whether callers may use an instance."""
        return name in self.instances and self.instances[name].health is Health.HEALTHY

    def envoy_pid(self, name: str) -> int:
        """Return the process id of an instance's Envoy."""
        wanted = str(self.specs[name].bootstrap_file)
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            with contextlib.suppress(OSError):
                words = path.read_text().split("\0")
                if words[0].endswith("/envoy") and wanted in words:
                    return int(path.parent.name)
        raise AssertionError(f"no Envoy of {name}")

    @contextlib.asynccontextmanager
    async def load(self, caller: str, host: str, rps: float) -> AsyncIterator[Counter[object]]:
        """Send `rps` requests per second through `caller`'s sidecar, open-loop; count the answers."""
        spec, outcome = self.specs[caller], Counter[object]()
        proxy = f"http://{spec.address}:{spec.outbound_port}"

        async def one(session: aiohttp.ClientSession) -> None:
            try:
                async with session.get(f"http://{host}/", proxy=proxy) as response:
                    await response.read()
                    outcome[response.status] += 1
            except aiohttp.ClientError as error:
                outcome[type(error).__name__] += 1

        async def keep() -> None:
            timeout = aiohttp.ClientTimeout(total=5)
            async with aiohttp.ClientSession(timeout=timeout) as session, asyncio.TaskGroup() as group:
                due = time.monotonic()
                while not done.is_set():
                    group.create_task(one(session))
                    due += 1 / rps
                    await asyncio.sleep(max(0.0, due - time.monotonic()))

        done = asyncio.Event()
        task = asyncio.create_task(keep())
        try:
            await until(lambda: outcome[200] > 20, "load flows")
            yield outcome
        finally:
            done.set()
            await task


@pytest.fixture
async def mesh(tmp_path: Path) -> AsyncIterator[Mesh]:
    """Return a mesh without sidecars."""
    leaves = Leaves(Authority.open(tmp_path / "ca", time.time), time.time)
    ads = AdsServer(tmp_path / "xds.sock", leaves)
    ads.set_world(World())
    await ads.start()
    mesh = Mesh(tmp_path, ads)
    here = address()
    mesh.url = f"http://{here}:{_API_PORT}"
    await mesh.serve(mesh.answer, here, _API_PORT)
    yield mesh
    await ads.stop()
    for runner in mesh.runners:
        await runner.cleanup()


async def test_leaving_loses_nothing(mesh: Mesh) -> None:
    """One of two instances leaves under load: every request is answered, and the other takes over."""
    async with mesh.sidecar("shop-1", "shop"), mesh.sidecar("catalog-1", "catalog"):
        async with mesh.sidecar("catalog-2", "catalog") as stop, mesh.load("shop-1", "catalog", 100) as outcome:
            await until(lambda: mesh.seen["catalog-2"] > 20, "both serve")
            stop()
            await until(lambda: "catalog-2" not in mesh.instances, "catalog-2 left")
            before = mesh.seen["catalog-1"]
            await until(lambda: mesh.seen["catalog-1"] > before + 20, "catalog-1 serves all")
        assert set(outcome) == {200}, outcome


async def test_a_drain_closes_the_way_in_and_leaves_the_way_out(mesh: Mesh) -> None:
    """A drained sidecar stops listening for callers, and its application can still call others to finish its work."""
    async with mesh.sidecar("catalog-1", "catalog"), mesh.sidecar("shop-1", "shop"):
        spec = mesh.specs["shop-1"]
        assert accepts(spec.address, spec.inbound_port)
        async with Admin(spec.admin_socket) as admin:
            await admin.drain()
        await until(lambda: not accepts(spec.address, spec.inbound_port), "the inbound listener closed")
        async with mesh.load("shop-1", "catalog", 100) as outcome:
            pass
        assert set(outcome) == {200}, outcome


async def test_a_killed_envoy_costs_what_was_in_flight(mesh: Mesh) -> None:
    """One of two Envoys is killed under load: at most the requests in flight are lost, and it takes traffic again."""
    async with mesh.sidecar("shop-1", "shop"), mesh.sidecar("catalog-1", "catalog"):
        async with mesh.sidecar("catalog-2", "catalog"), mesh.load("shop-1", "catalog", 100) as outcome:
            await until(lambda: mesh.seen["catalog-2"] > 20, "both serve")
            os.kill(mesh.envoy_pid("catalog-2"), signal.SIGKILL)
            await until(lambda: not mesh.healthy("catalog-2"), "reported")
            await until(lambda: mesh.healthy("catalog-2"), "back")
            before = mesh.seen["catalog-2"]
            await until(lambda: mesh.seen["catalog-2"] > before + 20, "catalog-2 serves again")
        lost = outcome.total() - outcome[200]
        assert lost <= 5, outcome  # 100 rps × 20 ms, half of it here, is one in flight
