"""The agent against a real control plane over HTTP: actuator contract, fence, following, outage and return."""

from __future__ import annotations

import asyncio
import importlib.util
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from types import ModuleType

import pytest

from agent.actuators.control import ControlActuator
from agent.client import AgentClient
from agent.run import run
from agent.settings import AgentSettings
from control.client import ControlClient
from control.plane import serving
from control.settings import ControlSettings
from models.domain import Instance

pytestmark = pytest.mark.integration

RULES = """
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: catalog}
spec:
  host: catalog
  subsets:
  - {name: v1, labels: {version: v1}}
  - {name: v2, labels: {version: v2}}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: catalog}
spec:
  hosts: [catalog]
  http:
  - route:
    - {destination: {host: catalog, subset: v1}, weight: 80}
    - {destination: {host: catalog, subset: v2}, weight: 20}
"""


def _contract() -> ModuleType:
    place = Path(__file__).parents[1] / "unit" / "agent" / "actuator_contract.py"
    spec = importlib.util.spec_from_file_location("actuator_contract", place)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@asynccontextmanager
async def control(directory: Path, port: int = 0) -> AsyncIterator[str]:
    """Run a control plane with a catalog of two versions; gives its URL."""
    async with serving(ControlSettings(state_dir=directory, port=port)) as (_, url):
        async with ControlClient.from_state_dir(directory) as operator:
            await operator.apply({"catalog.yaml": RULES})
        async with ControlClient.from_state_dir(directory, "proxy") as proxy:
            for number, version in enumerate(("v1", "v1", "v2")):
                name = f"catalog-{version}-{number}"
                await proxy.register(Instance(name, "catalog", version, "z1", f"127.9.0.{number + 1}", 15006))
                await proxy.heartbeat(name)
        yield url


async def until(condition: Callable[[], Awaitable[bool]], seconds: float = 10.0) -> None:
    """Poll until the condition holds."""
    deadline = time.monotonic() + seconds
    while not await condition():
        assert time.monotonic() < deadline, "waited too long"
        await asyncio.sleep(0.05)


@asynccontextmanager
async def agent(settings: AgentSettings) -> AsyncIterator[AgentClient]:
    """Run an agent; gives its client."""
    ready = asyncio.Event()
    task = asyncio.create_task(run(settings, ready=ready))
    waiter = asyncio.create_task(ready.wait())
    await asyncio.wait({task, waiter}, timeout=20, return_when=asyncio.FIRST_COMPLETED)
    waiter.cancel()
    if task.done():
        await task
    try:
        async with AgentClient.from_state_dir(settings.state_dir) as client:
            yield client
    finally:
        task.cancel()
        await asyncio.wait({task}, timeout=10)


async def test_the_control_actuator_keeps_the_contract(tmp_path: Path) -> None:
    """The real control plane and the fake are one and the same to the loop."""
    async with control(tmp_path), ControlClient.from_state_dir(tmp_path, "agent") as client:
        granted = await client.acquire_fence("me", 30.0)
        assert granted.fence == 1
        await _contract().holds(ControlActuator(client))


async def test_the_agent_takes_the_fence_and_becomes_ready(tmp_path: Path) -> None:
    """Topology followed, fence held; a second start of the same agent takes its own fence again."""
    async with control(tmp_path):
        for _ in range(2):
            async with agent(AgentSettings(state_dir=tmp_path, port=0)) as client:
                await until(client.ready)
                status = await client.status()
                assert status["fence"] == 1
                assert status["control_up"]


async def test_an_observer_takes_no_fence(tmp_path: Path) -> None:
    """`observe_only` is ready without the right to act."""
    async with control(tmp_path), agent(AgentSettings(state_dir=tmp_path, port=0, observe_only=True)) as client:
        await until(client.ready)
        assert (await client.status())["fence"] is None


async def test_an_outage_of_the_control_plane_is_told_and_survived(tmp_path: Path) -> None:
    """Gone: the agent says so and loses the fence in time; back: it is ready again by itself."""
    async with control(tmp_path) as url:
        port = int(url.rsplit(":", 1)[1])
        settings = AgentSettings(state_dir=tmp_path, port=0, control_url=url, fence_ttl_s=1.5)
        context = agent(settings)
        client = await context.__aenter__()
        await until(client.ready)

    async def told_down() -> bool:
        return not (await client.status())["control_up"]

    async def fence_gone() -> bool:
        return (await client.status())["fence"] is None

    await until(told_down)
    await until(fence_gone)
    async with control(tmp_path, port):
        await until(client.ready)
        assert any("without acting" in e.message for e in await client.events())
        await context.__aexit__(None, None, None)
