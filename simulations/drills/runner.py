"""One drill from its first look to its last: steady? break, watch, take back, well again?

The order is always the same, and there is no way around the fourth step: whatever ends the third (time, a blocking alarm, the
stop file, Ctrl-C, an error of our own), every fault that was begun is taken back, each by itself and with a deadline, so that
one that resists keeps no other in force. What could not be taken back is named.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Final

from agent.incidents import Incident
from models.errors import FibrinError
from models.incident import Stage
from simulations.drills.guilt import guilty
from simulations.drills.objectives import TRAIL_S, failing, unknown, unseen, well_again
from simulations.drills.port import Clock, Mesh, WallClock
from simulations.drills.schema import Alarm, Drill, Entry, Objective
from simulations.drills.seen import Mark, Phase, Sample, Seen

STEADY_S: Final = 45.0
"""How long the steady state may take to come before a drill is given up."""

LEAD_S: Final = 3.0
"""How long it must hold before anything is broken."""

UNDO_S: Final = 60.0
"""How long taking back one fault may take before it is named and left."""

TICK_S: Final = 0.2
"""How often everything is looked at: an alarm stops a drill within a few of these."""

SAMPLE_S: Final = 0.4
BEFORE_S: Final = 5.0
"""How much of what was before the onset is kept for the report."""


@dataclass(slots=True)
class _Story:
    """What is noted while a drill runs."""

    began: float
    marks: list[Mark] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    undo_errors: list[str] = field(default_factory=list)
    why: str = ""
    phase: Phase = Phase.PLAYED
    onset: float = 0.0
    ended: float = 0.0
    recovered_at: float = 0.0


class Runner:
    """Plays drills on one mesh, one after the other. `tell` hears what happens: (kind, words)."""

    def __init__(self, mesh: Mesh, tell: Callable[[str, str], None], clock: Clock | None = None) -> None:
        self._mesh = mesh
        self._tell = tell
        self._clock: Clock = clock or WallClock()
        self._sampled = 0.0

    async def play(self, drill: Drill) -> Seen:
        """Play a drill and return what was seen of it. Cancelling takes everything back, then raises CancelledError.

        Raises:
            InvalidInput: it strikes what is not there. Broken: the mesh itself fell.
        """
        instances = await self._mesh.instances()
        guilt = guilty(drill, instances)
        story = _Story(self._clock.now())
        hands = _Hands(self._mesh, self._clock, story, self._note)
        try:
            for entry in drill.spec.faults:
                if entry.setting:
                    await hands.begin(entry)
            story.why = await self._steady(drill.spec.steady_state, story, STEADY_S, for_s=LEAD_S)
            if story.why:
                story.phase = Phase.UNSTEADY
            else:
                story.onset = self._clock.now()
                self._note(story, "onset", drill.spec.description or drill.name)
                await self._watch(drill, story, hands)
        finally:
            story.ended = self._clock.now() if story.onset else 0.0
            await _surely(hands.let_go())
        if story.onset:
            await self._recover(drill, story)
        since = story.onset or story.began
        return Seen(
            drill=drill,
            phase=story.phase,
            began=story.began,
            why=story.why,
            onset=story.onset,
            ended=story.ended,
            recovered_at=story.recovered_at,
            records=tuple(r for r in self._mesh.records() if r.seen >= since - BEFORE_S),
            incidents=await self._incidents(since),
            overlays=tuple(o for o in self._mesh.overlays() if story.onset and o.created_at >= since),
            samples=tuple(s for s in story.samples if s.at >= since - BEFORE_S),
            marks=tuple(story.marks),
            guilt=guilt,
            undo_errors=tuple(story.undo_errors),
        )

    async def rest(self, seconds: float) -> None:
        """Let time pass."""
        await self._clock.sleep(seconds)

    # --- the steps ------------------------------------------------------------------------------------------------

    async def _steady(
        self, objectives: tuple[Objective, ...], story: _Story, deadline_s: float, *, for_s: float = 0.0
    ) -> str:
        """Wait until every objective has held for `for_s` seconds, seen by an agent with nothing left to do.

        Returns why that is not so ("" when it is).
        """
        deadline, since = self._clock.now() + deadline_s, self._clock.now()
        while True:
            await self._sample(story)
            why = self._failing(objectives, story)
            if not why:
                why = unseen(story.samples, self._clock.now()) or self._stirring(await self._incidents(0.0))
            now = self._clock.now()
            since = now if why else since
            if (not why and now >= since + for_s) or (why and now > deadline):
                return why
            if stopped := self._mesh.stopped():
                return stopped
            await self._clock.sleep(TICK_S)

    def _failing(self, objectives: tuple[Objective, ...], story: _Story) -> str:
        now, records = self._clock.now(), self._mesh.records()
        return next(filter(None, (failing(o, records, story.samples, now) for o in objectives)), "")

    async def _watch(self, drill: Drill, story: _Story, hands: _Hands) -> None:
        """Begin and end faults as they are due, until the time is over or something ends it early."""
        due = [entry for entry in drill.spec.faults if not entry.setting]
        since: dict[int, float] = {}
        told: set[tuple[str, str]] = set()
        while True:
            now = self._clock.now()
            if now >= story.onset + drill.spec.lasts:
                return
            for entry in [e for e in due if now >= story.onset + e.at]:
                due.remove(entry)
                await hands.begin(entry)
            await hands.end_due(self._clock.now())
            await self._sample(story)
            story.why = self._mesh.stopped() or self._alarm(drill.spec.abort, story, since)
            if story.why:
                story.phase = Phase.ABORTED
                self._note(story, "aborted", story.why)
                return
            await self._follow(drill, story, told)
            if drill.spec.stop_when_healed and not due and await self._healed(drill, story):
                return
            await self._clock.sleep(TICK_S)

    async def _healed(self, drill: Drill, story: _Story) -> bool:
        """Tell whether the expected playbook has proven itself, and users were well since."""
        now, wanted = self._clock.now(), drill.spec.expect.playbook
        proven = [
            i.times["verified"]
            for i in await self._incidents(story.onset)
            if "verified" in i.times and wanted in {"", i.playbook}
        ]
        if not proven or now < min(proven) + 2 * TRAIL_S:
            return False
        return (
            well_again(self._mesh.records(), story.onset, now, min(o.good for o in drill.spec.steady_state)) is not None
        )

    def _alarm(self, alarms: tuple[Alarm, ...], story: _Story, since: dict[int, float]) -> str:
        """Return the blocking alarm that fires, "" when none does. `since` remembers from when each has been missed."""
        now, records = self._clock.now(), self._mesh.records()
        for k, alarm in enumerate(alarms):
            why = failing(alarm.objective, records, story.samples, now)
            if not why or unknown(why):
                since.pop(k, None)
            elif now - since.setdefault(k, now) >= alarm.lasts:
                return f"blocking alarm ({alarm}): {why}"
        return ""

    async def _follow(self, drill: Drill, story: _Story, told: set[tuple[str, str]]) -> None:
        """Tell what the agent does, and approve what the person on call would."""
        for incident in await self._incidents(story.onset):
            for name in ("detected", "correlated", "planned", "acted", "verified"):
                if name in incident.times and (incident.id, name) not in told:
                    told.add((incident.id, name))
                    self._note(story, name, _said(incident, name), incident.times[name])
            if incident.stage is Stage.ESCALATED and (incident.id, "escalated") not in told:
                told.add((incident.id, "escalated"))
                why = incident.history[-1].message if incident.history else ""
                self._note(story, "escalated", why, incident.times.get("closed"))
            question = f"approved {incident.step}"  # each step is asked for
            if drill.spec.person == "approves" and (incident.id, question) not in told and _asks(incident, drill):
                told.add((incident.id, question))
                await self._mesh.approve(incident)
                self._note(story, "approved", f"the person on call approves {incident.playbook}")

    async def _recover(self, drill: Drill, story: _Story) -> None:
        """Clear up and wait for the steady state."""
        try:
            await self._mesh.clear()
            why = await self._steady(drill.spec.steady_state, story, drill.spec.expect.well_again_within)
        except FibrinError as error:
            why = str(error)
        if why:
            self._note(story, "unwell", why)
            return
        story.recovered_at = self._clock.now()
        self._note(story, "well again", "the steady state holds")

    # --- looking --------------------------------------------------------------------------------------------------

    async def _sample(self, story: _Story) -> None:
        now = self._clock.now()
        if now < self._sampled + SAMPLE_S:
            return
        self._sampled = now
        sample = await self._mesh.sample()
        if sample is not None:
            story.samples.append(sample)

    async def _incidents(self, since: float) -> tuple[Incident, ...]:
        """Return the agent's incidents; an agent that is away has none to tell."""
        try:
            return await self._mesh.incidents(since)
        except FibrinError:
            return ()

    def _stirring(self, incidents: tuple[Incident, ...]) -> str:
        found = next((i for i in incidents if i.is_open), None)
        return f"incident {found.id} is open: {found.title}" if found else ""

    def _note(self, story: _Story, kind: str, text: str, at: float | None = None) -> None:
        story.marks.append(Mark(self._clock.now() if at is None else at, kind, text))
        self._tell(kind, text)


@dataclass(slots=True, eq=False)
class _Held:
    """One fault in force, held by a task of its own, so that no cancelling of the runner reaches it."""

    entry: Entry
    ends: float  # Unix s; 0: with the drill
    entered: asyncio.Event = field(default_factory=asyncio.Event)
    release: asyncio.Event = field(default_factory=asyncio.Event)
    task: asyncio.Task[None] | None = None


class _Hands:
    """Holds faults in force, and lets go of all of them."""

    def __init__(self, mesh: Mesh, clock: Clock, story: _Story, note: Callable[[_Story, str, str], None]) -> None:
        self._mesh = mesh
        self._clock = clock
        self._story = story
        self._note = note
        self._held: list[_Held] = []

    async def begin(self, entry: Entry) -> None:
        """Put a fault in force. Raises what kept it from it; then it has cleaned up after itself."""
        held = _Held(entry, self._clock.now() + entry.lasts if entry.lasts else 0.0)
        held.task = asyncio.create_task(self._hold(held), name=f"fault {entry.inject.name}")
        self._held.append(held)
        entered = asyncio.create_task(held.entered.wait(), name="fault in force")
        try:
            await asyncio.wait({held.task, entered}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            entered.cancel()
        if held.task.done():
            self._held.remove(held)
            held.task.result()
        self._note(self._story, "setting" if entry.setting else "fault", str(entry.inject.fault))

    async def _hold(self, held: _Held) -> None:
        async with self._mesh.strike(held.entry):
            held.entered.set()
            await held.release.wait()

    async def end_due(self, now: float) -> None:
        """Take back the faults whose time is over."""
        for held in [h for h in self._held if h.ends and now >= h.ends]:
            await self._end(held)

    async def let_go(self) -> None:
        """Take back everything, the last first. Raises nothing: what resists is named in the story."""
        for held in reversed(self._held[:]):
            await self._end(held)

    async def _end(self, held: _Held) -> None:
        self._held.remove(held)
        assert held.task is not None, "a fault is held by its task"
        held.release.set()
        done, _ = await asyncio.wait({held.task}, timeout=UNDO_S)
        error = held.task.exception() if done and not held.task.cancelled() else None
        if not done:
            held.task.cancel()
            error = TimeoutError(f"not within {UNDO_S:g} s")
        if error is None:
            self._note(self._story, "undone", str(held.entry.inject.fault))
        else:
            text = f"{held.entry.inject.fault}: {str(error) or type(error).__name__}"
            self._story.undo_errors.append(text)
            self._note(self._story, "not undone", text)


async def _surely(work: Coroutine[None, None, None]) -> None:
    """Finish `work` even when this task is cancelled meanwhile, however often; then pass the cancelling on."""
    task = asyncio.create_task(work, name="take everything back")
    cancelled = False
    while not task.done():
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError:
            cancelled = True
    task.result()
    if cancelled:
        raise asyncio.CancelledError


def _asks(incident: Incident, drill: Drill) -> bool:
    """Tell whether an incident waits for a person with the plan that the drill expects."""
    waits = incident.stage is Stage.PLANNED and incident.mode == "approve" and not incident.approved_by
    return waits and incident.playbook == (drill.spec.expect.playbook or incident.playbook)


def _said(incident: Incident, name: str) -> str:
    match name:
        case "detected":
            return incident.title
        case "correlated":
            return str(incident.cause)
        case "planned":
            return f"playbook {incident.playbook or '<none>'}"
        case _:
            step = next((s for s in incident.steps if s.acted_at), None)
            return step.reason or step.name if step else incident.title
