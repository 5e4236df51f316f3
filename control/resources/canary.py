"""`kind: Canary` (`fibrin.dev/v1`): a new version takes over step by step, or not at all.

    apiVersion: fibrin.dev/v1
    kind: Canary
    metadata: {name: catalog}
    spec:
      service: catalog
      canary: v2
      stable: v1
      steps:
      - {mirror: 20, for: 1m}
      - {weight: 100, match: {cookies: {beta: {exact: "yes"}}}, for: 2m}
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

from control.resources.schema import Host, Metadata, Name, Shape, StringMatchSpec, check_hosts
from control.resources.values import Duration, PositiveDuration, share
from models.canary.margins import Margins, Risk
from models.errors import InvalidInput
from models.overlay import HeaderIs
from models.rollout import Freeze, Rollout, RolloutStep

API_VERSIONS: Final = ("fibrin.dev/v1",)
DAYS: Final = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
MOST_STEPS: Final = 50
SAFE: Final = HeaderIs(":method", "regex", "GET|HEAD")
"""What may be done twice without harm (RFC 9110, 9.2.1)."""

_ALL: Final = 100
_TOKEN: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,64}")
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


class SelectSpec(Shape):
    """Which requests: all conditions must hold. A cookie's condition is on its value."""

    headers: dict[str, StringMatchSpec] = Field(default_factory=dict)
    cookies: dict[str, StringMatchSpec] = Field(default_factory=dict)
    methods: tuple[Literal["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"], ...] = Field(
        default=(), strict=False
    )

    @field_validator("headers", "cookies")
    @classmethod
    def _names(cls, value: dict[str, StringMatchSpec]) -> dict[str, StringMatchSpec]:
        for name in value:
            if not _TOKEN.fullmatch(name):
                raise ValueError(f"`{name}` is not the name of a header or cookie")
        return value

    def read(self) -> tuple[HeaderIs, ...]:
        """Return the conditions, by header."""
        found = [_condition(name.lower(), spec) for name, spec in sorted(self.headers.items())]
        found += [_cookie(name, spec) for name, spec in sorted(self.cookies.items())]
        if self.methods:
            found.append(HeaderIs(":method", "regex", "|".join(sorted(set(self.methods)))))
        return tuple(found)


def _condition(name: str, spec: StringMatchSpec) -> HeaderIs:
    if spec.exact is not None:
        return HeaderIs(name, "exact", spec.exact)
    if spec.prefix is not None:
        return HeaderIs(name, "prefix", spec.prefix)
    return HeaderIs(name, "present") if spec.regex is None else HeaderIs(name, "regex", spec.regex)


def _cookie(name: str, spec: StringMatchSpec) -> HeaderIs:
    """One cookie among those of the `cookie` header (RFC 6265, 4.2.1: `a=1; b=2`)."""
    value = "[^;]*"
    if spec.exact is not None:
        value = re.escape(spec.exact)
    elif spec.prefix is not None:
        value = re.escape(spec.prefix) + "[^;]*"
    elif spec.regex is not None:
        value = f"(?:{spec.regex})"
    return HeaderIs("cookie", "regex", rf"(?:.*;\s*)?{re.escape(name)}={value}(?:;.*)?")


class StepSpec(Shape):
    """One step: what the canary gets, how long at least, and whether a person has to let it go on.

    `weight` is a percent of the service's requests, or of those that `match`. `mirror` is a percent of the requests that
    are copied instead: of GET and HEAD only, unless `match` says otherwise, for a copied write would be done twice.
    """

    weight: int | None = Field(default=None, ge=1, le=100)
    mirror: int | None = Field(default=None, ge=1, le=100)
    match: SelectSpec | None = None
    least: Duration = Field(default=60.0, alias="for")
    approval: bool = False

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        if (self.weight is None) == (self.mirror is None):
            raise ValueError("takes one of weight and mirror")
        if self.match is not None and not self.match.read():
            raise ValueError("an empty match would match everything; give headers, cookies or methods, or drop `match`")
        if self.weight == _ALL and self.match is None:
            raise ValueError("weight must be less than or equal to 99: the canary takes everything when it is promoted")
        return self

    def read(self) -> RolloutStep:
        """Return what the agent drives."""
        mirror = self.mirror is not None
        conditions = self.match.read() if self.match else ()
        if mirror and all(each.name != ":method" for each in conditions):
            conditions += (SAFE,)
        return RolloutStep(self.mirror or self.weight or 0, self.least, self.approval, mirror, conditions)


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
    def _belongs_to_a_step(cls, value: object) -> object:
        if value is not None:
            raise ValueError("belongs to a step: `steps: [{mirror: 20}, {weight: 100, match: {headers: ...}}]`")
        return value

    @field_validator("service")
    @classmethod
    def _one_service(cls, value: str) -> str:
        check_hosts([value])
        return value

    @field_validator("steps")
    @classmethod
    def _rising(cls, value: list[StepSpec]) -> list[StepSpec]:
        steps = [step.read() for step in value]
        sizes = [(step.rank, step.weight) for step in steps]
        if sorted(set(sizes)) != sizes:
            found = ", ".join(map(str, steps))
            raise ValueError(
                f"the weights must rise from step to step, copies first, then what matches, then all; found {found}"
            )
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
        steps=tuple(step.read() for step in spec.steps),
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
