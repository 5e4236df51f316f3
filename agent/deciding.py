"""From a cause to a planned step that may be taken: the plan, its record, and every reason to wait."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from agent import metrics, story
from agent.claims import asks
from agent.gates import Interlock
from agent.incidents import Datum, Incident, timed
from agent.ports import Circumstances, Draft
from agent.scribe import Gate, Scribe, Tools
from agent.settings import stricter
from agent.track import Track
from models.domain import Health, Topology
from models.incident import Cause, CauseKind, Stage
from models.overlay import slot
from playbooks.schema import Mode

OBSERVE_ONLY: Final = "observe-only"
SHADOW: Final = "shadow"
APPROVE: Final = "approve"
"""Keys under which a person is told why nothing is done."""

ASKED: Final = frozenset({APPROVE, f"page {APPROVE}", f"tell {APPROVE}", SHADOW})
"""What was told of a plan that waits for a person; forgotten when there is another plan."""

HARMED: Final = "harmed"
"""The verdict on a step that made a neighbour worse."""

LIVE_S: Final = 0.5
"""Symptoms seen within this time count as seen now, seconds."""

RELIEVED_S: Final = 15.0
"""An instance that the mesh took out of load balancing by itself: requests under way there, and what alarmed because of them, may
take this long to be over before a person is called, seconds."""


class Deciding:
    """Plans, and says why not. Holds no state of its own."""

    def __init__(self, tools: Tools, scribe: Scribe) -> None:
        self._t = tools
        self._scribe = scribe

    async def plan(self, track: Track, around: Circumstances) -> bool:
        """Choose a playbook and its steps; False when there is nothing to do (yet)."""
        incident = track.incident
        assert incident.cause is not None
        if self._t.clock() < track.doubt_until:
            return False
        if incident.cause.key in incident.refuted:
            if self._t.clock() - track.live_at > LIVE_S:  # it may be over: no call before that is known
                return False
            await self._scribe.escalate(track, "no step of the playbook helped", "exhausted")
            return False
        if incident.about == incident.cause.key and following(incident) is not None:
            await self.go_on(track)
            return True
        ledger = self._t.planner.save()
        draft: Draft = self._t.planner.draft(incident.cause, around)
        if not draft.steps:
            await self._nothing_to_do(track, draft, around, ledger)
            return False
        track.blocked_at, track.sure = 0.0, incident.cause.probability
        mode = stricter(draft.mode, self._t.settings.mode)
        taken = incident.steps[: incident.step + 1]
        track.incident = replace(
            incident,
            playbook=draft.playbook,
            mode=str(mode),
            considered=draft.considered,
            refusals=draft.refusals,
            steps=(
                *taken,
                *(replace(s, overlay=f"{incident.id}-{n}") for n, s in enumerate(draft.steps, len(taken) + 1)),
            ),
            step=len(taken),
            about=incident.cause.key,
            approved_by="",  # whoever approved saw another plan
            planned_at=self._t.clock(),
        )
        track.incident = timed(track.incident, "planned", self._t.clock())
        first = draft.steps[0]
        self._scribe.move(
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
        number = await self._t.decisions.write(track.incident, draft, around, ledger, track.evidence)
        track.incident = replace(track.incident, decision=number)
        return True

    def surer(self, track: Track) -> bool:
        """Tell whether a plan that waits for a person was made when its cause was less certain than it is now."""
        cause = track.incident.cause
        return cause is not None and asks(track.incident) and cause.probability > track.sure

    def outgrown(self, track: Track, around: Circumstances) -> bool:
        """Drop a plan that waits for a person when, the cause being surer now, another playbook would be chosen; tell whether."""
        incident, cause = track.incident, track.incident.cause
        if cause is None or not self.surer(track):
            return False
        track.sure = cause.probability
        draft = self._t.planner.draft(cause, around)
        if not draft.steps or draft.playbook == incident.playbook:
            return False
        why = f"{draft.playbook} instead of {incident.playbook}, the cause is surer now: {story.suspicion(cause)}"
        self.drop(track, why, playbook=draft.playbook, probability=cause.probability)
        return True

    def drop(self, track: Track, why: str, **data: Datum) -> None:
        """Take back a plan that waits for a person, who may be asked anew: another is to be made."""
        track.incident = replace(track.incident, playbook="", mode="", steps=(), step=-1)
        track.paged -= ASKED
        self._scribe.move(track, Stage.CORRELATED, why, **data)

    async def go_on(self, track: Track) -> None:
        """Go to the plan's next step (there is one), which a person approves anew where asked."""
        chosen = following(track.incident)
        assert chosen is not None
        track.incident = replace(track.incident, step=chosen, approved_by="", planned_at=self._t.clock())
        track.attempts, track.retry_at = 0, 0.0
        track.paged -= ASKED
        self._scribe.move(track, Stage.PLANNED, f"next step: {deed(track.incident)}")
        await self._scribe.save(track)

    def asked(self, track: Track) -> bool:
        """Tell whether the planned step waits for nothing but a person, who has been told; `may` would say no again."""
        incident = track.incident
        if incident.stage is not Stage.PLANNED or not incident.waiting:
            return False
        if self._t.settings.observe_only:
            return OBSERVE_ONLY in track.paged
        if incident.mode == Mode.SHADOW:
            return SHADOW in track.paged
        told = {f"page {APPROVE}", f"tell {APPROVE}"} & track.paged
        return incident.mode == Mode.APPROVE and not incident.approved_by and bool(told)

    async def may(self, track: Track, around: Circumstances, gate: Gate) -> bool:
        """Tell whether the planned step may be taken now; if not, say why, once."""
        self._temper(track, around)
        settings, incident = self._t.settings, track.incident
        if settings.observe_only:
            await self._scribe.wait(track, OBSERVE_ONLY, "the agent only observes: nothing is done", page=False)
            return False
        if incident.mode == Mode.SHADOW:
            await self._scribe.wait(track, SHADOW, f"shadow: would {deed(incident)}", page=False)
            return False
        if incident.mode == Mode.APPROVE and not incident.approved_by:
            await self._scribe.wait(track, APPROVE, f"waits for approval to {deed(incident)}", page=True)
            return False
        if (block := gate()) is None:
            return await self._held_down(track)
        if block.final:
            await self._scribe.escalate(track, block.reason, str(block.interlock))
            return False
        now = self._t.clock()
        if not track.blocked_at:
            track.blocked_at = now
        late = now - track.blocked_at >= settings.undecided_s
        if str(block.interlock) not in track.paged:
            metrics.REFUSED.labels(str(block.interlock)).inc()
        await self._scribe.wait(track, str(block.interlock), f"waits: {block.reason}", page=late)
        return False

    def _temper(self, track: Track, around: Circumstances) -> None:
        """Let a plan be no bolder than its playbook, the settings and the agent's record allow by now."""
        incident, ceiling = track.incident, self._t.settings.mode
        own, why = self._t.planner.boldness(incident, around)
        mode = stricter(Mode(incident.mode), stricter(own, ceiling))
        if mode == incident.mode:
            return
        why = f"agent.mode is {ceiling}" if mode == ceiling else why or f"{incident.playbook} says so now"
        track.incident = replace(incident, mode=str(mode))
        self._scribe.note(track, f"goes on in mode {mode}: {why}", mode=str(mode))

    async def _held_down(self, track: Track) -> bool:
        """Every interlock is open: act, unless the step first waits whether it passes by itself."""
        incident, now = track.incident, self._t.clock()
        step = incident.current
        before = max((each.ended_at for each in incident.steps), default=0.0)
        began = max(incident.planned_at or incident.times.get("planned", now), before)
        passing = now - track.live_at > LIVE_S  # not seen right now: it may be passing
        if step is not None and step.hold_down_s and (passing or now < began + step.hold_down_s):
            track.blocked_at = track.blocked_at or now  # the guards are asked anew until it is over
            text = f"waits {step.hold_down_s:g} s whether it passes by itself before it would {deed(incident)}"
            await self._scribe.wait(track, f"hold-down {incident.step}", text, page=False)
            return False
        track.blocked_at = 0.0
        track.incident = replace(track.incident, waiting="")
        return True

    async def _nothing_to_do(self, track: Track, draft: Draft, around: Circumstances, ledger: bytes) -> None:
        """No step: wait for what may pass, else call a person; the decision is recorded once it counts."""
        incident = track.incident
        reasons = "; ".join(draft.refusals) or "; ".join(f"{w.playbook}: {w.reason}" for w in draft.considered)
        reason = draft.page or f"no playbook may act on {incident.cause}" + (f" ({reasons})" if reasons else "")
        track.incident = replace(incident, considered=draft.considered, refusals=draft.refusals, waiting=reason)
        track.blocked_at = track.blocked_at or around.now
        patience = self._t.settings.undecided_s
        if _relieved(incident.cause, around.topology):
            patience = max(patience, RELIEVED_S)
        if around.now - track.blocked_at < patience:
            return
        if draft.passing:
            await self._scribe.wait(track, "guard", f"waits: {reason}", page=True)
            return
        number = await self._t.decisions.write(track.incident, draft, around, ledger, track.evidence)
        track.incident = replace(track.incident, decision=number)
        await self._scribe.escalate(track, reason, str(Interlock.STORM) if draft.storm else "no-playbook")


def following(incident: Incident) -> int | None:
    """Return the plan's next step, None when there is none: a larger dose of what harmed is not tried."""
    harmful = {slot(step.change) for step in incident.steps if step.verdict == HARMED}
    later = range(incident.step + 1, len(incident.steps))
    return next((index for index in later if slot(incident.steps[index].change) not in harmful), None)


def _relieved(cause: Cause | None, topology: Topology) -> bool:
    """Tell whether the mesh itself keeps requests from an instance that is to blame, or that is part of the zone or version to blame."""
    if cause is None:
        return False
    away = [i for i in topology.of(cause.service) if i.health is not Health.HEALTHY]
    match cause.kind:
        case CauseKind.INSTANCE:
            return any(i.id == cause.subject for i in away)
        case CauseKind.ZONE:
            return any(i.zone == cause.subject for i in away)
        case CauseKind.VERSION:
            return any(i.version == cause.subject for i in away)
        case _:
            return False


def deed(incident: Incident) -> str:
    """Return what the planned step does, in the imperative."""
    return story.deed(incident.current.change) if incident.current else "do nothing"
