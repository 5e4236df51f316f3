"""The agent is killed at every await that touches the world, for every kind of action: the outcome is the same.

Each call to the database, the audit log and the mesh is two points of death: before it has any effect, and after it had,
but before the agent heard of it. What was not stored by then is gone, as with `kill -9`.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import pytest

from agent.incidents import Step
from models.incident import TRANSITIONS, Signal, Stage
from models.overlay import (
    Change,
    EjectInstance,
    LimitConnections,
    OpenBreaker,
    SetOutlierDetection,
    SetRetries,
    SetTimeout,
    ShiftTraffic,
    slot,
)

from .conftest import World, bad_version

CHANGES: Final[tuple[Change, ...]] = (
    ShiftTraffic("catalog", {"v1": 100, "v2": 0}),
    EjectInstance("catalog", "catalog-v2-1"),
    OpenBreaker("catalog", respond="fallback"),
    SetRetries("catalog", 1),
    SetTimeout("catalog", 1.0),
    LimitConnections("catalog", max_requests=10),
    SetOutlierDetection("catalog", 3),
)
USELESS: Final = SetTimeout("catalog", 9.0)
SETTLED_TICKS: Final = 5
SEEN: set[tuple[Stage, Stage]] = set()


@pytest.fixture(autouse=True)
def unsynced(monkeypatch: pytest.MonkeyPatch) -> None:
    """A killed process loses no committed transaction; only a power cut would, and that is not played here."""

    def quick(connection: Any, _: object) -> None:
        connection.execute("PRAGMA journal_mode=MEMORY")
        connection.execute("PRAGMA synchronous=OFF")

    monkeypatch.setattr("agent.store._durable", quick)


class Killed(BaseException):
    """The process ends here."""


@dataclass
class Death:
    """Kills at the `at`-th point; afterwards the dead process has no effect any more."""

    at: int
    points: int = 0
    dead: bool = False

    def wrap(self, call: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        """Return a call that passes two points of death."""

        async def mortal(*args: Any, **kwargs: Any) -> Any:
            self._point()
            result = await call(*args, **kwargs)
            self._point()
            return result

        return mortal

    def _point(self) -> None:
        self.points += 1
        if self.dead or self.points == self.at:
            self.dead = True
            raise Killed


@dataclass
class Outcome:
    """How it ended, and what was ever in force."""

    stages: list[str] = field(default_factory=list)
    overlays: list[Change] = field(default_factory=list)
    paged: bool = False
    laid: list[Change] = field(default_factory=list)


MORTAL: Final = (
    ("store", ("put", "remember")),
    ("audit", ("append",)),
    ("actuator", ("lay", "remove", "propagation", "renew")),
)


async def live(directory: Path, steps: tuple[Step, ...], cures: tuple[str, ...], at: int) -> tuple[Outcome, int]:
    """Let a fault be healed by an agent that dies at point `at` (0: never); return the outcome and the points there were."""
    directory.mkdir()
    world, death = World(directory), Death(at)
    await world.begin()
    await world.step(1.0)
    world.break_(bad_version(world, cured_by=cures))
    world.planner.steps["catalog"] = steps
    original: list[tuple[object, str]] = []
    for part, names in MORTAL:
        thing = getattr(world, part)
        for name in names:
            setattr(thing, name, death.wrap(getattr(thing, name)))
            original.append((thing, name))
    outcome, quiet = Outcome(), 0
    for _ in range(150):
        try:
            await world.step(0.2)
        except (Killed, BaseExceptionGroup):
            for task in [t for t in asyncio.all_tasks() if t.get_name().startswith(("inc-", "renew", "audit"))]:
                task.cancel()
            await asyncio.sleep(0)
            for thing, name in original:
                vars(thing).pop(name, None)
            await world.store.close()
            await world.process()
            world.planner.entries.clear()
        _note(world, outcome)
        closed = world.loop.incidents and not any(i.is_open for i in world.loop.incidents)
        quiet = quiet + 1 if closed else 0
        if quiet > SETTLED_TICKS:
            break
    outcome.stages = sorted(str(i.stage) for i in await world.store.latest(10))
    outcome.overlays = [o.change for o in await world.actuator.overlays()]
    outcome.paged = bool(world.pager.pages)
    _transitions(world)
    await world.store.close()
    return outcome, death.points


def _note(world: World, outcome: Outcome) -> None:
    """Note what is in force now; two overlays in one place would be a doubled action."""
    alive = [o.change for o in world.actuator._alive().values()]
    places = [slot(change) for change in alive]
    assert len(places) == len(set(places)), alive
    outcome.laid.extend(change for change in alive if change not in outcome.laid)


def _transitions(world: World) -> None:
    for incident in world.loop.incidents:
        stages = [moment.stage for moment in incident.history]
        SEEN.update((a, b) for a, b in itertools.pairwise(stages) if a is not b)


def planned(change: Change) -> Step:
    """Return a step that makes `change`."""
    return Step(
        change.kind, change, "", 0.0, 4.0, ("catalog",), Signal.ERRORS, 0.2, 0.3, reason=f"because of {change.kind}"
    )


async def same_outcome(directory: Path, steps: tuple[Step, ...], cures: tuple[str, ...]) -> Outcome:
    """Kill at every point of the undisturbed run, and hold each outcome to it."""
    wanted, points = await live(directory / "undisturbed", steps, cures, 0)
    for at in range(1, points + 1):
        found, _ = await live(directory / str(at), steps, cures, at)
        assert replace(found, paged=wanted.paged) == wanted, f"killed at point {at} of {points}"
        assert found.paged or not wanted.paged, f"killed at point {at} of {points}: nobody was paged"
    return wanted


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.kind)
async def test_killed_anywhere_on_the_way_to_the_cure_it_is_cured_once(tmp_path: Path, change: Change) -> None:
    """Plan, act, verify, keep: one overlay of the right kind in force in the end, whatever the moment of death."""
    wanted = await same_outcome(tmp_path, (planned(change),), (change.kind,))
    assert wanted == Outcome(["resolved"], [change], paged=False, laid=[change])


@pytest.mark.parametrize("change", [c for c in CHANGES if c.kind != USELESS.kind], ids=lambda change: change.kind)
async def test_killed_anywhere_while_a_useless_step_is_undone_the_next_one_cures(
    tmp_path: Path, change: Change
) -> None:
    """Act, fail, undo, next step, cure: the useless overlay is gone, the useful one stays."""
    wanted = await same_outcome(tmp_path, (planned(USELESS), planned(change)), (change.kind,))
    assert wanted == Outcome(["resolved"], [change], paged=False, laid=[USELESS, change])


async def test_killed_anywhere_on_the_way_to_a_person_everything_is_undone_and_somebody_paged(tmp_path: Path) -> None:
    """No step helps: nothing is left in force and a person knows, whatever the moment of death."""
    wanted = await same_outcome(tmp_path, (planned(USELESS), planned(CHANGES[0])), ())
    assert wanted == Outcome(["escalated"], [], paged=True, laid=[USELESS, CHANGES[0]])
    undecided = {(Stage.PLANNED, Stage.CORRELATED)}  # nothing is laid on this way; test_brain.py walks it
    core = {(a, b) for a, after in TRANSITIONS.items() for b in after} - SEEN - undecided
    assert not {pair for pair in core if Stage.OBSERVED not in pair and Stage.ESCALATED not in pair}, core
