"""Each part of a real mesh is killed under load; nothing but the requests in flight at that moment is lost."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from models.domain import ChangeKind, Health
from models.overlay import Owner
from simulations.shop.fault import Fault
from simulations.small import CALLER, CATALOG, SmallMesh
from simulations.steady import Sent, Steady, tally

pytestmark = [pytest.mark.integration, pytest.mark.asyncio(loop_scope="module")]

RATE = 80.0
LEASE_S = 3.0
# A caller's Envoy sees the end of a connection in a turn of its event loop after the kernel closed it; a request that it takes up
# in the same turn still goes there, and is in flight like those before it.
TURN_S = 0.05
SETTINGS = {"agent": {"lease_s": LEASE_S, "fence_ttl_s": 2.0}}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def mesh(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[SmallMesh]:
    """One mesh for the module: every test leaves it whole."""
    async with SmallMesh(tmp_path_factory.mktemp("kills") / "s", SETTINGS) as mesh:
        yield mesh


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def load(mesh: SmallMesh) -> AsyncIterator[Steady]:
    """Users who never stop to come, from the first test to the last."""
    async with mesh.load(RATE) as load:
        await served(mesh, load, 100)
        yield load


async def served(mesh: SmallMesh, load: Steady, count: int) -> None:
    """Wait until `count` more requests were answered well."""
    wanted = load.answered + count

    async def enough() -> bool:
        return load.answered >= wanted

    await mesh.until(enough, f"{count} more answers; lost: {tally(load.lost())}")


def beyond(load: Steady, since: float, began: float, ended: float) -> list[Sent]:
    """Return what was lost after `since` without having been in flight between `began` and `ended` or `TURN_S` later."""
    return [request for request in load.lost() if request.sent > since and not request.in_flight(began, ended + TURN_S)]


async def dead(pid: int) -> None:
    """Wait until a process that was killed has let go of its connections (the signal returns before that)."""
    deadline = time.monotonic() + 5.0
    while time.monotonic() < deadline:
        try:
            state = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0]
        except FileNotFoundError:
            return
        if state in {"Z", "X"}:
            return
        await asyncio.sleep(0.001)
    pytest.fail(f"process {pid} did not die")


async def health_changes(mesh: SmallMesh, after: int) -> list[str]:
    """Return what was told about the health of instances after change `after`."""
    async with mesh.control() as control:
        found = await control.changes(after)
    return [change.message for change in found.changes if change.kind is ChangeKind.HEALTH]


async def last_change(mesh: SmallMesh) -> int:
    """Return the sequence of the newest change event."""
    async with mesh.control() as control:
        return (await control.changes()).next


async def test_a_killed_agent_costs_no_request(mesh: SmallMesh, load: Steady) -> None:
    """`kill -9` of the agent: nothing is lost, and a new one is ready again by itself."""
    before = time.monotonic()
    await mesh.processes.kill("agent")
    await served(mesh, load, 80)
    await mesh.start("agent")
    await mesh.until(mesh.agent_ready, "the agent is back")
    assert not [r for r in load.lost() if r.sent > before], tally(load.lost())


async def test_a_killed_control_plane_costs_nothing_and_comes_back_quietly(mesh: SmallMesh, load: Steady) -> None:
    """Traffic goes on without it; on return no instance flaps, no resource is sent again, declarations hold."""
    before, sequence = time.monotonic(), await last_change(mesh)
    await mesh.processes.kill("control")
    await served(mesh, load, 120)
    await mesh.start("control")

    async def whole() -> bool:
        async with mesh.control() as control:
            proxies = await control.proxies()
        return sum(proxy.synced for proxy in proxies) == 4 and await mesh.heard() == 4

    await mesh.until(whole, "all sidecars are back")
    await served(mesh, load, 240)  # three more seconds: what flaps late is seen as well
    samples = await mesh.metrics(mesh.control_url)
    assert {
        name: value for name, value in samples.items() if name.startswith("fibrin_xds_pushes_total") and value
    } == {}
    assert samples["fibrin_xds_streams"] == 4
    assert samples["fibrin_xds_generation"] == 1
    assert await health_changes(mesh, sequence) == []
    assert not [r for r in load.lost() if r.sent > before], tally(load.lost())


async def test_a_killed_envoy_costs_what_was_in_flight(mesh: SmallMesh, load: Steady) -> None:
    """`kill -9` of a callee's Envoy: what comes later goes to another instance, and it serves again soon."""
    victim, before = CATALOG[0], time.monotonic()
    envoy = mesh.envoy(victim)
    os.kill(envoy, signal.SIGKILL)
    await dead(envoy)
    killed = time.monotonic()

    async def noticed() -> bool:
        return (await mesh.health())[victim] is not Health.HEALTHY

    await mesh.until(noticed, "the instance counts as unhealthy")
    await mesh.until_healthy(victim)
    again = time.monotonic()

    async def serves() -> bool:
        return any(r.instance == victim and r.sent > again for r in load.requests)

    await mesh.until(serves, "the instance serves again")
    assert not beyond(load, before, before, killed), tally(load.lost())


async def test_a_killed_application_costs_what_was_in_flight(mesh: SmallMesh, load: Steady) -> None:
    """`kill -9` of an application whose sidecar lives: what comes later goes to another instance at once."""
    victim, before = CATALOG[1], time.monotonic()
    await mesh.processes.kill(f"application-{victim}")
    killed = time.monotonic()

    async def noticed() -> bool:
        return (await mesh.health())[victim] is Health.UNHEALTHY

    await mesh.until(noticed, "the instance counts as unhealthy")
    took = time.monotonic() - killed
    await served(mesh, load, 80)
    await mesh.start_application(victim)
    await mesh.until_healthy(victim)
    assert took < 5.0
    assert not beyond(load, before, before, killed), tally(load.lost())


async def test_the_overlays_of_a_dead_agent_expire(mesh: SmallMesh, load: Steady) -> None:
    """What an agent laid before `kill -9` ends with its lease, what people declared holds again, no request is lost by it."""
    async with mesh.control() as control:
        known = {overlay.id for overlay in await control.overlays()}
    await mesh.set_fault(CATALOG[2], Fault(error_ratio=0.6))

    async def laid() -> bool:
        async with mesh.control() as control:
            return any(o.owner is Owner.AGENT and o.id not in known for o in await control.overlays())

    await mesh.until(laid, "the agent acts on a failing version")
    await mesh.processes.kill("agent")
    await mesh.set_fault(CATALOG[2], Fault())
    died = time.monotonic()

    async def expired() -> bool:
        async with mesh.control() as control:
            view = await control.service("catalog")
            return not await control.overlays() and view.effective == view.declared

    await mesh.until(expired, "the overlay expires")
    assert time.monotonic() - died <= LEASE_S + 2.0

    async def declared() -> bool:
        return any(r.instance == CATALOG[2] and r.sent > died + LEASE_S for r in load.requests)

    await mesh.until(declared, "the version is served again, as declared")
    await mesh.start("agent")
    await mesh.until(mesh.agent_ready, "the agent is back")
    assert not [r for r in load.lost() if r.sent > died], tally(load.lost())


async def test_everything_restarts_around_the_traffic(mesh: SmallMesh, load: Steady) -> None:
    """`fibrin down` and `up` lose nothing; neither does restarting callee after callee; then all of it is back as declared."""
    before, sequence = time.monotonic(), await last_change(mesh)

    async def fibrin(*verb: str) -> None:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "fibrin", *mesh.fibrin, *verb),
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
        )
        _, words = await process.communicate()
        assert process.returncode == 0, words.decode()

    await fibrin("down")
    await mesh.processes.stop_many(["agent", "control"], 1.0)  # gone already: only so that nobody misses them
    await served(mesh, load, 40)
    await fibrin("up", "-d")
    try:
        await mesh.until_healthy()
        await mesh.until(mesh.agent_ready, "the agent is ready")
        assert await health_changes(mesh, sequence) == []
        for instance in CATALOG[:2]:
            await mesh.processes.stop(f"sidecar-{instance}", 15.0)
            await mesh.start_sidecar(instance)
            await mesh.until_healthy(instance)
        assert not [r for r in load.lost() if r.sent > before], tally(load.lost())
    finally:
        await fibrin("down")
    await mesh.start("control")
    await mesh.start("agent")
    await mesh.until_healthy()
    async with mesh.control() as control:
        view = await control.service("catalog")
    assert view.effective.routes[0].weights == {"v1": 80, "v2": 20}
    assert CALLER in await mesh.health()
