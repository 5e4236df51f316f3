"""Overlays: small typed changes laid over what people declared, each leased, fenced and undone by removal.

The union `Change` is closed: every consumer matches on it exhaustively. Changes are plain data; how they turn into
Envoy configuration is the control plane's matter, how big they are is the planner's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
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
    """Take one instance out of its service's load balancing (it drains; live requests finish)."""

    service: str
    instance: str
    kind: Literal["eject-instance"] = "eject-instance"


@dataclass(frozen=True, slots=True)
class OpenBreaker:
    """Answer `percent` (1–100) of the requests to `callee` in the caller's sidecar instead of sending them.

    `caller` "" means every caller, said on purpose. `respond` "fallback" serves the answer declared for the callee,
    "fail-fast" a 503 at once.
    """

    callee: str
    caller: str = ""
    percent: int = 100
    respond: Literal["fallback", "fail-fast"] = "fail-fast"
    kind: Literal["open-breaker"] = "open-breaker"


@dataclass(frozen=True, slots=True)
class SetRetries:
    """Replace the retry policy towards a service: `attempts` retries (0: none), at most `budget` (0–1) of load."""

    service: str
    attempts: int
    budget: float = 0.2
    per_try_timeout_s: float = 0.0
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
    """Abort `abort_percent` of requests with `abort_status` and delay `delay_percent` by `delay_s` (drills)."""

    service: str
    abort_percent: float = 0.0
    abort_status: int = 503
    delay_percent: float = 0.0
    delay_s: float = 0.0
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


Change = (
    ShiftTraffic
    | EjectInstance
    | OpenBreaker
    | SetRetries
    | SetTimeout
    | LimitConnections
    | InjectFault
    | SetOutlierDetection
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
    """
    match change:
        case EjectInstance(service=service, instance=instance):
            return (change.kind, service, instance)
        case OpenBreaker(callee=callee, caller=caller):
            return (change.kind, callee, caller)
        case _:
            return (change.kind, change.service)


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
