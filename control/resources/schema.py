"""The subset of Istio's VirtualService and DestinationRule that we read, field for field in their public shape.

Every model forbids fields it does not know: a field that would be ignored in silence is worse than an error. What is
checked here is one document alone; what concerns several (subsets, duplicate hosts) is in `validation`.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator
from pydantic.alias_generators import to_camel

from control.resources.values import Duration, Percent, PositiveDuration

API_VERSIONS: Final = ("networking.istio.io/v1", "networking.istio.io/v1beta1", "networking.istio.io/v1alpha3")

RETRY_ON: Final = frozenset(
    {
        "5xx",
        "gateway-error",
        "reset",
        "reset-before-request",
        "connect-failure",
        "retriable-4xx",
        "refused-stream",
        "cancelled",
        "deadline-exceeded",
        "internal",
        "resource-exhausted",
        "unavailable",
    }
)

Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?$")]
Host = Annotated[str, StringConstraints(min_length=1, max_length=253)]
Count = Annotated[int, Field(ge=1, le=2**31 - 1)]
_NOT_RE2: Final = re.compile(r"\(\?(=|!|<=|<!|>|\(|P=)|\\[1-9]|[*+?}]\+")  # look-around, back-references, possessive
_HOST: Final = re.compile(r"[a-z0-9]([a-z0-9.-]*[a-z0-9])?(:\d+)?")


class Shape(BaseModel):
    """What all models here have in common."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, alias_generator=to_camel, populate_by_name=True)


class Metadata(Shape):
    """Kubernetes' ObjectMeta; only name, namespace and annotations are used, the rest is accepted as written by kubectl."""

    name: str
    namespace: str = ""
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}
    uid: Any = None
    resource_version: Any = None
    generation: Any = None
    creation_timestamp: Any = None
    managed_fields: Any = None
    owner_references: Any = None
    finalizers: Any = None
    generate_name: Any = None
    self_link: Any = None


class StringMatchSpec(Shape):
    """One of `exact`, `prefix`, `regex`; none of them means that a header is present."""

    exact: str | None = None
    prefix: str | None = None
    regex: str | None = None

    @model_validator(mode="after")
    def _one(self) -> Self:
        given = [name for name in ("exact", "prefix", "regex") if getattr(self, name) is not None]
        if len(given) > 1:
            raise ValueError(f"takes one of exact, prefix, regex, found {' and '.join(given)}")
        if self.regex is not None:
            if odd := _NOT_RE2.search(self.regex):
                raise ValueError(f"`{odd.group()}` is not in the RE2 syntax that Envoy uses")
            try:
                re.compile(self.regex)
            except re.error as error:
                raise ValueError(f"`{self.regex}` is not a regular expression: {error}") from error
        return self


class MatchSpec(Shape):
    """Conditions of one alternative; all given ones must hold."""

    name: str = ""
    uri: StringMatchSpec | None = None
    method: StringMatchSpec | None = None
    headers: dict[str, StringMatchSpec] = {}

    @model_validator(mode="after")
    def _not_empty(self) -> Self:
        if self.uri is None and self.method is None and not self.headers:
            raise ValueError("an empty match would match everything; give uri, method or headers, or drop `match`")
        for name in ("uri", "method"):
            condition = getattr(self, name)
            if condition is not None and condition == StringMatchSpec():
                raise ValueError(f"{name} needs one of exact, prefix, regex")
        return self


class PortSelector(Shape):
    """Istio's port selector."""

    number: int = Field(ge=1, le=65535)


class DestinationSpec(Shape):
    """Where requests go."""

    host: Host
    subset: str = ""
    port: PortSelector | None = None


class WeightedDestination(Shape):
    """A destination and its share."""

    destination: DestinationSpec
    weight: Annotated[int, Field(ge=0, le=1_000_000)] | None = None


class RetriesSpec(Shape):
    """Istio's HTTPRetry."""

    attempts: int = Field(default=2, ge=0, le=10)
    per_try_timeout: Duration = 0.0
    retry_on: str = ""
    retry_remote_localities: bool | None = None

    @model_validator(mode="after")
    def _conditions(self) -> Self:
        for condition in self.conditions():
            if condition not in RETRY_ON:
                known = ", ".join(sorted(RETRY_ON))
                raise ValueError(f"retryOn: `{condition}` is not a retry condition we support; known here: {known}")
        return self

    def conditions(self) -> tuple[str, ...]:
        """Return the single conditions of `retryOn`."""
        return tuple(part.strip() for part in self.retry_on.split(",") if part.strip())


class PercentSpec(Shape):
    """Istio's Percent."""

    value: Percent = 0.0


class AbortSpec(Shape):
    """Answer with a status instead of asking the service."""

    http_status: int = Field(ge=200, le=599)
    percentage: PercentSpec = PercentSpec(value=100.0)


class DelaySpec(Shape):
    """Delay requests."""

    fixed_delay: PositiveDuration
    percentage: PercentSpec = PercentSpec(value=100.0)


class FaultSpec(Shape):
    """Faults on purpose."""

    abort: AbortSpec | None = None
    delay: DelaySpec | None = None

    @model_validator(mode="after")
    def _not_empty(self) -> Self:
        if self.abort is None and self.delay is None:
            raise ValueError("an empty fault does nothing; give abort or delay, or drop it")
        return self


class HttpRouteSpec(Shape):
    """One rule; the first that matches a request decides."""

    name: Name | None = None
    match: list[MatchSpec] | None = None
    route: list[WeightedDestination] = Field(min_length=1)
    timeout: Duration | None = None
    retries: RetriesSpec | None = None
    fault: FaultSpec | None = None

    @model_validator(mode="after")
    def _usable(self) -> Self:
        if self.match is not None and not self.match:
            raise ValueError("match: an empty list matches nothing in one reading and everything in another; drop it")
        if sum(weights(self.route)) == 0:
            raise ValueError("route: the weights add up to 0, so nobody would answer; give one of them a weight")
        return self


def weights(route: list[WeightedDestination]) -> tuple[int, ...]:
    """Return the weights as Istio reads them: a single destination without a weight takes everything, others 0."""
    if len(route) == 1 and route[0].weight is None:
        return (100,)
    return tuple(item.weight or 0 for item in route)


def named_rules(rules: list[HttpRouteSpec]) -> tuple[tuple[str, HttpRouteSpec], ...]:
    """Return each rule with the name it has in the route table."""
    spare = "default" if len(rules) == 1 else "route-{}"
    return tuple((rule.name or spare.format(index), rule) for index, rule in enumerate(rules))


class VirtualServiceSpec(Shape):
    """How requests to `hosts` are routed."""

    hosts: list[Host] = Field(min_length=1)
    http: list[HttpRouteSpec] = Field(min_length=1)

    @model_validator(mode="after")
    def _hosts(self) -> Self:
        check_hosts(self.hosts)
        names = [rule.name for rule in self.http if rule.name]
        if doubled := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"http: the rule name {', '.join(doubled)} is used more than once")
        return self


def check_hosts(hosts: list[str]) -> None:
    """Refuse hosts that are no names; a wildcard would mean every service and is not supported."""
    for host in hosts:
        if "*" in host:
            raise ValueError(f"the wildcard host `{host}` is not supported yet; name the services one by one")
        if not _HOST.fullmatch(host):
            raise ValueError(f"`{host}` is not a host name (lower-case letters, digits, `-` and `.`)")


class SubsetLabels(Shape):
    """What tells a subset's instances; `version` is the only label for now."""

    version: Name


class SubsetSpec(Shape):
    """A named set of versions."""

    name: Name
    labels: SubsetLabels


class TcpPoolSpec(Shape):
    """Connection limits."""

    max_connections: Count | None = None
    connect_timeout: PositiveDuration | None = None


class HttpPoolSpec(Shape):
    """Request limits."""

    http1_max_pending_requests: Count | None = Field(default=None, alias="http1MaxPendingRequests")
    http2_max_requests: Count | None = Field(default=None, alias="http2MaxRequests")
    max_requests_per_connection: int | None = Field(default=None, ge=0)


class ConnectionPoolSpec(Shape):
    """Istio's ConnectionPoolSettings."""

    tcp: TcpPoolSpec = TcpPoolSpec()
    http: HttpPoolSpec = HttpPoolSpec()


class OutlierSpec(Shape):
    """Istio's OutlierDetection, with Istio's defaults."""

    consecutive5xx_errors: int = Field(default=5, ge=1, le=1000, alias="consecutive5xxErrors")
    interval: PositiveDuration = 10.0
    base_ejection_time: PositiveDuration = 30.0
    max_ejection_percent: int = Field(default=10, ge=0, le=100)


class LoadBalancerSpec(Shape):
    """Istio's simple load balancers; UNSPECIFIED and LEAST_CONN are LEAST_REQUEST, as in Istio."""

    simple: Literal["LEAST_REQUEST", "ROUND_ROBIN", "RANDOM", "UNSPECIFIED", "LEAST_CONN"] = "LEAST_REQUEST"


class TrafficPolicySpec(Shape):
    """What holds for connections to a host."""

    connection_pool: ConnectionPoolSpec = ConnectionPoolSpec()
    outlier_detection: OutlierSpec | None = None
    load_balancer: LoadBalancerSpec = LoadBalancerSpec()


class DestinationRuleSpec(Shape):
    """What holds for requests to `host` once a route has chosen it."""

    host: Host
    subsets: list[SubsetSpec] = []
    traffic_policy: TrafficPolicySpec = TrafficPolicySpec()

    @model_validator(mode="after")
    def _sound(self) -> Self:
        check_hosts([self.host])
        names = [subset.name for subset in self.subsets]
        if doubled := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"subsets: {', '.join(doubled)} is declared more than once")
        return self


class VirtualService(Shape):
    """A whole VirtualService document."""

    api_version: str
    kind: Literal["VirtualService"]
    metadata: Metadata
    spec: VirtualServiceSpec
    status: Any = None


class DestinationRule(Shape):
    """A whole DestinationRule document."""

    api_version: str
    kind: Literal["DestinationRule"]
    metadata: Metadata
    spec: DestinationRuleSpec
    status: Any = None


class FallbackSpec(Shape):
    """The JSON of the annotation `fibrin.dev/fallback`."""

    status: int = Field(default=200, ge=200, le=599)
    body: Annotated[str, StringConstraints(max_length=4096)] = ""
    content_type: Annotated[str, StringConstraints(pattern=r"^[\w.+-]+/[\w.+-]+(;.*)?$")] = "application/json"
