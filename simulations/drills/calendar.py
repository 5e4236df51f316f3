"""Drills that run by themselves: cron times in time zones, one drill at a time, never within a blocked window.

A run that is due while another drill runs waits for it; one that is due in a blocked window, or was missed because the
machine slept, is told and skipped.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from zoneinfo import ZoneInfo

import structlog
from apscheduler.events import EVENT_JOB_MISSED, JobExecutionEvent
from apscheduler.schedulers.asyncio import AsyncIOScheduler
from apscheduler.triggers.cron import CronTrigger
from cronsim import CronSim

from simulations.drills.schema import Drill, Schedule

LATE_S: Final = 300
"""A run that is later than this is missed."""

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Due:
    """When a drill runs next (None: never again), and what blocks it then ("" : nothing)."""

    drill: Drill
    at: datetime | None
    blocked: str


def blocked(schedule: Schedule, at: float) -> str:
    """Return which window keeps a drill from running at Unix time `at`, "" when none does."""
    return next((str(window) for window in schedule.blocked if window.holds(at)), "")


def upcoming(drills: Iterable[Drill], now: float) -> tuple[Due, ...]:
    """Return when each scheduled drill is due next after Unix time `now`, the soonest first."""
    found = []
    for drill in drills:
        schedule = drill.spec.schedule
        if schedule is None:
            continue
        at = next(CronSim(schedule.cron, datetime.fromtimestamp(now, ZoneInfo(schedule.zone))), None)
        found.append(Due(drill, at, blocked(schedule, at.timestamp()) if at else ""))
    return tuple(sorted(found, key=lambda due: (due.at is None, due.at.timestamp() if due.at else 0.0, due.drill.name)))


async def follow(
    drills: Iterable[Drill], play: Callable[[Drill], Awaitable[None]], clock: Callable[[], float] = time.time
) -> None:
    """Play scheduled drills as they are due, until cancelled."""
    one_at_a_time = asyncio.Lock()

    async def due(drill: Drill) -> None:
        assert drill.spec.schedule is not None, "only scheduled drills are due"
        async with one_at_a_time:
            if why := blocked(drill.spec.schedule, clock()):
                log.warning("drill.blocked", drill=drill.name, window=why)
                return
            await play(drill)

    scheduler = AsyncIOScheduler(timezone="UTC")  # type: ignore[no-untyped-call] # APScheduler 3 has no types
    scheduler.add_listener(_missed, EVENT_JOB_MISSED)  # type: ignore[no-untyped-call] # APScheduler 3 has no types
    for drill in drills:
        if drill.spec.schedule is not None:
            when = trigger(drill.spec.schedule)
            scheduler.add_job(due, when, (drill,), id=drill.name, misfire_grace_time=LATE_S)  # type: ignore[no-untyped-call]
    scheduler.start()  # type: ignore[no-untyped-call] # APScheduler 3 has no types
    try:
        await asyncio.Event().wait()
    finally:
        scheduler.shutdown(wait=False)  # type: ignore[no-untyped-call] # APScheduler 3 has no types


def trigger(schedule: Schedule) -> CronTrigger:
    """Return APScheduler's trigger for a schedule (its own weekdays count from Monday: names say what is meant)."""
    minute, hour, day, month, weekday = schedule.cron.split()
    names = ("sun", "mon", "tue", "wed", "thu", "fri", "sat", "sun")
    named = "".join(names[int(each)] if each.isdigit() and int(each) < len(names) else each for each in weekday)
    fields = {"minute": minute, "hour": hour, "day": day, "month": month, "day_of_week": named}
    return CronTrigger(**fields, timezone=schedule.zone)  # type: ignore[no-untyped-call]


def _missed(event: JobExecutionEvent) -> None:
    log.warning("drill.missed", drill=event.job_id, due=event.scheduled_run_time.isoformat())
