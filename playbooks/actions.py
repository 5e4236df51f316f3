"""From a playbook's action and a cause to one overlay, its size, and the sentence that says why.

`effect` is where words become a change: it fills placeholders from the cause, works out weights from the mesh as it is,
and refuses what cannot be done (no fallback declared, no other healthy version) with the reason. It knows no limits:
how much is too much is the matter of `playbooks.guards`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, assert_never

from models.domain import Health
from models.incident import Cause, CauseKind
from models.overlay import (
    Change,
    EjectInstance,
    LimitConnections,
    OpenBreaker,
    SetOutlierDetection,
    SetRetries,
    SetTimeout,
    ShiftTraffic,
)
from playbooks.schema import (
    ActionSpec,
    Breaker,
    Eject,
    Limit,
    Outliers,
    Page,
    RetryPolicy,
    ShiftTrafficAway,
    Timeout,
)
from playbooks.units import percent
from playbooks.view import View

PLACEHOLDER: Final = re.compile(r"\{([^{}]*)\}")

PLACEHOLDERS: Final[Mapping[str, frozenset[CauseKind]]] = {
    "cause": frozenset(CauseKind),
    "cause.kind": frozenset(CauseKind),
    "cause.signal": frozenset(CauseKind),
    "cause.service": frozenset(CauseKind) - {CauseKind.GLOBAL},
    "cause.caller": frozenset(CauseKind) - {CauseKind.GLOBAL},
    "cause.version": frozenset({CauseKind.VERSION, CauseKind.INSTANCE, CauseKind.CHANGE}),
    "cause.instance": frozenset({CauseKind.INSTANCE}),
    "cause.zone": frozenset({CauseKind.ZONE, CauseKind.INSTANCE}),
}
"""What may stand in braces, and for which causes it has a value."""

_PARTS: Final = 100
"""Weights of a shift add up to about this."""


@dataclass(frozen=True, slots=True)
class BlastRadius:
    """How much one step touches, each 0–1.

    `traffic`: share of the service's traffic that is treated differently. `capacity`: share of its healthy instances
    that stop serving. `mesh`: those instances as a share of the whole mesh's healthy instances.
    """

    traffic: float
    capacity: float
    mesh: float


@dataclass(frozen=True, slots=True)
class Effect:
    """One change, its size, and why. `load_factor` is the load of the busiest remaining instance, after over before."""

    change: Change
    blast_radius: BlastRadius
    load_factor: float
    reason: str


@dataclass(frozen=True, slots=True)
class Infeasible:
    """Why an action cannot be done here."""

    reason: str


def effect(action: ActionSpec, cause: Cause, view: View) -> Effect | Infeasible:  # noqa: PLR0911 - one per action
    """Return the change that `action` means for `cause` in the mesh as it is, or why there is none."""
    match action:
        case ShiftTrafficAway():
            return _shift(action, cause, view)
        case Eject():
            return _eject(action, cause, view)
        case Breaker():
            return _breaker(action, cause, view)
        case Timeout(service=service):
            name = fill(service, cause, view)
            return _setting(SetTimeout(name, action.timeout), view, f"wait at most {action.timeout:g} s for {name}")
        case RetryPolicy(service=service, attempts=attempts):
            name = fill(service, cause, view)
            change = SetRetries(name, attempts, action.budget, action.per_try_timeout)
            return _setting(change, view, f"retry requests to {name} {attempts} times inside {percent(action.budget)}")
        case Limit(service=service):
            name = fill(service, cause, view)
            limits = LimitConnections(name, action.max_requests, action.max_pending, action.max_connections)
            return _setting(limits, view, f"limit what callers may have open to {name}")
        case Outliers(service=service):
            name = fill(service, cause, view)
            outliers = SetOutlierDetection(
                name, action.consecutive_errors, action.interval, action.ejection, round(action.max_ejection * 100)
            )
            return _setting(outliers, view, f"let sidecars eject hosts of {name} by themselves")
        case Page():
            return Infeasible("paging changes nothing in the mesh")
        case _:
            assert_never(action)


def fill(template: str, cause: Cause, view: View) -> str:
    """Replace the placeholders of a text by what the cause says; one without a value becomes ""."""
    return PLACEHOLDER.sub(lambda match: _value(match.group(1), cause, view), template)


def _value(name: str, cause: Cause, view: View) -> str:
    subject = cause.subject
    found = next((i for i in view.topology.of(cause.service) if i.id == subject), None)
    instance = found if cause.kind is CauseKind.INSTANCE else None
    changed = (change.version for change in cause.changes if change.service == cause.service and change.version)
    versions = {
        CauseKind.VERSION: subject,
        CauseKind.CHANGE: next(changed, ""),
        CauseKind.INSTANCE: instance.version if instance else "",
    }
    zones = {CauseKind.ZONE: subject, CauseKind.INSTANCE: instance.zone if instance else ""}
    values = {
        "cause": str(cause),
        "cause.kind": cause.kind.value,
        "cause.signal": cause.signal.value,
        "cause.service": cause.service,
        "cause.caller": cause.edge.caller if cause.edge else "",
        "cause.instance": subject if cause.kind is CauseKind.INSTANCE else "",
        "cause.version": versions.get(cause.kind, ""),
        "cause.zone": zones.get(cause.kind, ""),
    }
    return values.get(name, "")


def _shift(action: ShiftTrafficAway, cause: Cause, view: View) -> Effect | Infeasible:
    service, bad = cause.service, fill(action.away, cause, view)
    if not bad:
        return Infeasible(f"the cause names no version of {service or 'any service'}")
    shares = view.shares(service)
    before = shares.get(bad, 0.0)
    if before <= 0:
        return Infeasible(f"{service}/{bad} has no traffic to shift")
    able = sorted({i.version for i in view.available(service)} - {bad})
    serving = [version for version in able if shares.get(version, 0.0) > 0]
    if not able:
        return Infeasible(f"{service} has no other version with a healthy instance")
    if serving:
        total = sum(shares[version] for version in serving)
        parts = {version: shares[version] / total for version in serving}
    else:  # versions that stand by without a weight, by their number of instances
        sizes = {version: sum(i.version == version for i in view.available(service)) for version in able}
        parts = {version: size / sum(sizes.values()) for version, size in sizes.items()}
    kept = before * action.keep
    weights = _weights({**dict.fromkeys(shares, 0.0), bad: kept, **{v: p * (1 - kept) for v, p in parts.items()}})
    after = {version: weight / sum(weights.values()) for version, weight in weights.items()}
    now = {i.id for i in view.serving(service)}
    then = {i.id for i in view.available(service) if after.get(i.version, 0.0) > 0}
    lost = len(now - then)
    load = max(_per_instance(after, version, view, service) for version in parts)
    load_before = max(_per_instance(shares, version, view, service) for version in shares)
    healthy = len(view.healthy(service))
    reason = (
        f"move {percent(before - after.get(bad, 0.0))} of {service}'s traffic from {bad} to {', '.join(sorted(parts))}"
    )
    radius = _radius(before - kept, lost, healthy, view)
    return Effect(ShiftTraffic(service, weights), radius, load / load_before if load_before else 1.0, reason)


def _weights(parts: Mapping[str, float]) -> dict[str, int]:
    """Return whole weights; a version that shall have traffic keeps at least 1."""
    return {version: max(1, round(part * _PARTS)) if part > 0 else 0 for version, part in sorted(parts.items())}


def _per_instance(shares: Mapping[str, float], version: str, view: View, service: str) -> float:
    count = sum(i.version == version for i in view.available(service))
    return shares.get(version, 0.0) / count if count else 0.0


def _eject(action: Eject, cause: Cause, view: View) -> Effect | Infeasible:
    name = fill(action.instance, cause, view)
    instance = next((i for i in view.topology.instances if i.id == name), None)
    if instance is None:
        return Infeasible(f"the mesh knows no instance `{name}`" if name else "the cause names no instance")
    service = instance.service
    if service != cause.service:
        return Infeasible(f"instance {name} belongs to {service}, not to {cause.service}")
    if instance.health is not Health.HEALTHY:
        return Infeasible(f"{name} is out of load balancing already: {instance.health}")
    serving = view.serving(service)
    if instance not in serving:
        return Infeasible(f"{name} takes no traffic already")
    siblings = [i for i in serving if i.id != name and (i.version == instance.version or not view.weighted(service))]
    if not siblings:
        scope = f"version {instance.version} of {service}" if view.weighted(service) else service
        return Infeasible(f"{name} is the last healthy instance of {scope}")
    share = view.shares(service).get(instance.version, 0.0) if view.weighted(service) else 1.0
    radius = _radius(share / (len(siblings) + 1), 1, len(view.healthy(service)), view)
    reason = f"stop sending requests to {name}, one of {len(siblings) + 1} that share its load"
    return Effect(EjectInstance(service, name), radius, (len(siblings) + 1) / len(siblings), reason)


def _breaker(action: Breaker, cause: Cause, view: View) -> Effect | Infeasible:
    callee = fill(action.callee, cause, view)
    caller = "" if action.caller == "all" else fill(action.caller, cause, view)
    if not callee or not view.known(callee):
        return Infeasible(f"the mesh knows no service `{callee}`")
    if action.caller != "all" and not caller:
        return Infeasible("the cause names no caller")
    if action.respond == "fallback" and callee not in view.topology.fallbacks:
        return Infeasible(f"{callee} declares no fallback answer (annotation fibrin.dev/fallback)")
    callers = view.topology.callers(callee)
    of_callers = 1.0 if not caller else 1.0 / max(1, len(callers))
    answer = "its declared fallback" if action.respond == "fallback" else "a quick 503"
    who = caller or "every caller"
    change = OpenBreaker(callee, caller, action.percent, "fallback" if action.respond == "fallback" else "fail-fast")
    reason = f"answer {action.percent}% of requests from {who} to {callee} with {answer}"
    return Effect(change, _radius(of_callers * action.percent / 100, 0, 1, view), 1.0, reason)


def _setting(
    change: SetTimeout | SetRetries | LimitConnections | SetOutlierDetection, view: View, reason: str
) -> Effect | Infeasible:
    if not change.service or not view.known(change.service):
        return Infeasible(f"the mesh knows no service `{change.service}`")
    return Effect(change, _radius(1.0, 0, 1, view), 1.0, reason)


def _radius(traffic: float, lost: int, healthy: int, view: View) -> BlastRadius:
    mesh = sum(i.health is Health.HEALTHY for i in view.topology.instances)
    return BlastRadius(traffic, lost / healthy if healthy else 0.0, lost / mesh if mesh else 0.0)
