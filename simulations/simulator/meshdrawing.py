"""Draws incidents in which nothing but the mesh itself breaks: its telemetry, its control plane, its agent."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import numpy as np

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
from simulations.simulator.plant import Plant
from simulations.simulator.scenario import Part, Scenario, Wanted

MESH: Final = (
    *("telemetry-dropped", "telemetry-frozen", "telemetry-late", "telemetry-misdated"),
    *("control-away", "control-refused", "agent-killed", "agent-clock"),
)
"""Classes of faults of the mesh itself."""

PLAIN: Final[Mapping[str, MeshFault]] = {
    "control-away": ControlAway(),
    "control-refused": ControlRefused(),
    "control-flaky": ControlFlaky(),
    "agent-killed": AgentKilled(),
}
"""Those that know no more or less."""

BY_S: Final = (3.0, 5.0, 20.0)
"""How late, or how wrongly dated, reports are: more than the agent lets pass."""

CLOCK_S: Final = (600.0, 30.0, -30.0)
LASTS_S: Final = (6.0, 12.0, 20.0)


def draw_trouble(name: str, plant: Plant, random: np.random.Generator) -> Scenario:
    """Draw a fault of the mesh itself."""
    lasts = float(random.choice(LASTS_S))
    struck = ""
    if random.random() < 0.5:  # noqa: PLR2004 - one service's sidecars, or all
        struck = plant.layout.services[int(random.integers(len(plant.layout.services)))]
    return Scenario(name, (Part(trouble(name, struck, random), 0.0, lasts),), Wanted.SPARED)


def trouble(name: str, service: str, random: np.random.Generator) -> MeshFault:
    """Return a fault of the mesh itself; one of telemetry strikes a service's sidecars ("": all)."""
    match name:
        case "control-late":
            return ControlLate(float(random.choice([1.0, 4.0])))
        case "agent-clock":
            return AgentClock(float(random.choice(CLOCK_S)), restarts=bool(random.random() < 0.5))  # noqa: PLR2004
        case _ if name in PLAIN:
            return PLAIN[name]
        case _:
            how = Spoiling(name.removeprefix("telemetry-"))
            by_s = float(random.choice(BY_S)) if how in {Spoiling.LATE, Spoiling.MISDATED} else 0.0
            return TelemetrySpoiled(how, service, by_s)
