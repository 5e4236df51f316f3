"""The control plane as a real process: killed without warning, stopped with notice, refused with a clear word."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import pytest

from control.client import ControlClient
from models.domain import Instance
from models.errors import FibrinError
from models.overlay import EjectInstance, ShiftTraffic

pytestmark = pytest.mark.integration

PROGRAM = """
import asyncio, sys
from pathlib import Path
from control.plane import ControlSettings, run
from models.errors import FibrinError
try:
    asyncio.run(run(ControlSettings(Path(sys.argv[1]), port=int(sys.argv[2]))))
except FibrinError as error:
    print(f"{type(error).__name__}: {error.message} | {error.hint}", file=sys.stderr)
    sys.exit(1)
"""

ROUTES = """
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: catalog}
spec:
  hosts: [catalog]
  http: [{route: [{destination: {host: catalog, subset: v1}, weight: 90}, {destination: {host: catalog, subset: v2}, weight: 10}]}]
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: catalog}
spec: {host: catalog, subsets: [{name: v1, labels: {version: v1}}, {name: v2, labels: {version: v2}}]}
"""

Start = Callable[[], AbstractAsyncContextManager[asyncio.subprocess.Process]]


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """A state directory."""
    return tmp_path / "s"


@pytest.fixture
def start(state: Path) -> Start:
    """Run a control plane as a process of its own; it is gone at the end, whatever happens."""

    @asynccontextmanager
    async def process(port: int = 0) -> AsyncIterator[asyncio.subprocess.Process]:
        (state / "control.json").unlink(missing_ok=True)
        child = await asyncio.create_subprocess_exec(
            sys.executable,
            "-W",
            "error",
            "-c",
            PROGRAM,
            str(state),
            str(port),
            cwd=Path(__file__).parents[2],
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            async with asyncio.timeout(20):
                while not (state / "control.json").exists() and child.returncode is None:
                    await asyncio.sleep(0.01)
            yield child
        finally:
            if child.returncode is None:
                child.kill()
            await child.wait()

    return process


async def ready(state: Path) -> ControlClient:
    """Return an open client once the control plane answers."""
    client = ControlClient.from_state_dir(state)
    await client.__aenter__()
    async with asyncio.timeout(10):
        while not await client.healthy():
            await asyncio.sleep(0.01)
    return client


async def test_kill_minus_nine_loses_nothing_acknowledged(start: Start, state: Path) -> None:
    """What was acknowledged before kill -9 is there after the restart, and what is served is the same."""
    async with start() as child:
        client = await ready(state)
        for name, version in (("a", "v1"), ("b", "v1"), ("c", "v1"), ("d", "v2")):
            await client.register(Instance(name, "catalog", version, "z1", "127.0.0.9", 15006))
            await client.heartbeat(name)
        await client.apply({"r.yaml": ROUTES})
        await client.create_overlay(ShiftTraffic("catalog", {"v1": 100}), reason="x", lease_s=600, overlay_id="shift")
        await client.drain("d")
        await client.create_overlay(EjectInstance("catalog", "a"), reason="x", lease_s=600, overlay_id="eject")
        child.send_signal(signal.SIGKILL)  # directly behind the last answer
        await child.wait()
        await client.close()
    async with start():
        again = await ready(state)
        status = await again.overlay("eject")
        assert status.in_force
        assert status.propagation.generation == 1  # one world computed, none pushed twice
        assert [overlay.id for overlay in await again.overlays()] == ["eject", "shift"]
        view = await again.service("catalog")
        assert view.effective.ejected == {"a"}
        assert view.effective.routes[0].weights == {"v1": 100}
        assert view.declared.routes[0].weights == {"v1": 90, "v2": 10}
        assert {i.id: i.health.value for i in view.instances} == {
            "a": "healthy",
            "b": "healthy",
            "c": "healthy",
            "d": "draining",
        }
        assert (await again.changes()).next > 0
        await again.close()


async def test_kill_in_the_middle_of_writes(start: Start, state: Path) -> None:
    """Killed while writing: every overlay that was acknowledged is there, and the database opens clean."""
    acknowledged: list[str] = []

    async def lay(client: ControlClient, worker: int) -> None:
        for n in range(1000):
            name = f"o-{worker}-{n}"
            change = ShiftTraffic("catalog", {"v1": 1 + n % 7})
            await client.create_overlay(change, reason="x", lease_s=600, overlay_id=name)
            acknowledged.append(name)

    async with start() as child:
        client = await ready(state)
        await client.register(Instance("a", "catalog", "v1", "z1", "127.0.0.9", 15006))
        await client.heartbeat("a")
        workers = [asyncio.create_task(lay(client, worker)) for worker in range(4)]
        async with asyncio.timeout(20):
            while len(acknowledged) < 60:
                await asyncio.sleep(0)
        child.send_signal(signal.SIGKILL)
        await child.wait()
        results = await asyncio.gather(*workers, return_exceptions=True)
        await client.close()
    assert all(isinstance(result, FibrinError) for result in results), results
    async with start():
        again = await ready(state)
        assert set(acknowledged) <= {overlay.id for overlay in await again.overlays()}
        await again.close()


async def test_sigterm_is_an_orderly_end(start: Start, state: Path) -> None:
    """SIGTERM ends the process within its deadline with status 0, an open watch stream or not."""
    async with start() as child:
        client = await ready(state)
        stream = client.watch_topology()
        await anext(stream)
        began = time.monotonic()
        child.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(child.wait(), 10) == 0
        assert time.monotonic() - began < 5
        assert not (state / "control.json").exists()
        await client.close()


async def test_a_second_one_says_why_it_does_not_start(start: Start, state: Path) -> None:
    """The second process on one state directory ends with 1 and one clear line."""

    async def said(run: Awaitable[asyncio.subprocess.Process]) -> tuple[int | None, str]:
        child = await run
        assert child.stderr is not None
        text = (await child.stderr.read()).decode()
        return await child.wait(), text

    async with start():
        client = await ready(state)
        second = asyncio.create_subprocess_exec(
            sys.executable,
            "-c",
            PROGRAM,
            str(state),
            "0",
            cwd=Path(__file__).parents[2],
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
        )
        code, text = await said(second)
        assert code == 1
        assert "Conflict: another control plane runs on" in text
        assert "fibrin down" in text
        assert await client.healthy()
        await client.close()
