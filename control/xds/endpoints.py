"""Who answers for a service: EDS.

Every registered instance stays a member of its cluster, and only its health says whether it may be picked. An
instance that is unhealthy, lost or ejected therefore keeps its connections (requests in flight finish, and coming
back costs nothing). When none may be picked, Envoy answers 503 `UH` at once: with the panic threshold at zero it never
sends requests to instances known to be bad. The floor of capacity is kept above, where ejections are granted.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import assert_never

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


def socket_address(address: str, port: int) -> Message:
    """Return `address:port` as Envoy's Address."""
    return Address(socket_address=SocketAddress(address=address, port_value=port))


def load_assignment(name: str, instances: Iterable[Instance], ejected: frozenset[str]) -> Message:
    """Build the endpoints of one cluster, one locality per zone (unweighted: no zone is preferred)."""
    zones: dict[str, list[Message]] = {}
    for instance in sorted(instances, key=lambda i: (i.zone, i.id)):
        zones.setdefault(instance.zone, []).append(
            LbEndpoint(
                endpoint=Endpoint(address=socket_address(instance.address, instance.port)),
                health_status=_health(instance, ejected),
            )
        )
    return ClusterLoadAssignment(
        cluster_name=name,
        endpoints=[
            LocalityLbEndpoints(locality=Locality(zone=zone), lb_endpoints=members) for zone, members in zones.items()
        ],
    )


def _health(instance: Instance, ejected: frozenset[str]) -> int:
    match instance.health:
        case Health.HEALTHY:
            status = "DRAINING" if instance.id in ejected else "HEALTHY"
        case Health.DRAINING:
            status = "DRAINING"
        case Health.UNHEALTHY | Health.LOST:
            status = "UNHEALTHY"
        case _:
            assert_never(instance.health)
    return int(HealthStatus.Value(status))
