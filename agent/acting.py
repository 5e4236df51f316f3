"""Taking one step: store, record, act, and wait until the sidecars have it.

Order matters: first the incident is stored as ACTING, then the audit record is written, then the overlay is laid under an
id that follows from incident and step. Killed anywhere in between, the next process finds out what happened by asking
for that id.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

import structlog

from agent import metrics, story
from agent.actuators.base import Order, Propagation
from agent.gates import Interlock
from agent.incidents import Step, timed, with_step
from agent.ports import Circumstances
from agent.records import decision_json
from agent.scribe import Gate, Scribe, Tools
from agent.track import Track
from models.errors import Conflict, FibrinError, Unavailable
from models.incident import Stage

log = structlog.get_logger(__name__)

ACK_POLL_S: Final = 0.02
RETRY_S: Final = 1.0
MAX_ATTEMPTS: Final = 5


class Ending(StrEnum):
    """How an attempt to take a step ended."""

    LAID = "laid"  # in force; to be verified
    REFUSED = "refused"  # the mesh would not have it: the next step
    NACKED = "nacked"  # a sidecar would not have it: to be undone
    NOT_NOW = "not-now"  # to be tried again, or a person was called


@dataclass(frozen=True, slots=True)
class Attempt:
    """What came of it, and why."""

    ending: Ending
    why: str = ""


class Acting:
    """Takes steps. Holds no state of its own."""

    def __init__(self, tools: Tools, scribe: Scribe) -> None:
        self._t = tools
        self._scribe = scribe

    async def act(self, track: Track, around: Circumstances, block: Gate) -> Attempt:
        """Take the planned step; `block` is asked once more after the record is on disk."""
        step = track.incident.current
        token = self._t.fence.token
        assert step is not None
        if token is None:  # lost between the gate and here
            return Attempt(Ending.NOT_NOW)
        self._t.planner.acted(track.incident, step, self._t.clock())  # from here on it counts for whoever asks next
        text = f"step {track.incident.step + 1}: {step.name}: {story.deed(step.change)}"
        self._scribe.move(track, Stage.ACTING, text)
        if broken := await self._scribe.save(track, ledger=True):
            return await self._unrecorded(track, step, f"the incident cannot be stored ({broken})")
        record = decision_json(track.incident, around, token)
        if not await self._scribe.record("act", track, record, first=True):
            return await self._unrecorded(track, step, f"the audit log cannot be written ({self._t.chronicle.broken})")
        if (stop := block()) is not None:  # writing took a moment in which somebody may have said stop
            return await self._stopped(track, step, stop.reason)
        order = Order(
            id=step.overlay,
            change=step.change,
            reason=step.reason or track.incident.title,
            lease_s=self._t.settings.lease_s,
            incident=track.incident.id,
            fence=token,
        )
        track.attempts += 1
        try:
            await self._t.actuator.lay(order)
        except FibrinError as error:
            return await self._not_laid(track, step, error)
        return await self._laid(track, step)

    async def _unrecorded(self, track: Track, step: Step, why: str) -> Attempt:
        self._t.planner.not_acted(step)
        await self._scribe.escalate(track, why, str(Interlock.AUDIT))
        return Attempt(Ending.NOT_NOW)

    async def _stopped(self, track: Track, step: Step, why: str) -> Attempt:
        self._t.planner.not_acted(step)
        self._scribe.move(track, Stage.PLANNED, f"not done: {why}")
        await self._scribe.record("act-failed", track, {"why": why})
        await self._scribe.save(track, ledger=True)
        return Attempt(Ending.NOT_NOW, why)

    async def _not_laid(self, track: Track, step: Step, error: FibrinError) -> Attempt:
        metrics.CONTROL_ERRORS.labels("lay").inc()
        await self._scribe.record("act-failed", track, {"overlay": step.overlay, "why": error.message})
        self._t.planner.not_acted(step)
        if isinstance(error, Conflict | Unavailable) and track.attempts < MAX_ATTEMPTS:
            if isinstance(error, Conflict):
                self._t.fence.lost()
            track.retry_at = self._t.clock() + (RETRY_S if isinstance(error, Conflict) else RETRY_S / 4)
            self._scribe.move(track, Stage.PLANNED, f"not done, tries again: {error.message}")
            await self._scribe.save(track, ledger=True)
            return Attempt(Ending.NOT_NOW, error.message)
        self._scribe.note(track, f"refused: {error}")
        now = self._t.clock()
        track.incident = with_step(track.incident, replace(step, ended_at=now, verdict="refused"))
        return Attempt(Ending.REFUSED, f"{step.name} was refused: {error.message}")

    async def _laid(self, track: Track, step: Step) -> Attempt:
        now = self._t.clock()
        track.attempts, track.retry_at, track.renewed_at, track.late_s = 0, 0.0, now, 0.0
        metrics.ACTIONS.labels(step.change.kind).inc()
        if "acted" not in track.incident.times:
            metrics.REACTION.observe(max(0.0, now - track.incident.onset))
        step = replace(step, acted_at=now)
        track.incident = timed(with_step(track.incident, step), "acted", now)
        self._t.planner.acted(track.incident, step, now)
        since = now - track.incident.onset
        self._scribe.note(
            track, f"laid {step.overlay}, {since:.2f} s after the likely onset", overlay=step.overlay, acted_s=since
        )
        progress = await self._propagated(step.overlay)
        acked = self._t.clock()
        step = replace(step, acked_at=acked, propagation=str(progress or "unknown"))
        track.incident = timed(with_step(track.incident, step), "acked", acked)
        text = f"in force at {progress} after {acked - now:.3f} s" if progress else "nobody could say who has it"
        self._scribe.move(track, Stage.VERIFYING, f"{text}; verifying", ack_s=acked - now)
        done = {"overlay": step.overlay, "propagation": step.propagation, "why": text, "ack_s": acked - now}
        await self._scribe.record("acted", track, done)
        await self._scribe.save(track, ledger=True)
        if progress is not None and progress.nacked:
            return Attempt(Ending.NACKED, f"{progress.nacked} sidecars refused the change")
        return Attempt(Ending.LAID)

    async def _propagated(self, overlay: str) -> Propagation | None:
        """Wait until every sidecar has the change, one refuses it, or the time is up."""
        deadline = self._t.clock() + self._t.settings.ack_timeout_s
        progress: Propagation | None = None
        while True:
            try:
                progress = await self._t.actuator.propagation(overlay)
            except FibrinError as error:
                metrics.CONTROL_ERRORS.labels("propagation").inc()
                log.info("propagation.unknown", overlay=overlay, error=error.message)
            if progress is not None and (progress.complete or progress.nacked):
                return progress
            if self._t.clock() >= deadline:
                return progress
            await self._t.pause(ACK_POLL_S)
