"""Faults of an application's process: killed, stopped, crashing again and again, slow after a restart, out of descriptors."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import count, islice
from pathlib import Path

from simulations.alongside import alongside
from simulations.cluster import Cluster
from simulations.drills.injections.process import CrashLoop, FileDescriptors, SlowStart
from simulations.drills.strikes.application import Ailments


@asynccontextmanager
async def killed(cluster: Cluster, instances: tuple[str, ...]) -> AsyncIterator[None]:
    """Kill the processes; start them again at the end."""
    try:
        await asyncio.gather(*(cluster.kill_application(each) for each in instances))
        yield
    finally:
        await revive(cluster, instances)


async def revive(cluster: Cluster, instances: tuple[str, ...]) -> None:
    """Start those of the processes that do not run."""
    running = cluster.processes.pids()
    await asyncio.gather(*(cluster.start_application(each) for each in instances if each not in running))


@asynccontextmanager
async def paused(cluster: Cluster, instances: tuple[str, ...]) -> AsyncIterator[None]:
    """SIGSTOP the processes; SIGCONT at the end."""
    pids = [cluster.processes.pid(each) for each in instances]
    try:
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


@asynccontextmanager
async def crashing(cluster: Cluster, fault: CrashLoop, instances: tuple[str, ...]) -> AsyncIterator[None]:
    """Kill the processes every so often; each comes back at once, and is there at the end."""

    async def loop() -> None:
        while True:
            await asyncio.gather(*(cluster.kill_application(each) for each in instances))
            await revive(cluster, instances)
            await asyncio.sleep(fault.every)

    try:
        async with alongside({"crash loop": loop()}):
            yield
    finally:
        await revive(cluster, instances)


@asynccontextmanager
async def restarted(
    cluster: Cluster, ailments: Ailments, fault: SlowStart, instances: tuple[str, ...], ramp_s: float
) -> AsyncIterator[None]:
    """Kill and start the processes, slow at first and getting faster over the ramp."""
    await asyncio.gather(*(cluster.kill_application(each) for each in instances))
    try:
        await revive(cluster, instances)
        async with ailments.suffered(fault, instances, ramp_s, down=True):
            yield
    finally:
        await revive(cluster, instances)


@asynccontextmanager
async def starved(cluster: Cluster, fault: FileDescriptors, instances: tuple[str, ...]) -> AsyncIterator[None]:
    """Let the processes open no more files than they have; give them their limit back at the end."""
    async with AsyncExitStack() as stack:
        for each in instances:
            pid = cluster.processes.pid(each)
            before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
            stack.callback(_limit, pid, before)
            free = await asyncio.to_thread(_free, pid)
            _limit(pid, (next(islice(free, fault.left, None)), before[1]))
        yield


def _limit(pid: int, limits: tuple[int, int]) -> None:
    try:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, limits)
    except ProcessLookupError:
        return  # it died meanwhile, and its limit with it


def _free(pid: int) -> Iterator[int]:
    """Return the numbers of descriptors that are free, lowest first: a process gets the lowest, if it is below its limit."""
    used = {int(entry.name) for entry in Path(f"/proc/{pid}/fd").iterdir()}
    return (number for number in count() if number not in used)
