"""Faults that an application plays itself: errors, slowness, broken-off answers, leaks, burnt time, few workers."""

# mypy: disable-error-code="explicit-any"
# (the constructor that pydantic gives every model takes Any; nothing here is written with it)

from __future__ import annotations

from typing import Annotated, TypeAlias

from pydantic import Field

from playbooks.units import Share, percent
from simulations.drills.places import Place, Positive


class Errors(Place):
    """The application answers a share of its requests with HTTP 500."""

    share: Positive
    """Share of the requests."""

    def __str__(self) -> str:
        """Say what happens, for people."""
        return f"{self.where} fails {percent(self.share)} of its requests"


class Slowness(Place):
    """The application takes longer for its own work."""

    factor: Annotated[float, Field(gt=1, le=1000, strict=False)]
    """Times as long as usual."""

    def __str__(self) -> str:
        """Say what happens, for people."""
        return f"{self.where} becomes {self.factor:g}× slower"


class Corruption(Place):
    """The application breaks off a share of its answers in the middle of the body: they look fine until they end."""

    share: Positive
    """Share of the answers."""

    def __str__(self) -> str:
        """Say what happens, for people."""
        return f"{self.where} breaks off {percent(self.share)} of its answers"


class Leak(Place):
    """The application leaks memory that every request walks through; at `most` it dies, as an out-of-memory kill would."""

    rate: Annotated[float, Field(gt=0, le=500, strict=False)]
    """MiB per second."""
    most: Annotated[float, Field(gt=0, le=2000, strict=False)] = 400.0
    """MiB at which the process is killed."""

    def __str__(self) -> str:
        """Say what happens, for people."""
        return f"{self.where} leaks {self.rate:g} MiB a second, and dies at {self.most:g} MiB"


class Burn(Place):
    """The application burns processor time in its event loop: requests wait meanwhile."""

    share: Annotated[Share, Field(gt=0, le=0.95)]
    """Share of the time it is busy with nothing."""

    def __str__(self) -> str:
        """Say what happens, for people."""
        return f"{self.where} burns {percent(self.share)} of its processor time"


class Capacity(Place):
    """The application serves at most so many requests at a time; others wait in its queue."""

    workers: Annotated[int, Field(ge=1, le=1000)]
    """Requests at a time, per instance."""

    def __str__(self) -> str:
        """Say what happens, for people."""
        return f"{self.where} serves {self.workers} at a time"


InApplication: TypeAlias = Errors | Slowness | Corruption | Leak | Burn | Capacity
