"""The agent's own loop on a simulated mesh, in virtual time.

Nothing of the agent is replaced but its rims: where telemetry comes from, where actions go, what time it is, and where
pages and audit records end. Everything an incident starts finishes within its tick, so that equal seeds give equal
histories however fast the machine is.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from agent.chronicle import Chronicle
from agent.decision import Decisions
from agent.incidents import Incident
from agent.loop import HealingLoop
from agent.mesh import MeshView
from agent.planner import PlaybookPlanner
from agent.scribe import Tools
from agent.senses import Senses
from agent.settings import AgentSettings
from agent.sources import read_sources
from agent.store import Store
from agent.switch import FILE as STOP_FILE
from agent.switch import KillSwitch
from agent.thinking import MeshLocaliser
from agent.timeline import Timeline
from models.detect import DetectorBank, FalseAlarmBudget
from models.domain import Instance
from models.signals import Outcomes, Saturation, Series
from models.telemetry import FLUSH_S
from simulations.simulator.control import SimulatedControl, VirtualClock
from simulations.simulator.mesh import USERS, Mesh
from simulations.simulator.plant import Ended, Load, Plant
from simulations.simulator.telemetry import Telemetry

TICK_S: Final = FLUSH_S
"""As often as real sidecars report."""


class SimulatedSight:
    """The agent's eyes: what the plant reported in this tick. `blinded` are sidecars whose telemetry is not to be trusted."""

    def __init__(self, telemetry: Telemetry, plant: Plant) -> None:
        self._telemetry = telemetry
        self._plant = plant
        self._reporters = len(telemetry.reporters())
        self.next: Mapping[Series, Outcomes] = {}
        self.blinded: frozenset[str] = frozenset()

    def take_tick(self, now: float) -> Mapping[Series, Outcomes]:
        """Return and forget the outcomes of the tick."""
        del now
        taken, self.next = self.next, {}
        return taken

    def blind(self, now: float) -> frozenset[str]:
        """Return the reporters whose telemetry is missing or cannot be trusted."""
        del now
        return self.blinded

    def saturation(self, now: float) -> Iterable[Saturation]:
        """Return how full each instance is."""
        del now
        return self._telemetry.saturation(self._plant.now)

    def lag(self, now: float) -> float:
        """Return how late telemetry comes, seconds: never, in virtual time."""
        del now
        return 0.0

    def reporters(self) -> int:
        """Return how many sidecars report."""
        return self._reporters


@dataclass(slots=True)
class Records:
    """An audit log and a pager in memory: `audit` holds (kind, data), `pages` (incident, message)."""

    audit: list[tuple[str, Mapping[str, Any]]] = field(default_factory=list)
    pages: list[tuple[str, str]] = field(default_factory=list)

    async def append(self, kind: str, data: Mapping[str, Any], *, at: float | None = None) -> int:
        """Keep one audit record; return its number."""
        del at
        self.audit.append((kind, data))
        return len(self.audit)

    def page(self, incident: Incident, message: str) -> None:
        """Keep one page."""
        self.pages.append((incident.id, message))


class World:
    """A mesh that runs and an agent that watches over it. Made by `open_world`."""

    def __init__(self, mesh: Mesh, plant: Plant, control: SimulatedControl, clock: VirtualClock) -> None:
        self.mesh = mesh
        self.plant = plant
        self.control = control
        self.clock = clock
        self.records = Records()
        self.telemetry = Telemetry(plant.layout)
        self.sight = SimulatedSight(self.telemetry, plant)
        self.bank = DetectorBank(FalseAlarmBudget(ticks_per_s=1 / TICK_S))
        self.view = MeshView()
        self.loop: HealingLoop
        self._planner: PlaybookPlanner
        self._clean = b""
        self._steered = -1
        self._told = -1
        self._balance = plant.in_balance.copy()

    async def begin(self, store: Store, settings: AgentSettings) -> None:
        """Put the loop on top."""
        self.control.inform(self.view)
        sources, limits = read_sources(settings), settings.limits
        self._planner = PlaybookPlanner(sources.playbooks(), limits)
        self._clean = self._planner.save()
        chronicle = Chronicle(self.records, self.clock)
        tools = Tools(
            settings,
            self.clock,
            store,
            Timeline(),
            chronicle,
            Decisions(chronicle, sources, limits, lambda: 0),
            self.control,
            self._planner,
            self.control,
            self.records,
            KillSwitch(store, settings.state_dir / STOP_FILE, self.clock),
            pause=_no_wait,
        )
        senses = Senses(self.sight, self.bank, MeshLocaliser(self.bank, self.view), self.view)
        self.loop = HealingLoop(senses, tools)
        await self.loop.start()

    def forget(self) -> None:
        """Wipe the guards' memory of rates, cool-downs and strikes, and what detectors have half seen (not what they have learnt).

        Real incidents are hours apart, these are not: an onset must not reach back into the incident before.
        """
        self._planner.restore(self._clean)
        self.bank.reset(lambda _: True)

    async def step(self) -> Ended:
        """Let one tick pass: requests, reports, health checks, the agent's turn, and what it did takes hold."""
        self.clock.now += TICK_S
        ended = self.plant.step()
        self.sight.next = self.telemetry.report(ended)
        self._probe()
        self.control.sweep()
        self._inform()
        self.loop.tick()
        await self.loop.idle()
        self._inform()
        if self.control.moved != self._steered:
            self._steered = self.control.moved
            self.plant.steer(self.control.policies)
        return ended

    def _probe(self) -> None:
        differs = self.plant.in_balance != self._balance
        if differs.any():
            for k in differs.nonzero()[0].tolist():
                self.control.health(self.plant.layout.instances[k], healthy=bool(self.plant.in_balance[k]))
            self._balance = self.plant.in_balance.copy()

    def _inform(self) -> None:
        """Tell the agent what changed at the control plane; overlays every second, as its poll does."""
        version = self.control.changes.sequence
        if version != self._told or self.clock.now - self.view.overlays_at >= 1.0:
            self._told = version
            self.control.inform(self.view)


@asynccontextmanager
async def open_world(mesh: Mesh, *, seed: int, load: Load = lambda _: 1.0, **settings: Any) -> AsyncIterator[World]:
    """Start a world; `settings` are the agent's (`AgentSettings`)."""
    clock = VirtualClock()
    plant = Plant(mesh, seed=seed, tick_s=TICK_S, load=load)
    users = Instance("users-1", USERS, "v1", "zone-a", "10.255.255.1", 15006)
    control = SimulatedControl(clock, mesh.policies, (*mesh.instances, users), mesh.topology().edges)
    world = World(mesh, plant, control, clock)
    with tempfile.TemporaryDirectory(prefix="fibrin-simulated-") as folder:
        store = Store(Path(folder) / "agent.db")
        await store.open()
        try:
            await world.begin(store, AgentSettings(state_dir=Path(folder), **settings))
            try:
                yield world
            finally:
                await world.loop.stop()
        finally:
            await store.close()


async def _no_wait(seconds: float) -> None:
    """Virtual time does not pass while the agent waits for an acknowledgement."""
    del seconds
    await asyncio.sleep(0)
