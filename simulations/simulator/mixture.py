"""Which failures happen how often, and how bad they are: the prior from which incidents are drawn.

Shares follow what post-mortems say: most incidents come from changes (versions), then single sick instances, then dependencies
(Beyer et al., "Site Reliability Engineering", 2016, ch. 8 and app. C: about 70 % of outages are due to changes; the rest is
spread). Faults strike services that have traffic to show them: at least `least_rps` requests per second on each instance. Slowness
strikes where it is felt: 2 ms that become 6 are nobody's incident, so it adds at least `least_slow_s` and makes requests there take
`least_slowdown` times as long, the waiting for callees included.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from models.errors import InvalidInput
from simulations.simulator.faults import (
    CallerCut,
    Fault,
    InstanceCrashes,
    InstanceErrors,
    InstanceHangs,
    InstanceSlow,
    ServiceDown,
    ServiceErrors,
    ServiceFar,
    ServiceSlow,
    Surge,
    VersionErrors,
    VersionLeaks,
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
"""Share of each class by default."""

FACTORS: Final = {
    "instance-slow": (4.0, 10.0, 20.0),
    "version-slow": (3.0, 6.0, 12.0),
    "service-slow": (4.0, 10.0),
    "version-leaks": (10.0, 30.0),
    "surge": (3.0, 6.0),
}
"""How many times as long requests take, or as many come; each equally likely."""

CLASSES: Final = (
    *SHARES,
    "instance-hangs",
    "instance-crashes",
    "version-leaks",
    "service-slow",
    "service-far",
    "caller-cut",
    "surge",
)
"""Every class there is."""


@dataclass(frozen=True, slots=True)
class Mixture:
    """Shares of the fault classes (any positive numbers), the least traffic a struck instance has, the least time (seconds) that
    slowness adds to a typical request there, and how many times as long it then takes at least.

    Raises:
        InvalidInput: a class is unknown, a share negative, or all are 0.
    """

    shares: Mapping[str, float] = field(default_factory=lambda: SHARES)
    least_rps: float = 2.0
    least_slow_s: float = 0.02
    least_slowdown: float = 2.0

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
            fault = self._fault(name, plant, random)
            if fault is not None:
                return fault
            weights[names.index(name)] = 0.0
            if not weights.sum() > 0:
                raise InvalidInput("this mesh can have none of the faults asked for", hint="give more services")

    def possible(self, plant: Plant, random: np.random.Generator) -> bool:
        """Tell whether this mesh can have a fault of any of the classes."""
        return any(self._fault(name, plant, random) is not None for name, share in self.shares.items() if share > 0)

    def _fault(self, name: str, plant: Plant, random: np.random.Generator) -> Fault | None:
        """Draw a fault of one class; None when the mesh can have none of it."""
        layout = plant.layout
        factor = float(random.choice(FACTORS[name])) if name in FACTORS else 0.0
        busy = [k for k in range(len(layout.instances)) if plant.now.load[k] >= self.least_rps and plant.in_balance[k]]
        if name.endswith(("-slow", "-leaks")):
            busy = [k for k in busy if self._felt(plant, k, factor)]
        match name:
            case "caller-cut":
                return _cut(plant, self.least_rps, random)
            case "instance-errors" | "instance-slow" | "instance-hangs" | "instance-crashes":
                return _instance(name, layout, busy, factor, random)
            case "version-errors" | "version-slow" | "version-leaks":
                return _version(name, layout, busy, factor, random)
        services = sorted({layout.services[layout.service_of[k]] for k in busy} - set(plant.mesh.entries))
        if name == "zone-errors":
            services = [s for s in services if len(_values(layout, s, layout.zone_of)) > 1]
        if not services:
            return None
        service = services[int(random.integers(len(services)))]
        if name == "zone-errors":
            zones = _values(layout, service, layout.zone_of)
            return ZoneErrors(service, zones[int(random.integers(len(zones)))], float(random.choice([0.5, 1.0])))
        return _whole(name, service, factor, random)

    def _felt(self, plant: Plant, instance: int, factor: float) -> bool:
        """Tell whether somebody notices that an instance works `factor` times as long."""
        own = plant.mesh.natures[int(plant.layout.service_of[instance])].median_s
        usual = float(plant.now.busy_s[instance])
        more = own * (factor - 1)
        return more >= self.least_slow_s and usual + more >= self.least_slowdown * usual


DEFAULT: Final = Mixture()


def _instance(name: str, layout: Layout, busy: list[int], factor: float, random: np.random.Generator) -> Fault | None:
    several = [k for k in busy if len(layout.members(layout.services[layout.service_of[k]])) > 1]
    if not several:
        return None
    who = layout.instances[int(random.choice(several))]
    match name:
        case "instance-errors":
            return InstanceErrors(who, float(random.choice([0.2, 0.5, 1.0])))
        case "instance-hangs":
            return InstanceHangs(who, float(random.choice([0.2, 0.5, 1.0])))
        case "instance-crashes":
            return InstanceCrashes(who, float(random.choice([2.0, 4.0])), float(random.choice([2.0, 5.0])))
        case _:
            return InstanceSlow(who, factor)


def _version(name: str, layout: Layout, busy: list[int], factor: float, random: np.random.Generator) -> Fault | None:
    pairs = sorted({(layout.services[layout.service_of[k]], layout.version_of[k]) for k in busy})
    pairs = [p for p in pairs if len(_values(layout, p[0], layout.version_of)) > 1 and p[1] != STABLE]
    if not pairs:
        return None
    service, version = pairs[int(random.integers(len(pairs)))]
    if name == "version-errors":
        return VersionErrors(service, version, float(random.choice([0.1, 0.2, 0.5, 1.0])))
    if name == "version-leaks":
        return VersionLeaks(service, version, factor)
    return VersionSlow(service, version, factor)


def _cut(plant: Plant, least: float, random: np.random.Generator) -> Fault | None:
    layout = plant.layout
    busy = (plant.rates >= least) & (layout.caller < len(layout.services)) & ~layout.backward
    if not busy.any():
        return None
    call = int(random.choice(np.flatnonzero(busy)))
    ratio = float(random.choice([0.5, 1.0]))
    return CallerCut(layout.caller_name(call), layout.services[layout.callee[call]], ratio)


def _whole(name: str, service: str, factor: float, random: np.random.Generator) -> Fault:
    match name:
        case "service-down":
            return ServiceDown(service)
        case "service-errors":
            return ServiceErrors(service, float(random.choice([0.2, 0.5, 1.0])))
        case "service-slow":
            return ServiceSlow(service, factor)
        case "service-far":
            return ServiceFar(service, float(random.choice([0.1, 0.3])))
        case _:
            return Surge(service, factor)


def _values(layout: Layout, service: str, of: tuple[str, ...]) -> list[str]:
    return sorted({of[k] for k in layout.members(service).tolist()})
