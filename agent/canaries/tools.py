"""What everything about canaries works with."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass

from agent.actuators.base import Actuator
from agent.canaries.tap import Tap
from agent.canaries.ties import Ties
from agent.chronicle import Chronicle
from agent.incidents import Incident
from agent.mesh import MeshView
from agent.ports import Clock, Fence
from agent.store import Store
from agent.timeline import Timeline
from models.rollout import Rollout


@dataclass(frozen=True, slots=True)
class CanaryTools:
    """What the controller works with. `source` reads the declared canaries, `incidents` gives those of the loop, `stopped`
    says why nothing may be done (the kill switch), `hold` why a service may not take a risk now (freeze, error budget). `ties` to
    ledger and pager; None for a controller by itself.
    """

    source: Callable[[], Awaitable[tuple[Rollout, ...]]]
    tap: Tap
    mesh: MeshView
    incidents: Callable[[], Iterable[Incident]]
    actuator: Actuator
    fence: Fence
    chronicle: Chronicle
    store: Store
    timeline: Timeline
    clock: Clock
    stopped: Callable[[], str] = lambda: ""
    hold: Callable[[str, float], str] = lambda _, __: ""
    lease_s: float = 30.0
    tick_s: float = 0.2
    observe_only: bool = False
    ties: Ties | None = None

    @property
    def leads(self) -> bool:
        """Tell whether the memory of canaries is this agent's to write: replicas share it, and one of them leads."""
        return not self.store.shared or self.fence.token is not None

    def tell(self, canary: str, now: float, message: str) -> None:
        """Add a line about a canary to the timeline."""
        self.timeline.add(now, "canary", f"canary {canary}: {message}")
