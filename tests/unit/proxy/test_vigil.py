from __future__ import annotations

import asyncio
import socket
import sys
import time
from pathlib import Path

import pytest

from proxy import ports
from proxy.vigil import Vigil

_SERVER = """
import socket, sys, time
held = socket.create_server((sys.argv[1], int(sys.argv[2])), family=int(sys.argv[3]))
print("listening", flush=True)
time.sleep(60)
"""


async def _listener(address: str, port: int) -> asyncio.subprocess.Process:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-I", "-S", "-c", _SERVER, address, str(port), str(int(family))),
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    assert await process.stdout.readline() == b"listening\n"
    return process


@pytest.fixture
def port() -> int:
    """Return a port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.mark.parametrize("bound", ["127.0.71.3", "0.0.0.0"])
async def test_the_holder_of_an_address_is_found(bound: str, port: int) -> None:
    """A listener is found under its own address or under all of them, and nobody else's is taken for it."""
    process = await _listener(bound, port)
    try:
        assert ports.holders(port, "127.0.71.3") == (process.pid,)
        assert ports.holders(port) == (process.pid,)
        others = ports.holders(port, "127.0.71.4")
        assert others == ((process.pid,) if bound == "0.0.0.0" else ())
    finally:
        process.kill()
        await process.wait()
    assert ports.holders(port) == ()


async def test_an_end_is_told_at_once(port: int) -> None:
    """The end of a watched process is told within a moment, once, and nothing is told after letting go."""
    told: list[float] = []
    ended = asyncio.Event()

    def on_end() -> None:
        told.append(time.monotonic())
        ended.set()

    process = await _listener("127.0.71.3", port)
    before = len(list(Path("/proc/self/fd").iterdir()))
    with Vigil("127.0.71.3", port, on_end) as vigil:
        await vigil.renew()
        await vigil.renew()  # the same process, still watched once
        process.kill()
        async with asyncio.timeout(10):
            await ended.wait()
        await process.wait()
        await vigil.renew()  # nobody listens: nobody is watched
    assert len(told) == 1
    assert len(list(Path("/proc/self/fd").iterdir())) <= before
