"""The agent's way to the audit log: who did what, why and when, and nothing that happened is ever lost silently.

A record that must stand before the deed (`first=True`) is written or the deed is not done. A record of something that has
happened already is kept in memory when the log cannot be written, and written later with the time of the happening. While
any waits, the log counts as broken. What cannot even be kept so is counted and told to the process log in full.
"""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import structlog

from agent import metrics
from agent.audit.chain import plain
from agent.ports import Audit, Clock
from models.errors import FibrinError, InvalidInput

log = structlog.get_logger(__name__)

WAITING_MOST: Final = 10_000
RETRY_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class Who:
    """Who did something: the agent itself, or a person by name."""

    name: str
    role: str = "agent"


@dataclass(frozen=True, slots=True)
class _Waiting:
    kind: str
    data: Mapping[str, Any]
    at: float


class Chronicle:
    """Writes records. `required`: without the record nothing is done; otherwise only said and written later.

    `broken` is why the log cannot be written ("" when it can).
    """

    def __init__(self, audit: Audit, clock: Clock, *, name: str = "agent", required: bool = True) -> None:
        self._audit = audit
        self._clock = clock
        self._required = required
        self._waiting: deque[_Waiting] = deque()
        self._draining = asyncio.Lock()
        self._retry_at = 0.0
        self.me = Who(name)
        self.broken = ""

    @property
    def waiting(self) -> int:
        """Return how many records wait for the log."""
        return len(self._waiting)

    async def write(
        self,
        kind: str,
        data: Mapping[str, Any],
        *,
        who: Who | None = None,
        first: bool = False,
        at: float | None = None,
    ) -> int:
        """Write one record; return its number, 0 when it could not be written (now).

        `first`: the deed has not been done yet and is not done without the record; see `may_go_on`.
        """
        now = self._clock() if at is None else at
        teller = who or self.me
        body = {"who": {"name": teller.name, "role": teller.role}, "at": now, **data}
        if self._waiting:
            await self._drain()
        if not self._waiting:
            try:
                number = await self._audit.append(kind, body, at=now)
            except InvalidInput as error:  # the log will never take this one; others must not wait behind it
                self._failed(kind, error)
                self._lose(_Waiting(kind, body, now))
                return 0
            except FibrinError as error:
                self._failed(kind, error)
            else:
                self.broken = ""
                return number
        if not (first and self._required):
            self._keep(_Waiting(kind, body, now))
        return 0

    def may_go_on(self, number: int) -> bool:
        """Tell whether a deed may be done whose record got `number`."""
        return number > 0 or not self._required

    def due(self, now: float) -> bool:
        """Tell whether it is time to try again what waits."""
        return bool(self._waiting) and now >= self._retry_at

    async def flush(self) -> None:
        """Try again what waits."""
        self._retry_at = self._clock() + RETRY_S
        await self._drain()

    async def close(self) -> None:
        """Write what waits; tell the process log what cannot be kept."""
        await self._drain()
        while self._waiting:
            self._lose(self._waiting.popleft())

    async def _drain(self) -> None:
        async with self._draining:
            while self._waiting:
                one = self._waiting[0]
                try:
                    await self._audit.append(one.kind, {**one.data, "recorded_late": True}, at=one.at)
                except FibrinError as error:
                    self._failed(one.kind, error)
                    return
                self._waiting.popleft()
                metrics.AUDIT_WAITING.set(len(self._waiting))
            self.broken = ""

    def _keep(self, one: _Waiting) -> None:
        if len(self._waiting) >= WAITING_MOST:
            self._lose(one)
            return
        self._waiting.append(one)
        metrics.AUDIT_WAITING.set(len(self._waiting))

    def _lose(self, one: _Waiting) -> None:
        metrics.AUDIT_LOST.inc()
        try:
            told = json.dumps(plain(one.data), sort_keys=True)
        except InvalidInput:  # it has no JSON form: that is why it is lost
            told = repr(one.data)
        log.error("audit.lost", kind=one.kind, at=one.at, record=told, hint="this line is the only copy: keep it")

    def _failed(self, kind: str, error: FibrinError) -> None:
        self.broken = error.message
        metrics.AUDIT_FAILED.inc()
        log.warning("audit.failed", kind=kind, error=error.message, hint=error.hint)
