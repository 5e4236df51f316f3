"""Which symptoms belong to which cause: pure rules over the topology.

Errors and slowness travel against the direction of calls (a broken payment makes checkout and storefront fail);
missing traffic travels along with it. So a cause explains what its own service shows, what everybody upstream of it
shows, and traffic changes on both sides.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from models.domain import Topology
from models.incident import Anomaly, Cause, CauseKind, Signal


def upstream(topology: Topology, service: str) -> frozenset[str]:
    """Return the services that call `service`, directly or through others (without itself unless in a cycle)."""
    return _reach(service, topology.callers)


def downstream(topology: Topology, service: str) -> frozenset[str]:
    """Return the services that `service` calls, directly or through others."""
    return _reach(service, topology.callees)


def explains(cause: Cause, anomaly: Anomaly, topology: Topology, *, strict: bool = True) -> bool:
    """Tell whether `anomaly` follows from `cause`.

    With `strict` another instance or version of the same service does not: it is a second cause. Without (while the
    load moves after an action) everything at the cause's own service does.
    """
    if cause.kind is CauseKind.GLOBAL or not cause.service:
        return True
    callee = _callee(anomaly, topology)
    if callee == cause.service:
        return not strict or _same_part(cause, anomaly, topology)
    if callee in upstream(topology, cause.service):
        return True
    moved = anomaly.signal in {Signal.TRAFFIC, Signal.SATURATION}
    return moved and callee in downstream(topology, cause.service)


def unexplained_share(cause: Cause, anomalies: Iterable[Anomaly], topology: Topology, services: int) -> float:
    """Return the share (0–1) of services that are anomalous for a reason other than `cause`.

    One broken dependency leaves nothing unexplained however many callers suffer; a mesh-wide disturbance leaves much.
    """
    suffering = {_callee(a, topology) for a in anomalies if a.signal in {Signal.ERRORS, Signal.LATENCY}}
    own = {_callee(a, topology) for a in anomalies if explains(cause, a, topology, strict=False)}
    return len(suffering - own) / services if services else 0.0


def _callee(anomaly: Anomaly, topology: Topology) -> str:
    """Return the service an anomaly is about (saturation names only the instance)."""
    instance = anomaly.series.instance
    return anomaly.series.callee or next((i.service for i in topology.instances if i.id == instance), "")


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


def _reach(start: str, step: Callable[[str], frozenset[str]]) -> frozenset[str]:
    seen: set[str] = set()
    todo = [start]
    while todo:
        for service in step(todo.pop()):
            if service not in seen:
                seen.add(service)
                todo.append(service)
    return frozenset(seen)
