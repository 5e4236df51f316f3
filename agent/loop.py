"""The healing loop: observe → detect → correlate → decide → act → verify → keep, or undo and go on, or call a person.

Level-triggered: every tick looks at the whole of what is anomalous and at every living incident, and starts whatever
brings each one further. Nothing in a tick waits for the network: talking to the control plane happens in one task per
incident, so a slow answer delays that incident and no other.
"""

from __future__ import annotations

import asyncio
import math
import secrets
import time
from collections.abc import Coroutine, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

import structlog

from agent import metrics, story, verification
from agent.correlate import explains, unexplained_share, upstream
from agent.gates import Block, Interlock, Situation, check
from agent.history import History
from agent.incidents import Incident, Step, timed
from agent.mesh import MeshView
from agent.ports import Circumstances, Detector, Localiser, Sight
from agent.track import Track
from agent.treatment import Gate, Tools, Treatment
from models.errors import FibrinError
from models.incident import TERMINAL, Anomaly, Cause, Signal, Stage
from models.overlay import Owner, slot
from models.signals import Outcomes, Series
from models.verify import Verdict

log = structlog.get_logger(__name__)

SILENT_S: Final = 5.0
"""An anomaly whose series had no requests for this long is no evidence any more."""

WITNESS_S: Final = 3.0
MAX_CAUSES_PER_TICK: Final = 4
MAX_FAILURES: Final = 3
WAKE_S: Final = 15.0
"""After a restart an unfinished incident waits this long for its symptoms to be seen again."""


@dataclass(frozen=True, slots=True)
class Senses:
    """What the loop sees the mesh with."""

    sight: Sight
    detector: Detector
    localise: Localiser
    mesh: MeshView


class HealingLoop:
    """Owns all living incidents. `tick` may be called by a test with a clock of its own; `run` calls it for ever."""

    def __init__(self, senses: Senses, tools: Tools) -> None:
        self._s = senses
        self._t = tools
        self._tracks: dict[str, Track] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._failures: dict[str, int] = {}
        self._yields: dict[tuple[str, ...], float] = {}
        self._anomalies: tuple[Anomaly, ...] = ()
        self._started = tools.clock()
        self._renewed_at = 0.0
        self._checked_overlays_at = 0.0
        self._opened = 0
        self.remembers_normal = False
        self.blind: frozenset[str] = frozenset()
        self.history = History()
        self.treatment = Treatment(tools)

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
    def anomalies(self) -> tuple[Anomaly, ...]:
        """Return what was anomalous at the last tick."""
        return self._anomalies

    @property
    def warm(self) -> bool:
        """Tell whether the agent has seen enough normal to act."""
        return self.remembers_normal or self._t.clock() - self._started >= self._t.settings.warm_up_s

    # Life

    async def start(self) -> None:
        """Take up the incidents of the previous process."""
        now = self._t.clock()
        self._started = now
        for incident in await self._t.store.living():
            track = Track(replace(incident, resumed=True), live_at=now, awake=False)
            self._tracks[incident.id] = track
            track.renewed_at = now
            if incident.stage is Stage.DETECTED:
                await self.treatment.observe(track, "the agent restarted before a cause was named; it looks anew")
            elif incident.stage in {Stage.ACTING, Stage.VERIFYING}:
                track.recover = True

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
        with metrics.TICKS.time():
            outcomes = self._s.sight.take_tick(now)
            self.history.add(now, outcomes)
            self._s.mesh.see(outcomes)
            self._s.detector.update(now, outcomes, self._s.sight.saturation(now))
            self._look(now)
            remaining = self._claim(now)
            self._name(remaining, now)
            for track in list(self._tracks.values()):
                self._forward(track, outcomes, now)
            self._keep(now)
            metrics.OPEN.set(sum(track.incident.is_open for track in self._tracks.values()))

    def _look(self, now: float) -> None:
        blind = self._s.sight.blind(now)
        if blind != self.blind:
            if new := blind - self.blind:
                self._t.timeline.add(now, "blind", f"no telemetry to be trusted from {', '.join(sorted(new))}")
            if back := self.blind - blind:
                self._t.timeline.add(now, "seeing", f"telemetry is back from {', '.join(sorted(back))}")
            self.blind = blind
            metrics.BLIND.set(len(blind))
        self._anomalies = tuple(
            a
            for a in self._s.detector.active
            if a.signal is Signal.TRAFFIC
            or a.signal is Signal.SATURATION
            or now - self.history.last_seen(a.series) < SILENT_S
        )

    def _claim(self, now: float) -> list[Anomaly]:
        """Give every anomaly to the incident that explains it; return those that nobody does."""
        topology = self._s.mesh.topology
        claimed: set[tuple[Series, Signal]] = set()
        for track in self._tracks.values():
            cause = track.incident.cause
            if cause is None or not self._absorbs(track, now):
                continue
            moving = (
                track.incident.stage in {Stage.ACTING, Stage.VERIFYING, Stage.UNDOING} or not track.incident.is_open
            )
            mine = [a for a in self._anomalies if explains(cause, a, topology, strict=not moving)]
            if mine:
                track.live_at, track.awake = now, True
                track.incident = _joined(track.incident, mine)
                claimed |= {(a.series, a.signal) for a in mine}
        return [a for a in self._anomalies if (a.series, a.signal) not in claimed]

    def _absorbs(self, track: Track, now: float) -> bool:
        """Tell whether anomalies that this incident explains belong to it still."""
        incident, settings = track.incident, self._t.settings
        if incident.stage is Stage.DETECTED:
            return False
        if incident.is_open:
            return True
        if incident.stage is Stage.ESCALATED:  # a person knows: silent until it has gone away for good
            return now - max(track.live_at, track.closed_at()) < max(settings.mute_s, settings.gone_s)
        return now - track.closed_at() < settings.mute_s

    def _name(self, remaining: list[Anomaly], now: float) -> None:
        """Find the causes behind unexplained anomalies; open incidents for them."""
        pending = next((t for t in self._tracks.values() if t.incident.stage is Stage.DETECTED), None)
        for _ in range(MAX_CAUSES_PER_TICK):
            if not remaining:
                break
            known = pending.incident.anomalies if pending is not None else ()
            causes = self._causes(_merged(known, remaining), now)
            best = causes[0] if causes else None
            if best is not None and (twin := self._twin(best, now)) is not None:
                self._merge(twin, pending, remaining, now)
                return
            if pending is None:
                pending = self._open(remaining, now)
            pending.live_at = now
            pending.incident = _joined(pending.incident, remaining)
            waited = now - pending.incident.opened_at
            settings = self._t.settings
            decided = best is not None and (
                best.probability >= settings.confident
                or (waited >= settings.settle_s and best.probability >= settings.plausible)
            )
            if best is None or not decided:
                if waited >= settings.undecided_s and not pending.busy:
                    pending.incident = replace(pending.incident, causes=causes)
                    self._start(pending, self.treatment.escalate(pending, "no cause stands out", "undecided"))
                return
            remaining = self._correlate(pending, causes, best, now)
            pending = None
        if pending is not None and not pending.busy and now - pending.live_at >= self._t.settings.gone_s:
            self._start(pending, self.treatment.observe(pending, "gone by itself before a cause could be named"))

    def _twin(self, cause: Cause, now: float) -> Track | None:
        """Return the incident that is about this very cause already."""
        key = (cause.kind, cause.service, cause.subject)
        for track in self._tracks.values():
            known = track.incident.cause
            if known is not None and (known.kind, known.service, known.subject) == key and self._absorbs(track, now):
                return track
        return None

    def _merge(self, into: Track, pending: Track | None, anomalies: list[Anomaly], now: float) -> None:
        """Let an incident take further symptoms of its cause; what was opened for them is closed."""
        into.live_at = now
        into.incident = _joined(into.incident, anomalies)
        if pending is not None:
            self._start(pending, self.treatment.observe(pending, f"belongs to {into.incident.id}: the same cause"))

    def _open(self, anomalies: list[Anomaly], now: float) -> Track:
        worst = max(anomalies, key=lambda a: a.score)
        onset = min(now, *(a.onset for a in anomalies))
        stamp = time.strftime("%m%d-%H%M%S", time.gmtime(now))
        incident = Incident(f"inc-{stamp}-{secrets.token_hex(2)}", opened_at=now, onset=onset, anomalies=())
        incident = timed(timed(incident, "onset", onset), "detected", now)
        track = Track(incident, live_at=now)
        self._tracks[incident.id] = track
        metrics.OPENED.inc()
        metrics.DETECTION.observe(max(0.0, now - onset))
        self.treatment.note(
            track,
            f"detected {now - onset:.2f} s after onset: {story.symptom(worst)}",
            detected_s=now - onset,
            service=worst.series.callee,
            signal=str(worst.signal),
            observed=worst.observed,
            expected=worst.expected,
        )
        return track

    def _causes(self, anomalies: tuple[Anomaly, ...], now: float) -> tuple[Cause, ...]:
        found = self._s.localise(anomalies, self.history.since, now)
        return tuple(replace(c, numbers={k: v for k, v in c.numbers.items() if math.isfinite(v)}) for c in found)

    def _correlate(self, track: Track, causes: tuple[Cause, ...], best: Cause, now: float) -> list[Anomaly]:
        """Fix the cause of an incident; return the anomalies it does not explain."""
        topology = self._s.mesh.topology
        mine = [a for a in track.incident.anomalies if explains(best, a, topology)] or list(track.incident.anomalies)
        rest = [a for a in track.incident.anomalies if a not in mine]
        track.incident = timed(replace(track.incident, causes=causes, anomalies=tuple(mine)), "correlated", now)
        metrics.CAUSES.labels(str(best.kind)).inc()
        self._supersede(track, best)
        self.treatment.move(
            track,
            Stage.CORRELATED,
            f"cause: {story.suspicion(best)}",
            cause=str(best.kind),
            service=best.service,
            subject=best.subject,
            signal=str(best.signal),
            probability=best.probability,
            symptoms=len(mine),
        )
        return rest

    def _supersede(self, newer: Track, best: Cause) -> None:
        """Withdraw what was done about mere symptoms of a cause that shows itself only now."""
        topology = self._s.mesh.topology
        for track in list(self._tracks.values()):
            cause = track.incident.cause
            if track is newer or cause is None or track.busy or track.recover:
                continue
            symptom = cause.service != best.service and cause.service in upstream(topology, best.service)
            if not symptom or not all(explains(best, a, topology) for a in track.incident.anomalies):
                continue
            why = f"a symptom of {best} ({newer.incident.id})"
            match track.incident.stage:
                case Stage.CORRELATED | Stage.PLANNED:
                    self._start(track, self.treatment.observe(track, why))
                case Stage.VERIFYING:
                    self._start(
                        track,
                        self.treatment.withdraw(
                            track, why, self._circumstances(track, self._t.clock()), self._gate(track)
                        ),
                    )
                case _:
                    pass

    def _forward(self, track: Track, outcomes: Mapping[Series, Outcomes], now: float) -> None:
        """Start whatever brings one incident further now."""
        if track.busy or now < track.retry_at:
            self._watch_users(track, outcomes, now)
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
                self._verify(track, now)
            case Stage.UNDOING:
                around = self._circumstances(track, now)
                self._start(track, self.treatment.undo(track, around, self._gate(track)))
            case Stage.DETECTED | Stage.ACTING:
                pass
            case Stage.RESOLVED | Stage.ESCALATED | Stage.OBSERVED:
                self._closed(track, now)

    def _treat(self, track: Track, now: float) -> None:
        settings = self._t.settings
        if not track.awake:
            if now - track.live_at >= WAKE_S:
                self._start(track, self.treatment.observe(track, "not seen again after the agent's restart"))
            return
        if now - track.live_at >= settings.gone_s:
            self._start(track, self.treatment.observe(track, "gone by itself: the signal is back without an action"))
            return
        if track.incident.stage is Stage.CORRELATED and track.blocked_at:
            # the first look found nothing to do: look again with what has come in since
            self._rethink(track, now)
        around = self._circumstances(track, now)
        self._start(track, self.treatment.treat(track, around, self._gate(track)))

    def _rethink(self, track: Track, now: float) -> None:
        """Name the cause anew; tell it when it is another one now."""
        causes = self._causes(track.incident.anomalies, now)
        if not causes:
            return
        before = track.incident.cause
        track.incident = replace(track.incident, causes=causes)
        if str(before) != str(causes[0]):
            self.treatment.note(
                track,
                f"cause, seen better now: {story.suspicion(causes[0])}",
                cause=str(causes[0].kind),
                service=causes[0].service,
                subject=causes[0].subject,
                signal=str(causes[0].signal),
                probability=causes[0].probability,
            )

    def _verify(self, track: Track, now: float) -> None:
        step = track.incident.current
        assert step is not None
        judgement = verification.judge_step(track.incident, step, self.history, self._s.detector.baseline, now)
        verdict = judgement.verdict if judgement is not None else Verdict.UNDECIDED
        start = verification.sample_start(track.incident, step)
        around = self._circumstances(track, now)
        if judgement is not None and verdict is Verdict.RECOVERED:
            self._forget_alarms(track)
            self._start(track, self.treatment.resolve(track, judgement))
            return
        bad_after = start + max(step.hold_down_s, verification.EARLIEST_BAD_S)
        why = ""
        if verdict is Verdict.STILL_BAD and now >= bad_after:
            why = "did not help"
        elif now >= start + step.verify_deadline_s and (verdict is Verdict.STILL_BAD or now - start >= _patience(step)):
            seen = "no traffic to judge by" if judgement is None or not judgement.requests else "not proven in time"
            why = f"not verified within {now - step.acked_at:.0f} s ({seen})"
        if why:
            self._start(track, self.treatment.fail(track, why, judgement, around, self._gate(track)))

    def _closed(self, track: Track, now: float) -> None:
        incident, settings = track.incident, self._t.settings
        muted = self._absorbs(track, now)
        if not muted and not track.unmuted:
            track.unmuted = True
            self._forget_alarms(track)  # what is still wrong alarms again, on fresh evidence
        if not incident.held:
            if not muted:
                del self._tracks[incident.id]
            return
        if why := self._no_longer_needed(incident, now):
            self._start(track, self.treatment.release(track, why))
            track.retry_at = now + settings.lease_s / 3

    def _no_longer_needed(self, incident: Incident, now: float) -> str:
        cause, settings = incident.cause, self._t.settings
        if settings.hold_s and now - incident.times.get("closed", now) >= settings.hold_s:
            return f"released: held for {settings.hold_s:.0f} s"
        if cause is None or not cause.subject or not self._s.mesh.control_up:
            return ""
        there = self._s.mesh.topology.of(cause.service)
        if there and not any(cause.subject in {i.id, i.version, i.zone} for i in there):
            return f"released: {cause.subject} does not exist any more"
        return ""

    # Overlays in our care

    def _keep(self, now: float) -> None:
        """Renew the leases of what we hold; notice what others did to it."""
        mesh, settings = self._s.mesh, self._t.settings
        if mesh.overlays_at > self._checked_overlays_at:
            self._checked_overlays_at = mesh.overlays_at
            for track in list(self._tracks.values()):
                self._check_overlay(track, now)
        if now - self._renewed_at >= settings.lease_s / 3 and not settings.observe_only:
            self._renewed_at = now
            if self._t.fence.token is not None:
                held = [t for t in self._tracks.values() if _holds(t.incident)]
                for track in held:
                    self._spawn(f"renew {track.incident.id}", self._renew(track))

    async def _renew(self, track: Track) -> None:
        step, token = track.incident.current, self._t.fence.token
        if step is None or token is None:
            return
        asked = self._t.clock()
        try:
            if await self._t.actuator.renew(step.overlay, self._t.settings.lease_s, token):
                track.renewed_at = asked
        except FibrinError as error:
            metrics.CONTROL_ERRORS.labels("renew").inc()
            log.info("lease.not_renewed", incident=track.incident.id, overlay=step.overlay, error=error.message)

    def _check_overlay(self, track: Track, now: float) -> None:
        """Compare a held overlay with what exists: gone, or replaced by a person's?"""
        step, mesh = track.incident.current, self._s.mesh
        if step is None or track.busy or track.recover or not _holds(track.incident):
            return
        if mesh.overlays_at <= max(step.acted_at, step.acked_at):
            return
        mine = slot(step.change)
        person = next((o for o in mesh.overlays if o.owner is Owner.PERSON and slot(o.change) == mine), None)
        exists = any(o.id == step.overlay for o in mesh.overlays)
        if person is None and exists:
            return
        expired = person is None and now - track.renewed_at >= self._t.settings.lease_s
        if person is not None:
            why = f"{person.actor or 'a person'} laid {person.id} in the same place: the agent yields"
        elif expired:
            why = f"the lease of {step.overlay} ended (it could not be renewed)"
        else:
            why = f"a person removed {step.overlay}: the agent yields"
        if not expired:
            metrics.YIELDED.inc()
        if track.incident.is_open:
            if not expired:
                self._yields[mine] = now + self._t.settings.yield_s
            self._start(track, self.treatment.observe(track, why))
        else:
            self._start(track, self.treatment.let_go(track, why))

    # Small parts

    def _gate(self, track: Track) -> Gate:
        return lambda: self._block(track)

    def _block(self, track: Track) -> Block | None:
        incident, mesh = track.incident, self._s.mesh
        now = self._t.clock()
        assert incident.cause is not None
        block = check(
            Situation(
                cause=incident.cause,
                witnesses=self.history.reporters(now - WITNESS_S, incident.cause.service),
                topology=mesh.topology,
                topology_known=mesh.known,
                control_up=mesh.control_up,
                fence=self._t.fence.token,
                blind=self.blind,
                reporters=self._s.sight.reporters(),
                storm_share=self._storm(incident.cause),
                storm_limit=self._t.settings.storm_share,
                warm=self.warm,
                audit_broken="",
                person=self._person(incident.current, now),
            )
        )
        if block is None and incident.current is not None and incident.step > 0:  # the first step was planned just now
            why = self._t.planner.forbids(incident, incident.current, self._circumstances(track, now))
            return Block(Interlock.GUARD, why, final=True) if why else None
        return block

    def _person(self, step: Step | None, now: float) -> str:
        if step is None:
            return ""
        place = slot(step.change)
        for overlay in self._s.mesh.overlays:
            if overlay.owner is Owner.PERSON and slot(overlay.change) == place and overlay.expires_at > now:
                return f"{overlay.actor or 'a person'} laid {overlay.id} in the same place"
        if self._yields.get(place, 0.0) > now:
            return "a person took this place over a short while ago"
        return ""

    def _circumstances(self, track: Track, now: float) -> Circumstances:
        mesh = self._s.mesh
        return Circumstances(
            topology=mesh.topology,
            overlays=mesh.overlays,
            storm_share=self._storm(track.incident.cause),
            blind=self.blind,
            now=now,
            incident=track.incident.id,
            anomalies=track.incident.anomalies,
        )

    def _storm(self, cause: Cause | None) -> float:
        mesh = self._s.mesh
        return unexplained_share(cause, self._anomalies, mesh.topology, len(mesh.services)) if cause else 0.0

    def _watch_users(self, track: Track, outcomes: Mapping[Series, Outcomes], now: float) -> None:
        cause = track.incident.cause
        if cause is None or track.incident.stage not in {Stage.PLANNED, Stage.ACTING, Stage.VERIFYING}:
            return
        normal = [a.expected for a in track.incident.anomalies if a.signal is cause.signal]
        if verification.looks_bad(cause, outcomes, min(normal, default=0.0)):
            track.bad_at = now

    def _forget_alarms(self, track: Track) -> None:
        keys = {a.series for a in track.incident.anomalies}
        self._s.detector.reset(lambda series: series in keys)

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
            if self._failures[name] >= MAX_FAILURES and track.incident.stage not in TERMINAL:
                await self.treatment.escalate(track, "the agent itself fails to go on; see its log", "internal")
        finally:
            track.busy = False

    def _spawn(self, name: str, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _holds(incident: Incident) -> bool:
    """Tell whether the incident keeps an overlay alive."""
    return incident.held or incident.stage is Stage.VERIFYING


def _patience(step: Step) -> float:
    """Return how long an undecided verification may take when nothing looks bad, seconds."""
    return 2 * step.verify_deadline_s


def _joined(incident: Incident, anomalies: Iterable[Anomaly]) -> Incident:
    """Add anomalies, the newest numbers of each replacing older ones."""
    return replace(incident, anomalies=_merged(incident.anomalies, anomalies))


def _merged(old: Iterable[Anomaly], new: Iterable[Anomaly]) -> tuple[Anomaly, ...]:
    known = {(a.series, a.signal): a for a in old}
    for found in new:
        anomaly = replace(found, observed=_finite(found.observed), expected=_finite(found.expected))
        before = known.get((anomaly.series, anomaly.signal))
        if before is None or anomaly.score >= before.score:
            known[(anomaly.series, anomaly.signal)] = anomaly
    return tuple(known.values())


def _finite(value: float) -> float:
    """Return the value, or 0 for what JSON cannot say (a percentile of nothing)."""
    return value if math.isfinite(value) else 0.0
