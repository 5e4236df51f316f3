"""Where to look: the part of the mesh in which the cause must lie.

Trouble travels along calls, so the cause is an anomalous service or one that an anomalous service calls. Everything else
is left out before anything is counted: the cost follows the incident, not the mesh.
"""

from __future__ import annotations

from typing import Final

from models.incident import Anomaly
from models.localise.evidence import Evidence

MOST: Final = 150
"""Anomalous services looked at, the clearest first: one cause of that many has its own name (`global`)."""


def anomalous(evidence: Evidence) -> dict[str, float]:
    """Return the services with anomalies and the greatest score of each, clearest first (ties by name)."""
    hosts = {a.series.instance for a in evidence.anomalies if not a.series.callee}
    homes = {i.id: i.service for i in evidence.topology.instances if i.id in hosts} if hosts else {}
    found: dict[str, float] = {}
    for anomaly in evidence.anomalies:
        name = _service(anomaly, homes)
        if name:
            found[name] = max(found.get(name, anomaly.score), anomaly.score)
    return dict(sorted(found.items(), key=lambda item: (-item[1], item[0])))


def neighbourhood(evidence: Evidence) -> frozenset[str]:
    """Return the services to look at: the (at most `MOST`) clearest anomalous ones and whom they call."""
    start = frozenset(list(anomalous(evidence))[:MOST])
    callees = {e.callee for e in evidence.topology.edges if e.caller in start}
    callees |= {s.callee for s in evidence.since_onset if s.caller in start}
    return start | callees


def _service(anomaly: Anomaly, homes: dict[str, str]) -> str:
    return anomaly.series.callee or homes.get(anomaly.series.instance, "")
