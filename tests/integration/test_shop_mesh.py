"""The shop on real sidecars: users are served through the mesh, and nothing is left behind however the cluster ends."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from pathlib import Path

import pytest

from simulations import faults
from simulations.cluster import Cluster, Options
from simulations.demo.account import window
from simulations.faults import DependencyDown, VersionErrors

pytestmark = pytest.mark.integration

DEADLINE_S = 60.0


def _descendants(root: int) -> set[int]:
    """Return the processes that descend from `root`, itself left out."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
    found = {root}
    while fresh := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= fresh
    return found - {root}


def _alive(pids: set[int]) -> set[int]:
    """Return those of `pids` that still run (a zombie does not)."""
    alive = set()
    for pid in pids:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            continue
        if state != "Z":
            alive.add(pid)
    return alive


async def _gone(pids: set[int]) -> set[int]:
    deadline = time.monotonic() + DEADLINE_S
    while (left := _alive(pids)) and time.monotonic() < deadline:
        await asyncio.sleep(0.05)
    return left


async def _served(cluster: Cluster, seconds: float) -> None:
    """Let users shop, then break the canary and a dependency without an agent: exactly the guilty are blamed."""
    tail = await cluster.start_users()
    assert tail.began is not None
    healthy_until = tail.began + seconds
    while time.time() < healthy_until + 0.5:
        await asyncio.sleep(0.05)
    tail.read()
    well = tail.window(tail.began, healthy_until)
    assert len(well) > 20 * seconds
    assert all(r.status == 200 and not r.trouble for r in well)
    for fault in (VersionErrors("catalog", "v2", 0.5), DependencyDown("recommendation")):
        onset = time.time()
        await faults.apply(fault, cluster)
        while not (seen := window(tail.records, fault, onset, DEADLINE_S)).lost_to_fault:
            assert time.time() < onset + DEADLINE_S, f"nobody noticed {fault}"
            await asyncio.sleep(0.1)
            tail.read()
        assert seen.lost >= seen.lost_to_fault
        await faults.undo(fault, cluster)
        await cluster.until_healthy()
    await cluster.stop_users()


async def test_users_are_served_through_the_mesh_and_an_ordered_stop_leaves_nothing(tmp_path: Path) -> None:
    """A healthy shop serves everyone through two sidecars a hop; injected faults spoil requests and name who did."""
    cluster = Cluster(Options(tmp_path / "s", rate=40.0, with_agent=False))
    async with cluster:
        await _served(cluster, 4.0)
        children = _descendants(os.getpid())
        assert len(children) > 30
    assert await _gone(children) == set()


_MESH = """
import asyncio, pathlib, sys
from simulations.cluster import Cluster, Options
async def main():
    async with Cluster(Options(pathlib.Path(sys.argv[1]), with_agent=False)):
        print("up", flush=True)
        await asyncio.sleep(600)
asyncio.run(main())
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
async def test_no_process_outlives_the_demo(tmp_path: Path, number: signal.Signals) -> None:
    """Whether the process that holds the mesh is interrupted or killed, every process it started is gone soon after."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", _MESH, str(tmp_path / "s"), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    line = await asyncio.wait_for(process.stdout.readline(), DEADLINE_S)
    assert line == b"up\n", (await process.communicate())[1].decode()
    children = _descendants(process.pid)
    assert len(children) > 30
    process.send_signal(number)
    await asyncio.wait_for(process.communicate(), DEADLINE_S)
    assert await _gone(children) == set()


async def test_an_interrupted_demo_leaves_no_process_and_no_directory(tmp_path: Path) -> None:
    """Ctrl-C in the middle of the start ends `fibrin demo` with 130 and no traceback, and nothing is left on the machine."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "fibrin", "demo", "--headless"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )
    assert process.stdout is not None
    deadline = time.monotonic() + DEADLINE_S
    while len(children := _descendants(process.pid)) < 20:  # applications run, sidecars begin
        assert time.monotonic() < deadline, "the demo does not start"
        await asyncio.sleep(0.05)
    process.send_signal(signal.SIGINT)
    said = (await asyncio.wait_for(process.stdout.read(), DEADLINE_S)).decode()
    assert await process.wait() == 130, said
    assert "Traceback" not in said
    assert await _gone(children) == set()
    assert list(tmp_path.iterdir()) == []
