"""What a mesh could do about a fault at all, whoever decides: asked before the fault strikes, never told to the agent.

A mesh heals by sending requests elsewhere or by answering from a declared fallback. Where every instance is at fault and nobody
declared what to answer instead, or where those who are well have no room for the load, only people can help.
"""

from __future__ import annotations

import math
from typing import Final

from simulations.simulator.guilt import Truth
from simulations.simulator.meshfaults import ControlRefused
from simulations.simulator.plant import Plant
from simulations.simulator.scenario import Scenario

FULL: Final = 0.9
"""Instances that would be busier than this (0–1) with everybody's load cannot take it on."""


def curable(scenario: Scenario, plant: Plant, floor: float) -> bool:
    """Tell whether a mesh has a remedy for everything that breaks in its services.

    `floor` is the least share (0–1) of a service's instances that the control plane leaves in service.
    """
    if any(isinstance(part.fault, ControlRefused) and math.isinf(part.lasts_s) for part in scenario.parts):
        return False
    found = scenario.guilt(plant.layout).truths
    return bool(found) and all(_curable(truth, plant, floor) for truth in found)


def _curable(guilty: Truth, plant: Plant, floor: float) -> bool:
    """Tell whether there is a fallback, or enough instances that are well and have room."""
    if not guilty.service:
        return False
    asked = guilty.callee or guilty.service
    if plant.mesh.policies[asked].fallback is not None:
        return True
    if guilty.callee:  # it fails between two of them: elsewhere it would fail too
        return False
    members, now = plant.layout.members(guilty.service).tolist(), plant.now
    well = [k for k in members if plant.layout.instances[k] not in guilty.guilty and plant.in_balance[k]]
    if not well or len(well) < floor * len(members):
        return False
    held = sum(float(now.load[k] * now.busy_s[k]) for k in members)
    return held <= FULL * sum(float(now.workers[k]) for k in well)
