"""Many incidents, one after the other, on meshes that heal under the agent; and quiet days on which nothing may happen.

One mesh is warmed up once and then broken again and again. After each incident a person repairs the fault, sees that the part is back and removes what
the agent laid, and the next comes when all is quiet. Everything follows from the seed, and an incident can be played
again alone by its name (`seed/mesh/number`): the same mesh is run up to it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from agent.incidents import Incident, Users
from agent.story import deed
from models.incident import Stage
from models.overlay import Overlay
from simulations.simulator.attack import Attack
from simulations.simulator.guilt import Guilt, Truth
from simulations.simulator.mesh import draw
from simulations.simulator.mixture import DEFAULT, Mixture
from simulations.simulator.plant import Ended, Load, failed, spoils
from simulations.simulator.remedy import curable
from simulations.simulator.scenario import Scenario, Wanted
from simulations.simulator.world import TICK_S, World, open_world

WARM_UP_S: Final = 30.0
LONGEST_S: Final = 60.0
SHORTEST_S: Final = 4.0
CALM_S: Final = 3.0
PATIENCE_S: Final = 6.0
"""An incident that waits for this long waits for a person."""

MENDED_S: Final = 3.0
"""Longer than requests are under way before their callers give up."""

BETWEEN_S: Final = 6.0
QUIET_S: Final = 60.0
UNNOTICED_S: Final = 20.0
"""What may be absorbed is watched for this long when the agent opens no incident."""

PER_MESH: Final = 25
SLOW: Final = 3.0
"""A user's request counts as spoiled when it failed or took this many times the good day's 99th percentile."""


@dataclass(frozen=True, slots=True)
class Played:
    """What became of one incident. Times are seconds from the onset of what breaks in services; None: it did not happen.

    `spoiled` are users' requests that failed or were far too slow, `usual` how many would have been on a good day, `asked`
    all of them. `innocent` counts actions on what was not at fault. `curable`: the mesh has a remedy at all (see `remedy`).
    `told`: of what troubled the mesh itself the agent said all that it can see.
    """

    name: str
    scenario: Scenario
    detected_s: float | None
    first: bool
    third: bool
    kind: bool
    named: str
    truth: str
    acted_s: float | None
    mitigated_s: float | None
    escalated: bool
    innocent: int
    undone: int
    spoiled: int
    usual: float
    asked: int
    ending: str
    curable: bool
    actions: tuple[str, ...] = ()
    told: bool = True


@dataclass(slots=True)
class Quiet:
    """What happened on quiet days: `seconds` watched, `incidents` opened, `actions` taken."""

    seconds: float = 0.0
    incidents: int = 0
    actions: int = 0
    causes: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Plan:
    """What to play: `incidents` on meshes of `services` services, from `seed`, drawn by `mixture`."""

    services: int
    seed: int
    incidents: int = PER_MESH
    mixture: Mixture = DEFAULT

    def mesh_seed(self, number: int) -> int:
        """Return the seed from which mesh `number` is drawn."""
        return self.seed * 10_007 + number


async def play(
    plan: Plan, mesh_number: int, *, only: int | None = None, tell: Callable[[Played], None] = lambda _: None
) -> tuple[list[Played], Quiet]:
    """Play the incidents of one mesh; with `only`, stop after that one and return it alone."""
    seed = plan.mesh_seed(mesh_number)
    mesh = draw(plan.services, seed)
    random = np.random.default_rng([seed, 11])
    found: list[Played] = []
    quiet = Quiet()
    async with open_world(mesh, seed=seed, load=day(random), mortal=plan.mixture.mortal) as world:
        player = _Player(world, quiet)
        await player.warm_up()
        await player.rest(QUIET_S)
        for number in range(plan.incidents):
            scenario = plan.mixture.draw(world.plant, random)
            played = await player.incident(f"{plan.seed}/{mesh_number}/{number}", scenario)
            found.append(played)
            tell(played)
            if number == only:
                return [played], quiet
    return found, quiet


async def watch(plan: Plan, mesh_number: int, seconds: float) -> Quiet:
    """Let the agent watch over a mesh on which all is well, under its daily load from a random hour on."""
    seed = plan.mesh_seed(mesh_number)
    quiet = Quiet()
    async with open_world(draw(plan.services, seed), seed=seed, load=day(np.random.default_rng([seed, 19]))) as world:
        player = _Player(world, quiet)
        await player.warm_up()
        await player.rest(seconds)
    return quiet


class _Player:
    """Plays on one world."""

    def __init__(self, world: World, quiet: Quiet) -> None:
        self._world = world
        self._quiet = quiet
        self._limit_s = np.inf
        self._bad = 0
        self._all = 0
        self._usual = 0.0
        self._seconds: list[float] = []
        self._spoiled_at = 0.0

    async def warm_up(self) -> None:
        """Let the agent learn; nothing of that counts."""
        await self.rest(WARM_UP_S)
        self._quiet.seconds, self._quiet.incidents, self._quiet.actions = 0.0, 0, 0

    async def rest(self, seconds: float) -> None:
        """Let a quiet time pass; what the agent does in it is false."""
        world = self._world
        known = {i.id for i in world.agent.incidents}
        laid = len(world.control.laid)
        self._bad = self._all = 0
        for _ in range(round(seconds / TICK_S)):
            await self._tick()
        self._usual = self._bad / max(1, self._all)
        self._limit_s = SLOW * float(np.percentile(self._seconds[-20_000:], 99)) if self._seconds else np.inf
        new = [i for i in world.agent.incidents if i.id not in known]
        self._quiet.seconds += seconds
        self._quiet.incidents += len(new)
        self._quiet.causes += [i.title for i in new]
        self._quiet.actions += len(world.control.laid) - laid

    async def incident(self, name: str, scenario: Scenario) -> Played:
        """Break, watch, repair, and wait for quiet."""
        world = self._world
        known = {i.id for i in world.agent.incidents}
        before = len(world.control.laid)
        onset = world.clock.now
        remedy = curable(scenario, world.plant, world.control.floor)
        attack = Attack(scenario, world)
        self._bad = self._all = 0
        self._spoiled_at = onset
        ended: Ended | None = None
        await attack.advance(0.0, ended)
        while not self._over(known, onset, scenario):
            await attack.advance(world.clock.now - onset, ended)
            ended = await self._tick()
        laid = world.control.laid[before:]
        played = self._account(name, scenario, onset, self._new(known), laid, remedy=remedy, told=attack.told)
        await attack.over()
        await self._until_mended()
        world.control.clear()
        await self._until_quiet()
        await world.agent.forget()
        await self.rest(BETWEEN_S)
        return played

    def _over(self, known: set[str], onset: float, scenario: Scenario) -> bool:
        now = self._world.clock.now
        since = now - onset - scenario.settled_s
        if since >= LONGEST_S:
            return True
        if scenario.wanted is Wanted.SPARED:
            return since >= 0
        mine = self._new(known)
        if not mine:
            return scenario.wanted is Wanted.ABSORBED and since >= UNNOTICED_S
        if since < SHORTEST_S or any(_moves(i, now, now - since) for i in mine):
            return False
        if len(scenario.services) > 1 and since < LONGEST_S / 2 and not self._all_named(scenario, mine):
            return False
        closed = max(i.times.get("closed", i.opened_at + PATIENCE_S) for i in mine)
        return now - self._spoiled_at >= CALM_S or now - closed >= 2 * CALM_S

    def _all_named(self, scenario: Scenario, mine: list[Incident]) -> bool:
        return scenario.guilt(self._world.plant.layout).named(i.cause for i in mine if i.cause is not None)

    def _new(self, known: set[str]) -> list[Incident]:
        return sorted((i for i in self._world.agent.incidents if i.id not in known), key=lambda i: i.opened_at)

    def _account(
        self,
        name: str,
        scenario: Scenario,
        onset: float,
        mine: list[Incident],
        laid: list[Overlay],
        *,
        remedy: bool,
        told: bool,
    ) -> Played:
        world = self._world
        guilt = scenario.guilt(world.plant.layout)
        right = [i for i in mine if i.cause is not None and guilt.right(i.cause)]
        main = next(iter(right or mine), None)
        now, broke = world.clock.now, onset + scenario.breaks_s
        kinds = {kind for truth in guilt.truths for kind, _ in truth.names}
        calm = now - self._spoiled_at >= CALM_S
        return Played(
            name=name,
            scenario=scenario,
            detected_s=world.agent.seen_at[main.id] - broke if main is not None else None,
            first=guilt.named(i.cause for i in mine if i.cause is not None),
            third=guilt.named(c for i in mine for c in i.causes[:3]),
            kind=any(c.kind in kinds for i in mine for c in i.causes[:1]),
            named=_named(guilt, mine, main),
            truth=_words(guilt),
            acted_s=min((o.created_at - broke for o in laid), default=None),
            mitigated_s=max(0.0, self._spoiled_at - broke) if calm else None,
            escalated=any(_calls(i) for i in mine),
            innocent=sum(guilt.innocent(o.change, world.plant.layout) for o in laid),
            undone=sum(step.acted_at > 0 and step.ended_at > 0 for i in mine for step in i.steps),
            spoiled=self._bad,
            usual=self._usual * self._all,
            asked=self._all,
            ending=", ".join(f"{i.title}: {i.stage}" + (f" ({i.waiting})" if i.waiting else "") for i in mine),
            curable=remedy,
            actions=tuple(deed(o.change) for o in laid),
            told=told,
        )

    async def _until_mended(self) -> None:
        """Wait as people do before they take a remedy away: health checks see the repair, what was under way ends, queues drain."""
        world = self._world
        repaired = world.clock.now
        while world.clock.now < repaired + QUIET_S:
            await self._tick()
            if world.clock.now >= repaired + MENDED_S and world.plant.settled:
                return

    async def _until_quiet(self) -> None:
        deadline = self._world.clock.now + QUIET_S
        while self._world.clock.now < deadline:
            await self._tick()
            if not any(i.is_open for i in self._world.loop.incidents) and not self._world.loop.anomalies:
                return

    async def _tick(self) -> Ended:
        ended = await self._world.step()
        users = self._world.plant.layout.of_users(ended.requests.call)
        seconds = ended.requests.seconds[users]
        bad = failed(ended.requests)[users] | (seconds > self._limit_s)
        self._all += len(bad)
        self._bad += int(bad.sum())
        if len(self._seconds) < 40_000:  # noqa: PLR2004
            self._seconds += seconds.tolist()
        if spoils(int(bad.sum()), self._usual * len(bad)):
            self._spoiled_at = self._world.clock.now
        return ended


def _named(guilt: Guilt, mine: list[Incident], main: Incident | None) -> str:
    """Return the cause that counts; of several faults every cause that was named."""
    if len(guilt.faults) > 1:
        return "; ".join(dict.fromkeys(str(i.cause) for i in mine if i.cause is not None))
    return str((main.cause if main is not None else None) or "")


def _words(guilt: Guilt) -> str:
    """Render what is so, fault by fault."""
    if not guilt.faults:
        return "no service is at fault"
    return "; ".join(_alternatives(each) for each in guilt.faults)


def _alternatives(truths: tuple[Truth, ...]) -> str:
    """Render `catalog: version v2 or instance catalog-7`; of very many services how many there are."""
    if len(truths) > 1:
        names = " or ".join(
            sorted({f"{kind} {subject}" for t in truths for kind, subject in t.names if kind == "zone"})
        )
        return f"{len(truths)} services: {names}"
    (truth,) = truths
    names = " or ".join(f"{kind} {subject}".rstrip() for kind, subject in sorted(truth.names))
    return f"{truth.service or 'the whole mesh'}: {names}"


def _calls(incident: Incident) -> bool:
    """Tell whether an incident needs a person now: it has ended without a cure or waits, and users are not known to be well."""
    return (incident.stage is Stage.ESCALATED or bool(incident.waiting)) and incident.users is not Users.WELL


def _moves(incident: Incident, now: float, settled_at: float) -> bool:
    """Tell whether the agent still works on an incident; one that waits for a person does not move.

    While the mesh itself was troubled (until `settled_at`) it waited for no person.
    """
    waits = bool(incident.waiting) and now - max(incident.opened_at, settled_at) >= PATIENCE_S
    return incident.is_open and not waits


def day(random: np.random.Generator) -> Load:
    """Return a daily curve with slow wobble: the mesh's load never stands still."""
    phase, depth = random.uniform(0, 2 * np.pi), random.uniform(0.2, 0.4)
    wobble = random.uniform(0, 2 * np.pi, size=3)
    periods = np.asarray([311.0, 97.0, 41.0])

    def factor(seconds: float) -> float:
        day = 1 + depth * np.sin(2 * np.pi * seconds / 86_400 + phase)
        return float(day * (1 + 0.03 * np.sin(2 * np.pi * seconds / periods + wobble).sum()))

    return factor
