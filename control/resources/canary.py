"""`kind: Canary` (`fibrin.dev/v1`): a new version takes over step by step, or not at all.

    apiVersion: fibrin.dev/v1
    kind: Canary
    metadata: {name: catalog}
    spec:
      service: catalog
      canary: v2
      stable: v1
      steps:
      - {weight: 10, for: 2m}
      - {weight: 50, for: 5m, approval: true}
      analysis:
        margins: {errors: 0.5%, latency: 1.2}
        falseRollback: 0.1%
        minRequests: 50
        inconclusive: {after: 1h, then: hold}
      freeze:
      - {days: [fri, sat, sun], from: "16:00", until: "08:00"}

The shape a person writes; `rollout` turns it into what the agent drives (`models.rollout.Rollout`).
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Final, Literal, Self

from pydantic import BeforeValidator, Field, field_validator, model_validator

from control.resources.schema import Host, Metadata, Name, Shape, check_hosts
from control.resources.values import Duration, PositiveDuration, share
from models.canary.margins import Margins, Risk
from models.errors import InvalidInput
from models.rollout import Freeze, Rollout, RolloutStep

API_VERSIONS: Final = ("fibrin.dev/v1",)
DAYS: Final = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
MOST_STEPS: Final = 50
_CLOCK: Final = re.compile(r"([01]\d|2[0-3]):([0-5]\d)")


def _share(value: object) -> float:
    if not isinstance(value, str):
        raise ValueError(f"must be a percentage such as 0.5%, found {value!r}")  # noqa: TRY004 - pydantic reports ValueError
    return share(value)


def _clock(value: object) -> int:
    found = _CLOCK.fullmatch(value) if isinstance(value, str) else None
    if found is None:
        raise ValueError(f'must be a time of day in UTC such as "18:00" (in quotes), found {value!r}')
    return int(found[1]) * 3600 + int(found[2]) * 60


Share = Annotated[float, BeforeValidator(_share)]
Clock = Annotated[int, BeforeValidator(_clock)]


class StepSpec(Shape):
    """One step: the canary's percent of traffic, how long at least, and whether a person has to let it go on."""

    weight: int = Field(ge=1, le=99)
    least: Duration = Field(default=60.0, alias="for")
    approval: bool = False


class MarginsSpec(Shape):
    """How much worse than the stable version still counts as good."""

    errors: Share = Margins().errors
    latency: float = Margins().latency
    latency_floor: Duration = Margins().latency_floor_s
    saturation: Share = Margins().saturation


class InconclusiveSpec(Shape):
    """What to do when a step is neither proven good nor bad for so long."""

    after: PositiveDuration = 3600.0
    then: Literal["hold", "promote", "rollback"] = "hold"


class AnalysisSpec(Shape):
    """How the canary is judged."""

    margins: MarginsSpec = MarginsSpec()
    false_rollback: Share = Risk().false_rollback
    false_promotion: Share = Risk().false_promotion
    min_requests: int = Field(default=50, ge=1, le=10_000_000)
    inconclusive: InconclusiveSpec = InconclusiveSpec()

    @model_validator(mode="after")
    def _possible(self) -> Self:
        try:
            self.read()
        except InvalidInput as error:
            raise ValueError(error.message) from error
        return self

    def read(self) -> tuple[Margins, Risk]:
        """Return margins and risk.

        Raises:
            InvalidInput: a number is out of range.
        """
        given = self.margins
        margins = Margins(given.errors, given.latency, given.latency_floor, given.saturation)
        return margins, Risk(self.false_rollback, self.false_promotion)


class FreezeSpec(Shape):
    """A weekly time in which no step is taken, UTC; `until` not after `from` reaches into the next day."""

    days: list[Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]] = Field(min_length=1)
    from_: Clock = Field(alias="from")
    until: Clock


class CanarySpec(Shape):
    """A new version `canary` of `service`, to replace `stable`."""

    service: Host
    canary: Name
    stable: Name
    steps: list[StepSpec] = Field(min_length=1, max_length=MOST_STEPS)
    promotion: Literal["automatic", "manual"] = "automatic"
    analysis: AnalysisSpec = AnalysisSpec()
    freeze: tuple[FreezeSpec, ...] = ()
    match: Any = None
    mirror: Any = None

    @field_validator("match", "mirror")
    @classmethod
    def _to_come(cls, value: object) -> object:
        if value is not None:
            raise ValueError(
                "not supported yet: a canary moves weights only; for headers or cookies declare a rule with"
                " match.headers and its own subset in the VirtualService"
            )
        return value

    @field_validator("service")
    @classmethod
    def _one_service(cls, value: str) -> str:
        check_hosts([value])
        return value

    @field_validator("steps")
    @classmethod
    def _rising(cls, value: list[StepSpec]) -> list[StepSpec]:
        weights = [step.weight for step in value]
        if sorted(set(weights)) != weights:
            raise ValueError(f"the weights must rise from step to step, found {', '.join(map(str, weights))}")
        return value

    @model_validator(mode="after")
    def _two_versions(self) -> Self:
        if self.canary == self.stable:
            raise ValueError(f"canary and stable are both {self.canary}: there is nothing to compare")
        return self


class Canary(Shape):
    """A whole Canary document."""

    api_version: str
    kind: Literal["Canary"]
    metadata: Metadata
    spec: CanarySpec
    status: Any = None


def rollout(name: str, service: str, spec: CanarySpec, *, generation: int, created_at: float) -> Rollout:
    """Return what the agent drives."""
    margins, risk = spec.analysis.read()
    return Rollout(
        name=name,
        generation=generation,
        created_at=created_at,
        service=service,
        canary=spec.canary,
        stable=spec.stable,
        steps=tuple(RolloutStep(step.weight, step.least, step.approval) for step in spec.steps),
        automatic=spec.promotion == "automatic",
        margins=margins,
        risk=risk,
        least_requests=spec.analysis.min_requests,
        inconclusive_after_s=spec.analysis.inconclusive.after,
        inconclusive=spec.analysis.inconclusive.then,
        freezes=tuple(
            Freeze(tuple(DAYS.index(day) for day in freeze.days), freeze.from_, freeze.until) for freeze in spec.freeze
        ),
    )
