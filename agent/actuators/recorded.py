"""Any actuator, with every call that changes the mesh written into the audit log: what was asked, what was answered.

The record of a call follows the call; that it was going to be made stands in the record of the act or undo before it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from agent.actuators.base import Actuator, Order, Propagation
from agent.chronicle import Chronicle
from agent.codec import change_json
from agent.ports import Clock
from models.errors import FibrinError
from models.overlay import Overlay


class RecordedActuator:
    """Wraps `inner`. Reads are not recorded."""

    def __init__(self, inner: Actuator, chronicle: Chronicle, clock: Clock) -> None:
        self._inner = inner
        self._chronicle = chronicle
        self._clock = clock

    async def lay(self, order: Order) -> Overlay:
        """Lay an overlay; the same id again returns the one in force."""
        request = {
            "overlay": order.id,
            "change": change_json(order.change),
            "reason": order.reason,
            "lease_s": order.lease_s,
            "fence": order.fence,
        }
        started = self._clock()
        try:
            overlay = await self._inner.lay(order)
        except FibrinError as error:
            await self._record("lay", order.incident, request, started, error=error)
            raise
        answer = {"overlay": overlay.id, "created_at": overlay.created_at, "expires_at": overlay.expires_at}
        await self._record("lay", order.incident, request, started, answer=answer)
        return overlay

    async def renew(self, overlay: str, lease_s: float, fence: int) -> bool:
        """Prolong an overlay; False when it no longer exists."""
        request = {"overlay": overlay, "lease_s": lease_s, "fence": fence}
        started = self._clock()
        try:
            alive = await self._inner.renew(overlay, lease_s, fence)
        except FibrinError as error:
            await self._record("renew", "", request, started, error=error)
            raise
        await self._record("renew", "", request, started, answer={"exists": alive})
        return alive

    async def remove(self, overlay: str, fence: int) -> bool:
        """Undo an overlay; False when it was gone already."""
        request = {"overlay": overlay, "fence": fence}
        started = self._clock()
        try:
            existed = await self._inner.remove(overlay, fence)
        except FibrinError as error:
            await self._record("remove", "", request, started, error=error)
            raise
        await self._record("remove", "", request, started, answer={"existed": existed})
        return existed

    async def overlays(self) -> tuple[Overlay, ...]:
        """Return every overlay that exists, people's included."""
        return await self._inner.overlays()

    async def propagation(self, overlay: str) -> Propagation:
        """Return how far an overlay has come (everything acked when it is gone)."""
        return await self._inner.propagation(overlay)

    async def _record(
        self,
        call: str,
        incident: str,
        request: Mapping[str, Any],
        started: float,
        *,
        answer: Mapping[str, Any] | None = None,
        error: FibrinError | None = None,
    ) -> None:
        body: dict[str, Any] = {
            "call": call,
            "incident": incident,
            "request": request,
            "took_s": self._clock() - started,
        }
        if error is not None:
            body["error"] = {"kind": type(error).__name__, "message": error.message}
        else:
            body["response"] = answer
        await self._chronicle.write("api-call", body)
