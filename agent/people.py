"""What people may order the agent to do with an incident: approve, deny, abort, pause, resume; and stop acting altogether.

An order takes hold at once in the incident's value, is stored and recorded with the person's name and reason, and the loop
does the rest at its next turn. An order that no longer makes sense is refused, never guessed at.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from agent.chronicle import Who
from agent.incidents import Incident, Verb
from agent.scribe import Tools
from agent.track import Track
from agent.treatment import Treatment
from models.errors import Conflict, NotFound
from models.incident import Stage
from playbooks.schema import Mode

_DENIED: Final = "denied by "
"""How the story of an incident begins the line about a denial."""


class People:
    """Carries out orders. Shares `tracks` with the loop."""

    def __init__(
        self,
        tools: Tools,
        *,
        tracks: Mapping[str, Track],
        treatment: Treatment,
    ) -> None:
        self._t = tools
        self._tracks = tracks
        self._treatment = treatment

    async def order(self, verb: Verb, name: str, who: str, why: str) -> Incident:
        """Carry out an order about the incident `name` (an unambiguous beginning of its id will do).

        Raises:
            NotFound: no living incident of that name.
            Conflict: the incident is not where the order makes sense.
        """
        track = self._find(name)
        by = f"{who}: {why}" if why else who
        match verb:
            case Verb.APPROVE:
                self._approve(track, by)
            case Verb.DENY:
                await self._deny(track, by, Who(who, "person"))
                return track.incident
            case Verb.ABORT:
                self._abort(track, by)
            case Verb.PAUSE:
                self._pause(track, by)
            case Verb.RESUME:
                self._resume(track, by)
        await self._written(track, verb, Who(who, "person"), why)
        return track.incident

    async def stop_acting(self, *, stop: bool, who: str, why: str) -> None:
        """Throw the kill switch or take it back, and record it."""
        try:
            await self._t.switch.order(stop=stop, who=who, why=why)
        finally:
            now = self._t.clock()
            what = f"stops acting: ordered by {who}" if stop else f"acts again: ordered by {who}"
            self._t.timeline.add(now, "warning", f"the agent {what}" + (f": {why}" if why else ""))
            kind = "stop-acting" if stop else "resume-acting"
            await self._t.chronicle.write(kind, {"why": why}, who=Who(who, "person"))

    def _find(self, name: str) -> Track:
        if name in self._tracks:
            return self._tracks[name]
        found = [track for key, track in self._tracks.items() if name and key.startswith(name)]
        if len(found) != 1:
            text = f"{name} begins {len(found)} incidents" if found else f"no incident {name} is open or held"
            raise NotFound(text, hint="`fibrin incidents --open` lists them")
        return found[0]

    def _approve(self, track: Track, by: str) -> None:
        incident = track.incident
        if incident.stage is not Stage.PLANNED or incident.mode != Mode.APPROVE:
            raise _senseless("approve", incident, "it does not wait for approval")
        stopped = self._t.switch.stopped
        track.incident = replace(incident, approved_by=by, waiting=stopped and f"approved, but the agent is {stopped}")
        self._treatment.note(track, f"approved by {by}")

    async def _deny(self, track: Track, by: str, who: Who) -> None:
        if track.incident.stage is not Stage.PLANNED or track.busy:
            denied = next((m.message for m in reversed(track.incident.history) if m.message.startswith(_DENIED)), "")
            why = f"it was {denied}; a person has it" if denied else "nothing is planned in it"
            raise _senseless("deny", track.incident, why)
        await self._treatment.hand_over(track, f"{_DENIED}{by}", who)

    def _abort(self, track: Track, by: str) -> None:
        incident = track.incident
        if not incident.is_open and not incident.held:
            raise _senseless("abort", incident, "it is closed and holds no overlay")
        track.retry_at = 0.0
        track.incident = replace(incident, aborted=by, paused="")
        self._treatment.note(track, f"abort ordered by {by}")

    def _pause(self, track: Track, by: str) -> None:
        if not track.incident.is_open or track.incident.paused:
            raise _senseless("pause", track.incident, "it is closed or paused already")
        track.incident = replace(track.incident, paused=by, waiting=f"paused by {by}")
        self._treatment.note(track, f"paused by {by}: nothing more is done; what is laid stays")

    def _resume(self, track: Track, by: str) -> None:
        if not track.incident.paused:
            raise _senseless("resume", track.incident, "it is not paused")
        track.incident = replace(track.incident, paused="", waiting="")
        track.live_at = max(track.live_at, self._t.clock())
        self._treatment.note(track, f"resumed by {by}")

    async def _written(self, track: Track, verb: Verb, who: Who, why: str) -> None:
        await self._treatment.record(str(verb), track, {"why": why}, who=who)
        await self._treatment.save(track)


def _senseless(verb: str, incident: Incident, why: str) -> Conflict:
    return Conflict(
        f"cannot {verb} {incident.id}, which is {incident.stage}: {why}", hint="`fibrin incidents` shows it"
    )
