"""What stands around a canary: whose hands are on its weights, what is being treated, what cannot be seen."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from agent.canaries.deciding import Around
from agent.canaries.guide import Guide
from agent.canaries.tap import Tap
from agent.incidents import Incident
from agent.mesh import MeshView
from models.overlay import Overlay, Owner, ShiftTraffic

MARK: Final = "canary/"
"""Begins the `incident` of a canary's overlays."""

NAMED: Final = 3


@dataclass(frozen=True, slots=True)
class Surroundings:
    """Looks around. `incidents` gives those of the loop; `hold` says why a service may not take a risk now (Unix s)."""

    tap: Tap
    mesh: MeshView
    incidents: Callable[[], Iterable[Incident]]
    hold: Callable[[str, float], str] = lambda _, __: ""

    def around(self, guide: Guide, now: float) -> Around:
        """Return what a decision about this canary depends on besides the numbers."""
        return Around(
            now=now,
            person=self.person(guide, now),
            blind=self.blind(guide, now),
            incident=self._incident(guide),
            taken=self._taken(guide),
            missing=guide.missing(self.mesh.topology),
            hold=self.hold(guide.rollout.service, now),
        )

    def person(self, guide: Guide, now: float) -> str:
        """Return who set the service's weights by hand, "" when nobody did."""
        found = self._weights_of_others(guide, Owner.PERSON)
        if found is None or found.expires_at <= now:
            return ""
        return f"{found.actor or 'a person'} set the weights by hand ({found.id}): the canary yields"

    def blind(self, guide: Guide, now: float) -> str:
        """Return why telemetry about this service cannot be trusted, "" when it can."""
        topology = self.mesh.topology
        callers = topology.callers(guide.rollout.service) or {guide.rollout.service}
        witnesses = {i.id for caller in callers for i in topology.of(caller)}
        unseen = sorted(witnesses & self.tap.blind(now))
        return f"no telemetry to be trusted from {', '.join(unseen[:NAMED])}" if unseen else ""

    def _weights_of_others(self, guide: Guide, owner: Owner) -> Overlay | None:
        for overlay in self.mesh.overlays:
            change = overlay.change
            elsewhere = not isinstance(change, ShiftTraffic) or change.service != guide.rollout.service
            if elsewhere or overlay.incident == f"{MARK}{guide.rollout.name}" or overlay.owner is not owner:
                continue
            return overlay
        return None

    def _taken(self, guide: Guide) -> str:
        found = self._weights_of_others(guide, Owner.AGENT)
        if found is None or not isinstance(found.change, ShiftTraffic):
            return ""
        if found.change.weights.get(guide.rollout.canary, 0) > 0:
            return ""
        return f"incident {found.incident} took the traffic of {guide.rollout.canary} away"

    def _incident(self, guide: Guide) -> str:
        """Return the incident that makes the canary wait: its service's, or that of something it depends on."""
        near = {guide.rollout.service, *self.mesh.topology.callees(guide.rollout.service)}
        for incident in self.incidents():
            if incident.is_open and incident.cause is not None and incident.cause.service in near:
                return f"incident {incident.id} about {incident.cause.service} is open"
        return ""


def ours(overlay: Overlay) -> bool:
    """Return whether an overlay is one of a canary's."""
    return overlay.owner is Owner.AGENT and overlay.incident.startswith(MARK)
