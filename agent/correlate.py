"""How much of the mesh one cause leaves unexplained; the rules themselves are `models.localise.reach`."""

from __future__ import annotations

from collections.abc import Iterable

from models.domain import Topology
from models.incident import Anomaly, Cause, Signal
from models.localise.reach import about, downstream, explains, upstream

__all__ = ["downstream", "explains", "unexplained_share", "upstream"]


def unexplained_share(cause: Cause, anomalies: Iterable[Anomaly], topology: Topology, services: int) -> float:
    """Return the share (0–1) of services that are anomalous for a reason other than `cause`.

    One broken dependency leaves nothing unexplained however many callers suffer; a mesh-wide disturbance leaves much.
    """
    suffering = {about(a, topology) for a in anomalies if a.signal in {Signal.ERRORS, Signal.LATENCY}}
    own = {about(a, topology) for a in anomalies if explains(cause, a, topology, strict=False)}
    return len(suffering - own) / services if services else 0.0
