"""Very many incidents at once: all are thought about in turns, none is forgotten meanwhile, and none outlives its symptoms."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping
from typing import Any

from agent.correlate import Symptoms
from agent.history import History
from agent.incidents import Incident, moved
from agent.mesh import MeshView
from agent.ports import Diagnosis
from agent.track import Track
from agent.triage import CROWD, MAX_POOL, URGENT_S, Triage
from models.domain import Edge, Topology
from models.incident import Anomaly, Cause, CauseKind, Signal, Stage
from models.signals import Outcomes, Series, Side
from playbooks.schema import Mode

from .conftest import World, anomaly, bad_version, instance, slow_instance

MANY = 150
EACH = 3
"""Incidents, and symptoms of each."""


def name(number: int) -> str:
    """Return a service."""
    return f"svc{number:03d}"


def symptoms(number: int, now: float) -> list[Anomaly]:
    """Return what a broken service shows at each of three instances."""
    seen = [Series(Side.ATTEMPT, "", name(number), "v2", f"{name(number)}-{k}", "") for k in range(EACH)]
    return [anomaly(series, 0.5, now) for series in seen]


def cause(number: int) -> Cause:
    """Return what is wrong with a service."""
    edge = Edge("front", name(number))
    return Cause(CauseKind.VERSION, name(number), "v2", Signal.ERRORS, 0.95, edge=edge, evidence=())


class Crowd:
    """Triage of `many` incidents, each with a plan that waits for a person; `thought` are the services of each thought."""

    def __init__(self, world: World, many: int) -> None:
        self.now = world.clock.now
        self.world = world
        self.broken = list(range(many))
        self.tracks: dict[str, Track] = {}
        self.thought: list[list[str]] = []
        self.over: list[str] = []
        mesh = MeshView()
        mesh.set_topology(
            Topology(
                tuple(instance(f"{name(n)}-{k}", name(n), "v2") for n in range(many) for k in range(EACH)),
                frozenset(Edge("front", name(n)) for n in range(many)),
            )
        )
        self.triage = Triage(
            world.settings,
            tracks=self.tracks,
            mesh=mesh,
            history=History(),
            localise=self._localise,
            treatment=world.loop.treatment,
            start=self._start,
            withdraw=lambda *_: None,
        )
        for number in self.broken:
            self._open(number)

    def turn(self, seconds: float = 0.1) -> None:
        """Let a tick pass."""
        self.now += seconds
        self.world.clock.now = self.now
        found = [symptom for number in self.broken for symptom in symptoms(number, self.now)]
        self.triage.sort(Symptoms(found), self.now)

    def _open(self, number: int) -> None:
        at = self.now
        found = Incident(
            name(number),
            at,
            at,
            anomalies=tuple(symptoms(number, at)),
            causes=(cause(number),),
            mode=str(Mode.APPROVE),
        )
        found = moved(moved(found, Stage.CORRELATED, at, "cause"), Stage.PLANNED, at, "plan")
        self.tracks[found.id] = Track(found, live_at=at)

    def _localise(
        self, anomalies: tuple[Anomaly, ...], since: Callable[[float], Mapping[Series, Outcomes]], now: float
    ) -> Diagnosis:
        del since, now
        there = sorted({a.series.callee for a in anomalies})
        self.thought.append([a.series.callee for a in anomalies])
        return Diagnosis((cause(int(there[0].removeprefix("svc"))),))

    def _start(self, track: Track, work: Coroutine[Any, Any, None]) -> None:
        work.close()
        self.over.append(track.incident.id)
        del self.tracks[track.incident.id]


async def test_a_crowd_is_thought_about_in_turns_and_nobody_is_left_out(world: World) -> None:
    """Of 450 symptoms at most 400 are thought about in a tick; within a few ticks each had its turn, and no incident ended or began."""
    await world.begin()
    crowd = Crowd(world, MANY)
    turns = -(-MANY * EACH // MAX_POOL)
    firsts: list[list[str]] = []
    for _ in range(turns):
        before = len(crowd.thought)
        crowd.turn()
        firsts.append(crowd.thought[before])
    assert max(len(pool) for pool in crowd.thought) == MAX_POOL
    assert {service for pool in firsts for service in pool} == {name(n) for n in range(MANY)}
    assert sorted(crowd.tracks) == [name(n) for n in range(MANY)]


async def test_nobody_in_a_crowd_is_forgotten_while_it_waits(world: World) -> None:
    """However long the crowd lasts, whoever's symptoms last too stays open: to wait for a turn is no recovery."""
    await world.begin()
    crowd = Crowd(world, MANY)
    for _ in range(20):  # more than twice `gone_s`
        crowd.turn(0.25)
    assert crowd.over == []


async def test_whose_symptoms_ended_leaves_the_crowd(world: World) -> None:
    """One fault of the crowd is over: within `gone_s` and one round of turns its incident ends, and no other."""
    await world.begin()
    crowd = Crowd(world, MANY)
    crowd.turn()
    crowd.broken.remove(7)
    for _ in range(round((world.settings.gone_s + 1.0) / 0.25)):
        crowd.turn(0.25)
    assert crowd.over == [name(7)]


async def test_few_incidents_are_thought_about_with_all_their_symptoms(world: World) -> None:
    """One incident less than a crowd: however many symptoms there are, they are looked at together."""
    await world.begin()
    crowd = Crowd(world, CROWD - 1)
    crowd.broken = list(range(CROWD - 1, MAX_POOL))
    crowd.turn()
    assert len(crowd.thought[0]) == len(crowd.broken) * EACH > MAX_POOL


async def test_a_fault_that_is_over_ends_while_another_drags_on(world: World) -> None:
    """Two plans wait for a person; one fault passes: its incident ends though the other keeps the agent pondering."""
    await world.begin(mode=Mode.APPROVE)
    await world.step(1.0)
    passing = world.break_(bad_version(world))
    world.break_(slow_instance(world))
    await world.step(URGENT_S + 1.0)
    assert sorted(str(i.stage) for i in world.loop.incidents) == ["planned", "planned"]
    passing.over = True
    await world.step(world.settings.gone_s + 1.0)
    assert {i.title: str(i.stage) for i in world.loop.incidents} == {
        str(passing.cause): "observed",
        str(world.faults[1].cause): "planned",
    }
