"""Any actuator behind the kill switch: looked at once more at the very moment of a change, whoever asks for it.

Whoever is about to act asks the switch before; between that and the call a record is written, and an order may come.
"""

from __future__ import annotations

from collections.abc import Callable

from agent.actuators.base import Actuator, Order, Propagation
from models.errors import Unavailable
from models.overlay import Overlay


class SwitchedActuator:
    """Wraps `inner`. `stopped` tells why nothing may be changed ("": it may). What is laid is kept alive and may be read."""

    def __init__(self, inner: Actuator, stopped: Callable[[], str]) -> None:
        self._inner = inner
        self._stopped = stopped

    async def lay(self, order: Order) -> Overlay:
        """Lay an overlay; Unavailable while the switch is thrown."""
        self._ask()
        return await self._inner.lay(order)

    async def renew(self, overlay: str, lease_s: float, fence: int) -> bool:
        """Prolong an overlay; False when it no longer exists."""
        return await self._inner.renew(overlay, lease_s, fence)

    async def remove(self, overlay: str, fence: int) -> bool:
        """Undo an overlay, False when it was gone already; Unavailable while the switch is thrown."""
        self._ask()
        return await self._inner.remove(overlay, fence)

    async def overlays(self) -> tuple[Overlay, ...]:
        """Return every overlay that exists, people's included."""
        return await self._inner.overlays()

    async def propagation(self, overlay: str) -> Propagation:
        """Return how far an overlay has come (everything acked when it is gone)."""
        return await self._inner.propagation(overlay)

    def _ask(self) -> None:
        if why := self._stopped():
            raise Unavailable(f"nothing is changed: {why}", hint="`fibrin resume-acting` lets the agent act again")
