"""A mesh in memory: what dry runs and the loop's tests act upon. It keeps the rules the real control plane keeps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from agent.actuators.base import Order, Propagation
from models.errors import Conflict, FibrinError
from models.overlay import Overlay, Owner


class MemoryActuator:
    """Overlays in a dict, with leases, fencing and idempotency.

    `clock` gives Unix seconds. Set `failure` to make every call raise it, `sidecars`/`acked` to hold propagation back.
    `log` is what was asked, in order, as `("lay", id)`.
    """

    def __init__(self, clock: Callable[[], float], actor: str = "agent") -> None:
        self._clock = clock
        self._actor = actor
        self._overlays: dict[str, Overlay] = {}
        self.failure: FibrinError | None = None
        self.fence = 0
        self.sidecars = 3
        self.acked: int | None = None
        self.log: list[tuple[str, str]] = []

    async def lay(self, order: Order) -> Overlay:
        """Lay an overlay; the same id again returns the one in force."""
        self._admit("lay", order.id, order.fence)
        if order.id in self._alive():
            return self._overlays[order.id]
        now = self._clock()
        overlay = Overlay(
            id=order.id,
            change=order.change,
            owner=Owner.AGENT,
            actor=self._actor,
            reason=order.reason,
            created_at=now,
            expires_at=now + order.lease_s,
            lease_s=order.lease_s,
            incident=order.incident,
            fence=order.fence,
        )
        self._overlays[order.id] = overlay
        return overlay

    async def renew(self, overlay: str, lease_s: float, fence: int) -> bool:
        """Prolong an overlay; False when it no longer exists."""
        self._admit("renew", overlay, fence)
        if overlay not in self._alive():
            return False
        expires_at = self._clock() + lease_s
        self._overlays[overlay] = replace(self._overlays[overlay], expires_at=expires_at, lease_s=lease_s)
        return True

    async def remove(self, overlay: str, fence: int) -> bool:
        """Undo an overlay; False when it was gone already."""
        self._admit("remove", overlay, fence)
        return self._alive().pop(overlay, None) is not None

    async def overlays(self) -> tuple[Overlay, ...]:
        """Return every overlay that exists, people's included."""
        self._admit("overlays", "", self.fence)
        return tuple(self._alive()[key] for key in sorted(self._alive()))

    async def propagation(self, overlay: str) -> Propagation:
        """Return how far an overlay has come (everything acked when it is gone)."""
        self._admit("propagation", overlay, self.fence)
        return Propagation(self.sidecars, self.sidecars if self.acked is None else self.acked)

    def put(self, overlay: Overlay) -> None:
        """Lay an overlay as somebody else (a person)."""
        self._overlays[overlay.id] = overlay

    def drop(self, overlay: str) -> None:
        """Remove an overlay as somebody else (a person)."""
        self._overlays.pop(overlay, None)

    def _alive(self) -> dict[str, Overlay]:
        now = self._clock()
        for key in [key for key, overlay in self._overlays.items() if overlay.expires_at <= now]:
            del self._overlays[key]
        return self._overlays

    def _admit(self, verb: str, name: str, fence: int) -> None:
        if verb in {"lay", "renew", "remove"}:
            self.log.append((verb, name))
        if self.failure is not None:
            raise self.failure
        if fence < self.fence:
            raise Conflict(f"fence {fence} is stale, {self.fence} leads", hint="another agent took over")
        self.fence = max(self.fence, fence)
