"""The mesh as the planner sees it: the topology with every overlay in force applied to its capacity.

The control plane's topology says who is healthy and which weights hold; it does not say which instances an overlay has
taken out. This view does, so that no guard counts an ejected instance as capacity.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Final

from models.domain import Health, Instance, Topology
from models.overlay import (
    Change,
    DrainInstance,
    EjectInstance,
    Overlay,
    Owner,
    RunHook,
    ShiftTraffic,
    ShiftZones,
    in_force,
    target,
)

REGION: Final = "region"
"""The instance label that names the region of its zone."""


@dataclass(frozen=True)
class View:
    """A topology and the overlays over it; what was asked once is remembered."""

    topology: Topology
    overlays: tuple[Overlay, ...] = ()

    def of(self, service: str) -> tuple[Instance, ...]:
        """Return the instances of a service."""
        return self._members.get(service, ())

    def known(self, service: str) -> bool:
        """Tell whether the mesh has heard of `service`."""
        return bool(self.of(service)) or any(service in (e.caller, e.callee) for e in self.topology.edges)

    def healthy(self, service: str) -> tuple[Instance, ...]:
        """Return the instances that would serve if no overlay took them out, by id."""
        return tuple(sorted(i for i in self.of(service) if i.health is Health.HEALTHY))

    def serving(self, service: str) -> tuple[Instance, ...]:
        """Return the instances that take traffic now: available, of a version with a weight, by id."""
        shares = self.shares(service)
        return tuple(i for i in self.available(service) if shares.get(i.version, 0.0) > 0)

    def available(self, service: str) -> tuple[Instance, ...]:
        """Return the instances that could take traffic whatever their version's weight: healthy, and nobody's to miss."""
        found = self._available.get(service)
        if found is None:
            changes = [overlay.change for overlay in self._over(service)]
            found = tuple(i for i in self.healthy(service) if not any(missing(change, i) for change in changes))
            self._available[service] = found
        return found

    def weighted(self, service: str) -> bool:
        """Tell whether the service's traffic is split by weights (else all versions are one pool)."""
        return sum(self.topology.weights.get(service, {}).values()) > 0 or self._shift(service) is not None

    def shares(self, service: str) -> Mapping[str, float]:
        """Return the share of traffic of each version, 0–1, adding to 1 (empty when nothing can serve)."""
        shift = self._shift(service)
        weights: Mapping[str, float] = shift.weights if shift else self.topology.weights.get(service, {})
        total = sum(weights.values())
        if total > 0:
            return {version: weight / total for version, weight in sorted(weights.items())}
        pool = self.available(service)
        return {version: sum(i.version == version for i in pool) / len(pool) for version in sorted(_versions(pool))}

    def zone_shares(self, service: str) -> Mapping[str, float]:
        """Return the share of traffic of each zone, 0–1: by weights where an overlay sets them, else by instances."""
        for overlay in self._over(service):
            if isinstance(overlay.change, ShiftZones):
                total = sum(overlay.change.weights.values())
                return {zone: weight / total for zone, weight in sorted(overlay.change.weights.items())}
        shares, pool = self.shares(service), self.serving(service)
        of_version = {version: sum(i.version == version for i in pool) for version in _versions(pool)}
        by_zone: dict[str, float] = {}
        for i in pool:
            part = shares[i.version] / of_version[i.version] if self.weighted(service) else 1 / len(pool)
            by_zone[i.zone] = by_zone.get(i.zone, 0.0) + part
        whole = sum(by_zone.values())
        return {zone: part / whole for zone, part in sorted(by_zone.items())} if whole else {}

    def taken(self) -> Mapping[str, int]:
        """Return how many healthy instances the agent's overlays keep from serving, per service (only where > 0)."""
        services = {target(overlay.change) for overlay in self._in_force if overlay.owner is Owner.AGENT}
        counts = {service: self.taken_from(service) for service in sorted(services)}
        return {service: count for service, count in counts.items() if count}

    def taken_from(self, service: str) -> int:
        """Return how many healthy instances of one service the agent's overlays keep from serving."""
        changes = [overlay.change for overlay in self._over(service) if overlay.owner is Owner.AGENT]
        idle: set[str] = set()
        for change in changes:
            if isinstance(change, ShiftTraffic):
                idle = {version for version, weight in change.weights.items() if weight == 0}
        return sum(i.version in idle or any(missing(change, i) for change in changes) for i in self.healthy(service))

    def _over(self, service: str) -> tuple[Overlay, ...]:
        return tuple(overlay for overlay in self._in_force if target(overlay.change) == service)

    def _shift(self, service: str) -> ShiftTraffic | None:
        return next((o.change for o in self._over(service) if isinstance(o.change, ShiftTraffic)), None)

    @cached_property
    def _in_force(self) -> tuple[Overlay, ...]:
        return in_force(self.overlays)

    @cached_property
    def _members(self) -> Mapping[str, tuple[Instance, ...]]:
        members: dict[str, list[Instance]] = {}
        for instance in self.topology.instances:
            members.setdefault(instance.service, []).append(instance)
        return {service: tuple(found) for service, found in members.items()}

    @cached_property
    def _available(self) -> dict[str, tuple[Instance, ...]]:
        return {}


def missing(change: Change, instance: Instance) -> bool:
    """Tell whether a change takes an instance of its service away, whatever its version's weight."""
    match change:
        case EjectInstance(instance=name) | DrainInstance(instance=name) | RunHook(instance=name):
            return instance.id == name
        case ShiftZones(weights=weights):
            return weights.get(instance.zone, 0) <= 0
        case _:
            return False


def _versions(instances: tuple[Instance, ...]) -> frozenset[str]:
    return frozenset(i.version for i in instances)
