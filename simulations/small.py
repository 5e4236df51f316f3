"""A small real mesh whose every process can be killed by itself: three instances of the catalogue and one caller.

The processes are those of production, `fibrin control`, `fibrin agent` and one `fibrin proxy run` per instance, each beside a real
application of the shop. Smaller than the demo's cluster and cut along process boundaries, so that a test can take
one of them away and look at the rest.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
from collections.abc import Mapping, Sequence
from pathlib import Path

import aiohttp

from control.client import ControlClient
from models.domain import Health
from models.errors import Broken
from simulations.addresses import free_port, free_subnet
from simulations.bracket import Bracket, hang_up
from simulations.shop.fault import Fault, set_fault
from simulations.shop.spec import APP_PORT, OUTBOUND_PORT
from simulations.steady import Steady

CALLER = "shop-v1-1"
CATALOG = ("catalog-v1-1", "catalog-v1-2", "catalog-v2-1")
METRICS_PORT = 15020
RULES = """
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: catalog}
spec:
  hosts: [catalog]
  http:
  - route:
    - {destination: {host: catalog, subset: v1}, weight: 80}
    - {destination: {host: catalog, subset: v2}, weight: 20}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: catalog}
spec: {host: catalog, subsets: [{name: v1, labels: {version: v1}}, {name: v2, labels: {version: v2}}]}
"""


class SmallMesh(Bracket):
    """Starts, kills and starts again the processes of one small mesh on `state_dir`.

    `settings` is the content of the settings file: section → name → value, as in docs/settings.md. `labels` (`KEY=VALUE`)
    are those of the catalogue's instances.
    """

    def __init__(
        self, state_dir: Path, settings: Mapping[str, Mapping[str, object]] | None = None, labels: Sequence[str] = ()
    ) -> None:
        super().__init__(state_dir)
        self.addresses = free_subnet((CALLER, *CATALOG), random.Random())
        self.control_url = f"http://127.0.0.1:{free_port()}"
        self.agent_url = f"http://127.0.0.1:{free_port()}"
        self.config = state_dir / "settings.yaml"
        self._settings: dict[str, dict[str, object]] = {k: dict(v) for k, v in (settings or {}).items()}
        self._labels = [part for label in labels for part in ("--label", label)]
        self._users: asyncio.Server | None = None

    # --- life ---------------------------------------------------------------------------------------------------

    async def _start(self) -> None:
        self.logs.mkdir(mode=0o700, parents=True)
        for name, url in (("control", self.control_url), ("agent", self.agent_url)):
            self._settings.setdefault(name, {})["port"] = int(url.rpartition(":")[2])
        self.config.write_text(json.dumps(self._settings), encoding="utf-8")  # JSON is YAML
        self._users = await asyncio.start_server(hang_up, self.addresses[CALLER], APP_PORT)
        await self.start("control")
        for instance in CATALOG:
            await self.start_application(instance)
        await self.until(self.control_answers, "the control plane answers")
        async with self.control() as control:
            await control.apply({"catalog.yaml": RULES})
        await self.start("agent")
        for instance in (CALLER, *CATALOG):
            await self.start_sidecar(instance)
        await self.until_healthy()
        await self.until(self.agent_ready, "the agent is ready")

    async def _stop(self) -> None:
        names = list(self.processes.pids())
        sidecars = [name for name in names if name.startswith("sidecar-")]
        await self.processes.stop_many(["agent"], 8.0)
        await self.processes.stop_many(sidecars, 8.0)
        await self.processes.stop_many([name for name in names if name not in sidecars], 8.0)
        if self._users is not None:
            self._users.close()
            await self._users.wait_closed()

    # --- parts --------------------------------------------------------------------------------------------------

    @property
    def fibrin(self) -> list[str]:
        """The flags in front of every verb for this mesh."""
        return ["--state-dir", str(self.state_dir), "--config", str(self.config)]

    async def start(self, process: str) -> None:
        """Start `control` or `agent`; returns before it is ready."""
        flags = ["--control-url", self.control_url] if process == "agent" else []
        await self.processes.start(process, "fibrin", [*self.fibrin, process, *flags])

    async def start_application(self, instance: str) -> None:
        """Start an instance's application; returns before it is ready."""
        self._fault_socket(instance).unlink(missing_ok=True)
        service, version, _ = instance.split("-")
        flags = ["--service", service, "--version", version, "--instance", instance]
        flags += ["--address", self.addresses[instance], "--fault-control", str(self._fault_socket(instance))]
        await self.processes.start(f"application-{instance}", "simulations.shop", flags)

    async def start_sidecar(self, instance: str) -> None:
        """Start an instance's sidecar; returns before it is ready."""
        service, version, _ = instance.split("-")
        flags = ["--id", instance, "--service", service, "--version", version, "--address", self.addresses[instance]]
        flags += ["--probe-path", "" if instance == CALLER else "/healthz", "--control-url", self.control_url]
        flags += ["--metrics-port", str(METRICS_PORT), *([] if instance == CALLER else self._labels)]
        await self.processes.start(f"sidecar-{instance}", "fibrin", [*self.fibrin, "proxy", "run", *flags])

    async def set_fault(self, instance: str, fault: Fault) -> None:
        """Put an injected fault in force at one instance."""
        await set_fault(self._fault_socket(instance), fault)

    def load(self, rate: float) -> Steady:
        """Return a steady load of the caller on the catalogue, to be used as `async with`."""
        proxy = f"http://{self.addresses[CALLER]}:{OUTBOUND_PORT}"
        return Steady("http://catalog/products", proxy, rate)

    def control(self) -> ControlClient:
        """Return an operator's client, to be used as `async with`."""
        token = (self.state_dir / "operator.token").read_text(encoding="utf-8").strip()
        return ControlClient(self.control_url, token, actor="test")

    def envoy(self, instance: str) -> int:
        """Return the process id of an instance's Envoy. Raises Broken when there is none."""
        wanted = str(self.state_dir / "proxies" / instance / "bootstrap.json")
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            with contextlib.suppress(OSError):
                words = path.read_text(encoding="utf-8", errors="replace").split("\0")
                if words[0].endswith("/envoy") and wanted in words:
                    return int(path.parent.name)
        raise Broken(f"no Envoy of {instance} runs", hint="see its sidecar's log")

    async def metrics(self, url: str) -> dict[str, float]:
        """Return every sample of a process's `/metrics`, by name with labels."""
        async with aiohttp.ClientSession() as session, session.get(f"{url}/metrics") as response:
            lines = (await response.text()).splitlines()
        pairs = (line.rsplit(" ", 1) for line in lines if line and not line.startswith("#"))
        return {name: float(value) for name, value in pairs}

    async def heard(self) -> int:
        """Return how many instances this very control plane has had a heartbeat of."""
        async with aiohttp.ClientSession() as session, session.get(f"{self.control_url}/v1/instances") as response:
            views = (await response.json())["instances"]
        return sum(1 for view in views if view["heartbeat_age_s"] > 0)  # one only remembered has its grace before it

    # --- waiting ------------------------------------------------------------------------------------------------

    async def until_healthy(self, *names: str) -> None:
        """Wait until the control plane knows all instances (or `names`) as healthy."""
        wanted = names or (CALLER, *CATALOG)

        async def healthy() -> bool:
            found = await self.health()
            return all(found.get(name) is Health.HEALTHY for name in wanted)

        await self.until(healthy, f"healthy: {', '.join(wanted)}")

    async def health(self) -> dict[str, Health]:
        """Return the health of every instance, as the control plane sees it."""
        async with self.control() as control:
            return {instance.id: instance.health for instance in await control.instances()}

    async def control_answers(self) -> bool:
        """Whether the control plane serves."""
        async with self.control() as control:
            return await control.healthy()

    async def agent_ready(self) -> bool:
        """Whether the agent sees and may act."""
        async with aiohttp.ClientSession() as session, session.get(f"{self.agent_url}/readyz") as response:
            return response.ok

    def _fault_socket(self, instance: str) -> Path:
        return self.state_dir / f"{instance}.fault"
