"""The right to act: one agent at a time holds the fence of the control plane.

The token counts as lost *before* it can have expired there: the local deadline is taken on the monotonic clock from
before the request was sent, with a margin. A process that slept through its lease therefore never writes with a token
it merely remembers; and should it, the control plane refuses the stale token.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final, Protocol

import structlog

from agent import metrics
from models.errors import Conflict, FibrinError

log = structlog.get_logger(__name__)

MARGIN: Final = 0.2
"""Share of the time to live that is given up for safety."""


class Granted(Protocol):
    """What the control plane answers (`control.wire.Fence`)."""

    @property
    def fence(self) -> int:
        """Return the token."""
        ...


class FenceSource(Protocol):
    """The one call of `ControlClient` that is needed."""

    async def acquire_fence(self, holder: str, ttl_s: float) -> Granted:
        """Take or renew the fence; Conflict while another holder is alive."""
        ...


class Leadership:
    """Holds the fence as long as `run` runs. `monotonic` gives seconds."""

    def __init__(self, source: FenceSource, holder: str, ttl_s: float, monotonic: Callable[[], float]) -> None:
        self._source = source
        self._ttl_s = ttl_s
        self._monotonic = monotonic
        self._token = 0
        self._until = 0.0
        self._why = "never asked"
        self.holder = holder

    @property
    def token(self) -> int | None:
        """Return the fencing token while it is surely held, else None."""
        return self._token if self._token and self._monotonic() < self._until else None

    @property
    def why_not(self) -> str:
        """Return why the fence is not held ("" while it is)."""
        return "" if self.token is not None else self._why

    def lost(self) -> None:
        """Stop acting now: the control plane called the token stale."""
        self._until = 0.0
        self._why = "another agent took over"
        metrics.FENCE.set(0)
        log.warning("leadership.lost", holder=self.holder, fence=self._token)

    async def renew(self) -> bool:
        """Ask once; return whether the fence is held."""
        asked = self._monotonic()
        held = self.token is not None
        try:
            granted = await self._source.acquire_fence(self.holder, self._ttl_s)
        except Conflict as error:
            if held:
                self.lost()
            self._until, self._why = 0.0, error.message
            return False
        except FibrinError as error:
            metrics.CONTROL_ERRORS.labels("fence").inc()
            self._why = error.message
            return self.token is not None
        if granted.fence != self._token:
            log.info("leadership.won", holder=self.holder, fence=granted.fence)
        self._token = granted.fence
        self._until = asked + self._ttl_s * (1 - MARGIN)
        metrics.FENCE.set(granted.fence)
        return True

    async def run(self) -> None:
        """Keep the fence for ever: renew three times per time to live."""
        while True:
            held = await self.renew()
            if not held:
                metrics.FENCE.set(0)
            await asyncio.sleep(self._ttl_s / 3 if held else min(1.0, self._ttl_s / 3))
