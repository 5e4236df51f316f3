"""The demo's shop as a mesh for drills: real processes, real sidecars, real users, with relays and a tap where drills need them."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from agent.client import AgentClient
from agent.incidents import Incident, Verb
from models.domain import Instance
from models.errors import Conflict, FibrinError, NotFound, Unavailable
from models.overlay import Overlay, Owner
from simulations.cluster import Cluster, Options, shop_addresses
from simulations.drills.loading import SHOP
from simulations.drills.names import NameServer
from simulations.drills.port import stop_file
from simulations.drills.relay import Relay
from simulations.drills.schema import Entry
from simulations.drills.seen import Sample, look
from simulations.drills.strikes import strike
from simulations.drills.strikes.application import Ailments
from simulations.drills.strikes.choice import Between, Ground
from simulations.drills.tap import Tap
from simulations.journal import Record
from simulations.scratch import scratch
from simulations.shop.spec import APP_PORT, USERS
from simulations.watch import Watch

BEHIND_RELAY: Final = 8081
"""Where an application listens whose port is a relay's."""

CLOSING_S: Final = 12.0


@dataclass(frozen=True, slots=True)
class Ordered:
    """The mesh that some drills need."""

    rate: float
    settings: Mapping[str, Mapping[str, object]]
    relayed: frozenset[str] = frozenset()
    named: frozenset[str] = frozenset()
    tapped: bool = False
    seed: int = 1
    stop_files: tuple[Path, ...] = ()


class RealMesh:
    """A running shop that can be broken and looked at (`simulations.drills.port.Mesh`).

    `kept`: why its state directory with its logs is left behind ("": it is not).
    """

    def __init__(self, cluster: Cluster, watch: Watch, between: Between, stop_files: tuple[Path, ...]) -> None:
        self.cluster = cluster
        self.tap = between.tap
        self._watch = watch
        self._between = between
        self._stop_files = stop_files
        self._ailments = Ailments(cluster)
        self.kept = ""

    async def instances(self) -> tuple[Instance, ...]:
        """Return everything that runs (the shop's table: it holds for instances that are down as well)."""
        return SHOP

    def records(self) -> Sequence[Record]:
        """Return what users saw so far."""
        return self._watch.records

    async def sample(self) -> Sample | None:
        """Return the golden signals of the last seconds; None while the agent is away."""
        try:
            async with self._watch.agent() as agent:
                return await look(agent)
        except FibrinError:
            return None

    async def incidents(self, since: float) -> tuple[Incident, ...]:
        """Return the incidents opened since, oldest first."""
        return await self._watch.incidents(since)

    def overlays(self) -> tuple[Overlay, ...]:
        """Return every overlay an agent ever laid, oldest first."""
        return self._watch.agent_overlays()

    def strike(self, entry: Entry) -> AbstractAsyncContextManager[None]:
        """Return the fault of an entry as a context."""
        return strike(entry, Ground(self.cluster, self._ailments, self._between, SHOP))

    async def approve(self, incident: Incident) -> None:
        """Say yes to the plan that an incident waits with; one that moved on meanwhile does not ask any more."""
        token = (self.cluster.state_dir / "operator.token").read_text(encoding="utf-8").strip()
        async with AgentClient(self.cluster.agent_url, token=token, actor="drill") as agent:
            try:
                await agent.order(Verb.APPROVE, incident.id, "drill: the person on call approves")
            except Conflict:
                return

    async def clear(self) -> None:
        """Let open incidents end, take away what agents laid, wait until all instances are well."""

        async def closed() -> str:
            try:
                still = [i.id for i in await self.incidents(0.0) if i.is_open]
            except Unavailable as error:
                return str(error)
            return f"incident {', '.join(still)} is open" if still else ""

        await self.cluster.until_healthy()
        with contextlib.suppress(FibrinError):  # the steady state that is looked for next tells whether they matter
            await self.cluster.wait_for("incidents to close", closed, deadline_s=CLOSING_S)
        async with self.cluster.control() as control:
            for overlay in await control.overlays():
                if overlay.owner is Owner.AGENT:
                    try:
                        await control.delete_overlay(overlay.id)
                    except NotFound:
                        continue

    def stopped(self) -> str:
        """Return why everything has to be taken back at once, "" when nothing asks for it."""
        try:
            self.cluster.processes.require_running()
        except FibrinError as error:
            return str(error)
        return stop_file(self._stop_files)


@asynccontextmanager
async def running(ordered: Ordered, tell: Callable[[str], None]) -> AsyncIterator[RealMesh]:
    """Start the mesh with its users, and stop it at the end. Raises Broken naming what did not come up."""
    async with AsyncExitStack() as stack:
        folder = await stack.enter_async_context(scratch(tell))
        place = folder.path
        addresses = shop_addresses()
        names = NameServer(addresses) if ordered.named else None
        server = f"{addresses[USERS.id]}:{await names.start(addresses[USERS.id])}" if names is not None else ""
        if names is not None:
            stack.callback(names.stop)
        tap = Tap(place / "tap.sock", place / "otlp.sock") if ordered.tapped else None
        options = Options(
            place,
            seed=ordered.seed,
            rate=ordered.rate,
            certified_only=False,  # who stands trial acts alone to earn it
            settings=ordered.settings,
            app_ports=dict.fromkeys(ordered.relayed, BEHIND_RELAY),
            name_servers=dict.fromkeys(ordered.named, server),
            otlp_socket=place / "tap.sock" if tap else None,
        )
        cluster = Cluster(options, tell, addresses)
        watch = Watch(cluster)
        relays = {
            each: Relay((addresses[each], APP_PORT), (addresses[each], BEHIND_RELAY), ordered.seed)
            for each in sorted(ordered.relayed)
        }
        for relay in relays.values():
            await relay.start()
            stack.push_async_callback(relay.stop)
        if tap is not None:
            await tap.start()
            stack.push_async_callback(tap.stop)
        await stack.enter_async_context(cluster)
        await stack.enter_async_context(watch.following())
        watch.tail = await cluster.start_users()
        mesh = RealMesh(cluster, watch, Between(relays, tap, names), ordered.stop_files)
        try:
            yield mesh
        finally:
            folder.kept = mesh.kept
