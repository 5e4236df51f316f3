"""Who answers for a service: EDS.

Every registered instance stays a member of its cluster, and only its health says whether it may be picked. An
instance that is unhealthy, lost or ejected therefore keeps its connections (requests in flight finish, and coming
back costs nothing). Only one that is drained leaves its clusters, and with them its connections as they fall idle. Shares
of zones are weights of their instances, so that moving them opens no connection anew. When none may be picked, Envoy answers 503 `UH` at once: with the panic threshold at zero it never
sends requests to instances known to be bad. The floor of capacity is kept above, where ejections are granted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Final, assert_never

from control.xds.protos import (
    Address,
    ClusterLoadAssignment,
    Endpoint,
    HealthStatus,
    LbEndpoint,
    Locality,
    LocalityLbEndpoints,
    Message,
    SocketAddress,
)
from models.domain import Health, Instance
from models.policy import ServicePolicy

_HEALTHY: Final = int(HealthStatus.Value("HEALTHY"))
_DRAINING: Final = int(HealthStatus.Value("DRAINING"))
_UNHEALTHY: Final = int(HealthStatus.Value("UNHEALTHY"))
_WEIGHTS: Final = 10_000
"""What the weights of a cluster's instances add up to where zones have shares or an instance has less than its share."""
_WHOLE: Final = 100


def socket_address(address: str, port: int) -> Message:
    """Return `address:port` as Envoy's Address."""
    return Address(socket_address=SocketAddress(address=address, port_value=port))


def load_assignment(name: str, instances: Iterable[Instance], policy: ServicePolicy) -> Message:
    """Build the endpoints of one cluster, one locality per zone; without weights no zone is preferred."""
    members = sorted((i for i in instances if i.id not in policy.drained), key=lambda i: (i.zone, i.id))
    sizes = Counter(i.zone for i in members if _health(i, policy) == _HEALTHY)
    total = sum(policy.zones.get(zone, 0) for zone in sizes)
    thinned = any(i.id in policy.thinned for i in members)
    zones: dict[str, list[Message]] = {}
    for instance in members:
        endpoint = LbEndpoint(
            endpoint=Endpoint(address=socket_address(instance.address, instance.port)),
            health_status=_health(instance, policy),
        )
        zoned = bool(total and sizes[instance.zone])
        if zoned or thinned:  # all hosts carry a weight or none: Envoy counts one without as 1
            share = policy.zones.get(instance.zone, 0) / total / sizes[instance.zone] if zoned else 1 / len(members)
            share *= policy.thinned.get(instance.id, _WHOLE) / _WHOLE
            endpoint.load_balancing_weight.value = max(1, round(share * _WEIGHTS))
        zones.setdefault(instance.zone, []).append(endpoint)
    return ClusterLoadAssignment(
        cluster_name=name,
        endpoints=[
            LocalityLbEndpoints(locality=Locality(zone=zone), lb_endpoints=endpoints)
            for zone, endpoints in zones.items()
        ],
    )


def _health(instance: Instance, policy: ServicePolicy) -> int:
    match instance.health:
        case Health.HEALTHY:
            closed = bool(policy.zones) and policy.zones.get(instance.zone, 0) <= 0
            return _DRAINING if closed or instance.id in policy.ejected else _HEALTHY
        case Health.DRAINING:
            return _DRAINING
        case Health.UNHEALTHY | Health.LOST:
            return _UNHEALTHY
        case _:
            assert_never(instance.health)
