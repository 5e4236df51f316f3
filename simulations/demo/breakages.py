"""The three breakages the demo plays, in order."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from simulations.faults import DependencyDown, Fault, SlowInstance, VersionErrors


@dataclass(frozen=True, slots=True)
class Breakage:
    """One breakage: a name for machines, a sentence for people, and the fault itself."""

    name: str
    title: str
    fault: Fault


BREAKAGES: Final = (
    Breakage(
        "canary-errors", "the canary of catalog (v2) fails 20 % of its requests", VersionErrors("catalog", "v2", 0.2)
    ),
    Breakage("slow-instance", "one of three instances of cart becomes 10× slower", SlowInstance("cart-v1-2", 10.0)),
    Breakage("dependency-down", "recommendation goes down: all its processes die", DependencyDown("recommendation")),
)
