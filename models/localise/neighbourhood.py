"""Where to look: the part of the mesh in which the cause must lie.

Trouble travels along calls, so the cause is an anomalous service or one that an anomalous service calls, directly or through a
service that has not alarmed yet: a service with many callers gathers enough evidence to alarm before the one at fault far
below it, which few call. Everything else is left out before anything is counted: the cost follows the incident, not the mesh.
"""

from __future__ import annotations

from typing import Final

from models.incident import Anomaly
from models.localise.evidence import Evidence

MOST: Final = 150
"""Anomalous services looked at, the clearest first: one cause of that many has its own name (`global`)."""

DEPTH: Final = 2
"""How many calls below an anomalous service the cause is looked for."""

FEW: Final = 50
"""Up to so many services are looked at before the next level below them is added."""


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
    """Return the services to look at: the (at most `MOST`) clearest anomalous ones, and those up to `DEPTH` calls below them.

    Of very many anomalous services only the direct callees are looked at: what lies below those has alarmed itself.
    """
    found = frozenset(list(anomalous(evidence))[:MOST])
    for depth in range(DEPTH):
        if depth and len(found) > FEW:
            break
        callees = {e.callee for e in evidence.topology.edges if e.caller in found}
        callees |= {s.callee for s in evidence.since_onset if s.caller in found}
        found |= callees
    return found


def _service(anomaly: Anomaly, homes: dict[str, str]) -> str:
    return anomaly.series.callee or homes.get(anomaly.series.instance, "")
