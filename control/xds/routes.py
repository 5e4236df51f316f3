"""What happens to a request to a service: RDS, one small table per service, and the names that lead to it: SRDS.

The table of a service answers to every host; the scopes choose the table by the request's `:authority` (its port cut
off). A change to one service so costs one small message, whatever the size of the mesh.

An open breaker is a route in front of all others that matches its share of the requests and answers by itself. A slice that other
retries leave out is a copy of the route in front of it, under a name of its own.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import replace
from statistics import NormalDist
from typing import Final, assert_never

from control.xds.clusters import version_cluster
from control.xds.protos import (
    DataSource,
    DirectResponseAction,
    HeaderMatcher,
    HeaderValue,
    HeaderValueOption,
    HTTPFault,
    Message,
    PreviousHostsPredicate,
    RegexMatcher,
    RetryPolicy,
    Route,
    RouteAction,
    RouteConfiguration,
    RouteMatch,
    RuntimeFractionalPercent,
    ScopedRouteConfiguration,
    StringMatcher,
    VirtualHost,
    WeightedCluster,
    packed,
    percentage,
    seconds,
    u32,
)
from models import policy as wanted
from models.policy import Breaker, ServicePolicy
from models.telemetry import KEPT_SUFFIX

FAULT_FILTER: Final = "envoy.filters.http.fault"
BREAKER_HEADER: Final = "x-fibrin-breaker"
MIRROR_HEADER: Final = "x-fibrin-mirror"
"""On the copy of a request that a canary sees: its answer reaches nobody."""
UNREACHED_HEADER: Final = "x-fibrin-unreached"
"""On the answer of a callee's sidecar that could not connect to its application: no request got there, so one that may
be repeated after a failed connection may be repeated after this."""
BREAKER_SUFFIX: Final = "#breaker"
OPEN_BODY: Final = "the breaker to {service} is open: the request was not sent\n"
NO_ROUTE_BODY: Final = "no route of service {service} matches this request: see its VirtualService\n"
BODY_LIMIT: Final = 4096  # Envoy's default for direct responses, bytes

HOST_ATTEMPTS: Final = 16
"""How often a retry looks for a host not tried before. A host that fails fast has the fewest requests and is picked
again and again by least-request: with Envoy's usual 5, one retry in seven of a pool of two went back to it."""

DELAY_STEPS: Final = 10
"""How many delays stand for a distribution of them."""

_CONNECT_FAILURE: Final = "connect-failure"


def route_configuration(policy: ServicePolicy, caller: str = "") -> Message:
    """Build the routes to a service as the sidecars of `caller` see them ("" : those no breaker names)."""
    routes = [message for route in policy.routes for message in _routes(policy.service, _struck(policy, route, caller))]
    breaker = breaker_for(policy, caller)
    if breaker is not None and breaker.percent > 0:
        routes.insert(0, _breaker_route(policy, breaker))
    if not any(not route.matches for route in policy.routes):
        routes.append(_no_route(policy.service))
    table = RouteConfiguration(
        name=policy.service, virtual_hosts=[VirtualHost(name=policy.service, domains=["*"], routes=routes)]
    )
    largest = max((len(r.direct_response.body.inline_string.encode()) for r in routes), default=0)
    if largest > BODY_LIMIT:
        table.max_direct_response_body_size_bytes.value = largest
    return table


def breaker_for(policy: ServicePolicy, caller: str) -> Breaker | None:
    """Return the breaker in force for a caller: one that names it wins over one for everybody."""
    named = [b for b in policy.breakers if b.caller == caller and caller]
    general = [b for b in policy.breakers if not b.caller]
    return next(iter(named or general), None)


def hosts_of(policy: ServicePolicy) -> tuple[str, ...]:
    """Return the names under which clients find a service: its own, without ports.

    `svc` stands for `svc.default` and `svc.default.svc.cluster.local`; names with a wildcard are left out, scopes
    compare whole names.
    """
    name, _, namespace = policy.service.partition(".")
    namespace = namespace or "default"
    own = [policy.service, f"{name}.{namespace}", f"{name}.{namespace}.svc", f"{name}.{namespace}.svc.cluster.local"]
    return tuple(dict.fromkeys(own))


def extra_hosts_of(policy: ServicePolicy) -> tuple[str, ...]:
    """Return the declared extra names of a service, lower case, ports cut off, wildcards left out."""
    hosts = (host.lower().rsplit(":", 1)[0] if host.count(":") == 1 else host.lower() for host in policy.hosts)
    return tuple(dict.fromkeys(host for host in hosts if host and "*" not in host))


def scopes(policies: Iterable[ServicePolicy]) -> Mapping[str, str]:
    """Return host → service. A service's own names win over declared ones, then the first service by name."""
    ordered = sorted(policies, key=lambda p: p.service)
    found: dict[str, str] = {}
    for names in (hosts_of, extra_hosts_of):
        for policy in ordered:
            for host in names(policy):
                found.setdefault(host, policy.service)
    return found


def scope(host: str, service: str) -> Message:
    """Build the scope that leads requests for `host` to the routes of `service`."""
    key = ScopedRouteConfiguration.Key(fragments=[ScopedRouteConfiguration.Key.Fragment(string_key=host)])
    return ScopedRouteConfiguration(name=host, route_configuration_name=service, key=key)


def _struck(policy: ServicePolicy, route: wanted.Route, caller: str) -> wanted.Route:
    """Return the route with the fault that is meant for this caller, if any."""
    meant = [f.fault for f in policy.faults if caller and f.caller == caller and f.route in {"", route.name}]
    return replace(route, fault=meant[-1]) if meant else route


def _routes(service: str, route: wanted.Route) -> list[Message]:
    """Alternative matches become one Envoy route each, all with the route's name."""
    action = _action(service, route)
    matches = [_match(match) for match in route.matches] or [RouteMatch(prefix="/")]
    made: list[Message] = []
    for match in matches:
        whole = struck(Route(name=f"{service}/{route.name}", match=match, route=action), route.fault, DELAY_STEPS)
        if route.kept is not None and len(whole) == 1:  # delays that are spread use the number that a request draws
            made.append(_left_out(service, route, route.kept, whole[0]))
        made += whole
    return made


def _left_out(service: str, route: wanted.Route, kept: wanted.KeptRetries, whole: Message) -> Message:
    """Return the route of the requests that keep their retries, named so that telemetry tells them apart."""
    copy = Route()
    copy.CopyFrom(whole)
    copy.name = f"{service}/{route.name}{KEPT_SUFFIX}"
    copy.match.runtime_fraction.CopyFrom(RuntimeFractionalPercent(default_value=percentage(kept.percent)))
    copy.route.CopyFrom(_action(service, replace(route, retries=kept.retries)))
    return copy


def struck(route: Message, fault: wanted.Fault | None, steps: int) -> list[Message]:
    """Return the routes that put `fault` on what `route` matches.

    Envoy delays by one fixed time per route. A distribution becomes `steps` copies, each with a quantile of its own and an
    equal share of the requests: a request draws one number, and the first route whose share lies above it is taken.
    """
    if fault is None:
        return [route]
    spread = fault.delay_percent > 0 and fault.delay_s > 0 and fault.delay_sigma > 0
    made = []
    for k in range(steps if spread else 1):
        middle = NormalDist().inv_cdf((k + 0.5) / steps) if spread else 0.0
        copy = Route()
        copy.CopyFrom(route)
        delayed = replace(fault, delay_s=fault.delay_s * math.exp(fault.delay_sigma * middle))
        copy.typed_per_filter_config[FAULT_FILTER].CopyFrom(packed(_fault(delayed)))
        if spread and k < steps - 1:
            share = RuntimeFractionalPercent(default_value=percentage(100 * (k + 1) / steps))
            copy.match.runtime_fraction.CopyFrom(share)
        made.append(copy)
    return made


def _action(service: str, route: wanted.Route) -> Message:
    action = RouteAction(timeout=seconds(route.timeout_s))
    shares = {version: weight for version, weight in sorted(route.weights.items()) if weight > 0}
    if not shares:  # nothing declared, or nothing that could carry traffic: one pool of all versions
        action.cluster = service
    elif len(shares) == 1:
        action.cluster = version_cluster(service, next(iter(shares)))
    else:
        parts = [
            WeightedCluster.ClusterWeight(name=version_cluster(service, version), weight=u32(weight))
            for version, weight in shares.items()
        ]
        action.weighted_clusters.CopyFrom(WeightedCluster(clusters=parts))
    if route.mirror is not None:
        action.request_mirror_policies.append(_mirror(service, route.mirror))
    if route.retries.attempts > 0:
        action.retry_policy.CopyFrom(_retries(route.retries))
    return action


def _mirror(service: str, mirror: wanted.Mirror) -> Message:
    """A copy is addressed as the request was (no `-shadow`), and says that it is one."""
    policy = RouteAction.RequestMirrorPolicy(
        cluster=version_cluster(service, mirror.version),
        runtime_fraction=RuntimeFractionalPercent(default_value=percentage(mirror.percent)),
        disable_shadow_host_suffix_append=True,
    )
    policy.request_headers_mutations.add().append.CopyFrom(header_option(MIRROR_HEADER, "1"))
    return policy


def _retries(retries: wanted.Retries) -> Message:
    """Numbers among the conditions are status codes, as Istio writes them. A retry goes to another instance."""
    codes = sorted({int(word) for word in retries.retry_on if word.isdigit()})
    words = [word for word in retries.retry_on if not word.isdigit()]
    if codes and "retriable-status-codes" not in words:
        words.append("retriable-status-codes")
    unreached = [HeaderMatcher(name=UNREACHED_HEADER, present_match=True)] if _CONNECT_FAILURE in words else []
    if unreached:
        words.append("retriable-headers")
    predicate = RetryPolicy.RetryHostPredicate(
        name="envoy.retry_host_predicates.previous_hosts", typed_config=packed(PreviousHostsPredicate())
    )
    policy = RetryPolicy(
        retry_on=",".join(words),
        num_retries=u32(retries.attempts),
        retriable_status_codes=codes,
        retriable_headers=unreached,
        retry_host_predicate=[predicate],
        host_selection_retry_max_attempts=HOST_ATTEMPTS,
        retry_back_off=RetryPolicy.RetryBackOff(
            base_interval=seconds(max(retries.base_interval_s, 0.001)),
            max_interval=seconds(max(retries.max_interval_s, retries.base_interval_s, 0.001)),
        ),
    )
    if retries.per_try_timeout_s > 0:
        policy.per_try_timeout.CopyFrom(seconds(retries.per_try_timeout_s))
    return policy


def _fault(fault: wanted.Fault) -> Message:
    """The abort needs a status from 200 to 599; percentages are exact to a ten-thousandth."""
    message = HTTPFault()
    if fault.abort_percent > 0:
        message.abort.http_status = fault.abort_status
        message.abort.percentage.CopyFrom(percentage(fault.abort_percent))
    if fault.delay_percent > 0 and fault.delay_s > 0:
        message.delay.fixed_delay.CopyFrom(seconds(fault.delay_s))
        message.delay.percentage.CopyFrom(percentage(fault.delay_percent))
    return message


def _match(match: wanted.RequestMatch) -> Message:
    message = RouteMatch()
    path = match.path
    if path is None or path.op == "present":
        message.prefix = "/"
    elif path.op == "exact":
        message.path = path.value
    elif path.op == "prefix":
        message.prefix = path.value
    else:
        message.safe_regex.CopyFrom(RegexMatcher(regex=path.value))
    conditions = dict(match.headers)
    if match.method is not None:
        conditions[":method"] = match.method
    for name, condition in (*sorted(conditions.items()), *match.also):
        message.headers.append(_header(name.lower(), condition))
    return message


def _header(name: str, condition: wanted.StringMatch) -> Message:
    match condition.op:
        case "present":
            return HeaderMatcher(name=name, present_match=True)
        case "exact":
            return HeaderMatcher(name=name, string_match=StringMatcher(exact=condition.value))
        case "prefix":
            return HeaderMatcher(name=name, string_match=StringMatcher(prefix=condition.value))
        case "regex":
            regex = RegexMatcher(regex=condition.value)
            return HeaderMatcher(name=name, string_match=StringMatcher(safe_regex=regex))
        case _:
            assert_never(condition.op)


def _breaker_route(policy: ServicePolicy, breaker: Breaker) -> Message:
    """Without a declared answer a breaker that should fall back fails fast: it never lets the request through."""
    fallback = policy.fallback if breaker.respond == "fallback" else None
    status = fallback.status if fallback else 503
    body = fallback.body if fallback else OPEN_BODY.format(service=policy.service)
    headers = {
        BREAKER_HEADER: "fallback" if fallback else "open",
        "content-type": fallback.content_type if fallback else "text/plain",
    }
    share = RuntimeFractionalPercent(default_value=percentage(min(breaker.percent, 100)))
    return Route(
        name=f"{policy.service}/*{BREAKER_SUFFIX}",
        match=RouteMatch(prefix="/", runtime_fraction=share),
        direct_response=_answer(status, body),
        response_headers_to_add=[header_option(name, value) for name, value in headers.items()],
    )


def _no_route(service: str) -> Message:
    return Route(
        name=f"{service}/-",
        match=RouteMatch(prefix="/"),
        direct_response=_answer(404, NO_ROUTE_BODY.format(service=service)),
        response_headers_to_add=[header_option("content-type", "text/plain")],
    )


def _answer(status: int, body: str) -> Message:
    data = DataSource(inline_string=body) if body else None
    return DirectResponseAction(status=status, body=data)


def header_option(name: str, value: str) -> Message:
    """Return "set this header", over one of the same name."""
    overwrite = HeaderValueOption.HeaderAppendAction.Value("OVERWRITE_IF_EXISTS_OR_ADD")
    return HeaderValueOption(header=HeaderValue(key=name, value=value.replace("%", "%%")), append_action=overwrite)
