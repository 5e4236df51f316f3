"""Which failures happen how often, and how bad they are: the prior from which incidents are drawn.

Shares follow what post-mortems say: most incidents come from changes (versions), then single sick instances, then dependencies
(Beyer et al., "Site Reliability Engineering", 2016, ch. 8 and app. C: about 70 % of outages are due to changes; the rest is
spread). Faults strike services that have traffic to show them: at least `least_rps` requests per second on each instance.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from models.errors import InvalidInput
from simulations.simulator.faults import (
    Fault,
    InstanceErrors,
    InstanceSlow,
    ServiceDown,
    ServiceErrors,
    ServiceSlow,
    Surge,
    VersionErrors,
    VersionSlow,
    ZoneErrors,
)
from simulations.simulator.layout import Layout
from simulations.simulator.mesh import STABLE
from simulations.simulator.plant import Plant

SHARES: Final[Mapping[str, float]] = {
    "version-errors": 0.22,
    "version-slow": 0.12,
    "instance-errors": 0.22,
    "instance-slow": 0.16,
    "zone-errors": 0.05,
    "service-down": 0.13,
    "service-errors": 0.10,
}
"""Share of each class by default. Others there are: `service-slow`, `surge`."""

CLASSES: Final = (*SHARES, "service-slow", "surge")


@dataclass(frozen=True, slots=True)
class Mixture:
    """Shares of the fault classes (any positive numbers) and the least traffic a struck instance has.

    Raises:
        InvalidInput: a class is unknown, a share negative, or all are 0.
    """

    shares: Mapping[str, float] = field(default_factory=lambda: SHARES)
    least_rps: float = 2.0

    def __post_init__(self) -> None:
        if unknown := sorted(set(self.shares) - set(CLASSES)):
            raise InvalidInput(f"there is no fault class `{unknown[0]}`", hint=f"there are {', '.join(CLASSES)}")
        if any(not value >= 0 for value in self.shares.values()) or not sum(self.shares.values()) > 0:
            raise InvalidInput("shares of fault classes must be 0 or more, and one above 0", hint="see --mix")

    def draw(self, plant: Plant, random: np.random.Generator) -> Fault:
        """Draw a fault that this mesh can have. Classes that it cannot have (no second version) are drawn anew."""
        names = sorted(self.shares)
        weights = np.asarray([self.shares[name] for name in names])
        while True:
            name = str(random.choice(names, p=weights / weights.sum()))
            fault = _fault(name, plant, random, self.least_rps)
            if fault is not None:
                return fault
            weights[names.index(name)] = 0.0
            if not weights.sum() > 0:
                raise InvalidInput("this mesh can have none of the faults asked for", hint="give more services")


DEFAULT: Final = Mixture()


def _fault(name: str, plant: Plant, random: np.random.Generator, least: float) -> Fault | None:
    """Draw a fault of one class; None when the mesh can have none of it."""
    layout = plant.layout
    busy = [k for k in range(len(layout.instances)) if plant.now.load[k] >= least and plant.in_balance[k]]
    match name:
        case "instance-errors" | "instance-slow":
            return _instance(name, layout, busy, random)
        case "version-errors" | "version-slow":
            return _version(name, layout, busy, random)
    services = sorted({layout.services[layout.service_of[k]] for k in busy} - set(plant.mesh.entries))
    if name == "zone-errors":
        services = [s for s in services if len(_values(layout, s, layout.zone_of)) > 1]
    if not services:
        return None
    service = services[int(random.integers(len(services)))]
    if name == "zone-errors":
        zones = _values(layout, service, layout.zone_of)
        return ZoneErrors(service, zones[int(random.integers(len(zones)))], float(random.choice([0.5, 1.0])))
    return _whole(name, service, random)


def _instance(name: str, layout: Layout, busy: list[int], random: np.random.Generator) -> Fault | None:
    several = [k for k in busy if len(layout.members(layout.services[layout.service_of[k]])) > 1]
    if not several:
        return None
    who = layout.instances[int(random.choice(several))]
    if name == "instance-errors":
        return InstanceErrors(who, float(random.choice([0.2, 0.5, 1.0])))
    return InstanceSlow(who, float(random.choice([4.0, 10.0, 20.0])))


def _version(name: str, layout: Layout, busy: list[int], random: np.random.Generator) -> Fault | None:
    pairs = sorted({(layout.services[layout.service_of[k]], layout.version_of[k]) for k in busy})
    pairs = [p for p in pairs if len(_values(layout, p[0], layout.version_of)) > 1 and p[1] != STABLE]
    if not pairs:
        return None
    service, version = pairs[int(random.integers(len(pairs)))]
    if name == "version-errors":
        return VersionErrors(service, version, float(random.choice([0.1, 0.2, 0.5, 1.0])))
    return VersionSlow(service, version, float(random.choice([3.0, 6.0, 12.0])))


def _whole(name: str, service: str, random: np.random.Generator) -> Fault:
    match name:
        case "service-down":
            return ServiceDown(service)
        case "service-errors":
            return ServiceErrors(service, float(random.choice([0.2, 0.5, 1.0])))
        case "service-slow":
            return ServiceSlow(service, float(random.choice([4.0, 10.0])))
        case _:
            return Surge(service, float(random.choice([3.0, 6.0])))


def _values(layout: Layout, service: str, of: tuple[str, ...]) -> list[str]:
    return sorted({of[k] for k in layout.members(service).tolist()})
