"""The writer's fence: at most one agent writes, and one that was paused finds out.

Every change of holder makes the number grow; an overlay call carries the number, and one below the newest is refused.
So an agent that slept through the end of its term cannot undo what its successor did, however late its call arrives.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict

from pydantic import TypeAdapter

from control.clock import Clock
from control.store import Put, Write
from control.wire import Fence
from models.errors import Conflict, InvalidInput
from models.plain import Json

_FENCE: TypeAdapter[Fence] = TypeAdapter(Fence)
_KEY = "writer"
_LONGEST_S = 300.0


class Fences:
    """The one fence of this mesh; terms run on the monotonic clock."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._fence = Fence(0, "", 0.0)
        self._deadline = 0.0

    @property
    def current(self) -> Fence:
        """The newest fence; `fence` 0 when nobody ever took it."""
        return self._fence

    def restore(self, rows: Mapping[str, Mapping[str, Json]]) -> None:
        """Take back what the store kept; the term that was left runs on."""
        if _KEY in rows:
            self._fence = _FENCE.validate_python(rows[_KEY])
            left = min(max(self._fence.expires_at - self._clock.wall(), 0.0), _LONGEST_S)
            self._deadline = self._clock.monotonic() + left

    def acquire(self, holder: str, ttl_s: float) -> tuple[Fence, tuple[Write, ...]]:
        """Give the fence to `holder` for `ttl_s` seconds; return it and what to store before it counts.

        Raises:
            Conflict: another holder's term has not ended.
            InvalidInput: no holder, or a term out of range.
        """
        if not holder or not 0 < ttl_s <= _LONGEST_S:
            raise InvalidInput(f"a fence needs a holder and a ttl_s above 0 and up to {_LONGEST_S:g}")
        now = self._clock.monotonic()
        held = self._fence
        if held.holder != holder and held.fence and now < self._deadline:
            raise Conflict(
                f"the fence is held by {held.holder} for {self._deadline - now:.1f} s more",
                hint="only one agent writes at a time; stand by and ask again",
            )
        number = held.fence if held.holder == holder else held.fence + 1
        self._fence = Fence(max(number, 1), holder, self._clock.wall() + ttl_s)
        self._deadline = now + ttl_s
        return self._fence, (Put("fences", _KEY, asdict(self._fence)),)

    def check(self, fence: int) -> None:
        """Refuse a call that carries any fence but the newest.

        Raises:
            Conflict: the fence is stale, or was never given out.
        """
        if fence != self._fence.fence or fence == 0:
            raise Conflict(
                f"fence {fence} is stale: the newest is {self._fence.fence}, held by {self._fence.holder or 'nobody'}",
                hint="acquire the fence, read the overlays again, then decide again",
            )
