"""The mesh as the planner sees it: the topology with every overlay in force applied to its capacity.

The control plane's topology says who is healthy and which weights hold; it does not say which instances an overlay has
taken out. This view does, so that no guard counts an ejected instance as capacity.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from models.domain import Health, Instance, Topology
from models.overlay import EjectInstance, Overlay, Owner, ShiftTraffic, in_force


@dataclass(frozen=True, slots=True)
class View:
    """A topology and the overlays over it."""

    topology: Topology
    overlays: tuple[Overlay, ...] = ()

    def known(self, service: str) -> bool:
        """Tell whether the mesh has heard of `service`."""
        return bool(self.topology.of(service)) or any(service in (e.caller, e.callee) for e in self.topology.edges)

    def healthy(self, service: str) -> tuple[Instance, ...]:
        """Return the instances that would serve if no overlay took them out, by id."""
        return tuple(sorted(i for i in self.topology.of(service) if i.health is Health.HEALTHY))

    def serving(self, service: str) -> tuple[Instance, ...]:
        """Return the instances that take traffic now: healthy, not ejected, of a version with a weight, by id."""
        away = self._ejected()
        shares = self.shares(service)
        return tuple(i for i in self.healthy(service) if i.id not in away and shares.get(i.version, 0.0) > 0)

    def available(self, service: str) -> tuple[Instance, ...]:
        """Return the instances that could take traffic: healthy and not ejected, whatever their version's weight."""
        away = self._ejected()
        return tuple(i for i in self.healthy(service) if i.id not in away)

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

    def taken(self) -> Mapping[str, int]:
        """Return how many healthy instances the agent's overlays keep from serving, per service (only where > 0)."""
        agents = {o.change.service for o in self._agents() if isinstance(o.change, EjectInstance | ShiftTraffic)}
        counts = {service: self.taken_from(service) for service in sorted(agents)}
        return {service: count for service, count in counts.items() if count}

    def taken_from(self, service: str) -> int:
        """Return how many healthy instances of one service the agent's overlays keep from serving."""
        ejected = {o.change.instance for o in self._agents() if isinstance(o.change, EjectInstance)}
        idle: set[str] = set()
        for overlay in self._agents():
            if isinstance(overlay.change, ShiftTraffic) and overlay.change.service == service:
                idle = {version for version, weight in overlay.change.weights.items() if weight == 0}
        return sum(i.id in ejected or i.version in idle for i in self.healthy(service))

    def _agents(self) -> tuple[Overlay, ...]:
        return tuple(o for o in in_force(self.overlays) if o.owner is Owner.AGENT)

    def _ejected(self) -> frozenset[str]:
        return frozenset(o.change.instance for o in in_force(self.overlays) if isinstance(o.change, EjectInstance))

    def _shift(self, service: str) -> ShiftTraffic | None:
        for overlay in in_force(self.overlays):
            if isinstance(overlay.change, ShiftTraffic) and overlay.change.service == service:
                return overlay.change
        return None


def _versions(instances: tuple[Instance, ...]) -> frozenset[str]:
    return frozenset(i.version for i in instances)
