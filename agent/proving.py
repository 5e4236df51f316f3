"""Did it help, and did it harm? From a step in force to its end: kept, measured beside a hold-out slice, or given up."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from agent import harm, verification
from agent.history import History
from agent.holdout import HoldOuts
from agent.incidents import Step
from agent.scribe import Tools
from agent.senses import Senses
from agent.track import Start, Track
from agent.treatment import Treatment
from models.incident import Stage
from models.verify import Verdict

HARM_S: Final = 1.0
"""How often a step's neighbours are looked at, seconds."""

LOOKS: Final = 1
"""Steps whose neighbours are looked at in one tick: each look goes through the whole mesh. With more in force at once each
has its turn later."""


class Proving:
    """Judges steps in force. Shares `tracks` with the loop; `start` runs work on a track."""

    def __init__(
        self,
        tools: Tools,
        senses: Senses,
        *,
        tracks: Mapping[str, Track],
        treatment: Treatment,
        history: History,
        start: Start,
    ) -> None:
        self._s = senses
        self._tracks = tracks
        self._treatment = treatment
        self._history = history
        self._start = start
        self._holdouts = HoldOuts(tools, treatment, history)
        self._tick_s = tools.settings.tick_s
        self._looked = (0.0, 0)  # the tick of the last look (Unix s), and how many there were in it

    def judge(self, track: Track, now: float) -> None:
        """Keep a step that helped, give up one that did not or that harms; else wait for more evidence."""
        step = track.incident.current
        assert step is not None
        track.late_s = max(track.late_s, self._s.sight.lag(now))
        baseline = self._s.detector.baseline
        if track.in_flight is None or track.in_flight[0] != step.overlay:
            track.in_flight = (step.overlay, verification.in_flight_s(track.incident, step, self._history))
        start = verification.sample_start(step, track.in_flight[1], track.late_s)
        judgement = verification.judge_step(track.incident, step, self._history, baseline, now, start=start)
        verdict = judgement.verdict if judgement is not None else Verdict.UNDECIDED
        decided = verdict is Verdict.RECOVERED
        if decided and not self._room(now):
            return  # it is not kept before its neighbours were looked at
        if why := self._harm(track, step, start, now, decided=decided):
            self._start(track, self._treatment.fail(track, why, judgement, harmed=True))
            return
        if judgement is not None and verdict is Verdict.RECOVERED:
            if self._holdouts.wanted(track.incident):
                mesh = self._s.mesh.topology
                self._start(track, self._holdouts.open(track, judgement, baseline, mesh))
                return
            self.forget_alarms(track)
            self._start(track, self._treatment.resolve(track, judgement))
            return
        why = verification.useless(step, judgement, start, now)
        if why:
            self._start(track, self._treatment.fail(track, why, judgement))

    def measures(self, track: Track, now: float) -> bool:
        """Watch a proven step's hold-out slice, and end it when it has spoken or the step is being taken back."""
        if not self._holdouts.open_for(track.incident):
            return False
        if self._holdouts.watch(track.incident, now) or track.incident.stage is not Stage.VERIFYING:
            self._start(track, self._measured(track))
        return True

    def forget_alarms(self, track: Track) -> None:
        """Let what is still wrong alarm again, on fresh evidence."""
        keys = {a.series for a in track.incident.anomalies}
        self._s.detector.reset(lambda series: series in keys)

    async def _measured(self, track: Track) -> None:
        judgement = await self._holdouts.close(track)
        if judgement is not None and track.incident.stage is Stage.VERIFYING:
            self.forget_alarms(track)
            await self._treatment.resolve(track, judgement)

    def _harm(self, track: Track, step: Step, start: float, now: float, *, decided: bool) -> str:
        """Return whom the step hurt, "" when nobody; looked at once a second, and before it is kept."""
        if not decided and (now - track.harm_at < self._pause() or not self._room(now)):
            return ""
        track.harm_at = now
        self._looked = (now, self._looked[1] + 1 if self._looked[0] == now else 1)
        living = [t.incident for t in self._tracks.values() if t is not track and t.incident.is_open]
        others = [incident.cause for incident in living if incident.cause is not None]
        topology, baseline = self._s.mesh.topology, self._s.detector.baseline
        if track.ill is None or track.ill[0] != step.overlay:
            track.ill = (step.overlay, harm.ill(track.incident, step, self._history, baseline))
        sick = track.ill[1]
        found = harm.harmed(
            track.incident,
            step,
            self._history,
            baseline,
            topology=topology,
            others=others,
            start=start,
            now=now,
            sick=sick,
        )
        return harm.told(found) if found else ""

    def _room(self, now: float) -> bool:
        """Tell whether another look has room in this tick."""
        return self._looked[0] != now or self._looked[1] < LOOKS

    def _pause(self) -> float:
        """Return how long each step in force waits for its next look, so that all have their turn, seconds."""
        waiting = sum(track.incident.stage is Stage.VERIFYING for track in self._tracks.values())
        return max(HARM_S, waiting * self._tick_s / LOOKS)
