"""What an operator states about a canary: how much worse is tolerated, and how often a verdict may be wrong."""

from __future__ import annotations

import math
from dataclasses import dataclass

from models.errors import InvalidInput


@dataclass(frozen=True, slots=True)
class Margins:
    """How much worse than the stable version, at the same time, still counts as good (non-inferiority).

    `errors`: error ratio above the stable version's (0.005: half a percentage point). `latency`: factor on every latency
    (1.2: a fifth slower; the telemetry grid tells factors apart in steps of 1.21). `latency_floor_s`: a difference of less
    is never held against the canary, seconds. `saturation`: share of the declared limit above the stable version's.

    Raises:
        InvalidInput: a margin is outside its range.
    """

    errors: float = 0.005
    latency: float = 1.2
    latency_floor_s: float = 0.002
    saturation: float = 0.1

    def __post_init__(self) -> None:
        _inside("margin errors", self.errors, 0.0001, 0.5)
        _inside("margin latency", self.latency, 1.0, 10.0)
        _inside("margin latency_floor_s", self.latency_floor_s, 0.0, 60.0)
        _inside("margin saturation", self.saturation, 0.0, 0.9)


@dataclass(frozen=True, slots=True)
class Risk:
    """How often a verdict may be wrong: probabilities over the whole canary, all signals, callers and looks together.

    `false_rollback`: a canary within its margins is rolled back. `false_promotion`: one beyond a margin passes a step.

    Raises:
        InvalidInput: a probability is outside 1e-9–0.5.
    """

    false_rollback: float = 0.001
    false_promotion: float = 0.05

    def __post_init__(self) -> None:
        _inside("false_rollback", self.false_rollback, 1e-9, 0.5)
        _inside("false_promotion", self.false_promotion, 1e-9, 0.5)

    @property
    def rollback_nats(self) -> float:
        """Natural-log evidence at which a canary is rolled back (Ville: 1/α)."""
        return -math.log(self.false_rollback)

    @property
    def promotion_nats(self) -> float:
        """Natural-log evidence at which a canary passes."""
        return -math.log(self.false_promotion)


def _inside(name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise InvalidInput(f"canary: {name} is {value}, wanted {low:g} to {high:g}", hint="see docs/models.md")
