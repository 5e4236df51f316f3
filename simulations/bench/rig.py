"""A small real mesh to measure: control plane, agent that only watches, and sidecars on a subnet of their own."""

from __future__ import annotations

import asyncio
import random
import shutil
import tempfile
import time
from collections.abc import Iterable
from functools import partial
from pathlib import Path

from control.client import ControlClient
from models.domain import Health
from simulations.addresses import free_port, free_subnet
from simulations.bench import wire
from simulations.bracket import Bracket
from simulations.shop.spec import APP_PORT, OUTBOUND_PORT
from simulations.sidecars import Fleet, Sidecar

CALLEE = "svc"
REQUEST = f"GET http://{CALLEE}/ HTTP/1.1\r\nhost: {CALLEE}\r\n\r\n".encode()
_CLOCK_SCHED = 2


class Rig(Bracket):
    """Runs `sidecars` sidecars: one of `svc`, the others callers of a service `caller`; 0 runs the processes alone."""

    def __init__(self, sidecars: int, *, with_agent: bool = True) -> None:
        self.names = ["svc-1", *(f"caller-{k}" for k in range(1, sidecars))][:sidecars]
        self._with_agent = with_agent
        super().__init__(Path(tempfile.mkdtemp(prefix="fibrin-bench-")))
        self.addresses = free_subnet(self.names or ["none"], random.Random())
        self._servers: list[asyncio.Server] = []

    async def _start(self) -> None:
        self.logs.mkdir(mode=0o700)
        base = ["--state-dir", str(self.state_dir)]
        port = str(free_port())
        await self.processes.start("control", "fibrin", [*base, "control", "--port", port])
        await self.wait_for("the control plane", self._control_up, "control")
        if self._with_agent:
            flags = ["--port", str(free_port()), "--control-url", f"http://127.0.0.1:{port}", "--observe-only"]
            await self.processes.start("agent", "fibrin", [*base, "agent", *flags])
            await self.until(self._agent_up, "the agent listens")
        if self.names:
            await self._sidecars(f"http://127.0.0.1:{port}")

    async def _sidecars(self, url: str) -> None:
        sidecars = []
        for name in self.names:
            address = self.addresses[name]
            self._servers.append(await wire.serve((address, APP_PORT)))
            service = name.rpartition("-")[0]
            sidecars.append(Sidecar(name, service, "v1", "local", address, probe_path=""))
        path = self.state_dir / "fleet.json"
        path.write_text(Fleet(str(self.state_dir), url, 0.5, tuple(sidecars)).encode(), encoding="utf-8")
        await self.processes.start("sidecars", "simulations.sidecars", [str(path)])
        await self.wait_for("every sidecar is healthy", self._all_healthy, "sidecars")
        for name in self.callers:
            await self.until(partial(self._served, name), f"{name} serves")

    @property
    def callers(self) -> list[str]:
        """The sidecars that call."""
        return self.names[1:]

    def outbound(self, name: str) -> tuple[str, int]:
        """Where a sidecar takes its application's requests."""
        return (self.addresses[name], OUTBOUND_PORT)

    def control(self) -> ControlClient:
        """Return an operator's client."""
        return ControlClient.from_state_dir(self.state_dir, actor="bench", timeout_s=20.0)

    def envoys(self) -> list[int]:
        """Return the process ids of the rig's Envoys."""
        return [pid for pid in _descendants(self.processes.pid("sidecars")) if _name(pid).startswith("envoy")]

    async def _control_up(self) -> str:
        if not (self.state_dir / "control.json").exists() or not (self.state_dir / "proxy.token").exists():
            return "its files are not there yet"
        async with self.control() as control:
            return "" if await control.healthy() else "it does not answer"

    async def _agent_up(self) -> bool:
        return (self.state_dir / "otlp.sock").exists()

    async def _all_healthy(self) -> str:
        async with self.control() as control:
            found = {i.id for i in await control.instances() if i.health is Health.HEALTHY}
        return ", ".join(sorted(set(self.names) - found))

    async def _served(self, name: str) -> bool:
        tally = await wire.load(self.outbound(name), REQUEST, rate=100, seconds=0.02, connections=1)
        return bool(tally.latencies) and not tally.failed

    async def _stop(self) -> None:
        await self.processes.stop_many(["agent", "sidecars"], 8.0)
        await self.processes.stop_many(["control"], 8.0)
        for server in self._servers:
            server.close()
        shutil.rmtree(self.state_dir, ignore_errors=True)


def cpu_seconds(pids: Iterable[int]) -> float:
    """Return user and system CPU seconds that the processes have used so far, threads that ended included.

    Linux: the number below is the id of a process's CPU clock, as `clock_getcpuclockid(3)` makes it. It counts
    nanoseconds, where `/proc/PID/stat` counts ticks of 10 ms.
    """
    return sum(time.clock_gettime_ns((~pid << 3) | _CLOCK_SCHED) for pid in pids) * 1e-9


def memory(pid: int) -> tuple[float, float]:
    """Return resident and proportional set size, MiB."""
    sizes = {"Rss": 0.0, "Pss": 0.0}
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="utf-8").splitlines():
        key, _, rest = line.partition(":")
        if key in sizes:
            sizes[key] = int(rest.split()[0]) / 1024
    return (sizes["Rss"], sizes["Pss"])


def _name(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text(encoding="utf-8").strip()
    except OSError:
        return ""


def _descendants(pid: int) -> list[int]:
    found = []
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="utf-8").split()
    except OSError:
        return []
    for child in map(int, children):
        found += [child, *_descendants(child)]
    return found
