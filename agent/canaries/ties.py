"""What ties canaries to the rest of the agent: the one ledger of acts, the limits of the mesh, and calling people."""

from __future__ import annotations

from dataclasses import dataclass

from agent.canaries.record import Record
from agent.incidents import Incident
from agent.mesh import MeshView
from agent.planner import PlaybookPlanner
from agent.ports import Pager
from agent.store import Store
from models.incident import Cause, CauseKind, Signal, Stage
from models.rollout import Rollout


@dataclass(frozen=True, slots=True)
class Ties:
    """Shares the planner's ledger, its store, the view of the mesh and the pager with the loop."""

    planner: PlaybookPlanner
    store: Store
    mesh: MeshView
    pager: Pager

    def crowded(self, now: float) -> str:
        """Return why no canary may go a step further now, "" when it may: the limits of the whole mesh."""
        return self.planner.crowded(self.mesh.topology, self.mesh.overlays, now)

    async def stepped(self, rollout: Rollout, record: Record, now: float) -> None:
        """Enter a step into the ledger, and keep it over `kill -9`."""
        self.planner.stepped(record.overlay, rollout.name, rollout.service, str(record.state), now)
        await self.store.remember("ledger", self.planner.save(), shared=True)

    def page(self, rollout: Rollout, reason: str, now: float) -> None:
        """Tell a person that a canary was rolled back."""
        cause = Cause(CauseKind.VERSION, rollout.service, rollout.canary, Signal.ERRORS, 1.0, evidence=(reason,))
        incident = Incident(f"canary-{rollout.name}-g{rollout.generation}", now, now, Stage.ESCALATED, causes=(cause,))
        self.pager.page(incident, f"canary {rollout.name} of {rollout.service} was rolled back: {reason}")
