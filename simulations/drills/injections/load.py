"""Faults of load: who comes, and how many."""

# mypy: disable-error-code="explicit-any"
# (the constructor that pydantic gives every model takes Any; nothing here is written with it)

from __future__ import annotations

from typing import Annotated, TypeAlias

from pydantic import Field

from playbooks.base import Model
from playbooks.units import Duration, span


class _More(Model):
    """What faults share in which users come at a steady rate."""

    rate: Annotated[float, Field(gt=0, le=1000, strict=False)]
    """Requests per second on top, repetitions not counted."""


class Surge(_More):
    """More users come."""

    def __str__(self) -> str:
        """Say what happens, for people."""
        return f"{self.rate:g} requests a second more"


class Herd(Model):
    """Many users come in the same moment, again and again."""

    size: Annotated[int, Field(ge=1, le=1000)]
    """How many at once."""
    every: Annotated[Duration, Field(ge=0.5)] = 2.0
    """From one herd to the next."""

    def __str__(self) -> str:
        """Say what happens, for people."""
        return f"{self.size} users at once every {span(self.every)}"


class HotKey(_More):
    """More users come, and all of them want the same product."""

    product: Annotated[int, Field(ge=1, le=9)] = 1
    """Which."""

    def __str__(self) -> str:
        """Say what happens, for people."""
        return f"{self.rate:g} requests a second more, all for product {self.product}"


class RetryStorm(_More):
    """Users who get an error try again at once."""

    attempts: Annotated[int, Field(ge=1, le=20)]
    """How often."""

    def __str__(self) -> str:
        """Say what happens, for people."""
        return f"{self.rate:g} requests a second more, each repeated up to {self.attempts} times upon an error"


OnLoad: TypeAlias = Surge | Herd | HotKey | RetryStorm
