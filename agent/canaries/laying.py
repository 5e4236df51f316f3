"""Brings what is laid for canaries to what their records ask for, and keeps its leases."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

import structlog

from agent import metrics
from agent.actuators.base import Order
from agent.canaries.guide import RETRY_S, Guide
from agent.canaries.memory import CanaryMemory
from agent.canaries.surroundings import MARK, Surroundings, ours
from agent.canaries.tools import CanaryTools
from agent.moments import passed
from models.errors import Conflict, FibrinError
from models.overlay import RouteCanary, ShiftTraffic

log = structlog.get_logger(__name__)


class CanaryLaying:
    """Lays, renews and removes the overlays of canaries."""

    def __init__(self, tools: CanaryTools, eyes: Surroundings, memory: CanaryMemory) -> None:
        self._t = tools
        self._eyes = eyes
        self._memory = memory

    async def sweep(self, guides: Collection[Guide]) -> None:
        """Remove overlays of canaries, or of steps, that are no more."""
        token = self._t.fence.token
        if token is None or self._t.observe_only or self._t.stopped():
            return
        current = {guide.record.overlay for guide in guides if guide.record.change(guide.rollout)}
        waiting = {g.record.name for g in guides if g.record.change(g.rollout) and not g.laid}
        for overlay in self._t.mesh.overlays:
            if not ours(overlay) or overlay.id in current or overlay.incident.removeprefix(MARK) in waiting:
                continue
            try:
                await self._t.actuator.remove(overlay.id, token)
            except FibrinError as error:
                metrics.CONTROL_ERRORS.labels("remove").inc()
                log.info("canary.leftover_stays", overlay=overlay.id, error=error.message)

    async def close(self, guide: Guide, now: float) -> None:
        """Close the difference between what is laid and what the record asks for."""
        record, token = guide.record, self._t.fence.token
        change = record.change(guide.rollout)
        if change is None or now < guide.retry_at or token is None or self._t.observe_only:
            return
        if self._eyes.person(guide, now):
            guide.laid = ""
            return
        try:
            if guide.laid != record.overlay:
                if self._t.stopped():
                    return
                await self._lay(guide, change, token, now)
            elif self._t.mesh.overlays_at > guide.laid_at and not self._exists(record.overlay):
                await self._gone(guide, now)
            elif passed(self._t.lease_s / 3, guide.renewed_at, now) and await self._t.actuator.renew(
                record.overlay, self._t.lease_s, token
            ):
                guide.renewed_at = now
        except FibrinError as error:
            if isinstance(error, Conflict):
                self._t.fence.lost()
            metrics.CONTROL_ERRORS.labels("canary").inc()
            guide.retry_at, guide.holding = now + RETRY_S, error.message
            log.info("canary.not_laid", canary=record.name, overlay=record.overlay, error=error.message)

    async def _lay(self, guide: Guide, change: ShiftTraffic | RouteCanary, token: int, now: float) -> None:
        record = guide.record
        reason = f"canary {record.name}: {record.reason or record.state}"[:1000]
        await self._t.actuator.lay(
            Order(record.overlay, change, reason, self._t.lease_s, f"{MARK}{record.name}", token)
        )
        guide.laid, guide.laid_at, guide.renewed_at = record.overlay, self._t.clock(), now
        for overlay in self._t.mesh.overlays:
            if overlay.incident == f"{MARK}{record.name}" and overlay.id != record.overlay and ours(overlay):
                await self._t.actuator.remove(overlay.id, token)

    async def _gone(self, guide: Guide, now: float) -> None:
        """The overlay is not there any more: its lease ended (lay it again), or a person removed it (yield)."""
        if passed(self._t.lease_s, guide.renewed_at, now):
            guide.laid = ""
            self._t.tell(guide.rollout.name, now, "its lease ended; laying it again")
            return
        metrics.YIELDED.inc()
        why = f"a person, who removed {guide.laid}"
        guide.laid = ""
        await self._memory.keep(guide, replace(guide.record, paused=why, yielded=True), now)
        self._t.tell(guide.rollout.name, now, f"paused by {why}; `fibrin canary resume {guide.rollout.name}` goes on")

    def _exists(self, overlay: str) -> bool:
        return any(one.id == overlay for one in self._t.mesh.overlays)
