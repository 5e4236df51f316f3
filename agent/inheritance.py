"""What an agent takes over: its own incidents after a restart, and another agent's when it leads in its place."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from agent.incidents import Incident
from agent.scribe import Tools
from agent.track import Track
from agent.treatment import Treatment
from agent.triage import WAKE_S, Triage
from models.incident import Stage

REMEMBERED: Final = 100
STILL_OURS_S: Final = 3600.0
"""An incident that was escalated less than this before a start is looked for again before anything new is opened."""


class Inheritance:
    """Fills `tracks`, which it shares with the loop."""

    def __init__(self, tools: Tools, *, tracks: dict[str, Track], treatment: Treatment, triage: Triage) -> None:
        self._t = tools
        self._tracks = tracks
        self._treatment = treatment
        self._triage = triage

    async def begin(self, now: float) -> None:
        """Take up the incidents of the previous process."""
        await self._take_up(await self._t.store.living(), now)
        for incident in await self._t.store.latest(REMEMBERED):
            recent = now - incident.times.get("closed", 0.0) < STILL_OURS_S
            if incident.stage is Stage.ESCALATED and recent and incident.id not in self._tracks:
                # a person knows: while the fault lasts it is not begun anew
                self._tracks[incident.id] = Track(incident, live_at=now + WAKE_S)

    async def adopt(self, now: float) -> None:
        """Take over the incidents of an agent that led before this one, with what it remembers of its actions."""
        if ledger := await self._t.store.recall("ledger", shared=True):
            self._t.planner.restore(ledger)
        adopted = await self._t.store.adopt()
        await self._take_up(adopted, now)
        for incident in adopted:
            track = self._tracks[incident.id]
            self._treatment.note(track, "taken over from another agent")
            for other in list(self._tracks.values()):
                self._triage.merge_into(other, track)

    async def _take_up(self, incidents: tuple[Incident, ...], now: float) -> None:
        for incident in incidents:
            track = Track(replace(incident, resumed=True), live_at=now, awake=False)
            self._tracks[incident.id] = track
            track.renewed_at = now
            if incident.stage is Stage.DETECTED:
                await self._treatment.observe(track, "the agent restarted before a cause was named; it looks anew")
            elif incident.stage in {Stage.ACTING, Stage.VERIFYING}:
                track.recover = True
