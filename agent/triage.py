"""From anomalies to incidents: who has an explanation already, and what explains the rest.

Committed incidents (planned, acted upon, closed a moment ago) keep the symptoms their cause explains. Everything else
lies in one pool that is thought about anew at every tick: causes are named one after the other until the pool is
empty, and each is matched to an incident that is still being thought about, or opens one.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Collection, Iterable
from dataclasses import replace
from typing import Final

from agent import metrics, story
from agent.claims import asks, joined, presentable, remaining, thinks, without
from agent.correlate import Symptoms, about, explains, upstream
from agent.history import History
from agent.incidents import Datum, Incident, timed
from agent.mesh import MeshView
from agent.moments import passed
from agent.ports import Diagnosis, Localiser
from agent.settings import AgentSettings
from agent.thinking import outcomes_of
from agent.track import Start, Track
from agent.treatment import Treatment
from models.incident import Anomaly, Cause, Signal, Stage
from models.signals import Series

MAX_CAUSES_PER_TICK: Final = 4
CROWD: Final = 50
MAX_POOL: Final = 60
"""With so many undecided incidents this is the most new anomalies thought about at once, lest a tick take seconds. However many
symptoms a few incidents have are always seen together: their cause may lie in any of them."""

MAX_KNOWN: Final = 12
"""So many symptoms of incidents that wait are thought about again in each tick of a crowd: a little always, never much at once."""

SECOND_THOUGHTS_S: Final = 1.0
"""A change of mind is told at most this often per incident."""

URGENT_S: Final = 2.0
PONDER_S: Final = 0.5
"""A few incidents older than `URGENT_S` that still have no plan are thought about this often only: thinking costs."""

FADING_S: Final = 10.0
"""For this long after the last symptom at the cause itself, what only fades away elsewhere names no other cause, seconds."""

MOVING: Final = frozenset({Stage.ACTING, Stage.VERIFYING, Stage.UNDOING})
"""While load moves, everything at the cause's own service counts as its echo."""

MOST_ENDS: Final = 20
"""Incidents that end by themselves in one tick; each is told, stored and recorded."""

WAKE_S: Final = 15.0
"""After a restart an unfinished incident waits this long for its symptoms to be seen again."""


class Triage:
    """Claims anomalies for incidents and names causes. Shares `tracks` with the loop; `start` runs work on a track."""

    def __init__(
        self,
        settings: AgentSettings,
        *,
        tracks: dict[str, Track],
        mesh: MeshView,
        history: History,
        localise: Localiser,
        treatment: Treatment,
        start: Start,
        withdraw: Callable[[Track, str], None],
    ) -> None:
        self._settings = settings
        self._tracks = tracks
        self._mesh = mesh
        self._since = outcomes_of(history)
        self._localise = localise
        self._treatment = treatment
        self._start = start
        self._withdraw = withdraw
        self._thought_at = 0.0
        self._turn = 0
        self._ends = 0

    def sort(self, symptoms: Symptoms, now: float) -> None:
        """Give every anomaly its incident (one turn of the loop)."""
        self._ends = 0
        self._name(self._unclaimed(symptoms, now), now)

    def absorbs(self, track: Track, now: float) -> bool:
        """Tell whether symptoms of this incident belong to it without thinking again."""
        incident, settings = track.incident, self._settings
        if thinks(track):
            return False
        if incident.is_open or track.muted_until:
            return True
        if incident.stage is Stage.ESCALATED:  # a person knows: silent until it has gone away for good
            return now - max(track.live_at, track.closed_at()) < max(settings.mute_s, settings.gone_s)
        acted = any(step.acted_at for step in incident.steps)
        return acted and now - track.closed_at() < settings.mute_s

    def _owns(self, track: Track, anomaly: Anomaly) -> bool:
        """Tell whether the cause of a committed incident explains an anomaly."""
        incident, topology = track.incident, self._mesh.topology
        if incident.cause is None:
            return False
        if incident.stage is Stage.ESCALATED:  # nobody cures it: what looks different may be another fault
            return anomaly.signal is incident.cause.signal and explains(incident.cause, anomaly, topology)
        strict = incident.is_open and incident.stage not in MOVING
        return explains(incident.cause, anomaly, topology, strict=strict)

    def _unclaimed(self, symptoms: Symptoms, now: float) -> list[Anomaly]:
        claimed: list[Anomaly] = []
        for track in self._tracks.values():
            if not self.absorbs(track, now):
                continue
            cause = track.incident.cause
            mine = [found for a in track.incident.anomalies if (found := symptoms.like(a)) is not None]
            if cause is not None:
                mine += [a for a in symptoms.near(cause) if self._owns(track, a)]
            if mine:
                track.live_at, track.awake = now, True
                track.incident = joined(track.incident, mine)
                claimed += mine
        return without(symptoms.all, claimed)

    def _name(self, pool: list[Anomaly], now: float) -> None:
        """Name causes until the pool is empty or nothing more stands out."""
        thinking = [track for track in self._tracks.values() if thinks(track)]
        crowd = len(thinking) >= CROWD
        if pool and not crowd and not self._worth_thinking(thinking, now):
            self._wait_their_turn(thinking, pool, now)
            return
        pool, later = self._some(pool, thinking) if crowd else (pool, [])
        named: dict[str, Track] = {}
        split = ""
        for _ in range(MAX_CAUSES_PER_TICK):
            if not pool:
                break
            diagnosis = self._causes(tuple(pool), now, {key for t in thinking for key in t.incident.refuted})
            causes = diagnosis.causes
            best = causes[0] if causes else None
            if best is not None and (twin := named.get(best.key) or self._twin(best, now)) is not None:
                rest = self._join(twin, best, pool, now)
                if len(rest) == len(pool):
                    break
                pool = rest
                continue
            track = None if best is None else self._fitting(thinking, best, pool)
            if best is None or not self._decided(track, best, now):
                rest = self._as_before(thinking, pool, now)
                if len(rest) < len(pool):
                    pool = rest
                    continue
                track = self._holding(thinking, pool) or track or self._open(pool, now, split_from=split)
                _taken(thinking, track, now)
                track.incident = joined(track.incident, pool)
                self._undecided(track, causes, now)
                break
            track = track or self._open(pool, now, split_from=split)
            _taken(thinking, track, now)
            named[best.key] = track
            split = track.incident.id
            pool = self._correlate(track, diagnosis, best, pool, now)
        else:
            later = [*later, *pool]
        self._wait_their_turn(thinking, later, now)
        for track in thinking:
            if not track.busy:
                self.passes(track, now)

    def _as_before(self, thinking: list[Track], pool: list[Anomaly], now: float) -> list[Anomaly]:
        """Nothing stands out of the whole: incidents keep what their own causes explain; return what is left to be named.

        Independent faults share the odds, and a plan that waits for a person would hide every fault after it.
        """
        near = Symptoms(pool, self._mesh.topology)
        kept: list[Anomaly] = []
        for track in list(thinking):
            cause = track.incident.cause
            if cause is None or not near.may_follow(cause) or track.doubt_until or cause.key in track.incident.refuted:
                continue
            mine = [a for a in near.near(cause) if explains(cause, a, self._mesh.topology)]
            if mine:
                _taken(thinking, track, now)
                track.incident = joined(track.incident, mine)
                kept += mine
        return without(pool, kept)

    def _some(self, pool: list[Anomaly], thinking: list[Track]) -> tuple[list[Anomaly], list[Anomaly]]:
        """Return what to think about in this tick, and what later, when very many incidents wait: a part, in turns.

        What belongs to none of them comes first: a new fault does not wait behind a thousand known ones.
        """
        if len(pool) <= MAX_KNOWN:
            return pool, []
        known = _keys(a for track in thinking for a in track.incident.anomalies)
        new = [a for a in pool if (a.series, a.signal) not in known][:MAX_POOL]
        old = sorted(without(pool, new), key=lambda a: (about(a, self._mesh.topology), a.series, a.signal))
        start = self._turn if self._turn < len(old) else 0
        self._turn = start + MAX_KNOWN
        old = old[start:] + old[:start]
        return [*new, *old[:MAX_KNOWN]], old[MAX_KNOWN:]

    def _wait_their_turn(self, thinking: list[Track], later: list[Anomaly], now: float) -> None:
        """Keep alive whose symptoms were left for a later tick: that is no sign that they are over."""
        still = _keys(later)
        for track in thinking:
            if any((a.series, a.signal) in still for a in track.incident.anomalies):
                track.live_at = now

    def _worth_thinking(self, thinking: list[Track], now: float) -> bool:
        """Tell whether to name causes in this tick: always while it is urgent, now and then once it drags on."""
        dragging = thinking and all(now - t.incident.opened_at > URGENT_S and not t.doubt_until for t in thinking)
        if dragging and not passed(PONDER_S, self._thought_at, now):
            return False
        self._thought_at = now
        return True

    def _twin(self, cause: Cause, now: float) -> Track | None:
        """Return the committed incident that is about this very cause."""
        for track in self._tracks.values():
            known = track.incident.cause
            if known is not None and known.key == cause.key and self.absorbs(track, now):
                return track
        return None

    def _join(self, track: Track, cause: Cause, pool: list[Anomaly], now: float) -> list[Anomaly]:
        """Let a committed incident take further symptoms of its cause; return what is left."""
        mine = [a for a in pool if explains(cause, a, self._mesh.topology, strict=False)]
        track.live_at, track.awake = now, True
        track.incident = joined(track.incident, mine)
        return without(pool, mine)

    def _fitting(self, thinking: list[Track], best: Cause, pool: list[Anomaly]) -> Track | None:
        """Return the incident under consideration that this cause is about, None when there is none."""
        same = [t for t in thinking if t.incident.cause is not None and t.incident.cause.key == best.key]
        topology = self._mesh.topology
        mine = _keys([a for a in pool if explains(best, a, topology)] or pool)

        def overlap(track: Track) -> int:
            return sum((a.series, a.signal) in mine or explains(best, a, topology) for a in track.incident.anomalies)

        return same[0] if same else _most(thinking, overlap)

    def _holding(self, thinking: list[Track], pool: list[Anomaly]) -> Track | None:
        """Return the incident under consideration that has most of these symptoms, None when none has any."""
        mine = _keys(pool)

        def shared(track: Track) -> int:
            return sum((a.series, a.signal) in mine for a in track.incident.anomalies)

        return _most(thinking, shared)

    def _open(self, anomalies: list[Anomaly], now: float, *, split_from: str = "") -> Track:
        """Open an incident; `split_from` is the one whose cause did not explain these anomalies ("" when none did)."""
        worst = max(anomalies, key=lambda a: a.score)
        onset = min(now, *(a.onset for a in anomalies))
        stamp = time.strftime("%m%d-%H%M%S", time.gmtime(now))
        incident = Incident(f"inc-{stamp}-{secrets.token_hex(2)}", opened_at=now, onset=onset, split_from=split_from)
        incident = timed(timed(incident, "onset", onset), "detected", now)
        track = Track(incident, live_at=now)
        self._tracks[incident.id] = track
        metrics.OPENED.inc()
        metrics.DETECTION.observe(max(0.0, now - onset))
        self._treatment.note(
            track,
            f"detected {now - onset:.2f} s after its likely onset: {story.symptom(worst)}",
            detected_s=now - onset,
            service=worst.series.callee,
            signal=str(worst.signal),
            observed=worst.observed,
            expected=worst.expected,
        )
        return track

    def _causes(self, anomalies: tuple[Anomaly, ...], now: float, refuted: Collection[str]) -> Diagnosis:
        found = self._localise(anomalies, self._since, now)
        return replace(found, causes=remaining(presentable(found.causes), refuted))

    def _decided(self, track: Track | None, best: Cause, now: float) -> bool:
        """Tell whether the best cause is good enough to go on with (`track`: the incident it fits, None: none yet)."""
        settings = self._settings
        if best.probability >= settings.confident:
            return True
        waited = now - track.incident.opened_at if track is not None else 0.0
        return waited >= settings.settle_s and best.probability >= settings.plausible

    def _undecided(self, track: Track, causes: tuple[Cause, ...], now: float) -> None:
        late = now - track.incident.opened_at >= self._settings.undecided_s
        if track.incident.stage is Stage.DETECTED and late and not track.busy:
            track.incident = replace(track.incident, causes=causes)
            self._start(track, self._treatment.escalate(track, "no cause stands out", "undecided"))

    def _correlate(
        self, track: Track, diagnosis: Diagnosis, best: Cause, pool: list[Anomaly], now: float
    ) -> list[Anomaly]:
        """Give an incident its cause (perhaps another one than before); return the anomalies it does not explain."""
        topology = self._mesh.topology
        mine = [a for a in pool if explains(best, a, topology)] or pool
        before = track.incident.cause
        other = before is not None and before.key != best.key
        due = now - track.told_at >= SECOND_THOUGHTS_S
        fades = _fades(track, pool, mine, now)
        if other and asks(track.incident) and (fades or not (due or now - track.incident.opened_at <= URGENT_S)):
            track.incident = joined(track.incident, mine)  # a person reads the plan: no to and fro
            return without(pool, mine)
        due, track.doubt_until = due or bool(track.doubt_until), 0.0
        track.evidence = diagnosis.evidence
        track.incident = joined(replace(track.incident, causes=diagnosis.causes, anomalies=()), mine)
        data: dict[str, Datum] = {
            "cause": str(best.kind),
            "service": best.service,
            "subject": best.subject,
            "signal": str(best.signal),
            "probability": best.probability,
            "symptoms": len(mine),
        }
        if track.incident.stage is Stage.DETECTED:
            track.incident = timed(track.incident, "correlated", now)
            metrics.CAUSES.labels(str(best.kind)).inc()
            self._treatment.move(track, Stage.CORRELATED, f"cause: {story.suspicion(best)}", **data)
            track.told_at = now
        elif other and asks(track.incident):  # the plan that waits is about another cause: plan anew
            self._treatment.drop(track, f"cause, seen better now: {story.suspicion(best)}", **data)
            track.told_at = now
        elif other and due:
            self._treatment.note(track, f"cause, seen better now: {story.suspicion(best)}", **data)
            track.told_at = now
        self._supersede(track, best)
        for rival in list(self._tracks.values()):
            self.merge_into(rival, track)
        return without(pool, mine)

    def merge_into(self, track: Track, older: Track) -> None:
        """Let `older` take over an incident about the same cause that has not acted yet."""
        mine, its = track.incident, older.incident
        if track is older or track.busy or not mine.is_open or mine.cause is None or its.cause is None:
            return
        if mine.cause.key != its.cause.key or mine.opened_at < its.opened_at or mine.stage in MOVING:
            return
        paused = its.paused or mine.paused  # a person's word about either holds for both
        older.incident = replace(joined(its, mine.anomalies), merged=(*its.merged, mine.id), paused=paused)
        older.live_at, older.awake = max(older.live_at, track.live_at), older.awake or track.awake
        self._treatment.note(older, f"{mine.id} is about the same cause: merged into this incident", merged=mine.id)
        track.incident = replace(mine, merged_into=its.id)
        self._start(track, self._treatment.observe(track, f"merged into {its.id}, which is about the same cause"))

    def _supersede(self, newer: Track, best: Cause) -> None:
        """Withdraw what is planned or done about mere symptoms of a cause that shows itself only now."""
        topology = self._mesh.topology
        for track in list(self._tracks.values()):
            cause = track.incident.cause
            if track is newer or cause is None or track.busy or track.recover or track.incident.paused:
                continue
            symptom = cause.service != best.service and cause.service in upstream(topology, best.service)
            if not symptom or not all(explains(best, a, topology) for a in track.incident.anomalies):
                continue
            why = f"a symptom of {best} ({newer.incident.id})"
            match track.incident.stage:
                case Stage.CORRELATED | Stage.PLANNED:
                    self._start(track, self._treatment.observe(track, why))
                case Stage.VERIFYING:
                    self._withdraw(track, why)
                case _:
                    pass

    def passes(self, track: Track, now: float) -> bool:
        """Close an incident that nothing speaks for any more, a few at each tick; tell whether it is over."""
        if not track.awake:
            over, why = now - track.live_at >= WAKE_S, "not seen again after the agent's restart"
        else:
            over = now - track.live_at >= self._settings.gone_s
            why = "gone by itself: the signal is back without an action"
        if over and self._ends < MOST_ENDS:
            self._ends += 1
            self._start(track, self._treatment.observe(track, why))
        return over


def _taken(thinking: list[Track], track: Track, now: float) -> None:
    """Its symptoms are there: the incident lives, and has had its turn."""
    if track in thinking:
        thinking.remove(track)
    track.live_at, track.awake = now, True


def _fades(track: Track, pool: list[Anomaly], mine: list[Anomaly], now: float) -> bool:
    """Tell whether the incident shows known symptoms only, and of late none at its cause any more: it is passing."""
    cause = track.incident.cause
    if cause is None:
        return False
    if any(a.series.callee == cause.service for a in pool):
        track.own_at = now
        return False
    return now - track.own_at < FADING_S and _keys(mine) <= _keys(track.incident.anomalies)


def _most(tracks: list[Track], score: Callable[[Track], int]) -> Track | None:
    """Return the track with the highest score, the first of equals; None when none scores."""
    found = max(tracks, key=score, default=None)
    return found if found is not None and score(found) else None


def _keys(anomalies: Iterable[Anomaly]) -> set[tuple[Series, Signal]]:
    """Return what tells anomalies apart."""
    return {(a.series, a.signal) for a in anomalies}
