"""Very many incidents at once: all are thought about in turns, none is forgotten meanwhile, and none outlives its symptoms."""

from __future__ import annotations

from collections.abc import Coroutine
from dataclasses import replace
from typing import Any

import pytest

from agent.correlate import Symptoms
from agent.history import History
from agent.incidents import Incident, moved
from agent.loop import MOST_CONSIDERED
from agent.mesh import MeshView
from agent.ports import Diagnosis, Since
from agent.track import Track
from agent.triage import CROWD, MAX_KNOWN, MAX_POOL, MOST_ENDS, URGENT_S, Triage
from models.domain import Edge, Topology
from models.incident import Anomaly, Cause, CauseKind, Signal, Stage
from models.overlay import ShiftTraffic
from models.signals import Series, Side
from playbooks.schema import Mode

from .conftest import World, anomaly, bad_version, instance, outcomes, slow_instance, step

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


def cause(number: int, probability: float = 0.95) -> Cause:
    """Return what is wrong with a service."""
    edge = Edge("front", name(number))
    return Cause(CauseKind.VERSION, name(number), "v2", Signal.ERRORS, probability, edge=edge, evidence=())


class Crowd:
    """Triage of `many` incidents, each with a plan that waits for a person; one more service is well.

    `thought` are the services of each thought; independent faults share the odds, as they do with the real localiser.
    """

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
                tuple(instance(f"{name(n)}-{k}", name(n), "v2") for n in range(many + 1) for k in range(EACH)),
                frozenset(Edge("front", name(n)) for n in range(many + 1)),
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

    def _localise(self, anomalies: tuple[Anomaly, ...], since: Since, now: float) -> Diagnosis:
        del since, now
        there = sorted({a.series.callee for a in anomalies})
        self.thought.append([a.series.callee for a in anomalies])
        return Diagnosis((cause(int(there[0].removeprefix("svc")), 0.95 / len(there)),))

    def _start(self, track: Track, work: Coroutine[Any, Any, None]) -> None:
        work.close()
        self.over.append(track.incident.id)
        del self.tracks[track.incident.id]


async def test_a_crowd_is_thought_about_in_turns_and_nobody_is_left_out(world: World) -> None:
    """Of very many symptoms a part is thought about in a tick; within a few ticks each had its turn, and no incident ended or began."""
    await world.begin()
    crowd = Crowd(world, MANY)
    turns = -(-MANY * EACH // MAX_KNOWN)
    firsts: list[list[str]] = []
    for _ in range(turns):
        before = len(crowd.thought)
        crowd.turn()
        firsts.append(crowd.thought[before])
    assert max(len(pool) for pool in crowd.thought) == MAX_KNOWN
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
    crowd.broken = list(range(MAX_POOL // 2))
    crowd.turn()
    assert len(crowd.thought[0]) == len(crowd.broken) * EACH > MAX_POOL


@pytest.mark.parametrize("many", [4, MANY])
async def test_plans_that_wait_for_a_person_hide_no_fault_after_them(world: World, many: int) -> None:
    """However many plans wait, one more fault has an incident of its own in the next tick, with its cause; theirs stay as they are."""
    await world.begin()
    crowd = Crowd(world, many)
    for _ in range(round(2 * URGENT_S / 0.1)):
        crowd.turn()
    before = set(crowd.tracks)
    crowd.broken.append(many)
    crowd.turn(1.0)
    assert before < set(crowd.tracks)
    (new,) = set(crowd.tracks) - before
    assert str(crowd.tracks[new].incident.cause) == str(cause(many))
    assert {str(crowd.tracks[name(n)].incident.cause) for n in range(many)} == {str(cause(n)) for n in range(many)}


async def test_a_crowd_whose_faults_are_over_ends_a_few_at_a_time(world: World) -> None:
    """All faults pass at once: their incidents end in turns, so that no tick has to tell and store them all."""
    await world.begin()
    crowd = Crowd(world, MANY)
    crowd.broken = []
    crowd.turn(world.settings.gone_s + 0.1)
    assert len(crowd.over) == MOST_ENDS
    for _ in range(MANY // MOST_ENDS):
        crowd.turn()
    assert sorted(crowd.over) == [name(n) for n in range(MANY)]


async def test_a_crowd_is_told_in_turns_that_it_waits_and_then_left_alone(world: World) -> None:
    """Of 120 plans some are looked at in each tick, none twice before all had their turn; told once, none is looked at again."""
    await world.begin()
    crowd = Crowd(world, 120)
    for track in crowd.tracks.values():
        track.incident = replace(track.incident, steps=(step("shift", ShiftTraffic("svc", {"v1": 100})),), step=0)
    world.loop._tracks.update(crowd.tracks)
    told = []
    for _ in range(4):
        world.clock.now += 0.1
        world.detector.alarms = tuple(a for n in range(120) for a in symptoms(n, world.clock.now))
        world.loop.history.add(world.clock.now, {a.series: outcomes(5, 3) for a in world.detector.alarms})
        world.loop.tick()
        await world.loop.idle()
        told.append(world.audit.kinds().count("held-back"))
    assert told == [MOST_CONSIDERED, 2 * MOST_CONSIDERED, 120, 120]


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
