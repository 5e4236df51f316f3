"""Which failures happen how often, and how bad they are: the prior from which incidents are drawn.

Shares follow what post-mortems say: most incidents come from changes (versions), then single sick instances, then dependencies
(Beyer et al., "Site Reliability Engineering", 2016, ch. 8 and app. C: about 70 % of outages are due to changes; the rest is
spread). `SHARES` is that prior; the other mixes are for looking at what it leaves out. Faults strike services that have traffic to show
them: at least `least_rps` requests per second on each instance. Slowness strikes where it is felt: 2 ms that become 6 are nobody's
incident, so it adds at least `least_slow_s` and makes requests there take `least_slowdown` times as long, the waiting for callees included.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from models.errors import InvalidInput
from simulations.simulator.cascades import CASCADES, draw_cascade
from simulations.simulator.drawing import Drawn, Least, draw_fault
from simulations.simulator.meshdrawing import MESH, draw_trouble
from simulations.simulator.plant import Plant
from simulations.simulator.scenario import Scenario, Wanted, single

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

RARER: Final = (
    *("instance-hangs", "instance-crashes", "version-leaks", "service-slow", "service-far", "caller-cut", "surge"),
    *("instance-killed", "instance-warms", "version-subtle", "zone-slow", "zone-lost", "caller-far", "cache-lost"),
    *("retry-storm", "hot-key", "herd", "stall", "certificates-expired"),
)
"""What breaks in services besides."""

CLASSES: Final = (*SHARES, *RARER, *MESH, *CASCADES)
"""Every class there is."""

ABSORBED: Final = frozenset({"instance-killed", "instance-warms", "zone-lost", "hot-key", "herd"})
"""What passes by itself, or what health checks answer before anybody has to: whether the agent acts is left open."""

_RARE: Final = 0.02

MIXES: Final[Mapping[str, Mapping[str, float]]] = {
    "default": SHARES,
    "services": {**SHARES, **dict.fromkeys(RARER, _RARE)},
    "mesh": dict.fromkeys(MESH, 1.0),
    "cascades": dict.fromkeys(CASCADES, 1.0),
    "everything": {**SHARES, **dict.fromkeys((*RARER, *MESH, *CASCADES), _RARE)},
    "drills": dict.fromkeys(CLASSES, 1.0),
}
"""Mixes that have a name: the prior; all that breaks in services; the mesh itself alone; faults that come together; the prior with a little of
everything; everything equally often.
"""


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
            raise InvalidInput(
                f"there is no fault class `{unknown[0]}`",
                hint=f"there are {', '.join(CLASSES)}; mixes with a name: {', '.join(MIXES)}",
            )
        if any(not 0 <= value < math.inf for value in self.shares.values()) or not sum(self.shares.values()) > 0:
            raise InvalidInput(
                "shares of fault classes must be numbers of 0 or more, and one above 0", hint="see --mix"
            )

    @property
    def mortal(self) -> bool:
        """Whether the agent's process may be killed."""
        return any(share > 0 and name in {*MESH, *CASCADES} for name, share in self.shares.items())

    def draw(self, plant: Plant, random: np.random.Generator) -> Scenario:
        """Draw an incident that this mesh can have. Classes that it cannot have (no second version) are drawn anew."""
        names = sorted(self.shares)
        weights = np.asarray([self.shares[name] for name in names])
        while True:
            name = str(random.choice(names, p=weights / weights.sum()))
            scenario = self._scenario(name, plant, random)
            if scenario is not None:
                return scenario
            weights[names.index(name)] = 0.0
            if not weights.sum() > 0:
                raise InvalidInput("this mesh can have none of the faults asked for", hint="give more services")

    def possible(self, plant: Plant, random: np.random.Generator) -> bool:
        """Tell whether this mesh can have an incident of any of the classes."""
        return any(self._scenario(name, plant, random) is not None for name, share in self.shares.items() if share > 0)

    def _scenario(self, name: str, plant: Plant, random: np.random.Generator) -> Scenario | None:
        """Draw an incident of one class; None when the mesh can have none of it."""
        least = Least(self.least_rps, self.least_slow_s, self.least_slowdown)
        if name in MESH:
            return draw_trouble(name, plant, random)
        if name in CASCADES:
            return draw_cascade(name, lambda: self._prior(plant, least, random), plant, random)
        fault = draw_fault(name, plant, least, random)
        if fault is None:
            return None
        return single(name, fault, Wanted.ABSORBED if name in ABSORBED else Wanted.HEALED)

    def _prior(self, plant: Plant, least: Least, random: np.random.Generator) -> Drawn:
        """Draw a fault of a service as the prior has them."""
        names, weights = list(SHARES), np.asarray(list(SHARES.values()))
        for name in random.choice(names, size=len(names), replace=False, p=weights / weights.sum()).tolist():
            if (fault := draw_fault(name, plant, least, random)) is not None:
                return fault
        return None


DEFAULT: Final = Mixture()


def named(mix: str) -> Mixture | None:
    """Return the mix that has this name, None when there is none."""
    return Mixture(MIXES[mix]) if mix in MIXES else None
