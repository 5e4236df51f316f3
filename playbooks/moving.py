"""Actions that move load or take capacity away: between versions, zones and regions, and off single instances."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from models.domain import Health, Instance
from models.incident import Cause
from models.overlay import DrainInstance, EjectInstance, RunHook, ShiftTraffic, ShiftZones
from playbooks.deeds import (
    Drain,
    Eject,
    PromoteStable,
    Restart,
    Reversibility,
    RollBackCanary,
    ShiftRegionsAway,
    ShiftTrafficAway,
    ShiftZonesAway,
)
from playbooks.effects import Effect, Infeasible, fill, radius
from playbooks.units import percent
from playbooks.view import REGION, View

_PARTS: Final = 100
"""Weights of a shift add up to about this."""

_CANARY: Final = 0.5
"""A version with this share of the traffic or more is no canary."""


def shift(action: ShiftTrafficAway, cause: Cause, view: View) -> Effect | Infeasible:
    """Send the traffic of one version to the other healthy ones."""
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
    moved = before - weights[bad] / sum(weights.values())
    reason = f"move {percent(moved)} of {service}'s traffic from {bad} to {', '.join(sorted(parts))}"
    return _reweighted(ShiftTraffic(service, weights), before - kept, reason, view)


def roll_back(action: RollBackCanary, cause: Cause, view: View) -> Effect | Infeasible:
    """Take all traffic from a canary."""
    canary = fill(action.version, cause, view)
    share = view.shares(cause.service).get(canary, 0.0)
    if share >= _CANARY:
        return Infeasible(f"{cause.service}/{canary} has {percent(share)} of the traffic: that is no canary")
    return shift(ShiftTrafficAway(away=canary), cause, view)


def promote_stable(action: PromoteStable, cause: Cause, view: View) -> Effect | Infeasible:
    """Give all traffic to the version with the largest share."""
    service = fill(action.service, cause, view)
    shares = view.shares(service)
    if not shares:
        return Infeasible(f"{service or 'the cause'} has no version that serves")
    stable = max(sorted(shares), key=lambda version: shares[version])
    if shares[stable] >= 1:
        return Infeasible(f"{service}/{stable} has all traffic already")
    if not any(i.version == stable for i in view.available(service)):
        return Infeasible(f"{service}/{stable} has no healthy instance")
    weights = {version: _PARTS if version == stable else 0 for version in shares}
    reason = f"give all of {service}'s traffic to {stable}, its stable version"
    return _reweighted(ShiftTraffic(service, weights), 1 - shares[stable], reason, view)


def shift_zones(action: ShiftZonesAway, cause: Cause, view: View) -> Effect | Infeasible:
    """Send a service's traffic away from one zone."""
    zone = fill(action.away, cause, view)
    if not zone:
        return Infeasible(f"the cause names no zone of {cause.service or 'any service'}")
    return _leave(frozenset({zone}), f"zone {zone}", action.keep, cause, view)


def shift_regions(action: ShiftRegionsAway, cause: Cause, view: View) -> Effect | Infeasible:
    """Send a service's traffic away from all zones of one region."""
    region = fill(action.away, cause, view)
    if not region:
        return Infeasible(f"the instances of {cause.service or 'any service'} carry no label `{REGION}`")
    zones = frozenset(i.zone for i in view.of(cause.service) if i.labels.get(REGION) == region)
    return _leave(zones, f"region {region}", action.keep, cause, view)


def take_out(action: Eject | Drain, cause: Cause, view: View) -> Effect | Infeasible:
    """Take one instance out of load balancing."""
    found = _instance(action.instance, cause, view)
    if isinstance(found, Infeasible):
        return found
    service, name = found.service, found.id
    if found.health is not Health.HEALTHY:
        return Infeasible(f"{name} is out of load balancing already: {found.health}")
    if found not in view.serving(service):
        return Infeasible(f"{name} takes no traffic already")
    alone = _sharers(found, view)
    if isinstance(alone, Infeasible):
        return alone
    draining = isinstance(action, Drain)
    keep = 0.0 if isinstance(action, Drain) else action.keep
    kept = max(1, round(keep * _PARTS)) if keep else 0
    change = DrainInstance(service, name) if draining else EjectInstance(service, name, kept)
    verb = "drain" if draining else "stop sending requests to"
    return _loss(change, found, alone, view, f"{verb} {name}, one of {len(alone) + 1} that share its load")


def restart(action: Restart, cause: Cause, view: View) -> Effect | Infeasible:
    """Restart one instance through a hook."""
    found = _instance(action.instance, cause, view)
    if isinstance(found, Infeasible):
        return found
    change = RunHook(found.service, action.hook, {"service": found.service, "instance": found.id}, found.id)
    reason = f"restart {found.id} through the hook {action.hook}"
    if found not in view.serving(found.service):
        return Effect(change, radius(0, 0, 1, view), 1.0, reason, Reversibility.NONE)
    alone = _sharers(found, view)
    if isinstance(alone, Infeasible):
        return alone
    return _loss(change, found, alone, view, reason, reversibility=Reversibility.NONE)


def _instance(template: str, cause: Cause, view: View) -> Instance | Infeasible:
    name = fill(template, cause, view)
    found = next((i for i in view.topology.instances if i.id == name), None)
    if found is None:
        return Infeasible(f"the mesh knows no instance `{name}`" if name else "the cause names no instance")
    if found.service != cause.service:
        return Infeasible(f"instance {name} belongs to {found.service}, not to {cause.service}")
    return found


def _sharers(instance: Instance, view: View) -> tuple[Instance, ...] | Infeasible:
    """Return the others that take over the load of `instance`."""
    service, weighted = instance.service, view.weighted(instance.service)
    siblings = tuple(
        i for i in view.serving(service) if i.id != instance.id and (i.version == instance.version or not weighted)
    )
    if not siblings:
        scope = f"version {instance.version} of {service}" if weighted else service
        return Infeasible(f"{instance.id} is the last healthy instance of {scope}")
    return siblings


def _loss(
    change: EjectInstance | DrainInstance | RunHook,
    instance: Instance,
    sharers: tuple[Instance, ...],
    view: View,
    reason: str,
    *,
    reversibility: Reversibility = Reversibility.INSTANT,
) -> Effect:
    """Return the effect of one serving instance less."""
    service, count = instance.service, len(sharers) + 1
    share = view.shares(service).get(instance.version, 0.0) if view.weighted(service) else 1.0
    size = radius(share / count, 1, len(view.healthy(service)), view)
    return Effect(change, size, count / len(sharers), reason, reversibility)


def _reweighted(change: ShiftTraffic, moved: float, reason: str, view: View) -> Effect:
    """Return the effect of other weights: who falls idle, and how much busier the busiest instance gets."""
    service, shares = change.service, view.shares(change.service)
    total = sum(change.weights.values())
    after = {version: weight / total for version, weight in change.weights.items()}
    now = {i.id for i in view.serving(service)}
    then = {i.id for i in view.available(service) if after.get(i.version, 0.0) > 0}
    load = max((_per_instance(after, v, view, service) for v in after if after[v] > shares.get(v, 0.0)), default=0.0)
    before = max(_per_instance(shares, version, view, service) for version in shares)
    size = radius(moved, len(now - then), len(view.healthy(service)), view)
    return Effect(change, size, load / before if before else 1.0, reason)


def _leave(zones: frozenset[str], what: str, keep: float, cause: Cause, view: View) -> Effect | Infeasible:
    service = cause.service
    shares = view.zone_shares(service)
    before = sum(share for zone, share in shares.items() if zone in zones)
    if before <= 0:
        return Infeasible(f"{service} has no traffic in {what}")
    others = {zone: share for zone, share in shares.items() if zone not in zones and share > 0}
    if not others:
        return Infeasible(f"{service} has no healthy instance outside {what}")
    kept = before * keep
    rest = sum(others.values())
    stay = {zone: shares.get(zone, 0.0) * keep for zone in sorted(zones & shares.keys())}
    weights = _weights({**stay, **{zone: share / rest * (1 - kept) for zone, share in others.items()}})
    lost = 0 if keep else sum(i.zone in zones for i in view.serving(service))
    size = radius(before - kept, lost, len(view.healthy(service)), view)
    to = ", ".join(sorted(others))
    reason = f"move {percent(before - kept)} of {service}'s traffic from {what} to {to}"
    return Effect(ShiftZones(service, weights), size, (1 - kept) / rest, reason)


def _weights(parts: Mapping[str, float]) -> dict[str, int]:
    """Return whole weights; what shall have traffic keeps at least 1."""
    return {name: max(1, round(part * _PARTS)) if part > 0 else 0 for name, part in sorted(parts.items())}


def _per_instance(shares: Mapping[str, float], version: str, view: View, service: str) -> float:
    count = sum(i.version == version for i in view.available(service))
    return shares.get(version, 0.0) / count if count else 0.0
