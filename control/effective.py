"""Declared policies + overlays in force + instances → the policies that hold. Pure.

The safety rules of overlays live here, at the last place before configuration is built, and are judged anew with every
change of the mesh. An overlay that has become harmful since it was granted is held back, never followed blindly:

* weights are kept for versions that have an instance to serve them; when none of those named has one, the declared
  weights stay;
* zones are left while the others keep the floor of the healthy instances, and every version with a share one of them;
* an ejection is granted while its service keeps the floor of its healthy instances, at least one, and at least one of
  every version that has a share of the traffic; people's ejections and older ones come first;
* a canary sees requests while both its own and the stable version have an instance to serve them;
* without overlays the result is exactly what was declared. Nothing depends on the order of the arguments.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import assert_never

from models.domain import Health, Instance
from models.overlay import (
    AdaptConcurrency,
    DisableFault,
    DrainInstance,
    EjectInstance,
    Ejection,
    InjectFault,
    LimitConnections,
    LimitRate,
    OpenBreaker,
    Overlay,
    Owner,
    PauseCanary,
    RouteCanary,
    RunHook,
    SetOutlierDetection,
    SetRetries,
    SetTimeout,
    ShedLoad,
    ShiftTraffic,
    ShiftZones,
    in_force,
    slot,
    target,
)
from models.policy import (
    Admission,
    Breaker,
    CallerRate,
    Fault,
    KeptRetries,
    Limits,
    Mirror,
    OutlierDetection,
    RequestMatch,
    Route,
    ScopedFault,
    ServicePolicy,
    StringMatch,
)


@dataclass(frozen=True, slots=True)
class Effective:
    """The policies that hold, and where they depart from what an overlay asked for.

    `policies` has every declared service and every service under an overlay in force. `held_back`: overlay id → why.
    """

    policies: Mapping[str, ServicePolicy] = field(default_factory=dict)
    held_back: Mapping[str, str] = field(default_factory=dict)


def effective(
    declared: Mapping[str, ServicePolicy],
    overlays: Iterable[Overlay],
    instances: Iterable[Instance],
    *,
    floor: float = 0.5,
) -> Effective:
    """Lay the overlays in force over the declared policies.

    Args:
        declared: declared policy by service.
        overlays: all overlays that have not expired; which of two in one slot holds is decided here.
        instances: all registered instances.
        floor: share (0–1) of a service's healthy instances that ejections must leave.
    """
    by_service: dict[str, list[Overlay]] = {}
    for overlay in in_force(tuple(overlays)):
        by_service.setdefault(target(overlay.change), []).append(overlay)
    members: dict[str, list[Instance]] = {}
    for instance in instances if by_service else ():
        if instance.service in by_service:
            members.setdefault(instance.service, []).append(instance)
    policies: dict[str, ServicePolicy] = {}
    held_back: dict[str, str] = {}
    for service in sorted({*declared, *by_service}):
        policy = declared.get(service, ServicePolicy(service))
        own = by_service.get(service, [])
        if own:
            policy = _overlaid(policy, own, members.get(service, []), floor, held_back)
        policies[service] = policy
    return Effective(policies, held_back)


def healthy(instances: Iterable[Instance]) -> list[Instance]:
    """Return the instances that can serve."""
    return [instance for instance in instances if instance.health is Health.HEALTHY]


def must_keep(count: int, floor: float) -> int:
    """Return how many of `count` healthy instances ejections must leave: the floor, and never less than one."""
    return max(1, math.ceil(floor * count))


def _overlaid(  # noqa: C901, PLR0912 - one case per kind of change
    policy: ServicePolicy, overlays: list[Overlay], members: list[Instance], floor: float, held_back: dict[str, str]
) -> ServicePolicy:
    ejections: list[tuple[Overlay, Ejection]] = []
    zones: tuple[Overlay, ShiftZones] | None = None
    for overlay in sorted(overlays, key=_rank):
        match overlay.change:
            case EjectInstance() | DrainInstance() as ejection:
                ejections.append((overlay, ejection))
            case ShiftZones() as shift:
                zones = (overlay, shift)
            case ShiftTraffic(weights=weights):
                served = {instance.version for instance in healthy(members)}
                kept = {name: weight for name, weight in sorted(weights.items()) if weight > 0 and name in served}
                if kept:
                    policy = _each_route(policy, weights=kept)
                else:
                    held_back[overlay.id] = "no version it names has a healthy instance; the declared weights hold"
            case RouteCanary() as change:
                policy = _canaried(policy, overlay.id, change, members, held_back)
            case OpenBreaker(callee=_, caller=caller, percent=percent, respond=respond):
                if respond == "fallback" and policy.fallback is None:
                    respond = "fail-fast"
                    held_back[overlay.id] = f"{policy.service} declares no fallback any more; it fails fast instead"
                policy = replace(policy, breakers=(*policy.breakers, Breaker(caller, percent, respond)))
            case SetRetries() as change:
                policy = replace(policy, routes=tuple(_retries(route, change) for route in policy.routes))
            case SetTimeout(timeout_s=timeout_s):
                policy = _each_route(policy, timeout_s=timeout_s)
            case LimitConnections() as change:
                policy = replace(policy, limits=_limits(policy.limits, change))
            case InjectFault() as change:
                policy = _faulty(policy, change)
            case SetOutlierDetection() as change:
                outlier = OutlierDetection(
                    change.consecutive_errors, change.interval_s, change.ejection_s, change.max_ejection_percent
                )
                policy = replace(policy, outlier=outlier)
            case DisableFault():
                policy = replace(policy, routes=tuple(replace(route, fault=None) for route in policy.routes))
            case LimitRate() | AdaptConcurrency() | ShedLoad() as change:
                policy = replace(policy, admission=_admission(policy, change))
            case PauseCanary() | RunHook():
                pass  # for canaries and for whoever runs the hook; no sidecar changes
            case _:
                assert_never(overlay.change)
    if zones is not None:
        policy = _zoned(policy, zones, members, floor, held_back)
    return _ejected(policy, ejections, members, floor, held_back)


def _faulty(policy: ServicePolicy, change: InjectFault) -> ServicePolicy:
    fault = Fault(change.abort_percent, change.abort_status, change.delay_percent, change.delay_s, change.delay_sigma)
    if change.caller or change.version or change.instance:
        scoped = ScopedFault(fault, change.caller, change.route, change.version, change.instance)
        return replace(policy, faults=(*policy.faults, scoped))
    routes = (replace(r, fault=fault) if change.route in {"", r.name} else r for r in policy.routes)
    return replace(policy, routes=tuple(routes))


def _canaried(
    policy: ServicePolicy, overlay: str, change: RouteCanary, members: list[Instance], held_back: dict[str, str]
) -> ServicePolicy:
    """Send all to the stable version, but for the canary's part, which gets a route of its own before each other."""
    served = {instance.version for instance in healthy(members)}
    if missing := [version for version in (change.canary, change.stable) if version not in served]:
        held_back[overlay] = f"{missing[0]} has no healthy instance; the declared weights hold"
        return policy
    conditions = tuple((each.name.lower(), StringMatch(each.op, each.value)) for each in change.conditions)
    part = {change.canary: change.percent, change.stable: 100 - change.percent}
    routes: list[Route] = []
    for route in _each_route(policy, weights={change.stable: 100}).routes:
        own = replace(route, weights={version: weight for version, weight in part.items() if weight})
        if change.mirror:
            own = replace(route, mirror=Mirror(change.canary, change.percent))
        if not conditions:
            routes.append(own)
            continue
        matches = route.matches or (RequestMatch(),)
        narrowed = tuple(replace(match, also=(*match.also, *conditions)) for match in matches)
        routes += [replace(own, name=f"{route.name}.canary", matches=narrowed), route]
    return replace(policy, routes=tuple(routes))


def _rank(overlay: Overlay) -> tuple[int, tuple[str, ...]]:
    """Declared faults are taken away before an injected one is laid; else the order of slots."""
    return (not isinstance(overlay.change, DisableFault), slot(overlay.change))


def _admission(policy: ServicePolicy, change: LimitRate | AdaptConcurrency | ShedLoad) -> Admission:
    admission = policy.admission
    match change:
        case LimitRate(caller=caller, requests_per_s=rate, burst_s=burst):
            rates = {each.caller: each for each in (*admission.rates, CallerRate(caller, rate, burst))}
            return replace(admission, rates=tuple(rates[name] for name in sorted(rates)))
        case AdaptConcurrency():
            return replace(admission, adaptive=True)
        case ShedLoad(percent=percent, below=below):
            return replace(admission, shed_percent=percent, shed_below=below)
        case _:
            assert_never(change)


def _zoned(
    policy: ServicePolicy,
    asked: tuple[Overlay, ShiftZones],
    members: list[Instance],
    floor: float,
    held_back: dict[str, str],
) -> ServicePolicy:
    """Grant the zones asked for, unless too little would be left to serve."""
    overlay, change = asked
    alive = healthy(members)
    kept = {zone: weight for zone, weight in sorted(change.weights.items()) if weight > 0}
    left = [instance for instance in alive if instance.zone in kept]
    keep = must_keep(len(alive), floor)
    bare = sorted(_wanted(policy) - {instance.version for instance in left})
    if len(left) < keep:
        held_back[overlay.id] = (
            f"{len(left)} of {len(alive)} healthy instances of {policy.service} stand in these zones, {keep} must be"
        )
        return policy
    if bare:
        held_back[overlay.id] = f"{bare[0]} has a share of the traffic and no healthy instance in these zones"
        return policy
    return replace(policy, zones=kept)


def _wanted(policy: ServicePolicy) -> set[str]:
    """Return the versions that have a share of the traffic by weights."""
    return {name for route in policy.routes for name, weight in route.weights.items() if weight > 0}


def _ejected(
    policy: ServicePolicy,
    ejections: list[tuple[Overlay, Ejection]],
    members: list[Instance],
    floor: float,
    held_back: dict[str, str],
) -> ServicePolicy:
    """Grant ejections one by one, people's first, then the older first."""
    by_id = {instance.id: instance for instance in members}
    alive = {instance.id for instance in healthy(members)}
    keep = must_keep(len(alive), floor)
    ejected, drained, thinned = set(policy.ejected), set(policy.drained), dict(policy.thinned)
    closed = {i.id for i in members if policy.zones and i.zone not in policy.zones}
    wanted = _wanted(policy)
    order = sorted(ejections, key=lambda e: (e[0].owner is not Owner.PERSON, e[0].created_at, e[0].id))
    for overlay, change in order:
        instance = by_id.get(change.instance)
        if instance is None:
            held_back[overlay.id] = f"{change.instance} is not registered"
            continue
        left = alive - ejected - closed - {instance.id}
        if instance.id in alive:
            if len(left) < keep:
                held_back[overlay.id] = (
                    f"{len(left)} of {len(alive)} healthy instances of {policy.service} would be left, {keep} must be"
                )
                continue
            if instance.version in wanted and not any(by_id[name].version == instance.version for name in left):
                held_back[overlay.id] = (
                    f"{instance.id} is the last healthy instance of {instance.version}, which has a share of the traffic"
                )
                continue
        if isinstance(change, EjectInstance) and change.keep_percent:
            thinned[instance.id] = change.keep_percent
            continue
        ejected.add(instance.id)
        if isinstance(change, DrainInstance):
            drained.add(instance.id)
    return replace(policy, ejected=frozenset(ejected), drained=frozenset(drained), thinned=thinned)


def _each_route(
    policy: ServicePolicy,
    *,
    weights: Mapping[str, int] | None = None,
    timeout_s: float | None = None,
) -> ServicePolicy:
    """Return the policy with the given fields set on every route."""
    routes = tuple(
        replace(
            route,
            weights=route.weights if weights is None else weights,
            timeout_s=route.timeout_s if timeout_s is None else timeout_s,
        )
        for route in policy.routes
    )
    return replace(policy, routes=routes)


def _retries(route: Route, change: SetRetries) -> Route:
    retries = replace(
        route.retries, attempts=change.attempts, budget=change.budget, per_try_timeout_s=change.per_try_timeout_s
    )
    kept = KeptRetries(change.keep_percent, route.retries) if change.keep_percent else None
    return replace(route, retries=retries, kept=kept)


def _limits(limits: Limits, change: LimitConnections) -> Limits:
    return replace(
        limits,
        max_requests=change.max_requests or limits.max_requests,
        max_pending=change.max_pending or limits.max_pending,
        max_connections=change.max_connections or limits.max_connections,
    )
