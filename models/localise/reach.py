"""Which symptoms follow from which cause: pure rules over the topology.

Errors and slowness travel against the direction of calls (a broken payment makes checkout and storefront fail);
missing traffic travels along with it. So a cause explains what its own service shows, what everybody upstream of it
shows, and traffic changes on both sides.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import lru_cache

from models.domain import Edge, Topology
from models.incident import Anomaly, Cause, CauseKind, Signal


def upstream(topology: Topology, service: str) -> frozenset[str]:
    """Return the services that call `service`, directly or through others (without itself unless in a cycle)."""
    return _up(topology.edges, service)


def downstream(topology: Topology, service: str) -> frozenset[str]:
    """Return the services that `service` calls, directly or through others."""
    return _down(topology.edges, service)


def explains(cause: Cause, anomaly: Anomaly, topology: Topology, *, strict: bool = True) -> bool:
    """Tell whether `anomaly` follows from `cause`.

    With `strict` another instance or version of the same service does not: it is a second cause. Without (while the
    load moves after an action) everything at the cause's own service does.
    """
    if cause.kind is CauseKind.GLOBAL or not cause.service:
        return True
    above, below = upstream(topology, cause.service), downstream(topology, cause.service)
    return _follows(cause, anomaly, topology, strict=strict, above=above, below=below)


def about(anomaly: Anomaly, topology: Topology) -> str:
    """Return the service an anomaly is about (saturation names only the instance)."""
    instance = anomaly.series.instance
    return anomaly.series.callee or next((i.service for i in topology.instances if i.id == instance), "")


def _follows(
    cause: Cause, anomaly: Anomaly, topology: Topology, *, strict: bool, above: frozenset[str], below: frozenset[str]
) -> bool:
    if cause.kind is CauseKind.GLOBAL or not cause.service:
        return True
    callee = about(anomaly, topology)
    if callee == cause.service:
        return not strict or _same_part(cause, anomaly, topology)
    if callee in above:
        return True
    moved = anomaly.signal in {Signal.TRAFFIC, Signal.SATURATION}
    return moved and callee in below


def _same_part(cause: Cause, anomaly: Anomaly, topology: Topology) -> bool:
    series = anomaly.series
    match cause.kind:
        case CauseKind.INSTANCE:
            if series.instance:
                return series.instance == cause.subject
            versions = {i.version for i in topology.of(cause.service) if i.id == cause.subject}
            return not series.version or not versions or series.version in versions
        case CauseKind.VERSION:
            if series.version:
                return series.version == cause.subject
            versions = {i.version for i in topology.of(cause.service) if i.id == series.instance}
            return not versions or cause.subject in versions
        case CauseKind.ZONE:
            zones = {i.zone for i in topology.of(cause.service) if i.id == series.instance}
            return not zones or cause.subject in zones
        case _:
            return True


@lru_cache(maxsize=8192)
def _up(edges: frozenset[Edge], service: str) -> frozenset[str]:
    return _reach(service, _callers(edges))


@lru_cache(maxsize=8192)
def _down(edges: frozenset[Edge], service: str) -> frozenset[str]:
    return _reach(service, _callees(edges))


@lru_cache(maxsize=4)
def _callers(edges: frozenset[Edge]) -> Mapping[str, list[str]]:
    return _steps((e.callee, e.caller) for e in edges)


@lru_cache(maxsize=4)
def _callees(edges: frozenset[Edge]) -> Mapping[str, list[str]]:
    return _steps((e.caller, e.callee) for e in edges)


def _steps(pairs: Iterable[tuple[str, str]]) -> Mapping[str, list[str]]:
    found: dict[str, list[str]] = {}
    for start, end in pairs:
        found.setdefault(start, []).append(end)
    return found


def _reach(start: str, steps: Mapping[str, list[str]]) -> frozenset[str]:
    seen: set[str] = set()
    todo = [start]
    while todo:
        for service in steps.get(todo.pop(), ()):
            if service not in seen:
                seen.add(service)
                todo.append(service)
    return frozenset(seen)
