"""The actions a playbook may take: a closed set, each with its options, its way back and what kind of harm it can do.

Every action but `page` and the hooks becomes an overlay in the mesh: undo is its removal, which takes milliseconds.
Hooks reach outside the mesh; they run only what the operator declared by name (`agent.hooks` in the settings).
"""

# mypy: disable-error-code="explicit-any"
# (the constructor that pydantic gives every model takes Any; nothing here is written with it)

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal, Self, TypeAlias

from pydantic import Field, model_validator
from pydantic.alias_generators import to_camel

from playbooks.base import Model, Severity
from playbooks.units import Duration, Share

HookName = Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$")]
"""The name of a hook declared in the settings."""


class Reversibility(StrEnum):
    """How an action is taken back."""

    INSTANT = "instant"  # its overlay is removed: milliseconds
    HOOK = "hook"  # another call of a hook takes it back: as fast as that system is
    NONE = "none"  # it cannot be taken back; it ends by itself


class ShiftTrafficAway(Model):
    """Send the traffic of one version to the other healthy versions; `keep` is the share it may keep of its own."""

    away: str = "{cause.version}"
    """The version to leave."""
    keep: Annotated[Share, Field(lt=1)] = 0.0
    """Share of the version's own traffic that it keeps."""


class ShiftZonesAway(Model):
    """Send a service's traffic to its instances in other zones; `keep` is the share the zone may keep of its own."""

    away: str = "{cause.zone}"
    """The zone to leave."""
    keep: Annotated[Share, Field(lt=1)] = 0.0
    """Share of the zone's own traffic that it keeps."""


class ShiftRegionsAway(Model):
    """Send a service's traffic to its instances in other regions (the instance label `region`)."""

    away: str = "{cause.region}"
    """The region to leave."""
    keep: Annotated[Share, Field(lt=1)] = 0.0
    """Share of the region's own traffic that it keeps."""


class Eject(Model):
    """Take one instance out of load balancing; what it is busy with it may finish, its connections stay."""

    instance: str = "{cause.instance}"
    """The instance."""
    keep: Annotated[Share, Field(le=0.5)] = 0.0
    """Share of its own traffic that it keeps, at least 1% if any."""


class Drain(Model):
    """Take one instance out of load balancing and close its connections as their requests end: ready for a restart."""

    instance: str = "{cause.instance}"
    """The instance."""


class Restart(Model):
    """Restart one instance through a declared hook, which is called with the instance's name.

    Cannot be undone, so it waits at least 10 s (`holdDown`) in case the fault passes by itself.
    """

    instance: str = "{cause.instance}"
    """The instance."""
    hook: HookName = "restart"
    """The declared hook that restarts it."""


class Breaker(Model):
    """Answer requests to a service in its callers' sidecars: with its declared fallback, or with a quick 503.

    `caller` `all` is every caller; `{cause.caller}` the one on whose edge the fault shows most. `probe` is the share of
    requests that still goes through once the breaker has proven itself: when these succeed, the breaker closes by
    itself (0%: it stays open until a person or the platform ends it).
    """

    respond: Literal["fallback", "failFast"]
    """What callers get instead: the fallback their dependency declares, or a 503 at once."""
    callee: str = "{cause.service}"
    """The service that is not asked."""
    caller: str = "all"
    """`all`, or one calling service."""
    percent: Annotated[int, Field(ge=1, le=100)] = 100
    """Share of the requests answered here, percent."""
    probe: Annotated[Share, Field(le=0.5)] = 0.05
    """Share of the requests that goes through to see whether the service is well again; 0% never closes by itself."""


class RollBackCanary(Model):
    """Take all traffic from a canary: a version that has less than half of its service's declared traffic."""

    version: str = "{cause.version}"
    """The canary."""


class Pause(Model):
    """Keep the shares of a service's versions where they are: its canary takes no further step."""

    service: str = "{cause.service}"
    """The service."""


class PromoteStable(Model):
    """Give all traffic to the stable version: the one with the largest declared share."""

    service: str = "{cause.service}"
    """The service."""


class Timeout(Model):
    """Replace the timeout of requests to a service."""

    timeout: Annotated[Duration, Field(gt=0)]
    """How long a request may take."""
    service: str = "{cause.service}"
    """The service that is called."""


class RetryPolicy(Model):
    """Replace the retry policy towards a service; 0 attempts is none. `budget` bounds retries as a share of load."""

    attempts: Annotated[int, Field(ge=0, le=10)]
    """Retries after the first try."""
    budget: Share = 0.2
    """Most of the load that retries may add."""
    per_try_timeout: Duration = 0.0
    """How long one try may take; 0s: no limit of its own."""
    service: str = "{cause.service}"
    """The service that is called."""
    keep: Annotated[Share, Field(le=0.5)] = 0.0
    """Share of the requests that keep the retries they had, at least 1% if any."""


class Limit(Model):
    """Replace the connection-pool limits towards a service, per caller's sidecar."""

    max_requests: Annotated[int, Field(ge=0)] = 0
    """Requests at once; 0 leaves it as declared."""
    max_pending: Annotated[int, Field(ge=0)] = 0
    """Requests waiting for a connection; 0 leaves it."""
    max_connections: Annotated[int, Field(ge=0)] = 0
    """Connections; 0 leaves it."""
    service: str = "{cause.service}"
    """The service that is called."""

    @model_validator(mode="after")
    def _limits(self) -> Self:
        if not (self.max_requests or self.max_pending or self.max_connections):
            raise ValueError("limits nothing: give `maxRequests`, `maxPending` or `maxConnections`")
        return self


class Outliers(Model):
    """Replace Envoy's own outlier detection for a service."""

    consecutive_errors: Annotated[int, Field(ge=1)]
    """Errors in a row until a host is ejected."""
    interval: Annotated[Duration, Field(gt=0)] = 1.0
    """How often hosts are looked at."""
    ejection: Annotated[Duration, Field(gt=0)] = 10.0
    """How long a host stays away the first time."""
    max_ejection: Share = 0.5
    """Most of the hosts that may be away."""
    service: str = "{cause.service}"
    """The service that is called."""


class Adapt(Model):
    """Let the service's sidecars find out how many requests at once it can carry, and answer 429 beyond."""

    service: str = "{cause.service}"
    """The service to protect."""


class Shed(Model):
    """Turn away a share of the less important requests to a service with 429.

    Importance is the request header `x-fibrin-priority`: `low`, `normal` (also when absent) or `high`.
    """

    percent: Annotated[int, Field(ge=1, le=100)] = 100
    """Share of the less important requests that is turned away."""
    below: Literal["normal", "high"] = "normal"
    """What counts as less important: `low` only (`normal`), or all that is not `high`."""
    service: str = "{cause.service}"
    """The service to protect."""


class RateLimit(Model):
    """Admit only so many requests per second of one caller to a service (all instances together), 429 beyond."""

    requests_per_second: Annotated[float, Field(gt=0, strict=False)]
    """Requests per second admitted, over all instances."""
    burst: Annotated[Duration, Field(gt=0)] = 1.0
    """How long the caller may save up for a burst."""
    caller: str = "{cause.caller}"
    """The calling service, or `all` for everybody together."""
    service: str = "{cause.service}"
    """The service to protect."""


class DisableFault(Model):
    """Let the faults rest that a service's own declaration (VirtualService `fault`) injects."""

    service: str = "{cause.service}"
    """The service."""


class Scale(Model):
    """Ask a declared hook for more (or fewer) instances of a service; undo asks for the former number.

    The hook is called with the service and the wanted number: what there is plus `by`, never above `most`.
    """

    by: int
    """How many instances more (or fewer, below 0)."""
    most: Annotated[int, Field(ge=1)] = 10
    """Never ask for more than this."""
    hook: HookName = "scale"
    """The declared hook that scales."""
    service: str = "{cause.service}"
    """The service."""

    @model_validator(mode="after")
    def _scales(self) -> Self:
        if not self.by:
            raise ValueError("scales by nothing: give `by: 1`, or `by: -1` to have fewer")
        return self


class RunHook(Model):
    """Run a hook that the operator declared (a webhook or a Kubernetes job), with parameters it may use."""

    hook: HookName
    """The declared hook."""
    parameters: dict[str, str] = Field(default_factory=dict)
    """What to tell it; values may use placeholders."""
    service: str = "{cause.service}"
    """The service it is about."""


class Page(Model):
    """Call a person.

    `summary` (one line) and `details` may use placeholders; an empty summary gives a sentence made from the cause.
    `to` names channels declared in the settings (`agent.channels`); empty means all of them.
    """

    severity: Severity = Severity.CRITICAL
    """How urgent."""
    summary: str = ""
    """One line."""
    details: str = ""
    """More lines, for whoever opens the page."""
    to: tuple[str, ...] = ()
    """Channels from the settings; none given: all."""


ActionSpec: TypeAlias = (
    ShiftTrafficAway
    | ShiftZonesAway
    | ShiftRegionsAway
    | Eject
    | Drain
    | Restart
    | Breaker
    | RollBackCanary
    | Pause
    | PromoteStable
    | Timeout
    | RetryPolicy
    | Limit
    | Outliers
    | Adapt
    | Shed
    | RateLimit
    | DisableFault
    | Scale
    | RunHook
    | Page
)
"""Every action there is."""


class Action(Model):
    """Exactly one of the actions."""

    shift_traffic: ShiftTrafficAway | None = None
    shift_zones: ShiftZonesAway | None = None
    shift_regions: ShiftRegionsAway | None = None
    eject_instance: Eject | None = None
    drain_instance: Drain | None = None
    restart_instance: Restart | None = None
    open_breaker: Breaker | None = None
    roll_back_canary: RollBackCanary | None = None
    pause_canary: Pause | None = None
    promote_stable: PromoteStable | None = None
    set_timeout: Timeout | None = None
    set_retries: RetryPolicy | None = None
    limit_connections: Limit | None = None
    set_outlier_detection: Outliers | None = None
    adapt_concurrency: Adapt | None = None
    shed_load: Shed | None = None
    limit_rate: RateLimit | None = None
    disable_fault: DisableFault | None = None
    scale: Scale | None = None
    run_hook: RunHook | None = None
    page: Page | None = None

    @model_validator(mode="after")
    def _one(self) -> Self:
        given = [to_camel(name) for name, _ in self._given()]
        if len(given) != 1:
            found = f"found {', '.join(given)}" if given else "found none"
            raise ValueError(f"a step takes exactly one action, {found}; with no options write `ejectInstance: {{}}`")
        return self

    @property
    def spec(self) -> ActionSpec:
        """Return the one action that is given."""
        return self._given()[0][1]

    @property
    def name(self) -> str:
        """Return its name in YAML, like `shiftTraffic`."""
        return to_camel(self._given()[0][0])

    def _given(self) -> list[tuple[str, ActionSpec]]:
        return [(name, value) for name in type(self).model_fields if (value := getattr(self, name)) is not None]


def reversibility(action: ActionSpec) -> Reversibility:
    """Return how an action is taken back."""
    match action:
        case Restart():
            return Reversibility.NONE
        case Scale() | RunHook():
            return Reversibility.HOOK
        case _:
            return Reversibility.INSTANT


def untreated(action: ActionSpec, share: float) -> ActionSpec | None:
    """Return an action that spares `share` (0–1) of what it treats, None for one that leaves nobody out."""
    match action:
        case ShiftTrafficAway() | ShiftZonesAway() | ShiftRegionsAway() if action.keep < share:
            return action.model_copy(update={"keep": share})
        case Eject() | RetryPolicy():
            return action.model_copy(update={"keep": share})
        case _:
            return None


def dose(action: ActionSpec, share: float) -> ActionSpec | None:
    """Return a share (0–1) of an action that can be split, None when it is all or nothing."""
    match action:
        case ShiftTrafficAway() | ShiftZonesAway() | ShiftRegionsAway():
            return action.model_copy(update={"keep": 1 - (1 - action.keep) * share})
        case Breaker() | Shed():
            return action.model_copy(update={"percent": max(1, round(action.percent * share))})
        case _:
            return None
