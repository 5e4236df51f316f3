"""Faults of the mesh's own parts."""

# mypy: disable-error-code="explicit-any"
# (the constructor that pydantic gives every model takes Any; nothing here is written with it)

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

from pydantic import Field

from playbooks.base import Model
from playbooks.units import Duration, span


class Outage(Model):
    """A part of the mesh itself is killed (SIGKILL) and started again when the fault ends."""

    part: Literal["control", "agent"]
    """Which."""

    def __str__(self) -> str:
        """Say what happens, for people."""
        return f"the {'control plane' if self.part == 'control' else 'agent'} is killed"


class Telemetry(Model):
    """What sidecars report to the agent is lost, repeated, late or misdated. Requests are not touched."""

    services: tuple[str, ...] = ()
    """Sidecars of these services; none: all."""
    how: Literal["dropped", "frozen", "skewed", "misdated"]
    """`dropped`: no report arrives; `frozen`: the last one arrives again and again; `skewed`: each arrives late by `by`;
    `misdated`: each arrives in time, dated as by a sidecar whose clock is ahead by `by`."""
    by: Duration = 5.0
    """How late skewed reports are, how far ahead the clock of misdated ones."""

    def __str__(self) -> str:
        """Say what happens, for people."""
        late = f" by {span(self.by)}" if self.how in {"skewed", "misdated"} else ""
        return f"telemetry of {', '.join(self.services) or 'everybody'} is {self.how}{late}"


class RefusedConfig(Model):
    """A declaration is applied that every sidecar refuses (NACK), again and again."""

    service: str
    """The service whose routes are declared so."""
    every: Annotated[Duration, Field(ge=0.2)] = 1.0
    """From one such declaration to the next."""

    def __str__(self) -> str:
        """Say what happens, for people."""
        return f"every {span(self.every)} a configuration of {self.service} is declared that sidecars refuse"


class Clock(Model):
    """A part of the mesh is restarted with a wrong clock, and with the right one when the fault ends."""

    part: Literal["control", "agent"]
    """Whose clock."""
    by: Annotated[Duration, Field(gt=0)]
    """How wrong."""
    behind: bool = False
    """It is late; else it is ahead."""

    @property
    def shift_s(self) -> float:
        """Return what its clock shows beyond the right time, seconds."""
        return -self.by if self.behind else self.by

    def __str__(self) -> str:
        """Say what happens, for people."""
        whose = "the control plane" if self.part == "control" else "the agent"
        return f"the clock of {whose} is {span(self.by)} {'behind' if self.behind else 'ahead'}"


OnMesh: TypeAlias = Outage | Telemetry | RefusedConfig | Clock
