"""Carries a scenario out on a running world: each part begins, changes and ends in its time."""

from __future__ import annotations

from simulations.simulator import damage
from simulations.simulator.meshfaults import AgentClock, ControlAway, MeshFault, TelemetrySpoiled
from simulations.simulator.plant import Ended
from simulations.simulator.scenario import Part, Scenario
from simulations.simulator.world import World


class Attack:
    """One scenario on one world. `told`: the agent said so where the mesh itself was troubled in a way that it can see."""

    def __init__(self, scenario: Scenario, world: World) -> None:
        self._world = world
        self._waiting = sorted(scenario.parts, key=lambda part: part.at_s)
        self._on: list[Part] = []
        self._untold = {part.fault for part in scenario.troubles if _seen(part.fault)}

    @property
    def told(self) -> bool:
        """Whether the agent told of every trouble of the mesh that it can see."""
        return not self._untold

    async def advance(self, since_s: float, ended: Ended | None) -> None:
        """Let everything be as it is `since_s` seconds after the onset; `ended` is what ended in the tick before."""
        for part in [each for each in self._on if each.ends_s <= since_s]:
            self._on.remove(part)
            await self._world.end(part.fault)
        while self._waiting and self._waiting[0].at_s <= since_s:
            part = self._waiting.pop(0)
            self._on.append(part)
            await self._world.begin(part.fault)
        for part in self._on:
            if not isinstance(part.fault, MeshFault):
                damage.advance(part.fault, self._world.plant, since_s - part.at_s, ended)
        self._untold -= {fault for fault in self._untold if self._tells(fault)}

    async def over(self) -> None:
        """Repair everything."""
        for part in self._on:
            await self._world.end(part.fault)
        self._on, self._waiting = [], []

    def _tells(self, fault: object) -> bool:
        agent = self._world.agent
        if not agent.alive:
            return False
        return agent.view.told_down if isinstance(fault, ControlAway) else bool(agent.loop.blind)


def _seen(fault: object) -> bool:
    """Tell whether an agent can see this trouble of the mesh by itself."""
    return isinstance(fault, TelemetrySpoiled | AgentClock | ControlAway)
