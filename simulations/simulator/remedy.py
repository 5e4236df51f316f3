"""What a mesh could do about a fault at all, whoever decides: asked before the fault strikes, never told to the agent.

A mesh heals by sending requests elsewhere or by answering from a declared fallback. Where every instance is at fault and nobody
declared what to answer instead, or where those who are well have no room for the load, only people can help.
"""

from __future__ import annotations

from typing import Final

from simulations.simulator.faults import CallerCut, Fault, truth
from simulations.simulator.plant import Plant

FULL: Final = 0.9
"""Instances that would be busier than this (0–1) with everybody's load cannot take it on."""


def curable(fault: Fault, plant: Plant, floor: float) -> bool:
    """Tell whether a mesh has a remedy: a fallback, or enough instances that are well and have room.

    `floor` is the least share (0–1) of a service's instances that the control plane leaves in service.
    """
    guilty = truth(fault, plant.layout)
    if not guilty.service:
        return False
    asked = guilty.callee or guilty.service
    if plant.mesh.policies[asked].fallback is not None:
        return True
    if isinstance(fault, CallerCut):
        return False
    members, now = plant.layout.members(guilty.service).tolist(), plant.now
    well = [k for k in members if plant.layout.instances[k] not in guilty.guilty and plant.in_balance[k]]
    if not well or len(well) < floor * len(members):
        return False
    held = sum(float(now.load[k] * now.busy_s[k]) for k in members)
    return held <= FULL * sum(float(now.workers[k]) for k in well)
