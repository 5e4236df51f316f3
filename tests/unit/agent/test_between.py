"""What may happen between a plan and its act: another plan, a merge, a kill, a person."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agent.actuators.base import Order
from agent.actuators.memory import MemoryActuator
from agent.actuators.switched import SwitchedActuator
from agent.caretaker import YIELDS
from agent.incidents import Incident, Verb
from agent.mesh import MeshView
from agent.planner import PlaybookPlanner
from agent.ports import Objection
from agent.store import Store
from agent.track import Track
from agent.witness import OURS
from models.domain import ChangeEvent, ChangeKind
from models.errors import Broken, Refused, Unavailable
from models.frame import Frame
from models.incident import CauseKind, Stage
from models.overlay import EjectInstance, RunHook, ShiftTraffic, slot
from models.signals import Outcomes
from playbooks import load
from playbooks.guards import Limits
from playbooks.ledger import Ledger

from .attacks_between import EJECTS
from .conftest import Clock, ListAudit, World, bad_version, slow_instance, step
from .test_people import order, waiting_for_approval


async def test_an_approval_is_for_the_plan_that_was_shown(world: World) -> None:
    """The cause is seen otherwise in the moment after a person said yes: what is done is what the person saw, or nothing."""
    await waiting_for_approval(world)
    await order(world, Verb.APPROVE)
    (fault,) = world.faults
    fault.cause = replace(fault.cause, kind=CauseKind.INSTANCE, subject="catalog-v1-1")
    world.planner.steps["catalog"] = (step("eject", EjectInstance("catalog", "catalog-v1-1")),)
    await world.step(1.0)
    laid = [overlay.change for overlay in await world.actuator.overlays()]
    assert laid == [ShiftTraffic("catalog", {"v1": 100, "v2": 0})]


async def test_a_hold_down_counts_from_the_plan_it_belongs_to(world: World) -> None:
    """A plan is replaced by one for another cause while it waits: the new one waits its whole hold-down, approved or not."""
    await waiting_for_approval(world)
    await world.step(5.0)
    (fault,) = world.faults
    fault.cause = replace(fault.cause, kind=CauseKind.INSTANCE, subject="catalog-v1-1")
    world.planner.steps["catalog"] = (
        replace(step("restart", EjectInstance("catalog", "catalog-v1-1")), hold_down_s=3.0),
    )
    await world.step(2.0)
    assert "waits for approval to" in world.incident.waiting
    planned = world.incident.planned_at
    await order(world, Verb.APPROVE)
    await world.step(0.2)
    assert world.acts() == []
    await world.step(3.0)
    assert world.acts() == [f"{world.incident.id}-1"]
    assert world.incident.steps[0].acted_at >= planned + 3.0


async def test_a_pause_of_an_incident_holds_for_the_one_it_is_merged_into(world: World) -> None:
    """A person's word about an incident is not lost when it turns out to be about the cause of an older one."""
    await waiting_for_approval(world)
    (older,) = world.loop._tracks.values()
    twin = Track(
        replace(older.incident, id="inc-twin", opened_at=older.incident.opened_at + 1.0, paused="ada"),
        live_at=world.clock.now,
    )
    world.loop._tracks["inc-twin"] = twin
    world.loop._triage.merge_into(twin, older)
    await world.loop.idle()
    assert twin.incident.merged_into == older.incident.id
    assert older.incident.paused == "ada"


async def test_a_paused_step_is_not_withdrawn_as_a_symptom(world: World) -> None:
    """While a person's pause lasts no insight takes back what is laid."""
    await world.begin()
    await world.step(1.0)
    world.break_(bad_version(world, cured_by=[]))
    await world.step(0.4)
    assert world.stage == "verifying"
    await order(world, Verb.PAUSE)
    (track,) = world.loop._tracks.values()
    cause = replace(slow_instance(world).cause, service="catalog-db")
    edge = replace(track.incident.anomalies[0].series, caller="catalog", callee="catalog-db")
    world.mesh.see(Frame.of({edge: Outcomes()}))
    world.loop._triage._supersede(Track(track.incident), cause)
    await world.loop.idle()
    assert track.incident.stage is Stage.VERIFYING


@pytest.mark.parametrize("restarted", [False, True])
async def test_a_plan_meets_the_guards_of_the_moment_of_its_act(world: World, *, restarted: bool) -> None:
    """A budget is spent, a freeze begins, others acted since it was planned: the first step waits, and is taken once it may."""
    await world.begin()
    await world.step(1.0)
    world.mesh.control_up = False
    world.break_(bad_version(world))
    await world.step(1.0)
    assert world.stage == "planned"
    world.planner.objection = Objection("the error budget is spent", passing=True)
    if restarted:
        await world.store.close()
        await world.process()
    world.mesh.control_up = True
    await world.step(2.0)
    assert world.acts() == []
    assert "the error budget is spent" in world.incident.waiting
    world.planner.objection = None
    await world.step(3.0)
    assert world.stage == "resolved"


class _Asking(ListAudit):
    """Looks what the database knows of the action ledger when the record of an act is being written."""

    world: World
    known = b""

    async def append(self, kind: str, data: Mapping[str, Any], *, at: float | None = None) -> int:
        if kind == "act":
            self.known = await self.world.store.recall("ledger", shared=True) or b""
        return await super().append(kind, data, at=at)


async def test_an_act_is_remembered_before_it_is_done(tmp_path: Path) -> None:
    """An agent that is killed right after each of its acts, again and again, does not act more often than its limits allow."""
    world = World(tmp_path)
    fault = slow_instance(world)
    strict = EJECTS.replace("concurrency: 9", "concurrency: 9, rate: {count: 1}")  # no act stands in its own way
    world.planner = PlaybookPlanner(load({"ejects.yaml": strict}), Limits())  # type: ignore[assignment]
    world.audit = _Asking()
    world.audit.world = world
    await world.begin()
    await world.step(1.0)
    world.break_(fault)
    await world.step(0.4)
    await world.store.close()
    entries = Ledger.loads(world.audit.known.decode()).entries
    assert [entry.id for entry in entries] == world.acts() != []


class _Obeyed(ListAudit):
    """Does something while the record of an act is being written."""

    meanwhile: Callable[[], Awaitable[None]]

    async def append(self, kind: str, data: Mapping[str, Any], *, at: float | None = None) -> int:
        if kind == "act":
            await self.meanwhile()
        return await super().append(kind, data, at=at)


@pytest.mark.parametrize("stopped_by", ["outage", "refusal", "order", "audit log", "database"])
async def test_an_act_that_was_stopped_leaves_nothing_in_the_ledger(tmp_path: Path, stopped_by: str) -> None:
    """What was announced to the ledger and then not done, for whatever reason, is taken out of it."""
    world, audit = World(tmp_path), _Obeyed()
    world.audit = audit
    await world.begin()
    await world.step(1.0)
    errors = {
        "outage": Unavailable("gone", hint=""),
        "refusal": Refused("no", hint=""),
        "database": Broken("full", hint=""),
    }

    async def fail(*_: Any) -> Any:
        raise errors[stopped_by]

    async def meanwhile() -> None:
        audit.broken = stopped_by == "audit log"
        if stopped_by == "order":
            await world.switch.order(stop=True, who="ada", why="lunch")

    async def put(incident: Incident, *rest: Any) -> None:
        await (fail() if incident.stage is Stage.ACTING else keep(incident, *rest))

    audit.meanwhile, keep = meanwhile, world.store.put
    if stopped_by == "database":
        world.store.put = put  # type: ignore[method-assign,assignment]
    elif stopped_by in errors:
        world.actuator.lay = fail  # type: ignore[method-assign,assignment]
    world.break_(bad_version(world, cured_by=[]))
    await world.step(0.4)
    kept = await world.store.recall("ledger", shared=True)
    await world.store.close()
    verbs = [verb for verb, _ in world.planner.entries]
    assert verbs.count("acted") == verbs.count("not acted") >= 1
    assert kept is not None
    assert json.loads(kept) == [
        list(entry) for entry in world.planner.entries
    ]  # and an agent that is killed now knows it
    assert world.acts() == []


async def test_an_approval_ends_with_the_plan_that_did_not_help(world: World) -> None:
    """What a person approved did not help and the cause is seen otherwise then: the plan for the other cause asks anew."""
    await waiting_for_approval(world)
    world.planner.steps["catalog"] = world.planner.steps["catalog"][:1]
    await order(world, Verb.APPROVE)
    await world.step(1.0)
    assert len(world.acts()) == 1
    (fault,) = world.faults
    fault.cause = replace(fault.cause, kind=CauseKind.INSTANCE, subject="catalog-v1-1")
    world.planner.steps["catalog"] = (step("eject", EjectInstance("catalog", "catalog-v1-1")),)
    await world.step(20.0)
    assert "waits for approval to eject" in world.incident.waiting
    assert len(world.acts()) == 1


async def killed_while_acting(world: World, lay: Callable[[Any], Awaitable[Any]]) -> None:
    """Let the agent act until `lay`, called in the actuator's place, ends its work as a kill does."""
    world.actuator.lay = lay  # type: ignore[method-assign,assignment]
    world.clock.now += 0.2
    world._traffic()
    for _ in range(3):
        world.loop.tick()
        await asyncio.wait(set(world.loop._tasks)) if world.loop._tasks else None
    vars(world.actuator).pop("lay")
    assert world.stage == "acting"


async def test_a_hook_that_perhaps_was_not_called_is_called_again(world: World) -> None:
    """Killed between laying a hook's overlay and calling the hook: the next process does both again, by the same key."""
    await world.begin()
    await world.step(1.0)
    fault = bad_version(world, cured_by=[])
    world.planner.steps["catalog"] = (
        replace(step("scale", ShiftTraffic("catalog", {})), change=RunHook("catalog", "scale")),
    )
    world.break_(fault)
    lay = world.actuator.lay

    async def laid_then_killed(one: Any) -> Any:
        await lay(one)
        raise asyncio.CancelledError

    await killed_while_acting(world, laid_then_killed)
    await world.store.close()
    await world.process()
    await world.step(1.0)
    assert world.acts() == [f"{world.incident.id}-1"] * 2
    assert world.stage == "verifying"


async def test_what_a_killed_agent_was_about_to_do_does_not_stay_in_the_ledger(world: World) -> None:
    """Killed after an act was announced and before it was laid: the next process takes it out before it plans anew."""
    await world.begin()
    await world.step(1.0)
    world.break_(bad_version(world, cured_by=[]))
    await killed_while_acting(world, _killed)
    announced = ("acted", f"{world.incident.id}-1")
    assert world.planner.entries == [announced]
    await world.store.close()
    await world.process()
    await world.step(0.4)
    assert world.planner.entries[:2] == [announced, ("not acted", announced[1])]


async def _killed(*_: Any) -> Any:
    raise asyncio.CancelledError


async def test_a_defect_in_the_middle_of_an_act_leaves_no_incident_behind(world: World) -> None:
    """Whatever broke while a step was taken: what was laid is asked for, and the incident goes on from there."""
    await world.begin()
    await world.step(1.0)
    propagation = world.actuator.propagation

    async def broken(_: str) -> Any:
        world.actuator.propagation = propagation  # type: ignore[method-assign]
        raise ValueError("a defect")

    world.actuator.propagation = broken  # type: ignore[method-assign,assignment]
    world.break_(bad_version(world))
    await world.step(6.0)
    assert world.stage == "resolved"
    assert world.acts() == [f"{world.incident.id}-1"]


@pytest.mark.parametrize("actor", sorted(OURS))
async def test_an_end_that_no_person_wrote_is_no_order(world: World, actor: str) -> None:
    """A lease ended, or the agent itself took its overlay back: the place stays the agent's."""
    await world.begin()
    await world.step(1.0)
    world.break_(bad_version(world, cured_by=[]))
    await world.step(0.4)
    (verifying,) = world.loop.incidents
    gone = f"Overlay/{verifying.id}-1"
    world.mesh.add_changes([ChangeEvent(1, world.clock.now, ChangeKind.OVERLAY, gone, "catalog", actor=actor)])
    await world.step(0.4)
    assert world.loop._caretaker.person(verifying.current, world.clock.now) == ""


async def test_nothing_is_changed_behind_a_thrown_switch() -> None:
    """Neither laying nor removing passes, whoever asks; what is laid is kept alive and may be read."""
    stopped = ""
    inner = MemoryActuator(Clock())
    actuator = SwitchedActuator(inner, lambda: stopped)
    one, two = (Order(name, EjectInstance("catalog", name), "try", 30.0, "inc", 1) for name in ("one", "two"))
    await actuator.lay(one)
    stopped = "stopped by ada"
    with pytest.raises(Unavailable, match="ada"):
        await actuator.lay(two)
    with pytest.raises(Unavailable, match="ada"):
        await actuator.remove("one", 1)
    assert await actuator.renew("one", 30.0, 1)
    assert [overlay.id for overlay in await actuator.overlays()] == ["one"]


def test_changes_are_told_again_when_the_control_plane_counts_anew() -> None:
    """Only what is new is told; with a new count everything is new."""
    mesh = MeshView()
    first, second, other = (ChangeEvent(k, 0.0, ChangeKind.CONFIG, "a", "b") for k in (7, 8, 1))
    mesh.add_changes([first, second])
    assert [mesh.changes_since(k) for k in (0, 7, 8)] == [(first, second), (second,), ()]
    mesh.forget_changes()
    mesh.add_changes([other])
    assert mesh.changes_since(8) == (other,)


async def test_what_a_person_tidies_up_as_an_incident_closes_stays_the_agents(world: World) -> None:
    """A person removes a kept overlay in the very moment its incident is closed: no order, the next fault there is healed."""
    await world.begin()
    await world.step(1.0)
    fault = world.break_(bad_version(world))
    await world.step()
    while world.incident.is_open:
        await world.step()
    assert world.stage == "resolved"
    overlay, closed = f"{world.incident.id}-1", world.incident.times["closed"]
    assert closed == world.clock.now
    world.actuator.drop(overlay)
    world.mesh.add_changes([ChangeEvent(1, closed, ChangeKind.OVERLAY, f"Overlay/{overlay}", "catalog", actor="ada")])
    fault.over = True
    await world.step(60.0)
    world.break_(bad_version(world))
    await world.step(4.0)
    assert len(world.acts()) == 2


async def test_a_leader_knows_the_places_that_people_took_over_under_the_leader_before(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two agents share a store: who begins to lead keeps out of the places that the other one yielded."""
    monkeypatch.setattr(Store, "shared", True)
    await world.begin()
    await world.step(1.0)
    place = step("shift", ShiftTraffic("catalog", {"v1": 100, "v2": 0}))
    until = world.clock.now + 60.0
    await world.store.remember(YIELDS, json.dumps([[slot(place.change), until]]).encode(), shared=True)
    assert world.loop._caretaker.person(place, world.clock.now) == ""
    world.fence.token = 2
    await world.step(0.4)
    assert "took this place over" in world.loop._caretaker.person(place, world.clock.now)
