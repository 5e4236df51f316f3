"""The playbook as SREs write it: when it applies, how far it may go, what it does, how it knows that it helped.

    apiVersion: fibrin.dev/v1
    kind: Playbook
    metadata: {name: bad-version}
    spec:
      description: A new version fails while its siblings do not.
      when:
        cause: [version]
        signal: [errors]
        services: {all: true}
        minProbability: 60%
      mode: auto
      guard: {maxTrafficShare: 50%, cooldown: 30s}
      steps:
      - name: send its traffic to the healthy versions
        action:
          shiftTraffic: {away: "{cause.version}"}
        verify: {deadline: 10s}
        undo: automatic
      escalate: {severity: critical}

The models are strict: an unknown field, a number without its unit, two actions in one step are errors. What a schema
cannot say (an unreachable step, an action without undo) is the matter of `playbooks.lint`.
"""

# mypy: disable-error-code="explicit-any"
# (the constructor that pydantic gives every model takes Any; nothing here is written with it)

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal, Self, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic.alias_generators import to_camel

from models.incident import CauseKind, Signal
from playbooks.units import Duration, Share


class Mode(StrEnum):
    """How far a playbook may go by itself."""

    SHADOW = "shadow"  # say what it would do; do nothing
    APPROVE = "approve"  # do it once a person said yes
    AUTO = "auto"  # do it


class Severity(StrEnum):
    """How much it matters to users, in ascending order."""

    INFO = "info"
    WARNING = "warning"
    CRITICAL = "critical"

    @property
    def rank(self) -> int:
        """Return its place in the order, from 0."""
        return list(Severity).index(self)


class _Model(BaseModel):
    """Base of everything in a playbook: camelCase in YAML, strict, frozen, no unknown fields."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, alias_generator=to_camel)


class Services(_Model):
    """Which services a playbook may touch: by `names`, by `labels` of their instances, or `all: true`, said on purpose.

    `except` takes names out again. Choosing nothing is an error, never "all".
    """

    names: tuple[str, ...] = ()
    labels: dict[str, str] = {}
    everything: bool = Field(default=False, alias="all")
    exclude: tuple[str, ...] = Field(default=(), alias="except")

    @model_validator(mode="after")
    def _chooses(self) -> Self:
        chosen = [bool(self.names), bool(self.labels), self.everything]
        if sum(chosen) == 0:
            raise ValueError("the selector is empty: give `names:` or `labels:`, or say `all: true` on purpose")
        if sum(chosen) > 1:
            raise ValueError("give one of `names`, `labels` and `all`, not several")
        if "" in self.names or "*" in self.names:
            raise ValueError("a name must be a service's name; for every service say `all: true`")
        return self


class When(_Model):
    """What an incident must look like. All given conditions must hold."""

    cause: Annotated[tuple[CauseKind, ...], Field(min_length=1)]
    signal: Annotated[tuple[Signal, ...], Field(min_length=1)] = tuple(Signal)
    services: Services
    min_probability: Annotated[Share, Field(gt=0)] = 0.7
    min_severity: Severity = Severity.INFO


class Rate(_Model):
    """At most `count` actions in any window of length `per`."""

    count: Annotated[int, Field(ge=1)] = 5
    per: Annotated[Duration, Field(gt=0)] = 600.0


class Guard(_Model):
    """How far the playbook may go. The limits of the whole mesh (`guards.Limits`) hold beside them.

    `max_traffic_share`: most of the service's traffic that one step may treat differently. `max_capacity_share`: most of
    its healthy instances that one step may take away. `min_healthy_share`: how much of them must stay in service, with
    all that is already away counted. `headroom`: share of its limit that each remaining instance must keep free after
    taking over the load (0: not asked for). `cooldown`: pause between two actions on one service. `strikes`: after so
    many failures on one service within an hour the playbook stops there. `concurrency`: unverified actions at once.
    """

    max_traffic_share: Share = 0.5
    max_capacity_share: Share = 0.5
    min_healthy_share: Share = 0.5
    headroom: Share = 0.0
    cooldown: Duration = 60.0
    rate: Rate = Rate()
    strikes: Annotated[int, Field(ge=1)] = 2
    concurrency: Annotated[int, Field(ge=1)] = 1


class ShiftTrafficAway(_Model):
    """Send the traffic of one version to the other healthy versions; `keep` is the share it may keep of its own."""

    away: str = "{cause.version}"
    keep: Annotated[Share, Field(lt=1)] = 0.0


class Eject(_Model):
    """Take one instance out of load balancing; what it is busy with it may finish."""

    instance: str = "{cause.instance}"


class Breaker(_Model):
    """Answer requests to a service in its callers' sidecars: with its declared fallback, or with a quick 503.

    `caller` `all` is every caller; `{cause.caller}` the one on whose edge the fault shows most.
    """

    respond: Literal["fallback", "failFast"]
    callee: str = "{cause.service}"
    caller: str = "all"
    percent: Annotated[int, Field(ge=1, le=100)] = 100


class Timeout(_Model):
    """Replace the timeout of requests to a service."""

    timeout: Annotated[Duration, Field(gt=0)]
    service: str = "{cause.service}"


class RetryPolicy(_Model):
    """Replace the retry policy towards a service; 0 attempts is none. `budget` bounds retries as a share of load."""

    attempts: Annotated[int, Field(ge=0, le=10)]
    budget: Share = 0.2
    per_try_timeout: Duration = 0.0
    service: str = "{cause.service}"


class Limit(_Model):
    """Replace the connection-pool limits towards a service, per caller's sidecar."""

    max_requests: Annotated[int, Field(ge=0)] = 0
    max_pending: Annotated[int, Field(ge=0)] = 0
    max_connections: Annotated[int, Field(ge=0)] = 0
    service: str = "{cause.service}"

    @model_validator(mode="after")
    def _limits(self) -> Self:
        if not (self.max_requests or self.max_pending or self.max_connections):
            raise ValueError("limits nothing: give `maxRequests`, `maxPending` or `maxConnections`")
        return self


class Outliers(_Model):
    """Replace Envoy's own outlier detection for a service."""

    consecutive_errors: Annotated[int, Field(ge=1)]
    interval: Annotated[Duration, Field(gt=0)] = 1.0
    ejection: Annotated[Duration, Field(gt=0)] = 10.0
    max_ejection: Share = 0.5
    service: str = "{cause.service}"


class Page(_Model):
    """Call a person. `summary` may use placeholders; empty gives a sentence made from the cause."""

    severity: Severity = Severity.CRITICAL
    summary: str = ""


ActionSpec: TypeAlias = ShiftTrafficAway | Eject | Breaker | Timeout | RetryPolicy | Limit | Outliers | Page
"""The closed set of actions."""


class Action(_Model):
    """Exactly one of the actions."""

    shift_traffic: ShiftTrafficAway | None = None
    eject_instance: Eject | None = None
    open_breaker: Breaker | None = None
    set_timeout: Timeout | None = None
    set_retries: RetryPolicy | None = None
    limit_connections: Limit | None = None
    set_outlier_detection: Outliers | None = None
    page: Page | None = None

    @model_validator(mode="after")
    def _one(self) -> Self:
        given = [to_camel(name) for name in type(self).model_fields if getattr(self, name) is not None]
        if len(given) != 1:
            found = f"found {', '.join(given)}" if given else "found none"
            raise ValueError(f"a step takes exactly one action, {found}; with no options write `ejectInstance: {{}}`")
        return self

    @property
    def spec(self) -> ActionSpec:
        """Return the one action that is given."""
        options = (
            self.shift_traffic,
            self.eject_instance,
            self.open_breaker,
            self.set_timeout,
            self.set_retries,
            self.limit_connections,
            self.set_outlier_detection,
            self.page,
        )
        return next(option for option in options if option is not None)

    @property
    def name(self) -> str:
        """Return its name in YAML, like `shiftTraffic`."""
        return next(to_camel(name) for name in type(self).model_fields if getattr(self, name) is not None)


class Verify(_Model):
    """How the step proves itself: the signal back inside its baseline before `deadline` (from the act), or undo."""

    deadline: Annotated[Duration, Field(gt=0)]


class Step(_Model):
    """One thing to try. Steps are alternatives: a step that did not help is undone before the next one.

    `hold_down` waits before acting, in case it passes by itself. `undo: automatic` removes the overlay.
    """

    name: Annotated[str, Field(min_length=1)]
    action: Action
    hold_down: Duration = 0.0
    verify: Verify | None = None
    undo: Literal["automatic"] | None = None


class Spec(_Model):
    """The body of a playbook."""

    description: str = ""
    when: When
    mode: Mode = Mode.SHADOW
    priority: int = 0
    guard: Guard = Guard()
    steps: Annotated[tuple[Step, ...], Field(min_length=1)]
    escalate: Page = Page()


class Metadata(_Model):
    """Name and labels, as Kubernetes writes them."""

    name: str
    namespace: str = ""
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}


class Playbook(_Model):
    """One playbook."""

    api_version: Literal["fibrin.dev/v1"]
    kind: Literal["Playbook"]
    metadata: Metadata
    spec: Spec

    @property
    def name(self) -> str:
        """Return its name."""
        return self.metadata.name

    @property
    def specificity(self) -> int:
        """Return how narrowly it selects (higher is narrower): decides among equal priorities."""
        when = self.spec.when
        services = 200 if when.services.names else 100 if when.services.labels else 0
        narrow = (len(CauseKind) - len(when.cause)) + (len(Signal) - len(when.signal))
        return services + narrow + when.min_severity.rank
