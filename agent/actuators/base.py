"""The port through which the agent acts. Every implementation passes `tests/unit/agent/actuator_contract.py`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from models.overlay import Change, Overlay


@dataclass(frozen=True, slots=True)
class Propagation:
    """How far a change has come. `sidecars` is how many must take it; `nacked` how many refused it."""

    sidecars: int
    acked: int
    nacked: int = 0

    @property
    def complete(self) -> bool:
        """Tell whether every sidecar has it."""
        return self.acked >= self.sidecars

    def __str__(self) -> str:
        """Render as `11 of 12 sidecars, 1 refused`."""
        text = f"{self.acked} of {self.sidecars} sidecars"
        return f"{text}, {self.nacked} refused" if self.nacked else text


@dataclass(frozen=True, slots=True)
class Order:
    """One overlay to lay. `id` is the idempotency key: laying the same id twice leaves one overlay."""

    id: str
    change: Change
    reason: str
    lease_s: float
    incident: str
    fence: int


class Actuator(Protocol):
    """Lays, renews and removes overlays.

    Every method may raise `Unavailable` (try again later), `Conflict` (stale fence: somebody else leads),
    `Refused` (an interlock of the mesh) or `InvalidInput`.
    """

    async def lay(self, order: Order) -> Overlay:
        """Lay an overlay; the same id again returns the one in force."""
        ...

    async def renew(self, overlay: str, lease_s: float, fence: int) -> bool:
        """Prolong an overlay; False when it no longer exists."""
        ...

    async def remove(self, overlay: str, fence: int) -> bool:
        """Undo an overlay; False when it was gone already."""
        ...

    async def overlays(self) -> tuple[Overlay, ...]:
        """Return every overlay that exists, people's included."""
        ...

    async def propagation(self, overlay: str) -> Propagation:
        """Return how far an overlay has come (everything acked when it is gone)."""
        ...
