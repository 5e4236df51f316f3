"""A small real mesh to measure: control plane, agent that only watches, and sidecars on a subnet of their own."""

from __future__ import annotations

import asyncio
import random
import shutil
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Self

from control.client import ControlClient
from models.domain import Health
from models.errors import Broken, FibrinError
from simulations.addresses import free_port, free_subnet
from simulations.bench import wire
from simulations.processes import Processes
from simulations.shop.spec import APP_PORT, OUTBOUND_PORT
from simulations.sidecars import Fleet, Sidecar

CALLEE = "svc"
REQUEST = f"GET http://{CALLEE}/ HTTP/1.1\r\nhost: {CALLEE}\r\n\r\n".encode()
DEADLINE_S = 60.0
_CLOCK_SCHED = 2


class Rig:
    """Runs `sidecars` sidecars: one of `svc`, the others callers of a service `caller`; 0 runs the processes alone."""

    def __init__(self, sidecars: int, *, with_agent: bool = True) -> None:
        self.names = ["svc-1", *(f"caller-{k}" for k in range(1, sidecars))][:sidecars]
        self._with_agent = with_agent
        self.state = Path(tempfile.mkdtemp(prefix="fibrin-bench-"))
        self.processes = Processes(self.state / "logs")
        self.addresses = free_subnet(self.names or ["none"], random.Random())
        self._servers: list[asyncio.Server] = []

    async def __aenter__(self) -> Self:
        """Start everything and wait for it. Raises Broken naming what did not come up."""
        try:
            await self._start()
        except BaseException:
            await self._stop()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop everything in order and remove the state directory."""
        await asyncio.shield(self._stop())

    async def _start(self) -> None:
        (self.state / "logs").mkdir(mode=0o700)
        base = ["--state-dir", str(self.state)]
        port = str(free_port())
        await self.processes.start("control", "fibrin", [*base, "control", "--port", port])
        await self._wait("control", self._control_up)
        if self._with_agent:
            flags = ["--port", str(free_port()), "--control-url", f"http://127.0.0.1:{port}", "--observe-only"]
            await self.processes.start("agent", "fibrin", [*base, "agent", *flags])
            await self._wait("agent", self._agent_up)
        if self.names:
            await self._sidecars(f"http://127.0.0.1:{port}")

    async def _sidecars(self, url: str) -> None:
        sidecars = []
        for name in self.names:
            address = self.addresses[name]
            self._servers.append(await wire.serve((address, APP_PORT)))
            service = name.rpartition("-")[0]
            sidecars.append(Sidecar(name, service, "v1", "local", address, probe_path=""))
        path = self.state / "fleet.json"
        path.write_text(Fleet(str(self.state), url, 0.5, tuple(sidecars)).encode(), encoding="utf-8")
        await self.processes.start("sidecars", "simulations.sidecars", [str(path)])
        await self._wait("sidecars", self._all_healthy)
        for name in self.callers:
            await self._wait("sidecars", lambda name=name: self._served(name))

    @property
    def callers(self) -> list[str]:
        """The sidecars that call."""
        return self.names[1:]

    def outbound(self, name: str) -> tuple[str, int]:
        """Where a sidecar takes its application's requests."""
        return (self.addresses[name], OUTBOUND_PORT)

    def control(self) -> ControlClient:
        """Return an operator's client."""
        return ControlClient.from_state_dir(self.state, actor="bench", timeout_s=20.0)

    def envoys(self) -> list[int]:
        """Return the process ids of the rig's Envoys."""
        return [pid for pid in _descendants(self.processes.pid("sidecars")) if _name(pid).startswith("envoy")]

    async def _control_up(self) -> bool:
        if not (self.state / "control.json").exists() or not (self.state / "proxy.token").exists():
            return False
        async with self.control() as control:
            return await control.healthy()

    async def _agent_up(self) -> bool:
        return (self.state / "otlp.sock").exists()

    async def _all_healthy(self) -> bool:
        async with self.control() as control:
            found = {i.id for i in await control.instances() if i.health is Health.HEALTHY}
        return found >= set(self.names)

    async def _served(self, name: str) -> bool:
        tally = await wire.load(self.outbound(name), REQUEST, rate=100, seconds=0.02, connections=1)
        return bool(tally.latencies) and not tally.failed

    async def _wait(self, name: str, ready: object) -> None:
        assert callable(ready)
        deadline = time.monotonic() + DEADLINE_S
        while time.monotonic() < deadline:
            self.processes.require_running()
            try:
                if await ready():
                    return
            except (FibrinError, OSError):
                pass  # not there yet; the deadline decides
            await asyncio.sleep(0.05)
        raise Broken(
            f"{name} was not ready within {DEADLINE_S:g} s; it said last:\n{self.processes.last_words(name)}",
            hint="is this machine overloaded?",
        )

    async def _stop(self) -> None:
        await self.processes.stop_many(["agent", "sidecars"], 8.0)
        await self.processes.stop_many(["control"], 8.0)
        for server in self._servers:
            server.close()
        shutil.rmtree(self.state, ignore_errors=True)


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
