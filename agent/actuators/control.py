"""The actuator for Fibrin's own control plane."""

from __future__ import annotations

from agent.actuators.base import Order, Propagation
from control.client import ControlClient
from models.errors import NotFound
from models.overlay import Overlay


class ControlActuator:
    """Acts through the control API. The client is opened and closed by who made it."""

    def __init__(self, client: ControlClient) -> None:
        self._client = client

    async def lay(self, order: Order) -> Overlay:
        """Lay an overlay; the same id again returns the one in force."""
        return await self._client.create_overlay(
            order.change,
            reason=order.reason,
            lease_s=order.lease_s,
            incident=order.incident,
            fence=order.fence,
            overlay_id=order.id,
        )

    async def renew(self, overlay: str, lease_s: float, fence: int) -> bool:
        """Prolong an overlay; False when it no longer exists."""
        try:
            await self._client.renew_overlay(overlay, lease_s=lease_s, fence=fence)
        except NotFound:
            return False
        return True

    async def remove(self, overlay: str, fence: int) -> bool:
        """Undo an overlay; False when it was gone already."""
        try:
            await self._client.delete_overlay(overlay, fence=fence)
        except NotFound:
            return False
        return True

    async def overlays(self) -> tuple[Overlay, ...]:
        """Return every overlay that exists, people's included."""
        return await self._client.overlays()

    async def propagation(self, overlay: str) -> Propagation:
        """Return how far an overlay has come (everything acked when it is gone)."""
        try:
            found = (await self._client.overlay(overlay)).propagation
        except NotFound:
            return Propagation(0, 0)
        # generation 0: the change has not reached the xDS server yet, nobody can have it
        return Propagation(found.sidecars, found.acked if found.generation else -1, found.nacked)
