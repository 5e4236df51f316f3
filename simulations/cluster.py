"""The whole thing, running: control plane, agent, eighteen sidecars, the shop and its users, all real processes.

`async with Cluster(options) as cluster:` starts everything in its state directory and a loopback subnet of its own, waits
until a user's request goes all the way through, and stops everything in order at the end. Each wait has a deadline; what
is not there by then is named, with the last lines of its log.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path

import aiohttp

from control.client import ControlClient
from models.domain import Health
from models.errors import FibrinError
from simulations.addresses import free_port, free_subnet
from simulations.bracket import Bracket, hang_up
from simulations.journal import Tail
from simulations.shop.fault import Fault, set_fault
from simulations.shop.spec import APP_PORT, ENTRY, OUTBOUND_PORT, PLACEMENTS, USERS, Placement, placement
from simulations.sidecars import Fleet, Sidecar

_DRAIN_S = 1.0


@dataclass(frozen=True, slots=True)
class Options:
    """One running mesh in `state_dir`. `rate` is users' requests per second.

    `certified_only` False lets playbooks act alone that no drill vouches for yet. `settings` is the content of the settings file
    (section → name → value). `app_ports`: instances whose application listens elsewhere, because something stands
    between it and its sidecar. `name_servers`: instances whose application looks its sidecar up there (ADDRESS:PORT).
    `otlp_socket` is where sidecars report to, None the agent's own.
    """

    state_dir: Path
    seed: int = 1
    rate: float = 70.0
    observe_only: bool = False
    with_agent: bool = True
    certified_only: bool = True
    settings: Mapping[str, Mapping[str, object]] = field(default_factory=dict)
    app_ports: Mapping[str, int] = field(default_factory=dict)
    name_servers: Mapping[str, str] = field(default_factory=dict)
    otlp_socket: Path | None = None


def shop_addresses() -> Mapping[str, str]:
    """Return a free loopback address for everyone in the shop. Raises Broken when there is none."""
    return free_subnet([USERS.id, *(p.id for p in PLACEMENTS)], random.Random())


class Cluster(Bracket):
    """Starts, breaks, repairs and stops the processes of one mesh. `tell` hears what is being done, in a few words."""

    def __init__(
        self, options: Options, tell: Callable[[str], None] = lambda _: None, addresses: Mapping[str, str] | None = None
    ) -> None:
        self.options = options
        self._tell = tell
        super().__init__(options.state_dir)
        self.addresses = addresses or shop_addresses()
        self.control_url = f"http://127.0.0.1:{free_port()}"
        self.agent_url = f"http://127.0.0.1:{free_port()}"
        self._config = self.state_dir / "settings.yaml"
        self._users: asyncio.Server | None = None
        self._session: aiohttp.ClientSession | None = None
        self._runs = 0

    # --- life -------------------------------------------------------------------------------------------------

    async def _start(self) -> None:
        await asyncio.to_thread(self.logs.mkdir, mode=0o700, parents=True, exist_ok=True)
        await asyncio.to_thread(
            self._config.write_text, json.dumps(self.options.settings), encoding="utf-8"
        )  # JSON is YAML
        timeout = aiohttp.ClientTimeout(total=5.0)
        self._session = aiohttp.ClientSession(timeout=timeout)
        self._users = await asyncio.start_server(hang_up, self.addresses[USERS.id], APP_PORT)
        self._tell("starting the control plane and the shop")
        await self._fibrin("control", self.control_url)
        for instance in PLACEMENTS:
            await self._spawn_application(instance)
        await self.wait_for("the control plane", self._control_ready, "control")
        await self._apply_declared()
        self._tell(f"starting the agent and {len(PLACEMENTS) + 1} sidecars")
        if self.options.with_agent:
            await self.start_agent(observe_only=self.options.observe_only, wait=False)
        await self._spawn_sidecars()
        await self.until_healthy()
        if self.options.with_agent:
            await self.wait_for("the agent", lambda: self._answers(f"{self.agent_url}/readyz"), "agent")
        await self.wait_for("a user's request to go through", self._user_served)

    async def _stop(self) -> None:
        self._tell("stopping")
        if self._session is not None:
            await self._session.close()
        await self.processes.stop_many(["load"], 8.0)
        await self.processes.stop_many(["agent"], 8.0)
        applications = [p.id for p in PLACEMENTS]
        await self.processes.stop_many(["sidecars"], _DRAIN_S + 8.0)
        await self.processes.stop_many([*applications, "control"], 8.0)
        if self._users is not None:
            self._users.close()
            await self._users.wait_closed()

    # --- parts ------------------------------------------------------------------------------------------------

    async def _fibrin(self, name: str, url: str, *flags: str, clock_s: float = 0.0) -> None:
        port = url.rpartition(":")[2]
        base = ["--state-dir", str(self.state_dir), "--config", str(self._config)]
        arguments = [*base, name, "--port", port, *flags]
        if clock_s:
            await self.processes.start(name, "simulations.shifted", [str(clock_s), "fibrin", *arguments])
        else:
            await self.processes.start(name, "fibrin", arguments)

    async def _spawn_application(self, instance: Placement) -> None:
        arguments = {
            "service": instance.service,
            "version": instance.version,
            "instance": instance.id,
            "address": self.addresses[instance.id],
            "port": str(self.options.app_ports.get(instance.id, APP_PORT)),
            "fault-control": str(self._fault_socket(instance.id)),
            "seed": str(self.options.seed),
        }
        if (server := self.options.name_servers.get(instance.id)) is not None:
            arguments["name-server"] = server
        flat = [part for key, value in arguments.items() for part in (f"--{key}", value)]
        await self.processes.start(instance.id, "simulations.shop", flat)

    async def _spawn_sidecars(self) -> None:
        fleet = Fleet(
            state_dir=str(self.state_dir),
            api_url=self.control_url,
            drain_deadline_s=_DRAIN_S,
            otlp_socket=str(self.options.otlp_socket or self.state_dir / "otlp.sock"),
            sidecars=tuple(
                Sidecar(
                    id=p.id,
                    service=p.service,
                    version=p.version,
                    zone=p.zone,
                    address=self.addresses[p.id],
                    probe_path="" if p is USERS else "/healthz",
                )
                for p in (*PLACEMENTS, USERS)
            ),
        )
        path = self.state_dir / "fleet.json"
        await asyncio.to_thread(path.write_text, fleet.encode(), encoding="utf-8")
        await self.processes.start("sidecars", "simulations.sidecars", [str(path)])

    async def start_agent(self, *, observe_only: bool, wait: bool = True, clock_s: float = 0.0) -> None:
        """Start the agent; with `wait`, return when it is ready. Its clock is wrong by `clock_s`."""
        flags = ["--observe-only"] if observe_only else []
        flags += [] if self.options.certified_only else ["--uncertified"]
        await self._fibrin("agent", self.agent_url, "--control-url", self.control_url, *flags, clock_s=clock_s)
        if wait:
            await self.wait_for("the agent", lambda: self._answers(f"{self.agent_url}/readyz"), "agent")

    async def until_healthy(self) -> None:
        """Wait until the control plane knows every instance as healthy. Raises Broken when that takes too long."""
        await self.wait_for("every instance to be healthy", self._all_healthy, "sidecars")

    async def restart_agent(self, *, observe_only: bool) -> None:
        """Stop the agent in order and start another one."""
        await self.processes.stop("agent", 8.0)
        await self.start_agent(observe_only=observe_only)

    async def start_users(self, start: float = 0.0) -> Tail:
        """Let users come, from second `start` of the schedule on; return the tail of their journal."""
        self._runs += 1
        journal = self.state_dir / f"journal-{self._runs}.jsonl"
        await self.start_load("load", self.options.rate, journal, "--from", str(start))
        tail = Tail(journal)
        await self.wait_for("the first user", lambda: _began(tail), "load")
        return tail

    async def start_load(self, name: str, rate: float, journal: Path, *flags: str) -> None:
        """Start a load generator of this name; returns before it sends. `flags` go to `simulations.load`."""
        proxy = f"http://{self.addresses[USERS.id]}:{OUTBOUND_PORT}"
        arguments = [
            *("--target", f"http://{ENTRY}", "--proxy", proxy),
            *("--rate", str(rate), "--seed", str(self.options.seed), "--journal", str(journal)),
        ]
        await self.processes.start(name, "simulations.load", [*arguments, *flags])

    async def stop_load(self, name: str) -> None:
        """Let who this load generator sent finish, and no more come."""
        await self.processes.stop(name, 8.0)

    async def stop_users(self) -> None:
        """Let the users in the shop finish and no more come."""
        await self.stop_load("load")

    def control(self) -> ControlClient:
        """Return a client of the control plane with the operator's token, to be used as `async with`."""
        return ControlClient.from_state_dir(self.state_dir, "operator", actor="demo")

    # --- breaking and repairing (`simulations.faults.Shop`) -----------------------------------------------------

    def _fault_socket(self, instance: str) -> Path:
        return self.state_dir / f"{instance}.fault"

    async def set_fault(self, instance: str, fault: Fault) -> None:
        """Put an injected fault in force at one instance."""
        await set_fault(self._fault_socket(instance), fault)

    async def kill_application(self, instance: str) -> None:
        """Kill an instance's application process with SIGKILL; its sidecar stays."""
        await self.processes.kill(instance)

    async def start_control(self, *, clock_s: float = 0.0) -> None:
        """Start the control plane again and wait until it serves. Its clock is wrong by `clock_s`."""
        await self._fibrin("control", self.control_url, clock_s=clock_s)
        await self.wait_for("the control plane", self._control_ready, "control")

    async def start_application(self, instance: str) -> None:
        """Start an instance's application process again and wait until it answers."""
        await asyncio.to_thread(self._fault_socket(instance).unlink, missing_ok=True)
        await self._spawn_application(placement(instance))
        url = f"http://{self.addresses[instance]}:{self.options.app_ports.get(instance, APP_PORT)}/healthz"
        await self.wait_for(instance, lambda: self._answers(url), instance)

    # --- waiting ----------------------------------------------------------------------------------------------

    async def _answers(self, url: str) -> str:
        assert self._session is not None, "the cluster is running"
        try:
            async with self._session.get(url) as response:
                await response.read()
                return "" if response.status == 200 else f"{url} answers {response.status}"  # noqa: PLR2004 - HTTP's own number
        except (aiohttp.ClientError, TimeoutError) as error:
            return f"{url} does not answer: {str(error) or type(error).__name__}"

    async def _control_ready(self) -> str:
        missing = await self._answers(f"{self.control_url}/readyz")
        if missing:
            return missing
        present = await asyncio.to_thread((self.state_dir / "control.json").exists)
        return "" if present else "control.json is not written yet"

    async def _all_healthy(self) -> str:
        try:
            async with self.control() as control:
                found = {i.id: i.health for i in await control.instances()}
        except FibrinError as error:
            return str(error)
        missing = [p.id for p in (*PLACEMENTS, USERS) if found.get(p.id) is not Health.HEALTHY]
        return f"not healthy yet: {', '.join(missing)}" if missing else ""

    async def _user_served(self) -> str:
        """Buy something through the users' sidecar."""
        assert self._session is not None, "the cluster is running"
        proxy = f"http://{self.addresses[USERS.id]}:{OUTBOUND_PORT}"
        for method, path in (("GET", "/product/1"), ("POST", "/cart/1"), ("POST", "/checkout")):
            try:
                async with self._session.request(method, f"http://{ENTRY}{path}", proxy=proxy) as response:
                    text = (await response.text())[:200]
                    if response.status != 200:  # noqa: PLR2004 - HTTP's own number
                        return f"{method} {path} answers {response.status}: {text}"
            except (aiohttp.ClientError, TimeoutError) as error:
                return f"{method} {path}: {str(error) or type(error).__name__}"
        return ""

    async def _apply_declared(self) -> None:
        folder = resources.files("simulations.shop") / "mesh"
        manifests = {f.name: f.read_text(encoding="utf-8") for f in folder.iterdir() if f.name.endswith(".yaml")}
        async with self.control() as control:
            await control.apply(manifests)


async def _began(tail: Tail) -> str:
    await asyncio.to_thread(tail.read)
    return "" if tail.began is not None else "the journal is empty"
