"""Burn alerts: a second opinion beside the detectors. They tell people, once, and never act.

A budget that burns while an incident about it is open, or was a moment ago, is noted on that incident. Without one, or when
it still burns after the incident, people are called with the urgency of the alert. What was told is remembered over restarts;
an alert is over when it has not held for `QUIET_S`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Final, Protocol

from pydantic import TypeAdapter, ValidationError

from agent import metrics
from agent.channels import About, Message
from agent.incidents import Incident
from agent.mesh import MeshView
from agent.objectives import metrics as shown
from agent.store import Store
from agent.timeline import Timeline
from models.objective import Burn, Objective, Standing
from playbooks.schema import Severity
from playbooks.units import span

QUIET_S: Final = 300.0
MEMORY: Final = "objective-alerts"

_SEVERITY: Final = {Burn.NONE: Severity.INFO, Burn.WARNING: Severity.WARNING, Burn.PAGE: Severity.CRITICAL}


class Caller(Protocol):
    """Calls people about what is no incident."""

    def alert(self, what: About, page: Message) -> None:
        """Call a person; never blocks, never raises."""
        ...


@dataclass(frozen=True, slots=True)
class AlertTools:
    """What alerts work with. `incidents` are those of the loop; `remark` adds a line to the story of one, by id."""

    caller: Caller
    timeline: Timeline
    store: Store
    mesh: MeshView
    incidents: Callable[[], Iterable[Incident]]
    remark: Callable[[str, str], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Told:
    """An alert that holds, or did until a moment ago: since when, when it last held, and the level people were called with."""

    level: Burn
    since: float
    held_at: float
    called: Burn = Burn.NONE
    noted: tuple[str, ...] = ()


_TOLD: Final = TypeAdapter(dict[str, Told])


class Alerts:
    """All burn alerts of a mesh."""

    def __init__(self, tools: AlertTools) -> None:
        self._t = tools
        self._told: dict[str, Told] | None = None

    def told(self, name: str) -> tuple[Burn, float]:
        """Return the level of an objective's alert and since when (`NONE`, 0.0: there is none)."""
        found = (self._told or {}).get(name)
        return (found.level, found.since) if found else (Burn.NONE, 0.0)

    async def look(self, objectives: Mapping[str, Objective], standings: Mapping[str, Standing], now: float) -> None:
        """Tell what began to burn, or burns no more."""
        told = self._told = await self._remembered() if self._told is None else self._told
        after: dict[str, Told] = {}
        for name, objective in objectives.items():
            found = self._next(told.get(name), objective, standings[name], now)
            if found is not None:
                after[name] = await self._tell(found, objective, standings[name], now)
        if after.keys() != told.keys() or any(_lasting(after[n]) != _lasting(told[n]) for n in after):
            await self._t.store.remember(MEMORY, _TOLD.dump_json(after))
        self._told = after

    def _next(self, before: Told | None, objective: Objective, standing: Standing, now: float) -> Told | None:
        """Return the alert after one more look, None when there is none."""
        level = standing.level
        if before is None:
            return None if level is Burn.NONE else Told(level, now, now)
        if level is not Burn.NONE:
            worst = max(before.level, level, key=lambda each: each.rank)
            return replace(before, level=worst, held_at=now)
        if now - before.held_at < QUIET_S:
            return replace(before, held_at=min(before.held_at, now))
        text = f"objective {objective.name}: its error budget does not burn too fast any more"
        self._t.timeline.add(now, "objective", text)
        return None

    async def _tell(self, alert: Told, objective: Objective, standing: Standing, now: float) -> Told:
        """Note the alert on incidents about it; call people when there is none."""
        if standing.level is Burn.NONE:
            return alert
        near = [i for i in self._t.incidents() if self._about(i, objective) and _recent(i, now)]
        text = worded(objective, standing)
        for incident in near:
            if incident.id not in alert.noted:
                alert = replace(alert, noted=(*alert.noted, incident.id)[-20:])
                await self._t.remark(incident.id, text)
        if near or alert.called.rank >= alert.level.rank:
            return alert
        shown.ALERTS.labels(str(alert.level)).inc()
        self._t.timeline.add(now, "warning", text)
        what = About(
            id=f"slo-{objective.name}",
            title=f"objective {objective.name} of {objective.service}",
            source=objective.service,
            more=f"`fibrin slo describe {objective.name}`",
            signal=objective.signal,
            facts={
                "objective": {"name": objective.name, "service": objective.service, "remaining": standing.remaining}
            },
        )
        self._t.caller.alert(what, Message(text, severity=_SEVERITY[alert.level]))
        return replace(alert, called=alert.level)

    def _about(self, incident: Incident, objective: Objective) -> bool:
        """Tell whether an incident may be why an objective burns: its service, or one that it calls."""
        services = {objective.service, *self._t.mesh.topology.callees(objective.service)}
        hurt = {anomaly.series.callee for anomaly in incident.anomalies}
        cause = {incident.cause.service} if incident.cause else set()
        return not services.isdisjoint(hurt | cause)

    async def _remembered(self) -> dict[str, Told]:
        kept = await self._t.store.recall(MEMORY)
        try:
            return _TOLD.validate_json(kept) if kept else {}
        except ValidationError:
            metrics.STORE_FAILED.inc()
            return {}


def worded(objective: Objective, standing: Standing) -> str:
    """Return the sentence that people read about a burning budget."""
    holding = [burning for burning in standing.burning if burning.holds]
    worst = max(holding, key=lambda each: each.long)
    left = f"{max(0.0, standing.remaining):.0%} of it is left" if standing.remaining > 0 else "nothing of it is left"
    return (
        f"objective {objective.name}: the error budget of {objective.service} ({objective.target:.6g} {objective.signal})"
        f" burns {worst.long:.1f} times too fast over {span(worst.rule.long_s)}, {worst.short:.1f} over"
        f" {span(worst.rule.short_s)}; {left}"
    )


def _recent(incident: Incident, now: float) -> bool:
    return incident.is_open or now - incident.times.get("closed", 0.0) < QUIET_S


def _lasting(alert: Told) -> tuple[Burn, Burn, tuple[str, ...], int]:
    """Return what is worth keeping on disk: when it last held, to the minute."""
    return alert.level, alert.called, alert.noted, int(alert.held_at // 60)
