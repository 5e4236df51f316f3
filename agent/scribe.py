"""The hand that moves incidents: every change of stage is told, counted, stored and recorded in the same way."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

import structlog

from agent import metrics
from agent.actuators.base import Actuator
from agent.chronicle import Chronicle, Who
from agent.decision import Decisions
from agent.gates import Block, Interlock
from agent.incidents import Datum, Users, moved, noted
from agent.moments import passed
from agent.ports import Clock, Fence, Pager, Planner
from agent.records import step_json
from agent.settings import AgentSettings
from agent.store import Store
from agent.switch import KillSwitch
from agent.timeline import Timeline
from agent.track import Track
from models.errors import Broken, Conflict
from models.incident import Stage
from models.objective import ErrorBudget

log = structlog.get_logger(__name__)

STORM_S: Final = 60.0
"""A storm that goes on in this time, seconds, is the same one."""

Gate = Callable[[], Block | None]
"""Looks at the situation of this very moment; None: all interlocks are open."""


@dataclass(frozen=True, slots=True)
class Tools:
    """What a treatment works with. `uncertified` tells which playbooks may not act alone now, and why; `budgets` gives the error
    budgets of the services that have an objective.
    """

    settings: AgentSettings
    clock: Clock
    store: Store
    timeline: Timeline
    chronicle: Chronicle
    decisions: Decisions
    actuator: Actuator
    planner: Planner
    fence: Fence
    pager: Pager
    switch: KillSwitch
    pause: Callable[[float], Any] = asyncio.sleep
    uncertified: Callable[[float], Mapping[str, str]] = lambda _: {}
    budgets: Callable[[], Mapping[str, ErrorBudget]] = dict


class Scribe:
    """Moves incidents and writes them down. Holds no state of its own but when a storm last called a person."""

    def __init__(self, tools: Tools) -> None:
        self._t = tools
        self._stormed_at = 0.0

    def move(self, track: Track, stage: Stage, message: str, **data: Datum) -> None:
        """Take the incident to `stage` and tell it (the caller saves)."""
        now = self._t.clock()
        track.incident = moved(track.incident, stage, now, message, **data)
        metrics.STAGES.labels(str(stage)).inc()
        self._tell(track, now, message, data)

    def note(self, track: Track, message: str, **data: Datum) -> None:
        """Add a line to the story without changing the stage."""
        now = self._t.clock()
        track.incident = noted(track.incident, now, message, **data)
        self._tell(track, now, message, data)

    async def save(self, track: Track, *, ledger: bool = False) -> str:
        """Store the incident, and the planner's `ledger` in the same transaction; return what went wrong ("": nothing)."""
        events, track.unsaved = tuple(track.unsaved), []
        memory = {"ledger": self._t.planner.save()} if ledger else {}
        try:
            await self._t.store.put(track.incident, events, memory)
        except (Broken, Conflict) as error:
            track.unsaved = [*events, *track.unsaved]
            metrics.STORE_FAILED.inc()
            log.warning("store.failed", incident=track.incident.id, error=error.message, hint=error.hint)
            return error.message
        return ""

    async def record(
        self, kind: str, track: Track, data: Mapping[str, Any], *, who: Who | None = None, first: bool = False
    ) -> bool:
        """Write an audit record about the incident; with `first`, tell whether the deed may be done."""
        body = {"incident": track.incident.id, "stage": str(track.incident.stage), **data}
        number = await self._t.chronicle.write(kind, body, who=who, first=first)
        return self._t.chronicle.may_go_on(number)

    async def escalate(self, track: Track, why: str, interlock: str = "") -> None:
        """Stop and call a person."""
        step = track.incident.current
        if interlock:
            metrics.REFUSED.labels(interlock).inc()
        self.move(track, Stage.ESCALATED, f"a person is needed: {why}", interlock=interlock or None)
        if interlock != Interlock.STORM or self._first_of_storm():
            self._page(track, why)
        await self.record("escalated", track, {"why": why, "interlock": interlock, "step": step_json(step)})
        await self.save(track, ledger=True)  # the step that brought it here may have been taken out again

    def _first_of_storm(self) -> bool:
        """Tell whether a storm calls a person with this incident: one page, however many incidents it has."""
        now = self._t.clock()
        first = passed(STORM_S, self._stormed_at, now)
        self._stormed_at = now
        return first

    async def observe(self, track: Track, why: str, who: Who | None = None) -> None:
        """Close an incident without a cure of ours."""
        self.move(track, Stage.OBSERVED, why)
        await self.record("observed", track, {"why": why}, who=who)
        await self.save(track)

    async def hand_over(self, track: Track, why: str, who: Who | None = None) -> None:
        """End the agent's part because a person took over: like an escalation, but nobody needs to be called."""
        self.move(track, Stage.ESCALATED, why)
        await self.record("handed-over", track, {"why": why, "step": step_json(track.incident.current)}, who=who)
        await self.save(track)

    async def wait(self, track: Track, key: str, message: str, *, page: bool) -> None:
        """Say once (per `key`) why an incident does not move, and call a person if asked to."""
        track.incident = replace(track.incident, waiting=message)
        if key not in track.paged:
            track.paged.add(key)
            self.note(track, message)
            await self.record("held-back", track, {"why": message, "interlock": key})
            await self.save(track)
        if not page or f"page {key}" in track.paged or track.incident.users is Users.PENDING:
            return
        if track.incident.users is Users.WELL and f"tell {key}" in track.paged:
            return
        track.paged.add(f"tell {key}" if track.incident.users is Users.WELL else f"page {key}")
        self._page(track, message)

    async def hurry(self, track: Track) -> None:
        """Call the person who was only told of an incident that ended without a cure: by now users feel it."""
        self.note(track, "users feel it by now")
        self._page(track, "users feel it by now")
        await self.save(track)

    def _page(self, track: Track, why: str) -> None:
        """Call a person, or tell them without haste while users are well."""
        urgent = track.incident.users is not Users.WELL
        text = why if urgent else f"{why}; users feel nothing of it"
        self._t.pager.page(track.incident, f"{track.incident.title}: {text}", urgent=urgent)

    def _tell(self, track: Track, now: float, message: str, data: Mapping[str, Datum]) -> None:
        incident = track.incident
        track.unsaved.append(self._t.timeline.add(now, str(incident.stage), message, incident.id, data))
