"""From a named cause to a proven cure: decide, act, and later keep, undo, go on or call a person.

Each method takes one incident one stretch further and leaves it in a stored, restartable stage.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import structlog

from agent import metrics
from agent.acting import RETRY_S, Acting, Ending
from agent.deciding import HARMED, Deciding, following
from agent.incidents import Datum, timed, with_step
from agent.ports import Circumstances
from agent.records import judged, signal_text, step_json
from agent.scribe import Gate, Scribe, Tools
from agent.track import Track
from models.errors import Conflict, FibrinError
from models.incident import Stage
from models.overlay import RunHook
from models.verify import Judgement, Verdict

log = structlog.get_logger(__name__)

DOUBT_S: Final = 1.0
"""After a step that did not help nothing is planned for this long, unless the cause is named before, seconds."""

MOST_TREATED: Final = 3
"""After so many causes were treated in vain a person is called."""

STOPPED_S: Final = 0.2
"""How often a stopped undo looks whether it may go on, seconds."""


class Treatment(Scribe):
    """Moves incidents along their life."""

    def __init__(self, tools: Tools) -> None:
        super().__init__(tools)
        self._deciding = Deciding(tools, self)
        self._acting = Acting(tools, self)

    # Ways an incident can go

    async def treat(self, track: Track, around: Circumstances, block: Gate) -> None:
        """Plan (unless planned) and act, if `block()` allows it now; otherwise note why not and wait or escalate."""
        self._deciding.outgrown(track, around)
        if track.incident.stage is Stage.CORRELATED and not await self._deciding.plan(track, around):
            return
        while track.incident.stage is Stage.PLANNED and await self._deciding.may(track, around, block):
            attempt = await self._acting.act(track, around, block)
            match attempt.ending:
                case Ending.NACKED:
                    await self.fail(track, attempt.why, None)
                case Ending.REFUSED:
                    await self._next(track, attempt.why)
                    continue  # the next step, at once
                case Ending.LAID | Ending.NOT_NOW:
                    pass
            return

    def drop(self, track: Track, why: str, **data: Datum) -> None:
        """Take back a plan that waits for a person: its cause is another one."""
        self._deciding.drop(track, why, **data)

    def asked(self, track: Track) -> bool:
        """Tell whether all that is left to do about a planned step is a person's, who has been told."""
        return self._deciding.asked(track) and not self._deciding.surer(track)

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
            f"verified: {signal}; users were well again {took:.2f} s after the likely onset; {step.overlay} is kept",
            observed=judgement.observed,
            expected=judgement.expected,
            requests=judgement.requests,
            mitigated_s=took,
        )
        self._t.planner.ended(step, helped=True)
        await self.record("verified", track, {"step": step_json(step), "kept": step.overlay, "why": signal})
        await self.save(track, ledger=True)

    async def fail(self, track: Track, why: str, judgement: Judgement | None, *, harmed: bool = False) -> None:
        """The step did not help, or `harmed`: undo it, then think again."""
        if judgement is not None:
            track.incident = with_step(track.incident, judged(track.incident, judgement, self._t.clock()))
        step = track.incident.current
        assert step is not None
        if harmed:
            track.incident = with_step(track.incident, replace(step, verdict=HARMED))
        self.move(track, Stage.UNDOING, f"{why}: undoing {step.name}")
        await self.undo(track)

    async def abort(self, track: Track) -> None:
        """Carry out a person's order to stop: undo what is laid, then leave the incident to people."""
        incident = track.incident
        match incident.stage:
            case Stage.VERIFYING:
                self.move(track, Stage.UNDOING, f"aborted by {incident.aborted}: taking the action back")
                await self.undo(track)
            case Stage.UNDOING:
                await self.undo(track)
            case Stage.RESOLVED | Stage.OBSERVED | Stage.ESCALATED:
                await self.release(track, f"released: aborted by {incident.aborted}")
            case Stage.DETECTED | Stage.CORRELATED | Stage.PLANNED | Stage.ACTING:
                await self.hand_over(track, f"aborted by {incident.aborted}; nothing was in force")

    async def withdraw(self, track: Track, why: str) -> None:
        """Take an action back because it was about a symptom only; the incident ends with it."""
        track.incident = replace(track.incident, withdrawn=why)
        self.move(track, Stage.UNDOING, f"{why}: taking the action back")
        await self.undo(track)

    async def undo(self, track: Track) -> None:
        """Remove the current step's overlay; try again later when the control plane is away."""
        step = track.incident.current
        assert step is not None
        if why := self._t.switch.stopped or (track.incident.paused and f"paused by {track.incident.paused}"):
            await self.wait(
                track, "stop-acting", f"the undo waits: {why}; without renewal the overlay ends", page=False
            )
            track.retry_at = self._t.clock() + STOPPED_S
            return
        await self.record("undo", track, {"step": step_json(step), "why": track.incident.history[-1].message})
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
        ordered = bool(track.incident.aborted or track.incident.withdrawn)
        self._t.planner.ended(step, helped=False, learn=not ordered)
        await self.save(track, ledger=True)
        self.note(track, f"undone: {step.name}" + (" (its overlay had ended already)" if gone else ""))
        if track.incident.aborted:
            await self.hand_over(track, f"aborted by {track.incident.aborted}; everything is undone")
            return
        if track.incident.withdrawn:
            await self.observe(track, track.incident.withdrawn)
            return
        await self._doubt(track)

    async def let_go(self, track: Track, why: str) -> None:
        """A resolved incident's overlay is gone: stop holding it."""
        metrics.LEASES_LOST.labels("released").inc()
        track.incident = replace(track.incident, held=False)
        self.note(track, why)
        await self.record("released", track, {"why": why})
        await self.save(track)

    async def release(self, track: Track, why: str) -> None:
        """Remove a held overlay because it is needed no more."""
        step = track.incident.current
        assert step is not None
        if self._t.switch.stopped:
            track.retry_at = self._t.clock() + STOPPED_S
            return
        try:
            await self._t.actuator.remove(step.overlay, self._t.fence.token or 0)
        except FibrinError as error:
            metrics.CONTROL_ERRORS.labels("remove").inc()
            track.retry_at = self._t.clock() + RETRY_S
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
            if step is not None:
                self._t.planner.not_acted(step)
            self.move(track, Stage.PLANNED, "continued after a restart: the step had not been taken")
        elif stage in {Stage.ACTING, Stage.VERIFYING} and step is not None and exists:
            again = replace(step, acted_at=step.acted_at or now, acked_at=now)
            track.incident = timed(timed(with_step(track.incident, again), "acted", now), "acked", now)
            track.renewed_at = now
            self._t.planner.acted(track.incident, again, again.acted_at)  # the ledger may not have been stored
            if stage is Stage.ACTING and isinstance(step.change, RunHook):
                text = "continued after a restart: nobody knows whether the hook was called, so it is called again by the same key"
                self.move(track, Stage.PLANNED, text)
            elif stage is Stage.ACTING:
                self.move(track, Stage.VERIFYING, "continued after a restart: the step had been taken, verifying")
            else:
                self.note(track, "continued after a restart: verifying anew")
        elif stage is Stage.VERIFYING:
            await self.observe(
                track, "its overlay ended while the agent was away; what is still wrong is detected anew"
            )
            return
        await self.record("recovered", track, {"why": track.incident.history[-1].message, "laid": exists})
        await self.save(track, ledger=True)

    async def _doubt(self, track: Track) -> None:
        """A step did not help: its cause may have been another. Have it named anew before anything else is tried.

        A plan that ran out with the signal as bad as before speaks against its cause; one that harmed, was refused or
        could not be judged does not, and a person is called.
        """
        incident = track.incident
        step, cause = incident.current, incident.cause
        assert step is not None
        assert cause is not None
        track.attempts, track.retry_at = 0, 0.0
        if following(incident) is None:
            if step.verdict != Verdict.STILL_BAD:
                await self.escalate(track, "no step of the playbook helped", "exhausted")
                return
            track.incident = replace(incident, refuted=(*incident.refuted, incident.about or cause.key))
        if len(track.incident.refuted) >= MOST_TREATED:
            treated = ", then as ".join(track.incident.refuted)
            await self.escalate(track, f"nothing helped, treated as {treated}", "exhausted")
            return
        track.incident = replace(track.incident, approved_by="")
        track.doubt_until = self._t.clock() + DOUBT_S
        self.move(track, Stage.CORRELATED, "thinks about the cause again, with what was seen since")
        await self.save(track)

    async def _next(self, track: Track, why: str) -> None:
        """Go to the next step (leaving the incident PLANNED) or escalate."""
        if following(track.incident) is not None:
            await self._deciding.go_on(track)
            return
        await self.escalate(track, why, "exhausted")
