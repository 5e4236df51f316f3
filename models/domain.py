"""The nouns of the mesh: instances, services, edges, topology, change events.

A *service* is named by one string in the way Istio users do: `catalog` or `catalog.shop` (name.namespace);
the mesh treats the short name as living in its default namespace. A *version* is a subset label value (`v1`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import lru_cache
from typing import Final


class Health(StrEnum):
    """What is known of one instance."""

    HEALTHY = "healthy"
    UNHEALTHY = "unhealthy"  # active probe of the application fails
    DRAINING = "draining"  # asked to finish what it has; gets no new requests
    LOST = "lost"  # heartbeats stopped


@dataclass(frozen=True, slots=True, order=True)
class Instance:
    """One endpoint of a service: an application process with its sidecar.

    `address` and `port` are where the sidecar accepts mTLS traffic from other sidecars.
    `id` is unique in the mesh and is also the sidecar's xDS node id.
    """

    id: str
    service: str
    version: str
    zone: str
    address: str
    port: int
    health: Health = Health.HEALTHY
    labels: Mapping[str, str] = field(default_factory=dict, compare=False)

    @property
    def endpoint(self) -> str:
        """`address:port`, as Envoy reports an upstream host."""
        return f"{self.address}:{self.port}"


@dataclass(frozen=True, slots=True, order=True)
class Edge:
    """A directed dependency: `caller` sends requests to `callee` (both service names)."""

    caller: str
    callee: str

    def __str__(self) -> str:
        """Render as `caller→callee`."""
        return f"{self.caller}→{self.callee}"


class ChangeKind(StrEnum):
    """What sort of change happened in the mesh."""

    DEPLOY = "deploy"  # an instance of a version not seen before registered
    SCALE = "scale"  # number of instances changed
    CONFIG = "config"  # a declared resource was applied or deleted
    WEIGHT = "weight"  # traffic weights of a service changed
    OVERLAY = "overlay"  # an overlay was created, expired or removed
    HEALTH = "health"  # an instance's health changed
    NACK = "nack"  # a sidecar refused a configuration


@dataclass(frozen=True, slots=True)
class ChangeEvent:
    """Something that people, platforms or Fibrin itself changed; a suspect by nature.

    `at` is Unix time in seconds. `subject` is `Kind/name` of what changed, `service` the service it concerns
    ("" when it concerns the mesh), `version` the version it concerns (or ""). `actor` is who did it.
    `sequence` increases by one with every event of a control plane's life (survives restarts).
    """

    sequence: int
    at: float
    kind: ChangeKind
    subject: str
    service: str = ""
    version: str = ""
    actor: str = ""
    message: str = ""


@dataclass(frozen=True, slots=True)
class Topology:
    """Who exists and who may call whom, as the control plane knows it.

    `weights[service][version]` are effective traffic shares in 0–1 after overlays (absent: by instance count).
    `edges` are edges seen or declared. `critical` are services users enter through (entry points).
    """

    instances: tuple[Instance, ...] = ()
    edges: frozenset[Edge] = frozenset()
    weights: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    fallbacks: frozenset[str] = frozenset()  # services whose VirtualService declares a fallback answer
    faults: frozenset[str] = frozenset()  # services whose VirtualService injects a fault

    def of(self, service: str) -> tuple[Instance, ...]:
        """Return the instances of `service` (empty when unknown)."""
        return _members(self.instances, service)

    def at(self, endpoint: str) -> Instance | None:
        """Return the instance behind `address:port`, or None."""
        return next((i for i in self.instances if i.endpoint == endpoint), None)

    def callees(self, service: str) -> frozenset[str]:
        """Return the services that `service` calls."""
        return _neighbours(self.edges)[1].get(service, frozenset())

    def callers(self, service: str) -> frozenset[str]:
        """Return the services that call `service`."""
        return _neighbours(self.edges)[0].get(service, frozenset())


@dataclass(slots=True, eq=False)
class _Asked:
    """The instances of a topology that was asked about, and, from the second time on, who is whose."""

    instances: tuple[Instance, ...]
    by_service: dict[str, tuple[Instance, ...]] | None = None


FEW: Final = 64
"""So many instances are looked through sooner than sorted by service."""

_ASKED: Final[deque[_Asked]] = deque(maxlen=4)
"""The topologies of late; a mesh has one, which is asked thousands of times a second while much is wrong."""


def _members(instances: tuple[Instance, ...], service: str) -> tuple[Instance, ...]:
    found = next((one for one in _ASKED if one.instances is instances), None) if len(instances) > FEW else None
    if found is None:
        if len(instances) > FEW:
            _ASKED.append(_Asked(instances))
        return tuple(i for i in instances if i.service == service)
    if found.by_service is None:
        sorted_: dict[str, list[Instance]] = {}
        for one in instances:
            sorted_.setdefault(one.service, []).append(one)
        found.by_service = {name: tuple(members) for name, members in sorted_.items()}
    return found.by_service.get(service, ())


@lru_cache(maxsize=4)
def _neighbours(edges: frozenset[Edge]) -> tuple[dict[str, frozenset[str]], dict[str, frozenset[str]]]:
    """Return each service's callers, and its callees."""
    callers: dict[str, set[str]] = {}
    callees: dict[str, set[str]] = {}
    for edge in edges:
        callers.setdefault(edge.callee, set()).add(edge.caller)
        callees.setdefault(edge.caller, set()).add(edge.callee)
    return (
        {name: frozenset(them) for name, them in callers.items()},
        {name: frozenset(them) for name, them in callees.items()},
    )
