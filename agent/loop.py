"""The healing loop: observe → detect → correlate → decide → act → verify → keep, or undo and go on, or call a person.

Level-triggered: every tick looks at the whole of what is anomalous and at every living incident, and starts whatever
brings each one further. Nothing in a tick waits for the network: talking to the control plane happens in one task per
incident, so a slow answer delays that incident and no other.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine
from dataclasses import replace
from typing import Any, Final

import structlog

from agent import metrics, verification
from agent.caretaker import Caretaker
from agent.correlate import Symptoms
from agent.history import History
from agent.incidents import Incident, Users
from agent.inheritance import Inheritance
from agent.lookout import Lookout
from agent.people import People
from agent.proving import Proving
from agent.scribe import Tools
from agent.senses import Senses
from agent.track import Track
from agent.treatment import Treatment
from agent.triage import Triage
from models.frame import Frame
from models.incident import TERMINAL, Anomaly, Signal, Stage

log = structlog.get_logger(__name__)

UNTREATED: Final = frozenset({Stage.DETECTED, Stage.CORRELATED, Stage.PLANNED})

SILENT_S: Final = 5.0
"""An alarm whose series had no requests for this long is no evidence any more; nor is one of before a restart."""

REQUESTED: Final = frozenset({Signal.ERRORS, Signal.LATENCY})
"""Signals that only requests can show."""

MOST_CONSIDERED: Final = 50
"""Incidents that are planned for, or asked about their interlocks, in one tick."""

BACK_S: Final = 1.0
"""A clock that went back by less than this was only set right."""

MAX_FAILURES: Final = 3
NAMES_SHOWN: Final = 4


class HealingLoop:
    """Owns all living incidents. `tick` may be called by a test with a clock of its own; `run` calls it for ever."""

    def __init__(self, senses: Senses, tools: Tools) -> None:
        self._s = senses
        self._t = tools
        self._tracks: dict[str, Track] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._failures: dict[str, int] = {}
        self._due: list[Track] = []
        self._anomalies: tuple[Anomaly, ...] = ()
        self._led_with: int | None = None
        self._fresh_since = self._ticked_at = 0.0
        self._started = tools.clock()
        self.remembers_normal = False
        self.history = History()
        self.treatment = Treatment(tools)
        self._caretaker = Caretaker(
            tools,
            tracks=self._tracks,
            mesh=senses.mesh,
            treatment=self.treatment,
            history=self.history,
            start=self._start,
            spawn=self._spawn,
        )
        self._proving = Proving(
            tools,
            senses,
            tracks=self._tracks,
            treatment=self.treatment,
            history=self.history,
            start=self._start,
        )
        self.people = People(tools, tracks=self._tracks, treatment=self.treatment)
        self._triage = Triage(
            tools.settings,
            tracks=self._tracks,
            mesh=senses.mesh,
            history=self.history,
            localise=senses.localise,
            treatment=self.treatment,
            start=self._start,
            withdraw=self._withdraw,
        )

        self._lookout = Lookout(
            tools, senses, self.history, person=self._caretaker.person, warm=lambda: self.warm, symptoms=Symptoms()
        )
        self._inheritance = Inheritance(tools, tracks=self._tracks, treatment=self.treatment, triage=self._triage)

    # What the API shows

    @property
    def incidents(self) -> tuple[Incident, ...]:
        """Return the living incidents (open, held, or just closed), newest first."""
        return tuple(sorted((t.incident for t in self._tracks.values()), key=lambda i: -i.opened_at))

    def incident(self, name: str) -> Incident | None:
        """Return a living incident by id."""
        track = self._tracks.get(name)
        return track.incident if track else None

    @property
    def unsolved(self) -> tuple[Incident, ...]:
        """Return what was left to people and is still seen: nothing new is opened for it."""
        now = self._t.clock()
        left = (t for t in self._tracks.values() if t.incident.stage is Stage.ESCALATED)
        return tuple(t.incident for t in left if now - t.live_at < self._t.settings.gone_s)

    @property
    def anomalies(self) -> tuple[Anomaly, ...]:
        """Return what was anomalous at the last tick."""
        return self._anomalies

    @property
    def blind(self) -> frozenset[str]:
        """Return the sidecars whose telemetry cannot be trusted."""
        return self._lookout.blind

    @property
    def warm(self) -> bool:
        """Tell whether the agent has seen enough normal to act."""
        return self.remembers_normal or self._t.clock() - self._started >= self._t.settings.warm_up_s

    @property
    def at_work(self) -> int:
        """Return how many stretches of work are under way."""
        return len(self._tasks)

    async def remark(self, name: str, message: str) -> None:
        """Add a line to the story of a living incident; of one that is gone by now nothing is told."""
        if (track := self._tracks.get(name)) is not None:
            self.treatment.note(track, message)
            await self.treatment.save(track)

    # Life

    async def start(self) -> None:
        """Take up the incidents of the previous process."""
        self._started = self._t.clock()
        await self._caretaker.begin()
        await self._inheritance.begin(self._started)

    async def run(self) -> None:
        """Tick for ever; ends only by cancellation."""
        period = self._t.settings.tick_s
        due = time.monotonic()
        try:
            while True:
                try:
                    self.tick()
                except Exception:
                    metrics.FAILURES.labels("tick").inc()
                    log.exception("loop.tick_failed", hint="the loop goes on with the next tick")
                due += period
                wait = due - time.monotonic()
                if wait < 0:
                    metrics.TICKS_LATE.inc()
                    due = time.monotonic()
                await asyncio.sleep(max(0.0, wait))
        finally:
            await self.stop()

    async def stop(self) -> None:
        """Let work under way finish within a second, then cancel it (it is restartable at every point)."""
        if self._tasks:
            _, late = await asyncio.wait(self._tasks, timeout=1.0)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)

    async def idle(self) -> None:
        """Wait until no incident is being worked on."""
        while self._tasks:
            await asyncio.gather(*self._tasks)

    # One turn

    def tick(self) -> None:
        """Take in what arrived and start what is due."""
        now = self._t.clock()
        if now < self._ticked_at - BACK_S:
            self._rewind(now)
        self._ticked_at = now
        if self._t.store.shared and self._t.fence.token != self._led_with:
            self._led_with = self._t.fence.token
            if self._led_with is not None:
                self._spawn("adopt", self._adopt(now))
        with metrics.TICKS.time():
            outcomes = Frame.of(self._s.sight.take_tick(now))
            self.history.add(now, outcomes)
            self._s.mesh.see(outcomes)
            self._begin_afresh(now)
            saturation = tuple(self._s.sight.saturation(now))
            self._s.detector.update(now, outcomes, saturation, lag_s=self._s.sight.lag(now))
            self._look(now)
            self._lookout.see(Symptoms(self._anomalies, self._s.mesh.topology), saturation)
            self._triage.sort(self._lookout.symptoms, now)
            for track in list(self._tracks.values()):
                self._forward(track, outcomes, now)
            self._consider(now)
            self._caretaker.keep(now)
            metrics.OPEN.set(sum(track.incident.is_open for track in self._tracks.values()))

    async def _adopt(self, now: float) -> None:
        """Go on where another agent led before."""
        await self._caretaker.begin()
        await self._inheritance.adopt(now)

    def _rewind(self, now: float) -> None:
        """The clock went back: deadlines run anew from now, lest they wait for a time that was there before."""
        back = self._ticked_at - now
        metrics.CLOCK_BACK.inc()
        log.warning("clock.went_back", seconds=round(back, 3), hint="deadlines of open incidents begin anew")
        self._t.timeline.add(now, "warning", f"the clock went back by {back:.1f} s: deadlines begin anew")
        begun = self._fresh_since >= self._s.mesh.fresh_from
        self.history.forget(now)
        self._s.mesh.rewind(now)
        self._fresh_since = self._s.mesh.fresh_from if begun else 0.0
        self._started -= back  # what it has seen of normal it keeps
        for track in self._tracks.values():
            track.rewind(now)

    def _begin_afresh(self, now: float) -> None:
        """A while after the control plane came back, untreated faults must alarm again, on evidence of since then."""
        due = self._s.mesh.fresh_from
        if self._fresh_since >= due or now < due:
            return
        self._fresh_since = due
        waiting = [t.incident for t in self._tracks.values() if t.incident.stage in UNTREATED]
        series = {a.series for incident in waiting for a in incident.anomalies}
        self._s.detector.reset(lambda one: one in series)

    def _look(self, now: float) -> None:
        blind = self._s.sight.blind(now)
        if blind != self.blind:
            if new := blind - self.blind:
                self._t.timeline.add(now, "blind", f"no telemetry to be trusted from {_names(new)}")
            if back := self.blind - blind:
                self._t.timeline.add(now, "seeing", f"telemetry is back from {_names(back)}")
            self._lookout.blind = blind
            metrics.BLIND.set(len(blind))
        if blind:
            self._unseen(now)
        active = self._s.detector.active
        silent = {
            a.series for a in active if a.signal in REQUESTED and now - self.history.last_seen(a.series) >= SILENT_S
        }
        if silent:  # whatever comes next must alarm by itself
            self._s.detector.reset(lambda series: series in silent)
        self._anomalies = tuple(a for a in active if a.signal not in REQUESTED or a.series not in silent)

    def _unseen(self, now: float) -> None:
        """What only the blind could tell is not over because nobody tells it."""
        blind = {i.service for i in self._s.mesh.topology.instances if i.id in self.blind}
        for track in self._tracks.values():
            places = {place for a in track.incident.anomalies for place in (a.series.caller, a.series.callee)}
            if track.awake and track.incident.stage in UNTREATED and places & blind:
                track.live_at = now

    def _forward(self, track: Track, outcomes: Frame, now: float) -> None:
        """Start whatever brings one incident further now."""
        if track.busy or now < track.retry_at:
            self._watch_users(track, outcomes, now)
            return
        if self._obeys(track) or self._proving.measures(track, now):
            return
        if track.recover:
            if self._s.mesh.control_up:
                self._start(track, self.treatment.recover(track))
            return
        match track.incident.stage:
            case Stage.CORRELATED | Stage.PLANNED:
                self._treat(track, now)
            case Stage.VERIFYING:
                self._watch_users(track, outcomes, now)
                self._proving.judge(track, now)
            case Stage.UNDOING:
                self._start(track, self.treatment.undo(track))
            case Stage.DETECTED | Stage.ACTING:
                pass
            case Stage.RESOLVED | Stage.ESCALATED | Stage.OBSERVED:
                self._closed(track, now)

    def _consider(self, now: float) -> None:
        """Plan and act where it is due: of very many some in each tick, those first who waited longest."""
        chosen, self._due = sorted(self._due, key=lambda track: track.considered_at)[:MOST_CONSIDERED], []
        for track in chosen:
            track.considered_at = now
            track.incident = replace(track.incident, users=self._lookout.onlooker.users(track.incident, now))
            around = self._lookout.circumstances(track, now)
            self._start(track, self.treatment.treat(track, around, self._lookout.gate(track)))

    def _obeys(self, track: Track) -> bool:
        """Carry out what a person ordered about an incident; False when nobody did."""
        incident = track.incident
        if track.recover or not (incident.is_open or incident.held):
            return False
        if incident.aborted:
            self._start(track, self.treatment.abort(track))
        return bool(incident.aborted or (incident.paused and incident.is_open))

    def _treat(self, track: Track, now: float) -> None:
        if track.incident.stage is Stage.PLANNED and self._triage.passes(track, now):
            return
        if track.awake and (not self.treatment.asked(track) or self._felt(track)):
            self._due.append(track)

    def _felt(self, track: Track) -> bool:
        """Tell whether users begin to feel what a person was told without haste."""
        return track.incident.users is Users.WELL and self._lookout.onlooker.hurt(track.incident)

    def _withdraw(self, track: Track, why: str) -> None:
        self._start(track, self.treatment.withdraw(track, why))

    def _closed(self, track: Track, now: float) -> None:
        incident, settings = track.incident, self._t.settings
        if track.muted_until and now >= track.muted_until:  # the echo of a look at its breaker is over
            track.muted_until = 0.0
            self._proving.forget_alarms(track)
        if incident.stage is Stage.ESCALATED and self._felt(track):
            track.incident = replace(incident, users=Users.HURT)
            self._start(track, self.treatment.hurry(track))
            return
        muted = self._triage.absorbs(track, now)
        if not muted and not track.unmuted:
            track.unmuted = True
            self._proving.forget_alarms(track)  # what is still wrong alarms again, on fresh evidence
        if not incident.held:
            if not muted and now - track.closed_at() >= settings.mute_s:
                del self._tracks[incident.id]
            return
        if why := self._caretaker.not_needed(incident, now):
            self._start(track, self.treatment.release(track, why))
            track.retry_at = now + settings.lease_s / 3

    # Small parts

    def _watch_users(self, track: Track, outcomes: Frame, now: float) -> None:
        cause = track.incident.cause
        if cause is None or track.incident.stage not in {Stage.ACTING, Stage.VERIFYING}:
            return
        normal = [a.expected for a in track.incident.anomalies if a.signal is cause.signal]
        if verification.looks_bad(cause, outcomes, min(normal, default=0.0)):
            track.bad_at = now

    def _start(self, track: Track, work: Coroutine[Any, Any, None]) -> None:
        """Run one stretch of an incident in a task of its own."""
        if track.busy:
            work.close()
            return
        track.busy = True
        self._spawn(track.incident.id, self._stretch(track, work))

    async def _stretch(self, track: Track, work: Coroutine[Any, Any, None]) -> None:
        name = track.incident.id
        try:
            await work
            self._failures.pop(name, None)
        except Exception:
            metrics.FAILURES.labels("incident").inc()
            log.exception("incident.stretch_failed", incident=name, stage=str(track.incident.stage))
            self._failures[name] = self._failures.get(name, 0) + 1
            track.retry_at = self._t.clock() + 1.0
            track.recover = track.recover or track.incident.stage is Stage.ACTING  # what was laid has to be asked for
            if self._failures[name] >= MAX_FAILURES and track.incident.stage not in TERMINAL:
                await self.treatment.escalate(track, "the agent itself fails to go on; see its log", "internal")
        finally:
            track.busy = False

    def _spawn(self, name: str, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _names(reporters: frozenset[str]) -> str:
    """Return a readable list, however many there are."""
    shown = sorted(reporters)
    more = f" and {len(shown) - NAMES_SHOWN} more" if len(shown) > NAMES_SHOWN else ""
    return ", ".join(shown[:NAMES_SHOWN]) + more
