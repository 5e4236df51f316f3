"""What the mesh does with requests to one service: the resolved traffic policy.

Declared resources (`VirtualService`, `DestinationRule`) compile into a `ServicePolicy`; overlays in force turn a declared
policy into the effective one; the snapshot builder turns effective policies into Envoy resources. Nothing else in the
control plane knows either YAML on one side or Envoy messages on the other.

Units: seconds, shares 0–1 unless a name says `percent`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True, slots=True)
class StringMatch:
    """Match one string: `exact`, `prefix`, `regex` (RE2, whole string) or `present`."""

    op: Literal["exact", "prefix", "regex", "present"]
    value: str = ""


@dataclass(frozen=True, slots=True)
class RequestMatch:
    """All given conditions must hold (a route's matches are alternatives). `also`: more of them, by header."""

    path: StringMatch | None = None
    method: StringMatch | None = None
    headers: Mapping[str, StringMatch] = field(default_factory=dict)
    also: tuple[tuple[str, StringMatch], ...] = ()


@dataclass(frozen=True, slots=True)
class Mirror:
    """Copy `percent` of the requests to `version`; nobody waits for the copy or sees its answer."""

    version: str
    percent: int


@dataclass(frozen=True, slots=True)
class Retries:
    """Retry policy: `attempts` retries with jittered exponential back-off, inside a budget of concurrent load."""

    attempts: int = 2
    retry_on: tuple[str, ...] = (
        "connect-failure",
        "refused-stream",
        "unavailable",
        "cancelled",
        "reset-before-request",
    )
    per_try_timeout_s: float = 0.0
    base_interval_s: float = 0.025
    max_interval_s: float = 0.25
    budget: float = 0.2
    min_concurrency: int = 3


@dataclass(frozen=True, slots=True)
class Fault:
    """Injected abort and delay (percent of requests). `delay_sigma` > 0: lognormal around the median `delay_s`."""

    abort_percent: float = 0.0
    abort_status: int = 503
    delay_percent: float = 0.0
    delay_s: float = 0.0
    delay_sigma: float = 0.0


@dataclass(frozen=True, slots=True)
class ScopedFault:
    """A fault for some requests only: those of one `caller`, or those that reach one `version` or one `instance`.

    `route` narrows a caller's further. Exactly one of the three others is given.
    """

    fault: Fault
    caller: str = ""
    route: str = ""
    version: str = ""
    instance: str = ""


@dataclass(frozen=True, slots=True)
class Fallback:
    """The answer a service declares for the case that it cannot be reached."""

    status: int
    body: str
    content_type: str = "application/json"


@dataclass(frozen=True, slots=True)
class Breaker:
    """Answer `percent` of requests in the caller's sidecar. `caller` "" is every caller."""

    caller: str
    percent: int
    respond: Literal["fallback", "fail-fast"]


@dataclass(frozen=True, slots=True)
class KeptRetries:
    """A slice that other retries leave out: `percent` (1–50) of the requests are retried by `retries` instead."""

    percent: int
    retries: Retries


@dataclass(frozen=True, slots=True)
class Route:
    """One rule for requests to a service. Empty `matches` match everything.

    `weights`: version → relative weight; empty means one pool of all versions.
    `timeout_s` 0 means no timeout.
    """

    name: str = "default"
    matches: tuple[RequestMatch, ...] = ()
    weights: Mapping[str, int] = field(default_factory=dict)
    timeout_s: float = 15.0
    retries: Retries = Retries()
    fault: Fault | None = None
    mirror: Mirror | None = None
    kept: KeptRetries | None = None


@dataclass(frozen=True, slots=True)
class Limits:
    """Connection-pool limits towards a service (0: Envoy's maximum, which is effectively none)."""

    max_connections: int = 0
    max_pending: int = 0
    max_requests: int = 0
    connect_timeout_s: float = 1.0


@dataclass(frozen=True, slots=True)
class OutlierDetection:
    """Envoy's passive health check, per caller sidecar."""

    consecutive_errors: int = 5
    interval_s: float = 10.0
    ejection_s: float = 30.0
    max_ejection_percent: int = 10


@dataclass(frozen=True, slots=True)
class CallerRate:
    """At most `requests_per_s` of one caller's requests over the whole service; `caller` "" is everybody else."""

    caller: str
    requests_per_s: float
    burst_s: float = 1.0


@dataclass(frozen=True, slots=True)
class Admission:
    """What a service's own sidecars let in.

    `rates`: limits by caller. `adaptive`: find the concurrency that the application carries. `shed_percent` of the
    requests with a priority below `shed_below` are turned away (0: none).
    """

    rates: tuple[CallerRate, ...] = ()
    adaptive: bool = False
    shed_percent: int = 0
    shed_below: Literal["normal", "high"] = "normal"


@dataclass(frozen=True, slots=True)
class ServicePolicy:
    """Everything that steers traffic to one service. The default policy of an undeclared service is `ServicePolicy(name)`.

    `hosts` are extra names clients may use beside the service's own. `ejected` are instance ids taken out of load
    balancing; of these `drained` also lose their connections; `thinned`: instance id → percent of its fair share that
    it keeps. `zones`: zone → relative weight; empty prefers none.
    """

    service: str
    hosts: tuple[str, ...] = ()
    routes: tuple[Route, ...] = (Route(),)
    limits: Limits = Limits()
    outlier: OutlierDetection | None = None
    fallback: Fallback | None = None
    breakers: tuple[Breaker, ...] = ()
    ejected: frozenset[str] = frozenset()
    drained: frozenset[str] = frozenset()
    thinned: Mapping[str, int] = field(default_factory=dict)
    zones: Mapping[str, int] = field(default_factory=dict)
    admission: Admission = Admission()
    faults: tuple[ScopedFault, ...] = ()
    load_balancer: Literal["least-request", "round-robin", "random"] = "least-request"
