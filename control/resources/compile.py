"""Declared resources → one traffic policy per service. Pure; expects a set that `validation.check` found sound."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Literal, TypeAlias

from control.resources.loading import RETRY_BACKOFF, RETRY_BUDGET, Declared, Key, fallback
from control.resources.schema import (
    DestinationRule,
    FaultSpec,
    HttpRouteSpec,
    MatchSpec,
    StringMatchSpec,
    TrafficPolicySpec,
    VirtualService,
    named_rules,
    weights,
)
from control.resources.validation import destinations
from control.resources.values import interval, share
from models.policy import (
    Fallback,
    Fault,
    Limits,
    OutlierDetection,
    RequestMatch,
    Retries,
    Route,
    ServicePolicy,
    StringMatch,
)

LoadBalancer: TypeAlias = Literal["least-request", "round-robin", "random"]


def compile_policies(declared: Mapping[Key, Declared]) -> Mapping[str, ServicePolicy]:
    """Return the policy of every service that some resource speaks of, by service name."""
    policies: dict[str, ServicePolicy] = {}
    versions: dict[str, dict[str, str]] = {}
    for key in sorted(declared):
        item = declared[key]
        if isinstance(item.model, DestinationRule):
            spec = item.model.spec
            service = item.host(spec.host)
            versions[service] = {subset.name: subset.labels.version for subset in spec.subsets}
            policies[service] = _with_rule(ServicePolicy(service), spec.traffic_policy)
    for key in sorted(declared):
        item = declared[key]
        if isinstance(item.model, VirtualService):
            _, first = next(destinations(item.model))
            service = item.host(first.destination.host)
            policy = policies.get(service, ServicePolicy(service))
            policies[service] = _with_routes(policy, item, item.model, versions.get(service, {}))
    return dict(sorted(policies.items()))


def _with_rule(policy: ServicePolicy, spec: TrafficPolicySpec) -> ServicePolicy:
    tcp, http, outlier = spec.connection_pool.tcp, spec.connection_pool.http, spec.outlier_detection
    default = Limits()
    return replace(
        policy,
        limits=Limits(
            max_connections=tcp.max_connections or 0,
            max_pending=http.http1_max_pending_requests or 0,
            max_requests=http.http2_max_requests or 0,
            connect_timeout_s=tcp.connect_timeout or default.connect_timeout_s,
        ),
        outlier=OutlierDetection(
            consecutive_errors=outlier.consecutive5xx_errors,
            interval_s=outlier.interval,
            ejection_s=outlier.base_ejection_time,
            max_ejection_percent=outlier.max_ejection_percent,
        )
        if outlier
        else None,
        load_balancer=_load_balancer(spec.load_balancer.simple),
    )


def _load_balancer(name: str) -> LoadBalancer:
    match name:
        case "ROUND_ROBIN":
            return "round-robin"
        case "RANDOM":
            return "random"
        case _:
            return "least-request"


def _with_routes(
    policy: ServicePolicy, item: Declared, model: VirtualService, versions: Mapping[str, str]
) -> ServicePolicy:
    annotations = model.metadata.annotations
    retries = Retries()
    if RETRY_BUDGET in annotations:
        retries = replace(retries, budget=share(annotations[RETRY_BUDGET]))
    if RETRY_BACKOFF in annotations:
        base, longest = interval(annotations[RETRY_BACKOFF])
        retries = replace(retries, base_interval_s=base, max_interval_s=longest)
    answer = fallback(item)
    hosts = {host for text in model.spec.hosts for host in (text, item.host(text))} - {policy.service}
    return replace(
        policy,
        hosts=tuple(sorted(hosts)),
        routes=tuple(_route(rule, name, retries, versions) for name, rule in named_rules(model.spec.http)),
        fallback=Fallback(answer.status, answer.body, answer.content_type) if answer else None,
    )


def _route(rule: HttpRouteSpec, name: str, retries: Retries, versions: Mapping[str, str]) -> Route:
    if rule.retries is not None:
        retries = replace(
            retries,
            attempts=rule.retries.attempts,
            per_try_timeout_s=rule.retries.per_try_timeout,
            retry_on=rule.retries.conditions() or retries.retry_on,
        )
    shares: dict[str, int] = {}
    for destination, weight in zip(rule.route, weights(rule.route), strict=True):
        if destination.destination.subset:
            version = versions[destination.destination.subset]
            shares[version] = shares.get(version, 0) + weight
    return Route(
        name=name,
        matches=tuple(_match(match) for match in rule.match or ()),
        weights=shares,
        timeout_s=rule.timeout if rule.timeout is not None else Route().timeout_s,
        retries=retries,
        fault=_fault(rule.fault) if rule.fault else None,
    )


def _match(spec: MatchSpec) -> RequestMatch:
    return RequestMatch(
        path=_string(spec.uri) if spec.uri else None,
        method=_string(spec.method) if spec.method else None,
        headers={name.lower(): _string(value) for name, value in spec.headers.items()},
    )


def _string(spec: StringMatchSpec) -> StringMatch:
    if spec.exact is not None:
        return StringMatch("exact", spec.exact)
    if spec.prefix is not None:
        return StringMatch("prefix", spec.prefix)
    return StringMatch("regex", spec.regex) if spec.regex is not None else StringMatch("present")


def _fault(spec: FaultSpec) -> Fault:
    fault = Fault()
    if spec.abort:
        fault = replace(fault, abort_percent=spec.abort.percentage.value, abort_status=spec.abort.http_status)
    if spec.delay:
        fault = replace(fault, delay_percent=spec.delay.percentage.value, delay_s=spec.delay.fixed_delay)
    return fault
