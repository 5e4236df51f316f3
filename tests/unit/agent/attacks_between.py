"""Attacks that come in between: two at once, an order in the last moment, a restart, a setting that changed since the plan."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agent import switch, treatment
from agent.actuators.base import Order
from agent.actuators.memory import MemoryActuator
from agent.actuators.switched import SwitchedActuator
from agent.caretaker import Caretaker
from agent.deciding import Deciding
from agent.incidents import Incident, Step
from agent.planner import PlaybookPlanner
from agent.scribe import Scribe
from agent.store import Store
from agent.switch import KillSwitch
from models.domain import ChangeEvent, ChangeKind, Edge
from models.incident import Cause, CauseKind, Signal
from models.overlay import Overlay, ShiftTraffic
from models.signals import Series, Side
from playbooks import load
from playbooks.guards import Limits
from playbooks.schema import Mode

from .attacks import Interlock, patched
from .conftest import Clock, Fault, ListAudit, World, anomaly, bad_version, slow_instance, step

EJECTS = """
apiVersion: fibrin.dev/v1
kind: Playbook
metadata: {name: ejects}
spec:
  when: {cause: [instance], services: {all: true}}
  mode: auto
  guard: {cooldown: 0s, concurrency: 9}
  steps:
  - {name: eject it, action: {ejectInstance: {}}, verify: {deadline: 5s}, undo: automatic}
"""


def failing_instance(world: World) -> Fault:
    """Return the fault of one instance of catalog that fails."""
    series = Series(Side.ATTEMPT, "", "catalog", "v1", "catalog-v1-1", "")
    cause = Cause(
        CauseKind.INSTANCE, "catalog", "catalog-v1-1", Signal.ERRORS, 0.95, edge=Edge("front", "catalog"), evidence=()
    )
    found = (anomaly(series, 0.5, world.clock.now),)
    return Fault(cause, found, "front", error_ratio=0.2, cured_by=frozenset({"eject-instance"}))


class _Slow:
    """A control plane whose answers take until another call is under way too, or a while."""

    def __init__(self, inner: MemoryActuator) -> None:
        self._lay = inner.lay
        self._under_way = 0

    async def lay(self, order: Order) -> Overlay:
        self._under_way += 1
        deadline = time.monotonic() + 0.2
        while self._under_way == 1 and time.monotonic() < deadline:
            await asyncio.sleep(0.002)
        return await self._lay(order)


async def two_at_once(directory: Path) -> None:
    """Two incidents are planned in one tick, each for itself within the blast radius, together beyond it."""
    world = World(directory)
    one, other = slow_instance(world), failing_instance(world)
    world.planner = PlaybookPlanner(load({"ejects.yaml": EJECTS}), Limits(mesh_capacity=0.13))  # type: ignore[assignment]
    await world.begin()
    await world.step(1.0)
    world.actuator.lay = _Slow(world.actuator).lay  # type: ignore[method-assign]
    world.break_(one)
    world.break_(other)
    await world.step(3.0)
    await world.store.close()
    assert len(world.loop.incidents) == 2
    assert len(world.acts()) == 1, world.acts()


async def a_page_each(directory: Path) -> None:
    """A storm with two incidents calls two persons."""
    world = World(directory)
    await world.begin()
    await world.step(1.0)
    world.loop._lookout.storm = lambda cause: 0.9 if cause else 0.0  # type: ignore[method-assign]
    world.break_(bad_version(world))
    world.break_(slow_instance(world))
    await world.step(2.0)
    await world.store.close()
    assert [str(i.stage) for i in world.loop.incidents] == ["escalated"] * 2
    assert len(world.pager.pages) == 1, world.pager.pages


async def a_plan_each(directory: Path) -> None:
    """In a storm no plan is made for either of two incidents, and each calls a person."""
    world = World(directory)
    faults = failing_instance(world), slow_instance(world)
    world.planner = PlaybookPlanner(load({"ejects.yaml": EJECTS}), Limits())  # type: ignore[assignment]
    await world.begin(undecided_s=0.0)
    await world.step(1.0)
    world.loop._lookout.storm = lambda cause: 0.9 if cause else 0.0  # type: ignore[method-assign]
    for fault in faults:
        world.break_(fault)
    await world.step(2.0)
    await world.store.close()
    assert [(str(i.stage), i.playbook) for i in world.loop.incidents] == [("escalated", "")] * 2
    assert len(world.pager.pages) == 1, world.pager.pages


async def a_larger_dose(directory: Path) -> None:
    """A small dose hurt a neighbour, and a larger one is tried."""
    world = World(directory)
    await world.begin()
    await world.step(1.0)
    world.break_(bad_version(world, cured_by=[]))
    small, large = ShiftTraffic("catalog", {"v1": 70, "v2": 30}), ShiftTraffic("catalog", {"v1": 100, "v2": 0})
    world.planner.steps["catalog"] = (step("move (20%)", small), step("move (100%)", large))
    await world.step(0.4)
    (track,) = world.loop._tracks.values()
    await world.loop.treatment.fail(track, "made a neighbour worse", None, harmed=True)
    await world.step(10.0)
    await world.store.close()
    assert len(world.acts()) == 1


class _Thrown(ListAudit):
    """Somebody throws the kill switch while the record of an undo is being written."""

    place = Path()

    async def append(self, kind: str, data: Mapping[str, Any], *, at: float | None = None) -> int:
        if kind == "undo":
            self.place.touch()
        return await super().append(kind, data, at=at)


async def the_last_moment(directory: Path) -> None:
    """The kill switch is thrown between the record of an undo and the undo."""
    world = World(directory)
    world.audit = _Thrown()
    world.audit.place = directory / "stop-acting"
    await world.begin()
    await world.step(1.0)
    world.break_(bad_version(world, cured_by=[]))
    await world.step(4.0)
    laid = await world.actuator.overlays()
    await world.store.close()
    assert "undo" in world.audit.kinds()
    assert len(laid) == 1


async def a_touched_file(directory: Path) -> None:
    """After a stop and a resumption somebody touches the file that is still there."""
    store = Store(directory / "agent.db")
    await store.open()
    clock = Clock()
    one = KillSwitch(store, directory / "stop-acting", clock)
    await one.order(stop=True, who="ada", why="")
    clock.now += 1.0
    await one.order(stop=False, who="ada", why="")
    assert not one.stopped
    os.utime(directory / "stop-acting", (clock.now + 60.0, clock.now + 60.0))
    stopped = one.stopped
    await store.close()
    assert stopped


async def a_late_clock(directory: Path) -> None:
    """A replica whose clock is behind is told to stop; the others, told to resume before, go on."""
    store, ahead, behind = Store(directory / "agent.db"), Clock(), Clock()
    await store.open()
    behind.now -= 30.0
    one = KillSwitch(store, directory / "one", ahead)
    other = KillSwitch(store, directory / "other", behind)
    await one.order(stop=True, who="ada", why="")
    ahead.now, behind.now = ahead.now + 1.0, behind.now + 1.0
    await one.order(stop=False, who="ada", why="")
    await other.poll()
    await other.order(stop=True, who="ada", why="")
    await one.poll()
    stopped = one.stopped
    await store.close()
    assert stopped


async def _kept_waiting(directory: Path) -> World:
    """Return a world with a plan that would act at once, were the control plane not away."""
    world = World(directory)
    await world.begin()
    await world.step(1.0)
    world.mesh.control_up = False
    world.break_(bad_version(world))
    await world.step(1.0)
    return world


async def _answered(world: World) -> None:
    """The control plane is back: nothing may be done all the same."""
    world.mesh.control_up = True
    await world.step(2.0)
    await world.store.close()
    assert world.acts() == []


async def bolder_than_today(directory: Path) -> None:
    """A plan that was made to act alone waits; meanwhile its certificate ends, or the agent's record turns bad."""
    world = await _kept_waiting(directory)
    assert world.incident.mode == Mode.AUTO
    world.planner.mode_now = Mode.APPROVE
    await _answered(world)


async def bolder_than_its_settings(directory: Path) -> None:
    """A plan that was made to act alone waits; the agent is restarted with `agent.mode: shadow`."""
    world = await _kept_waiting(directory)
    await world.store.close()
    world.settings = replace(world.settings, mode=Mode.SHADOW)
    await world.process()
    await _answered(world)


async def _verifying(directory: Path) -> World:
    world = World(directory)
    await world.begin(mute_s=0.5)
    await world.step(1.0)
    world.break_(bad_version(world, cured_by=[]))
    await world.step(0.4)
    assert world.stage == "verifying"
    return world


async def a_forgotten_yield(directory: Path) -> None:
    """A person takes the agent's overlay away; the agent yields, is killed, and acts there again."""
    world = await _verifying(directory)
    world.actuator.drop(f"{world.incident.id}-1")
    await world.step(0.2)
    assert world.stage == "observed"
    await world.store.close()
    await world.process()
    await world.step(10.0)
    await world.store.close()
    assert len(world.acts()) == 1


async def nobody_saw_it(directory: Path) -> None:
    """A person takes the agent's overlay away while no agent runs."""
    world = await _verifying(directory)
    overlay = f"{world.incident.id}-1"
    await world.store.close()
    world.actuator.drop(overlay)
    removed = ChangeEvent(1, world.clock.now, ChangeKind.OVERLAY, f"Overlay/{overlay}", "catalog", actor="ada")
    world.mesh.add_changes([removed])
    await world.process()
    await world.step(10.0)
    await world.store.close()
    assert len(world.acts()) == 1


def _unreserved(patch: pytest.MonkeyPatch) -> None:
    acted = PlaybookPlanner.acted

    def late(self: PlaybookPlanner, incident: Incident, step: Step, at: float) -> None:
        if step.acted_at:
            acted(self, incident, step, at)

    patch.setattr(PlaybookPlanner, "acted", late)


def _heedless(patch: pytest.MonkeyPatch) -> None:
    async def nothing(_: Caretaker) -> None:
        return None

    patch.setattr(Caretaker, "begin", nothing)


INTERLOCKS = (
    Interlock("2 two at once", _unreserved, two_at_once),
    Interlock("3 one page", patched(Scribe, "_first_of_storm", lambda _: True), a_page_each),
    Interlock("3 one page, planner", patched(Scribe, "_first_of_storm", lambda _: True), a_plan_each),
    Interlock("11 no larger dose of what hurt", patched(treatment, "HARMED", "forgotten"), a_larger_dose),
    Interlock("12 the last moment", patched(SwitchedActuator, "_ask", lambda _: None), the_last_moment),
    Interlock("12 touched again", patched(switch, "TOUCHED_S", float("inf")), a_touched_file),
    Interlock("12 clocks that differ", patched(switch, "LATER_S", float("-inf")), a_late_clock),
    Interlock("13 mode of today", patched(Deciding, "_temper", lambda *_: None), bolder_than_today),
    Interlock("13 settings of today", patched(Deciding, "_temper", lambda *_: None), bolder_than_its_settings),
    Interlock("18 yield over kill -9", _heedless, a_forgotten_yield),
    Interlock("18 nobody saw it", patched(Caretaker, "_removed", lambda *_: None), nobody_saw_it),
)
