"""What breaks when in one incident: one fault, several one after the other, or a fault while the mesh itself is troubled."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from simulations.simulator.faults import Fault
from simulations.simulator.guilt import Guilt, truths
from simulations.simulator.layout import Layout
from simulations.simulator.meshfaults import MeshFault

AFTER_S: Final = 10.0
"""An incident of the mesh itself is watched for this long after it is over: what was held back may break out then."""


class Wanted(StrEnum):
    """What has to come of an incident."""

    HEALED = "healed"  # found and healed; a person called where nothing heals
    ABSORBED = "absorbed"  # users well again; whether the agent acts is left open
    SPARED = "spared"  # nothing is at fault: nothing is touched


@dataclass(frozen=True, slots=True)
class Part:
    """One fault, from `at_s` seconds after the onset on, for `lasts_s` seconds."""

    fault: Fault | MeshFault
    at_s: float = 0.0
    lasts_s: float = math.inf

    @property
    def ends_s(self) -> float:
        """When it is over, seconds after the onset."""
        return self.at_s + self.lasts_s


@dataclass(frozen=True, slots=True)
class Scenario:
    """An incident of a class (`kind`, as `--mix` names it), and what has to come of it."""

    kind: str
    parts: tuple[Part, ...]
    wanted: Wanted = Wanted.HEALED

    @property
    def services(self) -> tuple[tuple[float, Fault], ...]:
        """Return what breaks in services, and when (seconds after the onset)."""
        return tuple((part.at_s, part.fault) for part in self.parts if not isinstance(part.fault, MeshFault))

    @property
    def troubles(self) -> tuple[Part, ...]:
        """Return the parts in which the mesh itself breaks."""
        return tuple(part for part in self.parts if isinstance(part.fault, MeshFault))

    @property
    def breaks_s(self) -> float:
        """When the first service breaks (0 where none does), seconds after the onset."""
        return min((at_s for at_s, _ in self.services), default=0.0)

    @property
    def settled_s(self) -> float:
        """From when on nothing new comes, seconds after the onset."""
        begun = max(part.at_s for part in self.parts)
        over = max((part.ends_s for part in self.parts if math.isfinite(part.lasts_s)), default=0.0)
        return max(begun, over) + (AFTER_S if self.wanted is Wanted.SPARED else 0.0)

    def guilt(self, layout: Layout) -> Guilt:
        """Return who is at fault."""
        return Guilt(tuple(truths(fault, layout) for _, fault in self.services))


def single(kind: str, fault: Fault, wanted: Wanted = Wanted.HEALED) -> Scenario:
    """Return an incident with one fault."""
    return Scenario(kind, (Part(fault),), wanted)
