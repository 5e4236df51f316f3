"""Keep the control plane's picture of this instance true: register, heartbeat, register again.

Registering comes first of all, before Envoy serves: a certificate is issued only to a registered instance, and without
one the inbound listener never becomes active. Until then the heartbeats say that it is not healthy, and why.

Level-triggered: what is told is always the present state, once a second and at once when it changes. A control
plane that is down is retried for ever; one that forgot us (404) is told again who we are.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

import structlog

from models.errors import FibrinError, InvalidInput, NotFound, Refused, Unavailable
from proxy.backoff import Backoff
from proxy.metrics import CONTROL_FAILURES
from proxy.registration import Registration


@dataclass(slots=True)
class Condition:
    """What is true of this instance now. `tell` wakes whoever reports it.

    `serving`: Envoy runs with its configuration. `envoy` and `application` say what is wrong with them ("" = nothing;
    the application's is unknown, None, before its first probe).
    """

    serving: bool = False
    envoy: str = ""
    application: str | None = None
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def detail(self) -> str:
        """What is wrong, "" when nothing is."""
        if not self.serving:
            return "Envoy is not serving yet"
        if self.envoy:
            return self.envoy
        return "application not probed yet" if self.application is None else self.application

    def tell(self) -> None:
        """Say that something changed."""
        self.changed.set()


class Presence:
    """Reports `condition` to the control plane until cancelled."""

    def __init__(self, registration: Registration, condition: Condition, *, interval_s: float = 1.0) -> None:
        self._registration = registration
        self._condition = condition
        self._interval_s = interval_s
        self._backoff = Backoff(base_s=0.2, cap_s=2.0, first_s=0.1, steady_s=0.0)
        self._told: str | None = None
        self._log = structlog.get_logger(__name__).bind(id=registration.id)
        self._failing = ""
        self._registered = False
        self.draining = False

    async def keep(self) -> None:
        """Register, then heartbeat every interval and at every change; survives everything the other side does."""
        while True:
            self._condition.changed.clear()
            try:
                await self._report()
            except FibrinError as error:
                await asyncio.sleep(self._failed(error))
                continue
            self._backoff.reset()
            if self._failing:
                self._log.info("proxy.control_back")
                self._failing = ""
            await self._pause()

    async def _report(self) -> None:
        if not self._registered and not self.draining:
            await self._registration.register()
            self._registered = True
            self._log.info("proxy.registered")
        detail = self._condition.detail
        try:
            await self._registration.heartbeat(healthy=not detail, detail=detail)
        except NotFound:
            if self.draining:  # forgotten while we leave is what we want
                return
            self._registered = False
            self._condition.tell()  # again, without waiting for the next beat
            raise
        if detail != self._told:
            self._log.info("proxy.reported", healthy=not detail, detail=detail)
            self._told = detail

    def _failed(self, error: FibrinError) -> float:
        """Count and log `error` (a lasting one once); return how long to wait."""
        delay = self._backoff.failed()
        match error:
            case NotFound():
                reason = "forgotten"
            case Unavailable():
                reason = "unavailable"
            case Refused() | InvalidInput():
                reason, delay = "refused", self._backoff.cap_s
            case _:
                reason = "other"
        CONTROL_FAILURES.labels(reason).inc()
        if reason != self._failing:
            self._log.warning("proxy.control_failed", reason=reason, error=error.message, hint=error.hint)
            self._failing = reason
        return delay

    async def _pause(self) -> None:
        try:
            async with asyncio.timeout(self._interval_s):
                await self._condition.changed.wait()
        except TimeoutError:
            return
