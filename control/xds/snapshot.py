"""World and node in, Envoy resources out: the pure heart of the control plane.

`build(world, node)` depends on its arguments only. A `Compiler` gives the same answer and remembers its parts: a
service whose policy and instances did not change keeps its very resources from world to world, and everything that is
the same for all sidecars is built once per world.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from control.xds.admission import fault_at, inbound_routes, inbound_table
from control.xds.clusters import INBOUND_APP, app_cluster, outbound_cluster, version_cluster
from control.xds.endpoints import load_assignment
from control.xds.listeners import (
    INBOUND,
    OUTBOUND,
    explicit_listener,
    explicit_name,
    inbound_listener,
    outbound_listener,
)
from control.xds.resources import CDS, EDS, EMPTY, LDS, RDS, SRDS, Layer, Resource, Snapshot, Table, resource
from control.xds.routes import route_configuration, scope, scopes
from control.xds.world import MeshOptions, Node, World
from models.domain import Health, Instance
from models.policy import ServicePolicy

SHARED_TYPES: Final = (CDS, EDS, SRDS, RDS)
NODES_REMEMBERED: Final = 20_000


@dataclass(frozen=True, slots=True, eq=False)
class ServiceResources:
    """What one service contributes: shared resources by type, the routes of callers that a breaker or a fault names,
    and the inbound table of instances that a fault names.
    """

    shared: Mapping[str, Layer]
    for_caller: Mapping[str, Resource]
    for_instance: Mapping[str, Resource] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, eq=False)
class Shared:
    """What a world contributes to every sidecar. A table that most have as it is is one object for all of them."""

    layers: Mapping[str, Layer]
    services: frozenset[str]
    endpoints: Table
    scopes: Table
    routes: Table
    for_caller: Mapping[str, Table]  # caller → its routes, its own tables among them
    for_instance: Mapping[str, Table] = field(default_factory=dict)  # an instance under a fault → its routes


@dataclass(slots=True, eq=False)
class _Own:
    """What was built for one sidecar, and of what."""

    known: frozenset[str]  # services of its explicit listeners that exist
    clusters: Table
    listeners: Table


def build(world: World, node: Node, options: MeshOptions | None = None) -> Snapshot:
    """Return everything the sidecar `node` should have in `world`, secrets apart."""
    return Compiler(options or MeshOptions()).build(world, node)


@dataclass(slots=True)
class Compiler:
    """Builds snapshots and remembers what it built. Holds one world; not for use by several threads."""

    options: MeshOptions
    _world: World | None = None
    _shared: Shared | None = None
    _services: dict[str, tuple[ServicePolicy, tuple[Instance, ...], ServiceResources]] = field(default_factory=dict)
    _hosts: tuple[tuple[str, tuple[str, ...]], ...] = ()
    _scopes: dict[tuple[str, str], Resource] = field(default_factory=dict)
    _strangers: dict[str, Table] = field(default_factory=dict)
    _nodes: dict[Node, _Own] = field(default_factory=dict)

    def build(self, world: World, node: Node) -> Snapshot:
        """Return the snapshot of `node` in `world`."""
        shared = self.shared(world)
        own = self._own(node, shared)
        return Snapshot(
            {
                CDS: own.clusters,
                EDS: shared.endpoints,
                LDS: own.listeners,
                SRDS: shared.scopes,
                RDS: shared.for_instance.get(node.id) or self._routes(node.service, shared),
            }
        )

    def _routes(self, service: str, shared: Shared) -> Table:
        """Return the routes of a service's sidecars; one that nobody has heard of yet can be reached all the same."""
        if service in shared.services:
            return shared.for_caller.get(service, shared.routes)
        known = self._strangers.get(service)
        if known is None or known.shared is not shared.layers[RDS]:
            name = inbound_table(service)
            own = known.own if known else {name: resource(name, inbound_routes(ServicePolicy(service), 1))}
            known = self._strangers[service] = Table(shared.layers[RDS], own)
        return known

    def shared(self, world: World) -> Shared:
        """Return what `world` holds for everybody; an unchanged layer is the same object as in the world before."""
        if self._shared is not None and self._world is world:
            return self._shared
        members: dict[str, list[Instance]] = {}
        for instance in sorted(world.instances, key=lambda i: i.id):
            members.setdefault(instance.service, []).append(instance)
        names = sorted({*world.policies, *members})
        fresh: dict[str, dict[str, Resource]] = {kind: {} for kind in SHARED_TYPES}
        callers: dict[str, dict[str, Resource]] = {}
        struck: dict[str, tuple[str, Resource]] = {}
        remembered: dict[str, tuple[ServicePolicy, tuple[Instance, ...], ServiceResources]] = {}
        policies = []
        for name in names:
            policy = world.policies.get(name) or ServicePolicy(name)
            policies.append(policy)
            instances = tuple(members.get(name, ()))
            known = self._services.get(name)
            if known is None or known[:2] != (policy, instances):
                made = service_resources(policy, instances, self.options)
                known = (policy, instances, _kept(known[2], made) if known else made)
            remembered[name] = known
            for kind, layer in known[2].shared.items():
                fresh[kind].update(layer)
            for caller, table in known[2].for_caller.items():
                callers.setdefault(caller, {})[name] = table
            struck |= {instance: (name, table) for instance, table in known[2].for_instance.items()}
        before = self._shared
        fresh[SRDS] = self._scope_layer(policies)
        layers = {kind: _same(before.layers[kind] if before else None, fresh[kind]) for kind in SHARED_TYPES}
        self._services = remembered
        self._world = world
        self._shared = _shared(layers, frozenset(names), callers, struck, before)
        return self._shared

    def _scope_layer(self, policies: Sequence[ServicePolicy]) -> dict[str, Resource]:
        hosts = tuple((policy.service, policy.hosts) for policy in policies)
        if hosts == self._hosts:
            return {host: made for (host, _), made in self._scopes.items()}
        self._hosts = hosts
        wanted = scopes(policies)
        self._scopes = {
            pair: self._scopes.get(pair) or resource(pair[0], scope(*pair)) for pair in sorted(wanted.items())
        }
        return {host: made for (host, _), made in self._scopes.items()}

    def _own(self, node: Node, shared: Shared) -> _Own:
        known = frozenset(name for name, _ in node.listen if name in shared.services)
        clusters = shared.layers[CDS]
        found = self._nodes.get(node)
        if found is None or found.known != known:
            if len(self._nodes) >= NODES_REMEMBERED:
                self._nodes.clear()
            made = node_resources(node, known, self.options)
            found = self._nodes[node] = _Own(known, Table(clusters, made[CDS]), Table(EMPTY, made[LDS]))
        elif found.clusters.shared is not clusters:
            found.clusters = Table(clusters, found.clusters.own)
        return found


def service_resources(policy: ServicePolicy, instances: tuple[Instance, ...], options: MeshOptions) -> ServiceResources:
    """Build what the mesh has for one service: clusters, endpoints, routes."""
    service = policy.service
    pools = {service: instances}
    for version in sorted(_versions_that_matter(policy, instances)):
        pools[version_cluster(service, version)] = tuple(i for i in instances if i.version == version)
    clusters = {
        name: resource(name, outbound_cluster(name, policy, len(pool), options)) for name, pool in pools.items()
    }
    endpoints = {name: resource(name, load_assignment(name, pool, policy)) for name, pool in pools.items()}
    general = resource(service, route_configuration(policy))
    own = inbound_table(service)
    inbound = resource(own, inbound_routes(policy, _sharing(policy, instances)))
    named = (*(b.caller for b in policy.breakers), *(f.caller for f in policy.faults))
    struck = {i.id: fault for i in instances if policy.faults and (fault := fault_at(policy, i)) is not None}
    return ServiceResources(
        shared={CDS: clusters, EDS: endpoints, RDS: {service: general, own: inbound}},
        for_caller={c: resource(service, route_configuration(policy, c)) for c in sorted({*named} - {""})},
        for_instance={
            name: resource(own, inbound_routes(policy, _sharing(policy, instances), fault))
            for name, fault in struck.items()
        },
    )


def _sharing(policy: ServicePolicy, instances: Iterable[Instance]) -> int:
    """Return how many instances share a limit of the whole service."""
    return sum(i.health is Health.HEALTHY and i.id not in policy.ejected for i in instances)


def node_resources(node: Node, known: frozenset[str], options: MeshOptions) -> Mapping[str, Layer]:
    """Build what only this sidecar has: its listeners and the way to its application."""
    listeners = {
        INBOUND: inbound_listener(node, options),
        OUTBOUND: outbound_listener(node, options),
    }
    for name, port in node.listen:
        listeners[explicit_name(name)] = explicit_listener(node, name, port, options, known=name in known)
    return {
        CDS: {INBOUND_APP: resource(INBOUND_APP, app_cluster(node))},
        LDS: {name: resource(name, message) for name, message in listeners.items()},
    }


def _versions_that_matter(policy: ServicePolicy, instances: Iterable[Instance]) -> set[str]:
    named = {version for route in policy.routes for version, weight in route.weights.items() if weight > 0}
    named |= {route.mirror.version for route in policy.routes if route.mirror is not None}
    present = {instance.version for instance in instances if instance.version}
    return named | (present if len(present | named) > 1 else set())


def _kept(before: ServiceResources, after: ServiceResources) -> ServiceResources:
    """Put the old objects where the content is the same: layers then stay the same objects, too."""
    return ServiceResources(
        shared={kind: _kept_layer(before.shared[kind], layer) for kind, layer in after.shared.items()},
        for_caller=_kept_layer(before.for_caller, after.for_caller),
        for_instance=_kept_layer(before.for_instance, after.for_instance),
    )


def _kept_layer(before: Layer, after: Layer) -> Layer:
    return {
        name: old if (old := before.get(name)) is not None and old.version == new.version else new
        for name, new in after.items()
    }


def _shared(
    layers: Mapping[str, Layer],
    services: frozenset[str],
    callers: Mapping[str, Layer],
    struck: Mapping[str, tuple[str, Resource]],
    before: Shared | None,
) -> Shared:
    """Put the tables together; one whose layers are those of the world before stays the same object.

    `struck`: instance under a fault → its service and its inbound table.
    """

    def table(old: Table | None, kind: str, own: Layer = EMPTY) -> Table:
        own = _same(old.own if old else None, own)
        return old if old is not None and old.shared is layers[kind] and old.own is own else Table(layers[kind], own)

    return Shared(
        layers,
        services,
        endpoints=table(before.endpoints if before else None, EDS),
        scopes=table(before.scopes if before else None, SRDS),
        routes=table(before.routes if before else None, RDS),
        for_caller={c: table(before.for_caller.get(c) if before else None, RDS, own) for c, own in callers.items()},
        for_instance={
            instance: table(
                before.for_instance.get(instance) if before else None,
                RDS,
                {**callers.get(service, EMPTY), inbound.name: inbound},
            )
            for instance, (service, inbound) in struck.items()
        },
    )


def _same(before: Layer | None, after: Layer) -> Layer:
    if before is not None and len(before) == len(after) and all(before.get(n) is r for n, r in after.items()):
        return before
    return after
