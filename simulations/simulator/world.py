"""A simulated mesh with the agent on top, in virtual time: what happens in each tick, and what breaks in the mesh itself."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from agent.loop import HealingLoop
from agent.settings import AgentSettings
from models.domain import Instance
from simulations.simulator import damage
from simulations.simulator.control import SimulatedControl, VirtualClock
from simulations.simulator.faults import Fault
from simulations.simulator.mesh import USERS, Mesh
from simulations.simulator.meshfaults import (
    AgentClock,
    AgentKilled,
    ControlAway,
    ControlFlaky,
    ControlLate,
    ControlRefused,
    MeshFault,
    Spoiling,
    TelemetrySpoiled,
)
from simulations.simulator.plant import Ended, Load, Plant
from simulations.simulator.process import TICK_S, SimulatedAgent
from simulations.simulator.telemetry import Telemetry

__all__ = ["TICK_S", "World", "open_world"]


class World:
    """A mesh that runs and an agent that watches over it. Made by `open_world`."""

    def __init__(self, plant: Plant, control: SimulatedControl, clock: VirtualClock, agent: SimulatedAgent) -> None:
        self.plant = plant
        self.control = control
        self.clock = clock
        self.agent = agent
        self._balance = plant.in_balance.copy()

    @property
    def loop(self) -> HealingLoop:
        """The agent's loop: of its latest process."""
        return self.agent.loop

    @property
    def telemetry(self) -> Telemetry:
        """What turns outcomes into reports."""
        return self.agent.telemetry

    async def step(self) -> Ended:
        """Let one tick pass: requests, reports, health checks, the agent's turn, and what it did takes hold."""
        self.clock.now += TICK_S
        ended = self.plant.step()
        self.agent.sight.hear(ended)
        self._probe()
        self.control.sweep()
        if self.agent.alive:
            self.agent.inform()
            await self.agent.turn()
            self.agent.inform()
        if (policies := self.control.delivered()) is not None:
            self.plant.steer(policies)
        return ended

    def _probe(self) -> None:
        differs = self.plant.in_balance != self._balance
        if differs.any():
            for k in differs.nonzero()[0].tolist():
                self.control.health(self.plant.layout.instances[k], healthy=bool(self.plant.in_balance[k]))
            self._balance = self.plant.in_balance.copy()

    # --- what breaks ----------------------------------------------------------------------------------------------

    async def begin(self, fault: Fault | MeshFault) -> None:
        """Break a part of the mesh; of a change that people made the control plane hears before."""
        match fault:
            case TelemetrySpoiled():
                self.agent.sight.spoil(fault)
            case ControlAway():
                self.control.away = True
            case ControlLate(by_s=by_s):
                self.control.late_s = by_s
            case ControlRefused():
                self.control.refusing = True
            case ControlFlaky():
                self.control.flaky = True
            case AgentKilled():
                await self.agent.kill()
            case AgentClock(by_s=by_s):
                await self._set_clock(fault, by_s)
            case _:
                if (change := damage.announced(fault)) is not None:
                    self.control.tell(change[0], change[1], change[2], f"{fault}")
                damage.apply(fault, self.plant)

    async def end(self, fault: Fault | MeshFault) -> None:
        """Repair it."""
        match fault:
            case TelemetrySpoiled():
                self.agent.sight.mend()
            case ControlAway():
                self.control.away = False
            case ControlLate():
                self.control.late_s = 0.0
            case ControlRefused():
                self.control.refusing = False
            case ControlFlaky():
                self.control.flaky = False
            case AgentKilled():
                await self.agent.restart()
            case AgentClock():
                await self._set_clock(fault, 0.0)
            case _:
                damage.undo(fault, self.plant)

    async def _set_clock(self, fault: AgentClock, by_s: float) -> None:
        """Set the agent's clock: to it, what sidecars send is dated wrong by as much."""
        if fault.restarts:
            await self.agent.kill()
        self.agent.time.by_s = by_s
        if by_s:
            self.agent.sight.spoil(TelemetrySpoiled(Spoiling.MISDATED, by_s=-by_s))
        else:
            self.agent.sight.mend()
        if fault.restarts:
            await self.agent.restart()


@asynccontextmanager
async def open_world(
    mesh: Mesh, *, seed: int, load: Load = lambda _: 1.0, mortal: bool = False, **settings: Any
) -> AsyncIterator[World]:
    """Start a world; `settings` are the agent's (`AgentSettings`). A `mortal` agent may be killed and start again."""
    clock = VirtualClock()
    plant = Plant(mesh, seed=seed, tick_s=TICK_S, load=load)
    users = Instance("users-1", USERS, "v1", "zone-a", "10.255.255.1", 15006)
    control = SimulatedControl(clock, mesh.policies, (*mesh.instances, users), mesh.topology().edges)
    with tempfile.TemporaryDirectory(prefix="fibrin-simulated-") as folder:
        agent = SimulatedAgent(AgentSettings(state_dir=Path(folder), **settings), control, plant, clock, mortal=mortal)
        world = World(plant, control, clock, agent)
        await agent.start()
        try:
            yield world
        finally:
            await agent.close()
