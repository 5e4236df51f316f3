"""Two agents, one PostgreSQL, one control plane: one leads and acts; killed, the other goes on where it was."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from sqlalchemy import create_engine, text

from agent.client import AgentClient
from control.client import ControlClient
from control.plane import serving
from control.settings import ControlSettings
from models.domain import Instance
from models.errors import FibrinError

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

DECLARED = """
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: catalog}
spec:
  host: catalog
  subsets: [{name: v1, labels: {version: v1}}, {name: v2, labels: {version: v2}}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: catalog}
spec:
  hosts: [catalog]
  http: [{route: [{destination: {host: catalog, subset: v1}, weight: 100}]}]
---
apiVersion: fibrin.dev/v1
kind: Canary
metadata: {name: catalog}
spec: {service: catalog, canary: v2, stable: v1, steps: [{weight: 10, for: 1h}, {weight: 50}]}
"""


async def until(what: str, condition: Callable[[], Awaitable[bool]], seconds: float = 60.0) -> None:
    """Poll until the condition holds."""
    deadline = time.monotonic() + seconds
    while not await condition():
        assert time.monotonic() < deadline, f"waited {seconds:g} s for {what}"
        await asyncio.sleep(0.1)


async def start(state: Path, control: Path, url: str, database: str) -> asyncio.subprocess.Process:
    """Start an agent with a state directory of its own."""
    state.mkdir(mode=0o700)
    for token in control.glob("*.token"):
        shutil.copy(token, state)
    command = ("-m", "fibrin", "--state-dir", str(state), "agent", "--port", "0", "--control-url", url)
    return await asyncio.create_subprocess_exec(
        sys.executable,
        *command,
        env={**os.environ, "FIBRIN_AGENT_DATABASE": database, "FIBRIN_AGENT_FENCE_TTL_S": "2"},
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )


def end(agent: asyncio.subprocess.Process) -> None:
    """Kill an agent that still lives."""
    if agent.returncode is None:
        agent.kill()


async def fence(state: Path) -> int | None:
    """Return an agent's fencing token, None while it has none or does not answer."""
    try:
        async with AgentClient.from_state_dir(state) as agent:
            found = (await agent.status())["fence"]
    except FibrinError:
        return None
    return None if found is None else int(found)


async def test_of_two_agents_one_acts_and_the_other_goes_on_for_it(tmp_path: Path, server: str) -> None:
    """One fence, one overlay; after SIGKILL of the leader the other one leads with a newer fence and the same step."""
    engine = create_engine(
        server.format("postgres").replace("postgresql:", "postgresql+psycopg:"), isolation_level="AUTOCOMMIT"
    )
    with engine.connect() as db:
        db.execute(text("CREATE DATABASE replicas"))
    engine.dispose()
    control = tmp_path / "control"
    async with AsyncExitStack() as stack:
        _, url = await stack.enter_async_context(serving(ControlSettings(state_dir=control, port=0)))
        operator = await stack.enter_async_context(ControlClient.from_state_dir(control))
        proxy = await stack.enter_async_context(ControlClient.from_state_dir(control, "proxy"))
        await operator.apply({"catalog.yaml": DECLARED})
        beating = asyncio.create_task(_beat(proxy), name="heartbeats")
        stack.callback(beating.cancel)
        states = (tmp_path / "a", tmp_path / "b")
        agents = [await start(state, control, url, server.format("replicas")) for state in states]
        for agent in agents:
            stack.callback(end, agent)

        async def one_leads() -> bool:
            return sum([await fence(state) is not None for state in states]) == 1

        async def stepped() -> bool:
            return [overlay.id for overlay in await operator.overlays()] == ["canary-catalog-g1-step0"]

        await until("one leader", one_leads)
        await until("the canary's first step", stepped)
        before = (await operator.overlays())[0]
        tokens = [await fence(state) for state in states]
        leader = next(number for number, token in enumerate(tokens) if token is not None)
        agents[leader].send_signal(signal.SIGKILL)
        await agents[leader].wait()
        other = states[1 - leader]

        async def took_over() -> bool:
            return (await fence(other) or 0) > (tokens[leader] or 0)

        await until("the other one to lead", took_over)

        async def goes_on() -> bool:
            async with AgentClient.from_state_dir(other) as agent:
                found = await agent.canary("catalog")
            return (found.state, found.step, found.overlay) == ("progressing", 1, before.id)

        await until("the same step", goes_on)
        assert await stepped()
        for agent in agents:
            if agent.returncode is None:
                agent.terminate()
                await agent.wait()


async def _beat(proxy: ControlClient) -> None:
    instances = [
        Instance(f"catalog-{version}-{n}", "catalog", version, "z1", f"127.9.4.{n + 1}", 15006)
        for n, version in enumerate(("v1", "v1", "v2"))
    ]
    for instance in instances:
        await proxy.register(instance)
    while True:
        for instance in instances:
            await proxy.heartbeat(instance.id)
        await asyncio.sleep(0.5)
