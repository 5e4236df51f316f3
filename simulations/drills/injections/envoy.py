"""Faults that sidecars play: answers of their own, and delays."""

# mypy: disable-error-code="explicit-any"
# (the constructor that pydantic gives every model takes Any; nothing here is written with it)

from __future__ import annotations

from typing import Annotated, Self, TypeAlias

from pydantic import Field, model_validator

from playbooks.base import Model
from playbooks.units import Duration, percent, span
from simulations.drills.places import Place, Positive


class _Envoy(Model):
    """What both faults through Envoy share: whose requests they strike."""

    service: str
    """The service whose requests are struck."""
    caller: str = ""
    """Only requests of this service, in its sidecars."""
    route: str = ""
    """Only this route of the callers' tables."""
    version: str = ""
    """Only requests that reach this version, in its sidecars."""
    instance: str = ""
    """Only requests that reach this instance, in its sidecar."""
    share: Positive = 1.0
    """Share of these requests."""

    @model_validator(mode="after")
    def _one_scope(self) -> Self:
        if sum(map(bool, (self.caller, self.version, self.instance))) > 1:
            raise ValueError("give one of `caller`, `version` and `instance`; two faults are two entries")
        if self.route and (self.version or self.instance):
            raise ValueError("only callers know routes: leave `route` out, or name a `caller`")
        return self

    @property
    def place(self) -> Place:
        """Return the instances that callers will find at fault."""
        return Place(service=self.service, version=self.version, instance=self.instance)


class Abort(_Envoy):
    """Requests are answered by a sidecar with an error, not by the service."""

    status: Annotated[int, Field(ge=200, le=599)] = 503
    """HTTP status of the answer."""

    def __str__(self) -> str:
        """Say what happens, for people."""
        return f"{percent(self.share)} of the requests {_scope(self)} are answered with {self.status}"


class Delay(_Envoy):
    """Requests are held back in a sidecar before they go on."""

    by: Duration
    """How long; with `spread` the median."""
    spread: Annotated[float, Field(ge=0, le=3, strict=False)] = 0.0
    """Sigma of a lognormal distribution around `by`; 0: every delay alike."""

    def __str__(self) -> str:
        """Say what happens, for people."""
        spread = f" (lognormal, sigma {self.spread:g})" if self.spread else ""
        return f"{percent(self.share)} of the requests {_scope(self)} are delayed by {span(self.by)}{spread}"


def _scope(fault: _Envoy) -> str:
    source = f"from {fault.caller} " if fault.caller else ""
    route = f" on route {fault.route}" if fault.route else ""
    return f"{source}to {fault.place.where}{route}"


ThroughEnvoy: TypeAlias = Abort | Delay
