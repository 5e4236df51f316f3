"""Faults of the network between a sidecar and its application, and of looking up names."""

# mypy: disable-error-code="explicit-any"
# (the constructor that pydantic gives every model takes Any; nothing here is written with it)

from __future__ import annotations

from typing import Annotated, Self, TypeAlias

from pydantic import Field, model_validator

from playbooks.units import Duration, Share, percent, span
from simulations.drills.names import How
from simulations.drills.places import Place


class Network(Place):
    """The way between a sidecar and its application goes through a relay that does to TCP what bad networks do."""

    delay: Duration = 0.0
    """Added to each piece of data, each way."""
    jitter: Duration = 0.0
    """Most that is added to or taken from it."""
    loss: Share = 0.0
    """Share of pieces that have to be sent again: each waits for TCP's retransmission (200 ms, doubling)."""
    bandwidth: Annotated[float, Field(ge=0, strict=False)] = 0.0
    """KiB per second and direction of each connection; 0: no limit."""
    resets: Share = 0.0
    """Share of pieces upon which the connection is reset."""
    partition: bool = False
    """Nothing gets through: open connections hang, new ones are not taken."""
    half_open: bool = False
    """Connections that are open hang, as when the other host went away without a word; new ones work."""

    @model_validator(mode="after")
    def _bad(self) -> Self:
        bad = (self.delay, self.jitter, self.loss, self.bandwidth, self.resets, self.partition, self.half_open)
        if not any(bad):
            raise ValueError(
                "this network is fine: give `delay`, `loss`, `bandwidth`, `resets`, `partition` or `halfOpen`"
            )
        return self

    def __str__(self) -> str:
        """Say what happens, for people."""
        parts = [
            f"{span(self.delay)} delay" if self.delay else "",
            f"{span(self.jitter)} jitter" if self.jitter else "",
            f"{percent(self.loss)} loss" if self.loss else "",
            f"{self.bandwidth:g} KiB/s" if self.bandwidth else "",
            f"{percent(self.resets)} resets" if self.resets else "",
            "a partition" if self.partition else "",
            "half-open connections" if self.half_open else "",
        ]
        return f"the network at {self.where} has {', '.join(filter(None, parts))}"


class Dns(Place):
    """Applications cannot look up their upstream: what is connected stays connected, who connects anew finds nobody."""

    how: How = "failing"
    """`silent`: the name server does not answer; `failing`: it answers SERVFAIL; `unknown`: it knows no such name."""

    def __str__(self) -> str:
        """Say what happens, for people."""
        said = {"silent": "gets no answer", "failing": "gets SERVFAIL", "unknown": "is told there is no such name"}
        return f"{self.where} {said[self.how]} when it looks up a name"


OnNetwork: TypeAlias = Network | Dns
"""Faults of the network."""
