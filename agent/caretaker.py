"""Overlays in the agent's care: leases renewed while their incident holds, and people's hands respected.

What a person does to an overlay of ours, or in the same place, is an order: the agent yields and says so.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Coroutine
from typing import Any, Final

import structlog

from agent import metrics
from agent.history import History
from agent.incidents import Incident, Step
from agent.mesh import MeshView
from agent.moments import passed
from agent.probing import Prober
from agent.scribe import Tools
from agent.track import Start, Track
from agent.treatment import Treatment
from agent.witness import OURS
from models.domain import ChangeKind
from models.errors import Broken, FibrinError
from models.incident import Stage
from models.overlay import Owner, slot

log = structlog.get_logger(__name__)

YIELDS: Final = "yields"
"""Under this name the places that belong to people for a while are kept."""


class Caretaker:
    """Looks after what was laid. Shares `tracks` with the loop; `start` runs work on a track, `spawn` beside it."""

    def __init__(
        self,
        tools: Tools,
        *,
        tracks: dict[str, Track],
        mesh: MeshView,
        treatment: Treatment,
        history: History,
        start: Start,
        spawn: Callable[[str, Coroutine[Any, Any, None]], None],
    ) -> None:
        self._t = tools
        self._tracks = tracks
        self._mesh = mesh
        self._treatment = treatment
        self._start = start
        self._spawn = spawn
        self._prober = Prober(tools, treatment, history)
        self._yields: dict[tuple[str, ...], float] = {}
        self._renewed_at = 0.0
        self._checked_at = 0.0
        self._witnessed = 0  # the last change event that was looked at

    def keep(self, now: float) -> None:
        """Do what is due at `now` (one turn of the loop)."""
        mesh, settings = self._mesh, self._t.settings
        if self._t.chronicle.due(now):
            self._spawn("audit", self._t.chronicle.flush())
        self._removed(now)
        if mesh.overlays_at > self._checked_at:
            self._checked_at = mesh.overlays_at
            for track in list(self._tracks.values()):
                self._compare(track, now)
        for track in list(self._tracks.values()):
            if (work := self._prober.turn(track, now)) is not None:
                self._spawn(f"look {track.incident.id}", work)
        if passed(settings.lease_s / 3, self._renewed_at, now) and not settings.observe_only:
            self._renewed_at = now
            if self._t.fence.token is not None:
                for track in [t for t in self._tracks.values() if _holds(t.incident)]:
                    self._spawn(f"renew {track.incident.id}", self._renew(track))

    def person(self, step: Step | None, now: float) -> str:
        """Return why a step's place belongs to a person, "" when it does not."""
        if step is None:
            return ""
        place = slot(step.change)
        for overlay in self._mesh.overlays:
            if overlay.owner is Owner.PERSON and slot(overlay.change) == place and overlay.expires_at > now:
                return f"{overlay.actor or 'a person'} laid {overlay.id} in the same place"
        if self._yields.get(place, 0.0) > now:
            return "a person took this place over a short while ago"
        return ""

    def not_needed(self, incident: Incident, now: float) -> str:
        """Return why a held overlay may go, "" while it is needed."""
        cause, settings = incident.cause, self._t.settings
        if why := self._prober.closed(incident.id):
            return why
        if settings.hold_s and now - incident.times.get("closed", now) >= settings.hold_s:
            return f"released: held for {settings.hold_s:.0f} s"
        if cause is None or not cause.subject or not self._mesh.control_up:
            return ""
        there = self._mesh.topology.of(cause.service)
        if there and not any(cause.subject in {i.id, i.version, i.zone} for i in there):
            return f"released: {cause.subject} does not exist any more"
        return ""

    async def begin(self) -> None:
        """Remember the places that people took over before this process began, or while another agent led."""
        if (kept := await self._t.store.recall(YIELDS, shared=True)) is not None:
            self._yields |= {tuple(place): until for place, until in json.loads(kept)}

    def _removed(self, now: float) -> None:
        """Find in the control plane's own account what people removed of ours, also while no agent was there to see it."""
        for change in self._mesh.changes_since(self._witnessed):  # all, when the control plane began a new count
            self._witnessed = change.sequence
            if change.kind is not ChangeKind.OVERLAY or change.actor in OURS:
                continue
            for track in self._tracks.values():
                step, closed = track.incident.current, track.closed_at()
                if step is None or change.subject != f"Overlay/{step.overlay}" or 0 < closed <= change.at:
                    continue
                self._spawn("yield", self._yield(slot(step.change), change.at, now))

    async def _give_way(self, track: Track, place: tuple[str, ...], now: float, why: str) -> None:
        await self._yield(place, now, now)
        await self._treatment.observe(track, why)

    async def _yield(self, place: tuple[str, ...], since: float, now: float) -> None:
        """Leave a place to people for a while, over `kill -9` too."""
        self._yields = {known: until for known, until in self._yields.items() if until > now}
        self._yields[place] = max(since + self._t.settings.yield_s, self._yields.get(place, 0.0))
        try:
            await self._t.store.remember(YIELDS, json.dumps(list(self._yields.items())).encode(), shared=True)
        except Broken as error:
            metrics.STORE_FAILED.inc()
            log.warning("store.failed", what=YIELDS, error=error.message, hint=error.hint)

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

    def _compare(self, track: Track, now: float) -> None:
        """Compare a held overlay with what exists: gone, or replaced by a person's?"""
        step, mesh = track.incident.current, self._mesh
        if step is None or track.busy or track.recover or not _holds(track.incident):
            return
        if mesh.overlays_at <= max(step.acted_at, step.acked_at):
            return
        mine = slot(step.change)
        person = next((o for o in mesh.overlays if o.owner is Owner.PERSON and slot(o.change) == mine), None)
        if person is None and any(o.id == step.overlay for o in mesh.overlays):
            return
        expired = person is None and passed(self._t.settings.lease_s, track.renewed_at, now)
        if person is not None:
            why = f"{person.actor or 'a person'} laid {person.id} in the same place: the agent yields"
        elif expired:
            why = f"the lease of {step.overlay} ended (it could not be renewed)"
        else:
            why = f"a person removed {step.overlay}: the agent yields"
        if not expired:
            metrics.YIELDED.inc()
        if track.incident.is_open:
            self._start(
                track, self._treatment.observe(track, why) if expired else self._give_way(track, mine, now, why)
            )
        else:
            self._start(track, self._treatment.let_go(track, why.replace("the agent yields", "let go")))


def _holds(incident: Incident) -> bool:
    """Tell whether the incident keeps an overlay alive."""
    return incident.held or incident.stage is Stage.VERIFYING
