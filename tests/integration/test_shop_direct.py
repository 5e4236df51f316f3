"""The shop without a mesh: real processes that call each other, fail on demand, and say who failed."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from models.errors import Broken
from simulations.addresses import free_subnet
from simulations.processes import Processes
from simulations.shop import spec, trouble
from simulations.shop.fault import Fault, set_fault

pytestmark = pytest.mark.integration

DEADLINE_S = 40.0


class Shop:
    """One instance of each service, calling each other directly."""

    def __init__(self, folder: Path, processes: Processes) -> None:
        self.folder = folder
        self.processes = processes
        self.instances = {p.service: p for p in reversed(spec.PLACEMENTS)}
        addresses = free_subnet(self.instances, random.Random())
        self.urls = {service: f"http://{address}:8080" for service, address in addresses.items()}
        self.session = aiohttp.ClientSession()

    def socket(self, service: str) -> Path:
        return self.folder / f"{service}.fault"

    async def start(self) -> None:
        direct = [f"--direct={name}={url}" for name, url in self.urls.items()]
        for name, url in self.urls.items():
            instance = self.instances[name]
            where = ["--address", url.removeprefix("http://").partition(":")[0]]
            who = ["--service", name, "--version", instance.version, "--instance", instance.id]
            fault = ["--fault-control", str(self.socket(name))]
            await self.processes.start(name, "simulations.shop", [*who, *where, *fault, *direct])
        for url in self.urls.values():
            await self.answers(f"{url}/healthz")

    async def answers(self, url: str) -> None:
        deadline = time.monotonic() + DEADLINE_S
        while True:
            self.processes.require_running()
            try:
                async with self.session.get(url) as response:
                    if response.status == 200:
                        return
            except aiohttp.ClientError:
                assert time.monotonic() < deadline, f"{url} did not come up"
            await asyncio.sleep(0.05)

    async def ask(self, method: str, path: str) -> tuple[int, frozenset[str]]:
        async with self.session.request(method, self.urls[spec.ENTRY] + path) as response:
            await response.read()
            return response.status, trouble.of_answer(spec.ENTRY, response.status, response.headers)


@pytest.fixture
async def shop(tmp_path: Path) -> AsyncIterator[Shop]:
    """Run one instance of each service; all must end in order."""
    processes = Processes(tmp_path)
    running = Shop(tmp_path, processes)
    try:
        await running.start()
        yield running
    finally:
        await running.session.close()
        killed = await processes.stop_many(running.instances, 8.0)
    assert killed == (), "every process ends in order when asked"


async def test_shop_sells_breaks_and_says_why(shop: Shop) -> None:
    """A purchase goes through; then a failing, a slow, a dead required and a dead optional service each show as they should."""
    for method, path in (("GET", "/"), ("GET", "/product/3"), ("POST", "/cart/3"), ("POST", "/checkout")):
        assert await shop.ask(method, path) == (200, frozenset())

    catalog = shop.instances["catalog"].id
    await set_fault(shop.socket("catalog"), Fault(error_ratio=1.0))
    assert await shop.ask("GET", "/product/3") == (502, frozenset({catalog}))
    await set_fault(shop.socket("catalog"), Fault())

    cart = shop.instances["cart"].id
    await set_fault(shop.socket("cart"), Fault(slow_factor=10.0))
    began = time.monotonic()
    assert await shop.ask("GET", "/") == (200, frozenset({cart}))
    assert time.monotonic() - began > 0.12
    await set_fault(shop.socket("cart"), Fault())

    await shop.processes.kill("email")
    assert await shop.ask("POST", "/checkout") == (200, frozenset({"email"}))

    await shop.processes.kill("recommendation")
    assert await shop.ask("GET", "/product/3") == (502, frozenset({"recommendation"}))
    assert await shop.ask("GET", "/") == (200, frozenset())


async def test_process_that_ends_by_itself_is_named_with_its_last_words(tmp_path: Path) -> None:
    """A port in use ends an instance with exit code 1, and the error says which process and what it said."""
    processes = Processes(tmp_path)
    server = await asyncio.start_server(lambda _r, w: w.close(), "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server:
        await processes.start("ads", "simulations.shop", ["--service=ads", "--instance=ads-v1-1", f"--port={port}"])
        deadline = time.monotonic() + DEADLINE_S
        with pytest.raises(Broken, match=r"ads ended by itself \(exit code 1\)[\s\S]*cannot listen on"):  # noqa: PT012
            while time.monotonic() < deadline:
                processes.require_running()
                await asyncio.sleep(0.05)
