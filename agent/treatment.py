"""From a named cause to a proven cure: decide, write it down, act, and later keep, undo, go on or call a person.

Each method takes one incident one stretch further and leaves it in a stored, restartable stage. Order matters: first
the incident is stored as ACTING, then the audit record is written, then the overlay is laid under an id that follows
from incident and step. Killed anywhere in between, the next process finds out what happened by asking for that id.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

import structlog

from agent import metrics, story
from agent.actuators.base import Actuator, Order, Propagation
from agent.gates import Block, Interlock
from agent.incidents import Datum, Incident, Step, moved, noted, timed, with_step
from agent.ports import Audit, Circumstances, Clock, Draft, Fence, Pager, Planner
from agent.records import decision_json, judged, signal_text, step_json
from agent.settings import AgentSettings, stricter
from agent.store import Store
from agent.timeline import Timeline
from agent.track import Track
from models.errors import Broken, Conflict, FibrinError, Unavailable
from models.incident import Stage
from models.verify import Judgement
from playbooks.schema import Mode

log = structlog.get_logger(__name__)

Gate = Callable[[], Block | None]
"""Looks at the situation of this very moment; None: all interlocks are open."""

ACK_POLL_S: Final = 0.02
RETRY_S: Final = 1.0
MAX_ATTEMPTS: Final = 5


@dataclass(frozen=True, slots=True)
class Tools:
    """What a treatment works with."""

    settings: AgentSettings
    clock: Clock
    store: Store
    timeline: Timeline
    audit: Audit
    actuator: Actuator
    planner: Planner
    fence: Fence
    pager: Pager
    pause: Callable[[float], Any] = asyncio.sleep


class Treatment:
    """Moves incidents. Holds no state of its own but whether the audit log is known to be broken."""

    def __init__(self, tools: Tools) -> None:
        self._t = tools
        self.audit_broken = ""

    # Story

    def move(self, track: Track, stage: Stage, message: str, **data: Datum) -> None:
        """Take the incident to `stage` and tell it (the caller saves)."""
        now = self._t.clock()
        track.incident = moved(track.incident, stage, now, message, **data)
        metrics.STAGES.labels(str(stage)).inc()
        self._tell(track, now, message, data)

    def note(self, track: Track, message: str, **data: Datum) -> None:
        """Add a line to the story without changing the stage."""
        now = self._t.clock()
        track.incident = noted(track.incident, now, message, **data)
        self._tell(track, now, message, data)

    async def save(self, track: Track) -> str:
        """Store the incident; return what went wrong ("" when nothing did)."""
        events, track.unsaved = tuple(track.unsaved), []
        try:
            await self._t.store.put(track.incident, events)
        except Broken as error:
            track.unsaved = [*events, *track.unsaved]
            metrics.STORE_FAILED.inc()
            log.warning("store.failed", incident=track.incident.id, error=error.message, hint=error.hint)
            return error.message
        return ""

    async def audited(self, kind: str, track: Track, data: Mapping[str, Any]) -> bool:
        """Write an audit record about the incident; False (counted, logged, remembered) when that fails."""
        record = {"incident": track.incident.id, "at": self._t.clock(), "stage": str(track.incident.stage), **data}
        try:
            await self._t.audit.append(kind, record)
        except FibrinError as error:
            self.audit_broken = error.message
            metrics.AUDIT_FAILED.inc()
            log.warning("audit.failed", incident=track.incident.id, kind=kind, error=error.message, hint=error.hint)
            return False
        self.audit_broken = ""
        return True

    # Ways an incident can go

    async def treat(self, track: Track, around: Circumstances, block: Gate) -> None:
        """Plan (unless planned) and act, if `block()` allows it now; otherwise note why not and wait or escalate."""
        if track.incident.stage is Stage.CORRELATED and not await self._plan(track, around):
            return
        if track.incident.stage is not Stage.PLANNED or not await self._may(track, block()):
            return
        await self._act(track, around, block)
        if _planned(track) and track.incident.step > 0 and not track.retry_at:
            await self.treat(track, around, block)  # the step was refused: the next one, at once

    async def resolve(self, track: Track, judgement: Judgement) -> None:
        """The signal is back: keep the overlay, close the incident."""
        now = self._t.clock()
        step = judged(track.incident, judgement, now)
        recovered = max(step.acked_at, track.bad_at)
        incident = timed(timed(with_step(track.incident, step), "recovered", recovered), "verified", now)
        track.incident = replace(incident, held=True)
        signal = signal_text(track.incident, judgement)
        took = recovered - incident.onset
        metrics.MITIGATION.observe(max(0.0, took))
        self.move(
            track,
            Stage.RESOLVED,
            f"verified: {signal}; users were well again {took:.2f} s after onset; {step.overlay} is kept",
            observed=judgement.observed,
            expected=judgement.expected,
            requests=judgement.requests,
            mitigated_s=took,
        )
        self._t.planner.ended(step, helped=True)
        await self.audited("verified", track, {"step": step_json(step), "kept": step.overlay})
        await self.save(track)
        await self._remember_ledger()

    async def fail(
        self, track: Track, why: str, judgement: Judgement | None, around: Circumstances, block: Gate
    ) -> None:
        """The step did not help: undo it, then the next step, or call a person."""
        if judgement is not None:
            track.incident = with_step(track.incident, judged(track.incident, judgement, self._t.clock()))
        step = track.incident.current
        assert step is not None
        self.move(track, Stage.UNDOING, f"{why}: undoing {step.name}")
        await self.undo(track, around, block)

    async def withdraw(self, track: Track, why: str, around: Circumstances, block: Gate) -> None:
        """Take an action back because it was about a symptom only; the incident ends with it."""
        track.incident = replace(track.incident, withdrawn=why)
        self.move(track, Stage.UNDOING, f"{why}: taking the action back")
        await self.undo(track, around, block)

    async def undo(self, track: Track, around: Circumstances, block: Gate) -> None:
        """Remove the current step's overlay; try again later when the control plane is away."""
        step = track.incident.current
        assert step is not None
        await self.audited("undo", track, {"step": step_json(step)})
        await self.save(track)
        now = self._t.clock()
        try:
            gone = not await self._t.actuator.remove(step.overlay, self._t.fence.token or 0)
        except FibrinError as error:
            if isinstance(error, Conflict):
                self._t.fence.lost()
            metrics.CONTROL_ERRORS.labels("remove").inc()
            track.retry_at = now + RETRY_S
            if "undo" not in track.paged:
                track.paged.add("undo")
                self.note(track, f"the undo waits: {error.message}; without renewal the overlay ends by itself")
            return
        track.retry_at = 0.0
        metrics.UNDONE.labels(step.change.kind).inc()
        track.incident = with_step(track.incident, replace(step, ended_at=now))
        self._t.planner.ended(step, helped=False)
        await self._remember_ledger()
        self.note(track, f"undone: {step.name}" + (" (its overlay had ended already)" if gone else ""))
        if track.incident.withdrawn:
            await self.observe(track, track.incident.withdrawn)
            return
        await self._next(track, "no step of the playbook helped")
        if _planned(track):
            await self.treat(track, around, block)

    async def escalate(self, track: Track, why: str, interlock: str = "") -> None:
        """Stop and call a person."""
        step = track.incident.current
        if interlock:
            metrics.REFUSED.labels(interlock).inc()
        self.move(track, Stage.ESCALATED, f"a person is needed: {why}", interlock=interlock or None)
        self._t.pager.page(track.incident, f"{track.incident.title}: {why}")
        await self.audited("escalated", track, {"why": why, "interlock": interlock, "step": step_json(step)})
        await self.save(track)

    async def observe(self, track: Track, why: str) -> None:
        """Close an incident without a cure of ours."""
        self.move(track, Stage.OBSERVED, why)
        await self.audited("observed", track, {"why": why})
        await self.save(track)

    async def let_go(self, track: Track, why: str) -> None:
        """A resolved incident's overlay is gone: stop holding it."""
        metrics.LEASES_LOST.labels("released").inc()
        track.incident = replace(track.incident, held=False)
        self.note(track, why)
        await self.audited("released", track, {"why": why})
        await self.save(track)

    async def release(self, track: Track, why: str) -> None:
        """Remove a held overlay because it is needed no more."""
        step = track.incident.current
        assert step is not None
        try:
            await self._t.actuator.remove(step.overlay, self._t.fence.token or 0)
        except FibrinError as error:
            metrics.CONTROL_ERRORS.labels("remove").inc()
            log.info("release.waits", incident=track.incident.id, error=error.message)
            return
        await self.let_go(track, why)

    async def recover(self, track: Track) -> None:
        """Continue an incident of the previous process: what was really laid decides, not what was intended."""
        step = track.incident.current
        now = self._t.clock()
        try:
            laid = {overlay.id for overlay in await self._t.actuator.overlays()}
        except FibrinError as error:
            metrics.CONTROL_ERRORS.labels("overlays").inc()
            track.retry_at = now + RETRY_S
            log.info("recover.waits", incident=track.incident.id, error=error.message)
            return
        track.recover, track.retry_at, track.live_at = False, 0.0, now
        exists = step is not None and step.overlay in laid
        stage = track.incident.stage
        if stage is Stage.ACTING and not exists:
            self.move(track, Stage.PLANNED, "continued after a restart: the step had not been taken")
        elif stage in {Stage.ACTING, Stage.VERIFYING} and step is not None and exists:
            again = replace(step, acted_at=step.acted_at or now, acked_at=now)
            track.incident = timed(timed(with_step(track.incident, again), "acted", now), "acked", now)
            track.renewed_at = now
            if stage is Stage.ACTING:
                self.move(track, Stage.VERIFYING, "continued after a restart: the step had been taken, verifying")
            else:
                self.note(track, "continued after a restart: verifying anew")
        elif stage is Stage.VERIFYING:
            await self.observe(
                track, "its overlay ended while the agent was away; what is still wrong is detected anew"
            )
            return
        await self.save(track)

    # Stretches

    async def _plan(self, track: Track, around: Circumstances) -> bool:
        incident = track.incident
        assert incident.cause is not None
        draft: Draft = self._t.planner.draft(incident.cause, around)
        if not draft.steps:
            reasons = "; ".join(draft.refusals) or "; ".join(f"{w.playbook}: {w.reason}" for w in draft.considered)
            reason = draft.page or f"no playbook may act on {incident.cause}" + (f" ({reasons})" if reasons else "")
            track.incident = replace(incident, considered=draft.considered, refusals=draft.refusals, waiting=reason)
            track.blocked_at = track.blocked_at or around.now
            late = around.now - track.blocked_at >= self._t.settings.undecided_s
            if late and draft.passing:
                await self._wait(track, "guard", f"waits: {reason}", page=True)
            elif late:
                await self.escalate(track, reason, "no-playbook")
            return False
        track.blocked_at = 0.0
        mode = stricter(draft.mode, self._t.settings.mode)
        track.incident = replace(
            incident,
            playbook=draft.playbook,
            mode=str(mode),
            considered=draft.considered,
            refusals=draft.refusals,
            steps=tuple(replace(s, overlay=f"{incident.id}-{n}") for n, s in enumerate(draft.steps, 1)),
            step=0,
        )
        track.incident = timed(track.incident, "planned", self._t.clock())
        first = draft.steps[0]
        self.move(
            track,
            Stage.PLANNED,
            f"playbook {draft.playbook} ({mode}): {story.deed(first.change)}"
            f" ({first.traffic_share:.0%} of traffic, {first.capacity_share:.0%} of capacity)",
            playbook=draft.playbook,
            mode=str(mode),
            steps=len(draft.steps),
            traffic_share=first.traffic_share,
            capacity_share=first.capacity_share,
        )
        return True

    async def _may(self, track: Track, block: Block | None) -> bool:
        """Tell whether the planned step may be taken now; if not, say why, once."""
        settings, incident = self._t.settings, track.incident
        if settings.observe_only:
            await self._wait(track, "observe-only", "the agent only observes: nothing is done", page=False)
            return False
        if incident.mode == Mode.SHADOW:
            await self._wait(track, "shadow", f"shadow: would {self._deed(incident)}", page=False)
            return False
        if incident.mode == Mode.APPROVE:
            await self._wait(track, "approve", f"waits for approval to {self._deed(incident)}", page=True)
            return False
        if block is None:
            track.blocked_at = 0.0
            track.incident = replace(track.incident, waiting="")
            return True
        if block.final:
            await self.escalate(track, block.reason, str(block.interlock))
            return False
        now = self._t.clock()
        if not track.blocked_at:
            track.blocked_at = now
        late = now - track.blocked_at >= settings.undecided_s
        if str(block.interlock) not in track.paged:
            metrics.REFUSED.labels(str(block.interlock)).inc()
        await self._wait(track, str(block.interlock), f"waits: {block.reason}", page=late)
        return False

    async def _wait(self, track: Track, key: str, message: str, *, page: bool) -> None:
        track.incident = replace(track.incident, waiting=message)
        if key not in track.paged:
            track.paged.add(key)
            self.note(track, message)
            await self.audited("held-back", track, {"why": message, "interlock": key})
            await self.save(track)
        if page and f"page {key}" not in track.paged:
            track.paged.add(f"page {key}")
            self._t.pager.page(track.incident, f"{track.incident.title}: {message}")

    async def _act(self, track: Track, around: Circumstances, block: Gate) -> None:
        step = track.incident.current
        token = self._t.fence.token
        assert step is not None
        if token is None:  # lost between the gate and here
            return
        self.move(track, Stage.ACTING, f"step {track.incident.step + 1}: {step.name}: {story.deed(step.change)}")
        if broken := await self.save(track):
            await self.escalate(track, f"the incident cannot be stored ({broken})", str(Interlock.AUDIT))
            return
        record = decision_json(track.incident, around, token)
        if not await self.audited("act", track, record):
            await self.escalate(track, f"the audit log cannot be written ({self.audit_broken})", str(Interlock.AUDIT))
            return
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
            await self._not_laid(track, step, error)
            return
        await self._laid(track, step, around, block)

    async def _not_laid(self, track: Track, step: Step, error: FibrinError) -> None:
        metrics.CONTROL_ERRORS.labels("lay").inc()
        await self.audited("act-failed", track, {"overlay": step.overlay, "error": error.message})
        if isinstance(error, Conflict | Unavailable) and track.attempts < MAX_ATTEMPTS:
            if isinstance(error, Conflict):
                self._t.fence.lost()
            track.retry_at = self._t.clock() + (RETRY_S if isinstance(error, Conflict) else RETRY_S / 4)
            self.move(track, Stage.PLANNED, f"not done, tries again: {error.message}")
            await self.save(track)
            return
        self.note(track, f"refused: {error}")
        now = self._t.clock()
        track.incident = with_step(track.incident, replace(step, ended_at=now, verdict="refused"))
        self._t.planner.ended(step, helped=False)
        await self._next(track, f"{step.name} was refused: {error.message}")

    async def _laid(self, track: Track, step: Step, around: Circumstances, block: Gate) -> None:
        now = self._t.clock()
        track.attempts, track.retry_at, track.renewed_at = 0, 0.0, now
        metrics.ACTIONS.labels(step.change.kind).inc()
        if "acted" not in track.incident.times:
            metrics.REACTION.observe(max(0.0, now - track.incident.onset))
        step = replace(step, acted_at=now)
        track.incident = timed(with_step(track.incident, step), "acted", now)
        self._t.planner.acted(track.incident, step, now)
        since = now - track.incident.onset
        self.note(track, f"laid {step.overlay}, {since:.2f} s after onset", overlay=step.overlay, acted_s=since)
        progress = await self._propagated(step.overlay)
        acked = self._t.clock()
        step = replace(step, acked_at=acked, propagation=str(progress or "unknown"))
        track.incident = timed(with_step(track.incident, step), "acked", acked)
        text = f"in force at {progress} after {acked - now:.3f} s" if progress else "nobody could say who has it"
        self.move(track, Stage.VERIFYING, f"{text}; verifying", ack_s=acked - now)
        await self.audited("acted", track, {"overlay": step.overlay, "propagation": step.propagation})
        await self.save(track)
        await self._remember_ledger()
        if progress is not None and progress.nacked:
            refused = f"{progress.nacked} sidecars refused the change"
            await self.fail(track, refused, None, around, block)

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

    async def _next(self, track: Track, why: str) -> None:
        """Go to the next step (leaving the incident PLANNED) or escalate."""
        incident = track.incident
        if incident.step + 1 < len(incident.steps):
            track.incident = replace(incident, step=incident.step + 1)
            track.attempts = 0
            track.retry_at = 0.0
            step = track.incident.current
            assert step is not None
            self.move(track, Stage.PLANNED, f"next step: {story.deed(step.change)}")
            await self.save(track)
            return
        await self.escalate(track, why, "exhausted")

    async def _remember_ledger(self) -> None:
        try:
            await self._t.store.remember("ledger", self._t.planner.save())
        except Broken as error:
            metrics.STORE_FAILED.inc()
            log.warning("store.failed", what="ledger", error=error.message, hint=error.hint)

    def _tell(self, track: Track, now: float, message: str, data: Mapping[str, Datum]) -> None:
        incident = track.incident
        track.unsaved.append(self._t.timeline.add(now, str(incident.stage), message, incident.id, data))

    @staticmethod
    def _deed(incident: Incident) -> str:
        return story.deed(incident.current.change) if incident.current else "do nothing"


def _planned(track: Track) -> bool:
    """Tell whether a step is due (asked anew: the stage changes under way)."""
    return track.incident.stage is Stage.PLANNED
