"""Overlays: small typed changes laid over what people declared, each leased, fenced and undone by removal.

The union `Change` is closed: every consumer matches on it exhaustively. Changes are plain data; how they turn into
Envoy configuration is the control plane's matter, how big they are is the planner's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal


class Owner(StrEnum):
    """Who laid an overlay; a person's beats an agent's."""

    PERSON = "person"
    AGENT = "agent"


@dataclass(frozen=True, slots=True)
class ShiftTraffic:
    """Set the shares of a service's versions. Weights are relative, ≥ 0, with a positive sum."""

    service: str
    weights: Mapping[str, int]
    kind: Literal["shift-traffic"] = "shift-traffic"


@dataclass(frozen=True, slots=True)
class EjectInstance:
    """Take one instance out of its service's load balancing (it drains; live requests finish).

    `keep_percent` (0–50) of its fair share of requests still goes there: a hold-out slice.
    """

    service: str
    instance: str
    keep_percent: int = 0
    kind: Literal["eject-instance"] = "eject-instance"


@dataclass(frozen=True, slots=True)
class DrainInstance:
    """Take one instance out of its service and let go of its connections once their requests have ended.

    What ejection does, and more: the instance ends up with no connection at all and may be restarted.
    """

    service: str
    instance: str
    kind: Literal["drain-instance"] = "drain-instance"


@dataclass(frozen=True, slots=True)
class ShiftZones:
    """Set the shares of a service's zones. Weights are relative, ≥ 0, with a positive sum; an unnamed zone has 0."""

    service: str
    weights: Mapping[str, int]
    kind: Literal["shift-zones"] = "shift-zones"


@dataclass(frozen=True, slots=True)
class OpenBreaker:
    """Answer `percent` (1–100) of the requests to `callee` in the caller's sidecar instead of sending them.

    `caller` "" means every caller, said on purpose. `respond` "fallback" serves the answer declared for the callee,
    "fail-fast" a 503 at once. `probe_percent` of the requests may go through later to see whether the callee is well
    again (half-open; 0: never): whoever laid the breaker lowers `percent` for that.
    """

    callee: str
    caller: str = ""
    percent: int = 100
    respond: Literal["fallback", "fail-fast"] = "fail-fast"
    probe_percent: int = 0
    kind: Literal["open-breaker"] = "open-breaker"


@dataclass(frozen=True, slots=True)
class SetRetries:
    """Replace the retry policy towards a service: `attempts` retries (0: none), at most `budget` (0–1) of load.

    `keep_percent` (0–50) of the requests keep the retries they had: a hold-out slice. The budget is everybody's.
    """

    service: str
    attempts: int
    budget: float = 0.2
    per_try_timeout_s: float = 0.0
    keep_percent: int = 0
    kind: Literal["set-retries"] = "set-retries"


@dataclass(frozen=True, slots=True)
class SetTimeout:
    """Replace the request timeout towards a service, seconds."""

    service: str
    timeout_s: float
    kind: Literal["set-timeout"] = "set-timeout"


@dataclass(frozen=True, slots=True)
class LimitConnections:
    """Replace the connection-pool limits towards a service (0 leaves a limit as declared)."""

    service: str
    max_requests: int = 0
    max_pending: int = 0
    max_connections: int = 0
    kind: Literal["limit-connections"] = "limit-connections"


@dataclass(frozen=True, slots=True)
class InjectFault:
    """Abort `abort_percent` of requests with `abort_status` and delay `delay_percent` by `delay_s` (drills).

    `delay_sigma` above 0 draws delays from a lognormal distribution with median `delay_s` and this sigma. `caller` and
    `route` ("": all) strike only that service's requests and that route, in the callers' sidecars. `version` and
    `instance` strike in the callee's own sidecars: of that version, or that one instance.
    """

    service: str
    abort_percent: float = 0.0
    abort_status: int = 503
    delay_percent: float = 0.0
    delay_s: float = 0.0
    delay_sigma: float = 0.0
    caller: str = ""
    route: str = ""
    version: str = ""
    instance: str = ""
    kind: Literal["inject-fault"] = "inject-fault"


@dataclass(frozen=True, slots=True)
class SetOutlierDetection:
    """Replace Envoy's own outlier detection for a service."""

    service: str
    consecutive_errors: int
    interval_s: float = 1.0
    ejection_s: float = 10.0
    max_ejection_percent: int = 50
    kind: Literal["set-outlier-detection"] = "set-outlier-detection"


@dataclass(frozen=True, slots=True)
class DisableFault:
    """Let the faults that a service's declaration injects rest (a fault laid as an overlay stays)."""

    service: str
    kind: Literal["disable-fault"] = "disable-fault"


@dataclass(frozen=True, slots=True)
class LimitRate:
    """Admit at most `requests_per_s` of `caller`'s requests (all instances of the service together), 429 beyond.

    `caller` "" means every caller, each with a share of one common limit, said on purpose. `burst_s`: how many seconds'
    worth of requests may come at once.
    """

    service: str
    requests_per_s: float
    caller: str = ""
    burst_s: float = 1.0
    kind: Literal["limit-rate"] = "limit-rate"


@dataclass(frozen=True, slots=True)
class AdaptConcurrency:
    """Let every sidecar of the service find by itself how many requests its application can carry, 429 beyond."""

    service: str
    kind: Literal["adapt-concurrency"] = "adapt-concurrency"


@dataclass(frozen=True, slots=True)
class ShedLoad:
    """Turn away `percent` (1–100) of the requests whose priority lies below `below` with 429.

    The priority is the request header `x-fibrin-priority`: `low`, `normal` (also when absent) or `high`.
    """

    service: str
    percent: int = 100
    below: Literal["normal", "high"] = "normal"
    kind: Literal["shed-load"] = "shed-load"


@dataclass(frozen=True, slots=True)
class PauseCanary:
    """Keep a service's versions at the shares they have: no step of a canary is taken while this is in force.

    Shifts of an incident or of a person are still taken.
    """

    service: str
    kind: Literal["pause-canary"] = "pause-canary"


@dataclass(frozen=True, slots=True)
class RunHook:
    """Run a hook that the operator declared (scale, restart, webhook, job). Sidecars know nothing of it.

    The overlay is the record of it: leased, fenced, exclusive. `instance` is the one that cannot serve meanwhile ("").
    `undo` is the hook that takes it back ("" when nothing can), called with `undo_parameters`.
    """

    service: str
    hook: str
    parameters: Mapping[str, str] = field(default_factory=dict)
    instance: str = ""
    undo: str = ""
    undo_parameters: Mapping[str, str] = field(default_factory=dict)
    kind: Literal["run-hook"] = "run-hook"


@dataclass(frozen=True, slots=True)
class HeaderIs:
    """A condition on one request header: `exact`, `prefix`, `regex` (RE2, whole value) or `present`."""

    name: str
    op: Literal["exact", "prefix", "regex", "present"]
    value: str = ""


@dataclass(frozen=True, slots=True)
class RouteCanary:
    """Let a canary see part of a service's requests, by what they are or as copies; all others go to `stable`.

    Without `mirror`, `percent` (1–100) of the requests that fulfil all `conditions` go to `canary`. With it, `percent`
    of those requests are copied there: the answers are thrown away, and users never wait for them.
    """

    service: str
    canary: str
    stable: str
    percent: int
    mirror: bool = False
    conditions: tuple[HeaderIs, ...] = ()
    kind: Literal["route-canary"] = "route-canary"


Ejection = EjectInstance | DrainInstance
"""What takes one instance out of load balancing."""

Change = (
    ShiftTraffic
    | ShiftZones
    | EjectInstance
    | DrainInstance
    | OpenBreaker
    | SetRetries
    | SetTimeout
    | LimitConnections
    | InjectFault
    | DisableFault
    | SetOutlierDetection
    | LimitRate
    | AdaptConcurrency
    | ShedLoad
    | PauseCanary
    | RouteCanary
    | RunHook
)


@dataclass(frozen=True, slots=True)
class Overlay:
    """A change in force, with who laid it, why, and until when.

    `fence` is the fencing token of the writer (monotonic per agent lease; people write with fence 0 and are not
    fenced). `expires_at` is Unix time; `lease_s` what a renewal adds from now. `incident` is "" for people's overlays.
    """

    id: str
    change: Change
    owner: Owner
    actor: str
    reason: str
    created_at: float
    expires_at: float
    lease_s: float
    incident: str = ""
    fence: int = 0


def target(change: Change) -> str:
    """Return the service a change lands on."""
    return change.callee if isinstance(change, OpenBreaker) else change.service


def slot(change: Change) -> tuple[str, ...]:
    """Return the place a change occupies: of two overlays in one slot only one is in force.

    Two ejections of different instances occupy different slots; two weight changes of one service the same one.
    Ejecting and draining one instance compete, and so do a canary's routes and weights of its service.
    """
    match change:
        case EjectInstance(service=service, instance=instance) | DrainInstance(service=service, instance=instance):
            return ("eject-instance", service, instance)
        case RouteCanary(service=service):
            return ("shift-traffic", service)
        case LimitRate(caller=caller) | OpenBreaker(caller=caller):
            return (change.kind, target(change), caller)
        case InjectFault(service=service, caller=caller, route=route, version=version, instance=instance):
            return (change.kind, service, caller, route, version, instance)
        case RunHook(service=service, hook=hook, instance=instance):
            return (change.kind, service, hook, instance)
        case _:
            return (change.kind, target(change))


def in_force(overlays: tuple[Overlay, ...]) -> tuple[Overlay, ...]:
    """Resolve competing overlays: person over agent, newer fence over older, newer over older, then id.

    The result does not depend on the order of `overlays` and is sorted by slot.
    """
    best: dict[tuple[str, ...], Overlay] = {}
    for overlay in sorted(overlays, key=_precedence):
        best[slot(overlay.change)] = overlay
    return tuple(best[key] for key in sorted(best))


def _precedence(overlay: Overlay) -> tuple[bool, int, float, str]:
    return (overlay.owner is Owner.PERSON, overlay.fence, overlay.created_at, overlay.id)
