"""The faults of one application and its process are real: seen from outside, and gone when they are lifted."""

from __future__ import annotations

import asyncio
import os
import random
import resource
import socket
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import aiohttp
import pytest

from simulations.addresses import free_subnet
from simulations.drills.injections.process import FileDescriptors
from simulations.drills.strikes.application import together
from simulations.drills.strikes.process import paused, starved
from simulations.processes import Processes
from simulations.shop.fault import Fault, set_fault
from simulations.shop.strain import KILLED

pytestmark = pytest.mark.integration

DEADLINE_S = 40.0
NAME = "ads-v1-1"
ESTABLISHED, CLOSE_WAIT = "01", "08"  # as /proc/net/tcp writes states


class One:
    """One instance of ads; enough of a cluster for the faults of a process."""

    def __init__(self, folder: Path) -> None:
        self.processes = Processes(folder)
        self.socket = folder / "ads.fault"
        self.address = free_subnet([NAME], random.Random())[NAME]
        self.url = f"http://{self.address}:8080/ads"

    async def start(self) -> None:
        who = ["--service", "ads", "--instance", NAME, "--address", self.address]
        await self.processes.start(NAME, "simulations.shop", [*who, "--fault-control", str(self.socket)])
        deadline = time.monotonic() + DEADLINE_S
        while await self.ask(DEADLINE_S) != "200":
            assert time.monotonic() < deadline
            await asyncio.sleep(0.05)

    async def ask(self, within_s: float = 5.0) -> str:
        """Ask once, over a connection of its own; return the status or what went wrong."""
        timeout = aiohttp.ClientTimeout(total=within_s)
        async with aiohttp.ClientSession(timeout=timeout) as session:
            try:
                async with session.get(self.url) as response:
                    await response.read()
                    return str(response.status)
            except (aiohttp.ClientError, TimeoutError) as error:
                return type(error).__name__

    def connections(self) -> int:
        """Return how many connections the instance has not closed."""
        local = f"{socket.inet_aton(self.address)[::-1].hex().upper()}:{8080:04X}"
        rows = [line.split() for line in Path("/proc/net/tcp").read_text(encoding="ascii").splitlines()[1:]]
        return sum(row[1] == local and row[3] in {ESTABLISHED, CLOSE_WAIT} for row in rows)

    async def many(self, count: int) -> float:
        """Ask `count` times at once; return how long the slowest took."""
        began = time.monotonic()
        assert set(await asyncio.gather(*(self.ask(DEADLINE_S) for _ in range(count)))) == {"200"}
        return time.monotonic() - began


@pytest.fixture
async def one(tmp_path: Path) -> AsyncIterator[One]:
    """One running instance."""
    found = One(tmp_path)
    try:
        await found.start()
        yield found
    finally:
        await found.processes.stop_many([NAME], 8.0)


async def test_answers_break_off_and_come_whole_again(one: One) -> None:
    """A corrupted answer has a good status and half a body; lifted, answers are whole."""
    await set_fault(one.socket, Fault(corrupt_ratio=1.0))
    assert await one.ask() == "ClientPayloadError"
    await set_fault(one.socket, Fault())
    assert await one.ask() == "200"


async def test_one_worker_makes_a_queue(one: One) -> None:
    """With one worker twenty requests take twenty service times (15 ms each), whatever the machine."""
    await set_fault(one.socket, Fault(workers=1))
    assert await one.many(20) > 0.2


async def test_a_leak_grows_and_kills(one: One) -> None:
    """The process grows by what it leaks, and dies at its limit with the code of an out-of-memory kill."""
    pid = one.processes.pid(NAME)
    before = _resident_mib(pid)
    one.processes.may_end([NAME])
    await set_fault(one.socket, Fault(leak_mib_s=100, leak_most_mib=80))
    most, deadline = before, time.monotonic() + DEADLINE_S
    while NAME in one.processes.pids():
        assert time.monotonic() < deadline
        most = max(most, _resident_mib(pid))
        await asyncio.sleep(0.01)
    assert most > before + 50
    assert one.processes.exit_code(NAME) == KILLED
    one.processes.require_running()


async def test_a_burning_process_uses_the_processor(one: One) -> None:
    """It spends processor time without a request, about as much as it was told when the machine lets it."""
    pid = one.processes.pid(NAME)
    await set_fault(one.socket, Fault(burn=0.9))
    before, deadline = _cpu_s(pid), time.monotonic() + DEADLINE_S
    while _cpu_s(pid) < before + 0.5:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.05)


async def test_a_stopped_process_is_silent_and_goes_on(one: One) -> None:
    """SIGSTOP: connections are taken by the kernel and nobody answers; SIGCONT: all is well."""
    async with paused(one, (NAME,)):  # type: ignore[arg-type] # of a cluster only its processes are needed
        assert await one.ask(0.3) == "TimeoutError"
    assert await one.ask() == "200"


async def test_without_file_descriptors_no_connection_is_served(one: One) -> None:
    """New connections find no descriptor; afterwards the limit is what it was, and they are served."""
    limit = resource.prlimit(one.processes.pid(NAME), resource.RLIMIT_NOFILE)
    deadline = time.monotonic() + DEADLINE_S
    while one.connections():  # that of the first question: its descriptor would be free when it is closed
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(starved(one, FileDescriptors(service="ads"), (NAME,)))  # type: ignore[arg-type]
        assert await one.ask(0.3) in {"TimeoutError", "ServerDisconnectedError", "ClientOSError"}
    assert resource.prlimit(one.processes.pid(NAME), resource.RLIMIT_NOFILE) == limit
    assert await one.ask(DEADLINE_S) == "200"


def test_several_faults_on_one_instance_add_up() -> None:
    """Of each kind the strongest is in force, of workers the fewest; nothing laid is nothing wrong."""
    laid = [Fault(error_ratio=0.2), Fault(error_ratio=0.5), Fault(slow_factor=3), Fault(workers=4), Fault(workers=2)]
    assert together(laid) == Fault(error_ratio=0.5, slow_factor=3, workers=2)
    assert together([]) == Fault()


def _resident_mib(pid: int) -> float:
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except (OSError, IndexError):
        return 0.0
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
