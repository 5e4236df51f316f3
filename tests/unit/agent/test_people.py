"""People first: what a person orders holds at once, over restarts, and stands in story and audit log with the name."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from agent.incidents import Verb
from agent.ports import Objection
from agent.store import Store
from agent.switch import KillSwitch, Order, read_file, write_file
from models.errors import Broken, Conflict, NotFound
from models.incident import Stage
from playbooks.schema import Mode

from .conftest import Clock, World, bad_version

ADA = "ada"


async def waiting_for_approval(world: World) -> None:
    """Bring a failing version to the point where its plan waits for a person."""
    await world.begin()
    world.planner.mode = Mode.APPROVE
    await world.step(1.0)
    world.break_(bad_version(world, cured_by=["eject-instance"]))
    await world.step(1.0)
    assert "waits for approval" in world.incident.waiting


async def restart(world: World) -> None:
    """Start the next process on what the last one left."""
    await world.store.close()
    await world.process()


async def order(world: World, verb: Verb, why: str = "because") -> None:
    """Give an order about the only incident."""
    await world.loop.people.order(verb, world.incident.id, ADA, why)


async def test_an_approved_step_is_taken_and_the_next_one_asks_again(world: World) -> None:
    """One yes covers the step that was shown, no other; who said it stands in the record."""
    await waiting_for_approval(world)
    await order(world, Verb.APPROVE)
    await world.step(0.2)
    assert world.acts() == [f"{world.incident.id}-1"]
    await world.step(5.0)
    assert world.acts() == [f"{world.incident.id}-1"]
    assert world.stage == "planned"
    assert "waits for approval to eject" in world.incident.waiting
    assert [page.partition(" to ")[2].partition(" ")[0] for page in world.pager.pages] == ["shift", "eject"]
    await order(world, Verb.APPROVE)
    await world.step(4.0)
    assert world.stage == "resolved"
    said = [data["who"] for kind, data in world.audit.records if kind == "approve"]
    assert said == [{"name": ADA, "role": "person"}] * 2


async def test_an_approval_survives_a_restart(world: World) -> None:
    """Approved, then killed before acting: the next process acts without asking again."""
    await waiting_for_approval(world)
    await order(world, Verb.APPROVE)
    await restart(world)
    await world.step(1.0)
    assert world.acts() == [f"{world.incident.id}-1"]


async def test_a_stale_approval_meets_the_guards_of_today(world: World) -> None:
    """What a guard forbids by now is not done, approved or not."""
    await waiting_for_approval(world)
    world.planner.objection = Objection("its playbook is gone")
    await order(world, Verb.APPROVE)
    await world.step(1.0)
    assert world.acts() == []
    assert world.stage == "escalated"


async def test_a_denied_step_is_not_taken_and_not_asked_for_again(world: World) -> None:
    """No means no while the fault lasts, and nobody is paged for what a person decided."""
    await waiting_for_approval(world)
    pages = len(world.pager.pages)
    await order(world, Verb.DENY, "we know")
    await world.step(20.0)
    assert world.stage == "escalated"
    assert "denied by ada: we know" in world.incident.history[-1].message
    assert world.acts() == []
    assert len(world.loop.incidents) == 1
    assert len(world.pager.pages) == pages
    with pytest.raises(Conflict, match="it was denied by ada: we know; a person has it"):
        await order(world, Verb.DENY)


async def test_an_approval_under_the_kill_switch_says_that_nothing_is_done(world: World) -> None:
    """The yes is kept, the answer names who stopped the agent; taken back, the step is taken."""
    await waiting_for_approval(world)
    await world.loop.people.stop_acting(stop=True, who="bob", why="deploying")
    answer = await world.loop.people.order(Verb.APPROVE, world.incident.id, ADA, "go")
    assert answer.waiting == "approved, but the agent is stopped by bob: deploying"
    await world.step(2.0)
    assert world.acts() == []
    await world.loop.people.stop_acting(stop=False, who="bob", why="done")
    await world.step(0.5)
    assert world.acts() == [f"{world.incident.id}-1"]


async def test_abort_takes_back_what_is_laid_and_keeps_the_agent_out(world: World) -> None:
    """In the middle of verification: undone within a turn, nothing more done."""
    await world.begin()
    await world.step(1.0)
    world.break_(bad_version(world, cured_by=[]))
    await world.step(0.4)
    assert world.stage == "verifying"
    await order(world, Verb.ABORT, "wrong place")
    await world.step(0.2)
    assert await world.actuator.overlays() == ()
    assert "aborted by ada: wrong place; everything is undone" in world.incident.history[-1].message
    await world.step(15.0)
    assert len(world.acts()) == 1


async def test_abort_of_a_healed_incident_lets_its_overlay_go(world: World) -> None:
    """A kept overlay is released on request."""
    await world.begin()
    await world.step(1.0)
    fault = world.break_(bad_version(world))
    await world.step(4.0)
    assert world.incident.held
    fault.over = True
    await order(world, Verb.ABORT)
    await world.step(0.4)
    assert await world.actuator.overlays() == ()
    (after,) = world.loop.incidents
    assert not after.held
    with pytest.raises(Conflict, match="holds no overlay"):
        await order(world, Verb.ABORT)


async def test_an_ordered_abort_survives_a_restart(world: World) -> None:
    """Killed right after the order: the next process carries it out."""
    await world.begin()
    await world.step(1.0)
    world.break_(bad_version(world, cured_by=[]))
    await world.step(0.4)
    await order(world, Verb.ABORT)
    await restart(world)
    await world.step(1.0)
    assert await world.actuator.overlays() == ()
    assert world.stage == "escalated"


async def test_a_paused_incident_stands_still_and_keeps_what_is_laid(world: World) -> None:
    """No verdict, no undo, no next step, over a restart; the lease is renewed; then it goes on."""
    await world.begin(lease_s=3.0)
    await world.step(1.0)
    world.break_(bad_version(world, cured_by=["eject-instance"]))
    await world.step(0.4)
    await order(world, Verb.PAUSE, "looking")
    await world.step(12.0)
    await restart(world)
    await world.step(12.0)
    assert world.stage == "verifying"
    assert world.incident.paused == "ada: looking"
    assert len(await world.actuator.overlays()) == 1
    with pytest.raises(Conflict, match="paused already"):
        await order(world, Verb.PAUSE)
    await order(world, Verb.RESUME)
    await world.step(6.0)
    assert world.stage == "resolved"
    with pytest.raises(Conflict, match="not paused"):
        await order(world, Verb.RESUME)


async def test_orders_that_make_no_sense_are_refused(world: World) -> None:
    """Nothing waits: nothing to approve or deny; no such incident: not found."""
    await world.begin()
    await world.step(1.0)
    world.break_(bad_version(world))
    await world.step(0.4)
    for verb in (Verb.APPROVE, Verb.DENY):
        with pytest.raises(Conflict, match="which is verifying"):
            await order(world, verb)
    with pytest.raises(NotFound, match="no incident nothing"):
        await world.loop.people.order(Verb.APPROVE, "nothing", ADA, "")
    found = await world.loop.people.order(Verb.PAUSE, world.incident.id[:8], ADA, "")
    assert found.id == world.incident.id


async def test_the_kill_switch_holds_within_a_turn_and_over_restarts(world: World) -> None:
    """Ordered: nothing is changed from the next turn on; a new process knows; taken back, it goes on."""
    await world.begin()
    await world.step(1.0)
    await world.loop.people.stop_acting(stop=True, who=ADA, why="deploying")
    world.break_(bad_version(world))
    await world.step(2.0)
    assert world.acts() == []
    assert "stopped by ada: deploying" in world.incident.waiting
    await restart(world)
    await world.step(2.0)
    assert world.acts() == []
    await world.loop.people.stop_acting(stop=False, who=ADA, why="done")
    await world.step(4.0)
    assert world.stage == "resolved"
    assert [k for k in world.audit.kinds() if "acting" in k] == ["stop-acting", "resume-acting"]


async def test_the_kill_switch_thrown_while_the_record_is_written_stops_the_act(world: World) -> None:
    """Between the last look and the deed lies a write to disk: it is looked at once more after it."""
    await world.begin()
    await world.step(1.0)
    world.break_(bad_version(world))
    append = world.audit.append

    async def thrown(kind: str, data: dict[str, object], *, at: float | None = None) -> int:
        if kind == "act" and "act" not in world.audit.kinds():
            (world.directory / "stop-acting").touch()
        return await append(kind, data, at=at)

    world.audit.append = thrown  # type: ignore[method-assign, assignment]
    await world.step(0.4)
    assert world.acts() == []
    assert world.stage == "planned"
    (world.directory / "stop-acting").unlink()
    await world.step(4.0)
    assert world.stage == "resolved"


async def test_while_stopped_nothing_is_undone_by_hand_but_leases_end(world: World) -> None:
    """A useless overlay is not removed by a stopped agent; unrenewed, it ends by itself."""
    await world.begin(lease_s=3.0)
    await world.step(1.0)
    world.break_(bad_version(world, cured_by=[]))
    await world.step(0.4)
    await world.loop.people.stop_acting(stop=True, who=ADA, why="")
    await world.step(3.0)
    assert ("remove", f"{world.incident.id}-1") not in world.actuator.log
    assert world.stage == "undoing"
    await world.step(4.0)
    assert await world.actuator.overlays() == ()
    await world.loop.people.stop_acting(stop=False, who=ADA, why="")
    await world.step(10.0)
    assert world.stage == "escalated"


async def test_every_way_to_throw_the_switch(tmp_path: Path) -> None:
    """A touched file, an unreadable one, the setting, another replica's order in the database; the newest word counts."""
    clock, store = Clock(), Store(tmp_path / "agent.db")
    await store.open()
    place = tmp_path / "stop-acting"
    switch = KillSwitch(store, place, clock)
    await switch.poll()
    assert switch.stopped == ""
    place.touch()
    assert "the file stop-acting" in switch.stopped
    place.write_text("do not touch, Ada")
    assert "do not touch, Ada" in switch.stopped
    os.utime(place, (clock.now - 9, clock.now - 9))
    await switch.order(stop=False, who=ADA, why="")
    assert switch.stopped == ""
    replica = KillSwitch(store, tmp_path / "elsewhere" / "stop-acting", clock)
    clock.now += 1
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("agent.switch.write_file", _no_space)
        await replica.order(stop=True, who="bob", why="from afar")
        await switch.poll()
        assert switch.stopped == "stopped by bob: from afar"
        await store.close()
        with pytest.raises(Broken, match="not over a restart"):
            await replica.order(stop=True, who="bob", why="")
    flagged = KillSwitch(store, place, clock, flag=True)
    assert "setting" in flagged.stopped
    with pytest.raises(Conflict, match="cannot take it back"):
        await flagged.order(stop=False, who=ADA, why="")
    place.unlink()
    place.mkdir()
    assert "cannot be read" in switch.stopped
    with pytest.raises(Broken, match="cannot be written"):
        write_file(tmp_path / "nowhere" / "x", Order(stopped=True))
    assert read_file(tmp_path / "nowhere" / "x") is None


def _no_space(place: Path, order: Order) -> None:
    raise Broken(f"{place} cannot be written: no space left on device ({order})")


async def test_an_incident_denied_in_a_later_stage_is_left_alone(world: World) -> None:
    """Deny is for plans only: what is acting already is stopped by abort."""
    await world.begin()
    await world.step(1.0)
    world.break_(bad_version(world))
    await world.step(4.0)
    assert world.incident.stage is Stage.RESOLVED
    with pytest.raises(Conflict, match="nothing is planned"):
        await order(world, Verb.DENY)
