"""`kind: ServiceLevelObjective` (`fibrin.dev/v1`): what users of a service may rely on, over a rolling window.

    apiVersion: fibrin.dev/v1
    kind: ServiceLevelObjective
    metadata: {name: checkout-answers}
    spec:
      service: checkout
      route: {prefix: /pay}
      signal: availability
      objective: 99.9%
      window: 30d

The shape a person writes; `objective` turns it into what the agent counts (`models.objective.Objective`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal, Self

from pydantic import BeforeValidator, Field, WithJsonSchema, field_validator, model_validator

from control.resources.schema import Host, HttpRouteSpec, Metadata, Shape, VirtualService, check_hosts, named_rules
from control.resources.values import PositiveDuration, Window
from models.objective import Objective
from models.signals import BOUNDS_S

_TARGET: Final = re.compile(r"(\d{1,2}(?:\.\d{1,6})?)\s*%")
_LEAST: Final = 0.5


def _target(value: object) -> float:
    found = _TARGET.fullmatch(value.strip()) if isinstance(value, str) else None
    if found is None:
        raise ValueError(
            f"must be a percentage below 100% such as 99.9%, found {value!r}: an objective of 100% leaves no budget"
        )
    share = round(float(found[1]) / 100, 10)
    if share < _LEAST:
        raise ValueError(f"`{value}` is below 50%: write the share of good requests, such as 99.9%")
    return share


Target = Annotated[float, BeforeValidator(_target), WithJsonSchema({"type": "string"})]
Threshold = Annotated[PositiveDuration, WithJsonSchema({"type": "string", "examples": ["250ms", "1s"]})]
Length = Annotated[Window, WithJsonSchema({"type": "string", "examples": ["30d", "7d", "6h"]})]


class RuleSpec(Shape):
    """One rule of the service's VirtualService: requests are counted per rule of the route table."""

    prefix: Annotated[str, Field(description="The path prefix that the rule matches (`match.uri.prefix`).")] = ""
    name: Annotated[str, Field(description="The rule's `name`.")] = ""

    @model_validator(mode="after")
    def _one(self) -> Self:
        if bool(self.prefix) == bool(self.name):
            raise ValueError("give one of `prefix` and `name`: which rule of the VirtualService is meant")
        return self


class ObjectiveSpec(Shape):
    """A share of good requests to `service` that is promised over a rolling window."""

    service: Annotated[Host, Field(description="The service whose callers' requests are counted.")]
    route: Annotated[
        RuleSpec | None,
        Field(description="Only requests that take this rule of its VirtualService; none: all of them."),
    ] = None
    signal: Annotated[
        Literal["availability", "latency"],
        Field(
            description="`availability`: a request is good when it did not fail; `latency`: when it was fast enough."
        ),
    ]
    threshold: Annotated[
        Threshold | None,
        Field(description="For `latency`: how long a good request may take, to the end of its answer."),
    ] = None
    objective: Annotated[
        Target, Field(description="The share of valid requests that are good, from 50% to below 100%.")
    ]
    window: Length = Field(
        default="30d",
        validate_default=True,
        description="The rolling window, in whole days or hours, from 1h to 90d.",
    )

    @field_validator("service")
    @classmethod
    def _one_service(cls, value: str) -> str:
        check_hosts([value])
        return value

    @model_validator(mode="after")
    def _threshold_for_latency(self) -> Self:
        if self.signal == "latency" and self.threshold is None:
            raise ValueError("`signal: latency` needs a `threshold`, such as 250ms: how long may a good request take?")
        if self.signal == "availability" and self.threshold is not None:
            raise ValueError(
                "`threshold` has no meaning with `signal: availability`; write `signal: latency`, or drop it"
            )
        if self.threshold is not None and not BOUNDS_S[0] <= self.threshold <= BOUNDS_S[-1]:
            raise ValueError(f"threshold: latencies are told apart from {BOUNDS_S[0] * 1e6:g}us to {BOUNDS_S[-1]:g}s")
        return self


class ServiceLevelObjective(Shape):
    """A whole ServiceLevelObjective document."""

    api_version: str
    kind: Literal["ServiceLevelObjective"]
    metadata: Metadata
    spec: ObjectiveSpec
    status: Any = None


def rule_name(spec: RuleSpec, route: VirtualService) -> str | None:
    """Return the name under which a rule's requests are counted, None when the VirtualService has no such rule."""
    named = named_rules(route.spec.http)
    return next((name for name, rule in named if name == spec.name or spec.prefix in prefixes(rule)), None)


def prefixes(rule: HttpRouteSpec) -> tuple[str, ...]:
    """Return the path prefixes that a rule matches."""
    return tuple(match.uri.prefix for match in rule.match or () if match.uri is not None and match.uri.prefix)


def objective(
    name: str,
    service: str,
    spec: ObjectiveSpec,
    routes: Mapping[str, VirtualService],
    *,
    generation: int,
    created_at: float,
) -> Objective:
    """Return what the agent counts; `routes` are the VirtualServices by service."""
    rule = ""
    if spec.route is not None and service in routes:
        rule = rule_name(spec.route, routes[service]) or ""
    return Objective(
        name=name,
        service=service,
        signal=spec.signal,
        target=spec.objective,
        window_s=spec.window,
        route=rule,
        threshold_s=spec.threshold or 0.0,
        generation=generation,
        created_at=created_at,
    )
