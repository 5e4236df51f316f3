"""The topology as agents and people read it: made from effective policies, instances and edges. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from models.domain import Edge, Health, Instance, Topology
from models.policy import ServicePolicy


def topology_of(
    policies: Mapping[str, ServicePolicy],
    instances: tuple[Instance, ...],
    edges: Iterable[Edge],
    declared: Mapping[str, ServicePolicy] | None = None,
) -> Topology:
    """Return the topology with the shares that hold after overlays, and the faults that are declared."""
    members: dict[str, list[Instance]] = {}
    for instance in instances:
        members.setdefault(instance.service, []).append(instance)
    return Topology(
        instances=instances,
        edges=frozenset(edges),
        weights={name: _shares(policies.get(name), members[name]) for name in sorted(members)},
        fallbacks=frozenset(name for name, policy in policies.items() if policy.fallback is not None),
        faults=frozenset(
            name for name, policy in (declared or {}).items() if any(route.fault for route in policy.routes)
        ),
    )


def alike(before: tuple[Instance, ...], after: tuple[Instance, ...]) -> bool:
    """Return whether two lists of instances are equal, labels included (which `==` leaves out)."""
    return before == after and all(a is b or a.labels == b.labels for a, b in zip(before, after, strict=True))


def _shares(policy: ServicePolicy | None, members: list[Instance]) -> dict[str, float]:
    """Return the share of each version in the service's last (most general) route, 0–1."""
    weights: Mapping[str, float] = policy.routes[-1].weights if policy and policy.routes else {}
    versions = {instance.version for instance in members}
    if not weights:
        serving = dict.fromkeys(versions, 0.0)
        for instance in members:
            away = policy and (instance.id in policy.ejected or (policy.zones and instance.zone not in policy.zones))
            if instance.health is Health.HEALTHY and not away:
                serving[instance.version] += 1.0
        weights = serving
    total = sum(weights.values())
    return {name: weights.get(name, 0) / total if total else 0.0 for name in sorted(versions | set(weights))}
