"""Draws incidents in which things come together: two faults, or a fault while the mesh itself is troubled."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Final

import numpy as np

from simulations.simulator.faults import Fault
from simulations.simulator.guilt import truths
from simulations.simulator.layout import Layout
from simulations.simulator.meshdrawing import trouble
from simulations.simulator.meshfaults import Spoiling
from simulations.simulator.plant import Plant
from simulations.simulator.scenario import Part, Scenario

TROUBLES: Final[Mapping[str, tuple[str, float, float | None]]] = {
    "blind-and-broken": ("", 7.0, 3.0),
    "broken-then-blind": ("", 8.0, None),  # it is seen, and then it is not
    "broken-while-away": ("control-away", 6.0, 2.0),
    "broken-then-away": ("control-away", 6.0, None),
    "broken-while-late": ("control-late", math.inf, 0.0),
    "broken-while-refused": ("control-refused", math.inf, 0.0),
    "broken-while-flaky": ("control-flaky", math.inf, 0.0),
    "agent-dies-healing": ("agent-killed", 4.0, None),
    "broken-wrong-clock": ("agent-clock", 8.0, 3.0),
}
"""By class: what troubles the mesh ("": its telemetry), for how long (seconds), and by how much it comes before the fault of a service; None: it
comes after it, at a moment in which the agent may be at anything from its first alarm to the proof of its cure.
"""

CASCADES: Final = ("two-faults", *TROUBLES)
"""Classes of incidents in which several things break."""

APART_S: Final = 2.0
SOON_S: Final = (0.25, 0.5, 1.0, 1.5, 2.0, 3.0)
TRIES: Final = 10

Prior = Callable[[], Fault | None]
"""Draws a fault of a service as the prior has them; None when the mesh can have none."""


def draw_cascade(name: str, prior: Prior, plant: Plant, random: np.random.Generator) -> Scenario | None:
    """Draw an incident of one class; None when the mesh can have none of it."""
    fault = prior()
    if fault is None:
        return None
    if name == "two-faults":
        other = _elsewhere(fault, prior, plant)
        return None if other is None else Scenario(name, (Part(fault), Part(other, APART_S)))
    how = f"telemetry-{list(Spoiling)[int(random.integers(len(Spoiling)))]}"
    whole = bool(random.random() < 0.5)  # noqa: PLR2004 - all sidecars, or those of the broken service
    what, lasts_s, ahead_s = TROUBLES[name]
    soon = 0.0 if ahead_s is not None else float(random.choice(SOON_S))
    made = trouble(what or how, "" if whole else truths(fault, plant.layout)[0].service, random)
    return Scenario(name, (Part(made, soon, lasts_s), Part(fault, ahead_s or 0.0)))


def _elsewhere(fault: Fault, prior: Prior, plant: Plant) -> Fault | None:
    """Return a fault of a service that neither calls the first one's nor is called by it, however indirectly: else one may hide the other."""
    first = truths(fault, plant.layout)[0].service
    related = _below(first, plant.layout)
    for _ in range(TRIES):
        other = prior()
        if other is None:
            return None
        second = truths(other, plant.layout)[0].service
        if second not in related and first not in _below(second, plant.layout):
            return other
    return None


def _below(service: str, layout: Layout) -> frozenset[str]:
    """Return a service and everything that it calls, however indirectly."""
    found = {layout.number[service]}
    while more := set(layout.callee[np.isin(layout.caller, list(found))].tolist()) - found:
        found |= more
    return frozenset(layout.services[k] for k in found)
