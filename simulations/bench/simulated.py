"""From a call of the control API to the arrival at the last of a thousand simulated sidecars."""

from __future__ import annotations

import asyncio
import sys
import time

from models.overlay import OpenBreaker
from simulations.bench.figures import Table, milliseconds, quantile
from simulations.bench.rig import CALLEE, Rig

LIMIT_S = 0.200
_START_S = 120.0
_ARRIVAL_S = 20.0
_PAUSE_S = 0.3


async def measure(*, quick: bool) -> Table:
    """Open and close a breaker; the clients run in a process of their own, on the same monotonic clock."""
    changes, count = (4, 50) if quick else (20, 1000)
    found: list[float] = []
    async with Rig(2) as rig, rig.control() as control:
        child = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "simulations.bench.clients", str(rig.state), str(count)),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        assert child.stdin is not None
        assert child.stdout is not None
        try:
            async with asyncio.timeout(_START_S):
                await child.stdout.readline()
            for number in range(changes):
                overlay = f"bench-{number // 2}"
                began = time.monotonic()
                if number % 2 == 0:
                    change = OpenBreaker(callee=CALLEE)
                    await control.create_overlay(change, reason="measuring", lease_s=60, overlay_id=overlay)
                else:
                    await control.delete_overlay(overlay)
                child.stdin.write(f"{began!r}\n".encode())
                async with asyncio.timeout(_ARRIVAL_S):
                    found.append(float(await child.stdout.readline()) - began)
                await asyncio.sleep(_PAUSE_S)
        finally:
            child.kill()
            await child.wait()
    row = (str(len(found)), *(milliseconds(v) for v in (quantile(found, 0.5), quantile(found, 0.99), max(found))))
    return Table(
        f"API call to arrival at the last of {count} simulated xDS clients",
        ("changes", "p50", "p99", "max"),
        (row,),
        f"target p99 ≤ {LIMIT_S * 1e3:.0f} ms",
        quantile(found, 0.99) <= LIMIT_S,
    )
