"""Keeps the objectives: reads what is declared, counts what is seen, judges it every second, and remembers it over restarts.

Killed at any moment it loses the counts of the last `SAVE_S` seconds: they are missing in good and valid alike, and no
failure is invented. What is declared stays as last read while the control plane is away.
"""

from __future__ import annotations

import time
from asyncio import Lock, sleep
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

import structlog

from agent import metrics
from agent.canaries.tap import Tap
from agent.mesh import MeshView
from agent.moments import passed
from agent.objectives import metrics as shown
from agent.objectives.alerts import Alerts
from agent.objectives.counting import count
from agent.objectives.view import ObjectiveView, view
from agent.observe import RuleKey
from agent.ports import Clock
from agent.store import Store
from models.budget import Counts
from models.errors import FibrinError, NotFound
from models.manifest import suggest
from models.objective import Burn, ErrorBudget, Objective, Standing, budgets, judge, windows
from models.signals import Outcomes

log = structlog.get_logger(__name__)

TURN_S: Final = 1.0
SAVE_S: Final = 10.0
MOST: Final = 500
"""More objectives than this are not counted: 55 KB each."""


@dataclass(frozen=True, slots=True)
class KeeperTools:
    """What the keeper works with. `source` reads the declared objectives; `rules` takes what callers got per route rule."""

    source: Callable[[], Awaitable[tuple[Objective, ...]]]
    tap: Tap
    rules: Callable[[], Mapping[RuleKey, Outcomes]]
    mesh: MeshView
    store: Store
    clock: Clock
    alerts: Alerts


@dataclass(slots=True)
class _State:
    """What holds now, by objective's name."""

    objectives: dict[str, Objective] = field(default_factory=dict)
    standings: dict[str, Standing] = field(default_factory=dict)
    budgets: Mapping[str, ErrorBudget] = field(default_factory=dict)
    blind: frozenset[str] = frozenset()


class ObjectiveKeeper:
    """All objectives of a mesh. `turn` may be called by a test with a clock of its own; `run` calls it for ever."""

    def __init__(self, tools: KeeperTools) -> None:
        self._t = tools
        self._counts = Counts()
        self._now = _State()
        self._saved_at = tools.clock()
        self._turning = Lock()

    async def run(self) -> None:
        """Turn for ever; ends only by cancellation."""
        due = time.monotonic()
        while True:
            try:
                await self.turn()
            except FibrinError as error:
                metrics.FAILURES.labels("objectives").inc()
                log.warning("objectives.turn_failed", error=error.message, hint=error.hint)
            due = max(due + TURN_S, time.monotonic())
            await sleep(due - time.monotonic())

    async def turn(self) -> None:
        """Read, count, judge, tell, and save when it is time."""
        async with self._turning:
            await self._read()
            now = self._t.clock()
            self._count(now)
            self._judge(now)
            await self._t.alerts.look(self._now.objectives, self._now.standings, now)
            if passed(SAVE_S, self._saved_at, now):
                await self._save(now)

    async def save(self) -> None:
        """Keep everything counted so far (the last words of a process)."""
        async with self._turning:
            await self._save(self._t.clock())

    async def look(self) -> None:
        """Read what is declared, so that what was just applied is there."""
        async with self._turning:
            await self._read()
            self._judge(self._t.clock())

    # What others see

    def views(self) -> tuple[ObjectiveView, ...]:
        """Return all objectives, by name."""
        return tuple(self.view(name) for name in sorted(self._now.objectives))

    def view(self, name: str) -> ObjectiveView:
        """Return one objective, or raise NotFound."""
        objective = self._now.objectives.get(name)
        if objective is None:
            hint = suggest(name, sorted(self._now.objectives)) or "`fibrin slo list` shows those there are"
            raise NotFound(f"there is no objective {name}", hint=hint)
        level, since = self._t.alerts.told(name)
        standing = self._now.standings[name]
        return view(objective, standing, blind=self._blind_to(objective), alert=level, alert_since=since)

    def budgets(self) -> Mapping[str, ErrorBudget]:
        """Return what is left of the error budget of each service that has an objective."""
        return self._now.budgets

    def spent(self, service: str) -> str:
        """Return why a risk must wait for a service's budget, "" when it need not."""
        for name in sorted(self._now.objectives):
            objective, standing = self._now.objectives[name], self._now.standings[name]
            if objective.service == service and standing.spent:
                return f"the error budget of objective {name} is spent ({standing.tally.ratio:.4%} good, promised {objective.target:.4%})"
        return ""

    # Parts of a turn

    async def _read(self) -> None:
        try:
            declared = await self._t.source()
        except FibrinError as error:
            metrics.CONTROL_ERRORS.labels("objectives").inc()
            log.debug("objectives.not_read", error=error.message)
            return
        if len(declared) > MOST and len(self._now.objectives) < MOST:
            log.warning(
                "objectives.too_many", declared=len(declared), counted=MOST, hint="those first by name are counted"
            )
        objectives = {one.name: one for one in sorted(declared, key=lambda one: one.name)[:MOST]}
        wanted = {one.counted for one in objectives.values()}
        if objectives == self._now.objectives and wanted == self._counts.known:
            return
        if new := wanted - self._counts.known:
            kept = await self._t.store.counts(new)  # before anything is changed: a failure leaves all as it was
            self._counts.track(wanted)
            self._counts.restore(kept)
        else:
            self._counts.track(wanted)
        for gone in self._now.objectives.values():
            if gone != objectives.get(gone.name):
                for family in shown.FAMILIES:
                    family.remove_by_labels({"slo": gone.name})
        self._now.objectives = objectives
        self._t.tap.watched = frozenset(one.service for one in objectives.values())
        self._judge(self._t.clock())

    def _count(self, now: float) -> None:
        outcomes, rules = self._t.tap.take(), self._t.rules()
        self._now.blind = self._t.tap.blind(now)
        found = count(self._now.objectives.values(), outcomes, rules, self._now.blind)
        self._counts.add(now, found)
        for objective in self._now.objectives.values():
            good, valid = found.get(objective.counted, (0, 0))
            shown.GOOD.labels(objective.name, objective.service).inc(good)
            shown.VALID.labels(objective.name, objective.service).inc(valid)

    def _judge(self, now: float) -> None:
        wanted: dict[str, tuple[float, ...]] = {}
        for objective in self._now.objectives.values():
            wanted[objective.counted] = (*wanted.get(objective.counted, ()), *windows(objective))
        tallies = self._counts.tallies(now, wanted)
        standings: dict[str, Standing] = {}
        for name, objective in self._now.objectives.items():
            lengths = {tally.window_s: tally for tally in tallies[objective.counted]}
            standings[name] = judge(objective, [lengths[length] for length in windows(objective)])
        self._now.standings = standings
        self._now.budgets = budgets(self._now.objectives.values(), standings)
        self._show()

    def _show(self) -> None:
        for name, standing in self._now.standings.items():
            objective = self._now.objectives[name]
            labels = (name, objective.service)
            shown.TARGET.labels(*labels).set(objective.target)
            shown.RATIO.labels(*labels).set(standing.tally.ratio)
            shown.REMAINING.labels(*labels).set(standing.remaining)
            for level in (Burn.WARNING, Burn.PAGE):
                shown.LEVEL.labels(*labels, str(level)).set(standing.level is level)
            for burning in standing.burning:
                for length, rate in ((burning.rule.long_s, burning.long), (burning.rule.short_s, burning.short)):
                    shown.BURN.labels(*labels, f"{length:g}s").set(rate)

    def _blind_to(self, objective: Objective) -> frozenset[str]:
        """Return the blind sidecars that would have seen requests of this objective."""
        topology = self._t.mesh.topology
        services = {objective.service, *topology.callers(objective.service)}
        return frozenset(i.id for i in topology.instances if i.service in services) & self._now.blind

    async def _save(self, now: float) -> None:
        if self._counts.known:
            await self._t.store.keep_counts(self._counts.changed(), now)
            self._counts.kept()
        self._saved_at = now
