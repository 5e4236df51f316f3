"""From a call of the control API to the arrival at the last of a thousand simulated sidecars.

The clients run in two processes on the cores of the control plane; what they and the others take stands in the table.
Beside it, with the same clients, the least that a server on the same gRPC library does.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path

from models.overlay import OpenBreaker
from simulations.bench.child import Child
from simulations.bench.figures import Table, Target, milliseconds, quantile
from simulations.bench.rig import CALLEE, Rig, cpu_seconds

LIMIT_S = 0.200
_PROCESSES = 2
_START_S = 90.0
_ARRIVAL_S = 30.0
_PAUSE_S = 0.2


@dataclass(slots=True)
class Found:
    """Seconds from the call to each arrival, one list per change; CPU seconds per change of the server, the clients."""

    arrivals: list[list[float]] = field(default_factory=list)
    server_cpu: float = 0.0
    clients_cpu: float = 0.0

    @property
    def last(self) -> list[float]:
        """When the last client had it, per change."""
        return [max(times) for times in self.arrivals]


async def measure(*, quick: bool) -> Table:
    """Open and close a breaker; then have the reference push the same."""
    changes, count = (4, 50) if quick else (100, 1000)
    async with Rig(2) as rig:
        token = rig.state_dir / "proxy.token"
        async with rig.control() as control:

            async def change(number: int, *, is_open: bool) -> None:
                name = f"bench-{number // 2}"
                if is_open:
                    breaker = OpenBreaker(callee=CALLEE)
                    await control.create_overlay(breaker, reason="measuring", lease_s=60, overlay_id=name)
                else:
                    await control.delete_overlay(name)

            ours = await _push(
                Server(rig.state_dir / "xds.sock", rig.processes.pid("control"), change), token, count, changes
            )
        path = rig.state_dir / "reference.sock"
        async with Child("simulations.bench.reference", str(path)) as reference:
            await reference.hear(_START_S)

            async def push(_: int, *, is_open: bool) -> None:
                reference.tell(is_open)

            least = await _push(Server(path, reference.pid, push), token, count, changes)
    return table({"fibrin": ours, "reference": least}, count, judged=not quick)


@dataclass(frozen=True, slots=True)
class Server:
    """What is measured: its socket, its process, and how a change is made (`change(number, is_open=…)`)."""

    path: Path
    pid: int
    change: Callable[..., Awaitable[None]]


async def _push(server: Server, token: Path, count: int, changes: int) -> Found:
    """Connect `count` clients, make `changes` changes one after the other, and note every arrival."""
    found = Found()
    async with AsyncExitStack() as stack:
        share = count // _PROCESSES
        children = [
            await stack.enter_async_context(
                Child("simulations.bench.clients", str(server.path), str(token), str(k * share), str(share))
            )
            for k in range(_PROCESSES)
        ]
        await asyncio.gather(*(child.hear(_START_S) for child in children))
        for number in range(changes):
            await asyncio.sleep(_PAUSE_S)
            is_open = number % 2 == 0
            for child in children:
                child.tell(is_open)
            pids = [child.pid for child in children]
            before = cpu_seconds([server.pid]), cpu_seconds(pids)
            began = time.monotonic()
            await server.change(number, is_open=is_open)
            times = await asyncio.gather(*(child.hear(_ARRIVAL_S) for child in children))
            found.arrivals.append([at - began for part in times for at in part])
            found.server_cpu += (cpu_seconds([server.pid]) - before[0]) / changes
            found.clients_cpu += (cpu_seconds(pids) - before[1]) / changes
    return found


def table(found: Mapping[str, Found], count: int, *, judged: bool) -> Table:
    """Return when half of the clients and when the last had a change, and how ours compares with the least."""
    rows = []
    for name, one in found.items():
        middle = quantile([quantile(times, 0.5) for times in one.arrivals], 0.5)
        figures = (middle, *(quantile(one.last, q) for q in (0.5, 0.99, 1.0)), one.server_cpu, one.clients_cpu)
        rows.append((name, str(len(one.last)), *(milliseconds(v) for v in figures)))
    ratios = [_over(found, lambda f, q=q: quantile(f.last, q)) for q in (0.5, 0.99, 1.0)]  # type: ignore[misc]
    rows.append(("fibrin / reference", "", "", *ratios, _over(found, lambda f: f.server_cpu), ""))
    return Table(
        f"API call to arrival at {count} simulated xDS clients",
        ("server", "changes", "half of them, p50", "last p50", "last p99", "last max", "server CPU", "clients' CPU"),
        tuple(rows),
        "CPU per change; the reference writes one ready response to every stream, and starts at the order instead of a call",
        (Target("last client p99", quantile(found["fibrin"].last, 0.99) * 1e3, LIMIT_S * 1e3, " ms"),),
        judged,
    )


def _over(found: Mapping[str, Found], of: Callable[[Found], float]) -> str:
    return f"{of(found['fibrin']) / of(found['reference']):.2f}"
