"""Whether users feel an incident decides whether a person is called in haste. Users come in through `front`, which nobody calls."""

from __future__ import annotations

from dataclasses import replace

import pytest

from agent.incidents import Users
from agent.users import LOOK_S, PATIENCE_S
from models.domain import Edge
from models.incident import Cause, CauseKind, Signal
from models.overlay import OpenBreaker
from playbooks.schema import Mode

from .conftest import TOPOLOGY, Fault, World, anomaly, client, dead_dependency, step


async def asks(world: World) -> Fault:
    """Let payment go down, which only checkout notices, and a plan against it wait for a person."""
    await world.begin(mute_s=5.0)
    await world.step(1.0)
    world.planner.mode = Mode.APPROVE
    world.planner.steps["payment"] = (step("fail fast", OpenBreaker("payment")),)
    cause = Cause(CauseKind.DEPENDENCY, "payment", "", Signal.ERRORS, 0.95, edge=Edge("checkout", "payment"))
    own = anomaly(client("checkout", "payment"), 1.0, world.clock.now)
    return world.break_(Fault(cause, (own,), "checkout", error_ratio=1.0))


def felt(world: World, error_ratio: float, *, alarm: bool = True) -> Fault:
    """Let requests from front to checkout fail, because of payment."""
    cause = Cause(CauseKind.DEPENDENCY, "payment", "", Signal.ERRORS, 0.5, edge=Edge("checkout", "payment"))
    seen = (anomaly(client("front", "checkout"), error_ratio, world.clock.now),) if alarm else ()
    return world.break_(Fault(replace(cause, service="checkout"), seen, "front", error_ratio=error_ratio))


async def test_nobody_is_called_in_haste_while_users_are_well(world: World) -> None:
    """Alarms about users are awaited first; then one message, which says that there is no haste."""
    await asks(world)
    await world.step(LOOK_S - 1.0)
    assert (world.stage, world.pager.pages) == ("planned", [])
    await world.step(10.0)
    assert world.incident.users is Users.WELL
    assert world.pager.pages == world.pager.calm
    (told,) = world.pager.calm
    assert told.endswith("; users feel nothing of it")


async def test_who_was_told_without_haste_is_called_once_users_feel_it(world: World) -> None:
    """An alarm about users' requests upstream of the cause calls the person at once, and once."""
    await asks(world)
    await world.step(10.0)
    assert len(world.pager.pages) == len(world.pager.calm) == 1
    felt(world, 0.5)
    await world.step(0.6)
    assert (world.incident.users, len(world.pager.pages), len(world.pager.calm)) == (Users.HURT, 2, 1)
    await world.step(10.0)
    assert len(world.pager.pages) == 2


async def test_users_who_feel_it_from_the_start_are_not_waited_for(world: World) -> None:
    """The page goes out with the plan."""
    await asks(world)
    felt(world, 0.9)
    await world.step(1.0)
    assert (world.incident.users, len(world.pager.pages), world.pager.calm) == (Users.HURT, 1, [])


async def test_failures_that_raise_no_alarm_are_no_proof_that_users_are_well(world: World) -> None:
    """Six in a hundred users' requests fail and no detector says so yet: a person is called, a little later."""
    await asks(world)
    felt(world, 0.06, alarm=False)
    await world.step(PATIENCE_S - 1.0)
    assert (world.incident.users, world.pager.pages) == (Users.PENDING, [])
    await world.step(3.0)
    assert (world.incident.users, len(world.pager.pages), world.pager.calm) == (Users.UNKNOWN, 1, [])


async def test_nothing_is_claimed_of_users_whose_sidecars_are_not_believed(world: World) -> None:
    """Front is blind: a person is called as if users were hurt, without waiting."""
    await asks(world)
    world.sight.blinded = frozenset({"front-1"})
    await world.step(1.0)
    assert (world.incident.users, len(world.pager.pages), world.pager.calm) == (Users.UNKNOWN, 1, [])


async def test_a_mesh_into_which_nobody_is_seen_to_come_claims_nothing(world: World) -> None:
    """Everybody is called by somebody, so nobody's requests are users'."""
    ring = frozenset({*TOPOLOGY.edges, Edge("payment", "front")})
    await asks(world)
    world.mesh.set_topology(replace(TOPOLOGY, edges=ring))
    await world.step(1.0)
    assert (world.incident.users, len(world.pager.pages)) == (Users.UNKNOWN, 1)


@pytest.mark.parametrize("hurt", [False, True])
async def test_an_incident_without_a_remedy_is_told_as_urgently_as_users_feel_it(world: World, *, hurt: bool) -> None:
    """No playbook acts: the incident ends with a person, who is told; and called as soon as users begin to feel it."""
    await asks(world)
    world.planner.steps.clear()
    if hurt:
        felt(world, 0.9)
    await world.step(8.0)
    assert world.stage == "escalated"
    assert len(world.pager.pages) == 1
    assert bool(world.pager.calm) is not hurt
    if not hurt:
        felt(world, 0.5)
        await world.step(0.6)
        assert len(world.pager.pages) == 2
        assert world.pager.pages[1].endswith("users feel it by now")
        await world.step(5.0)
        assert len(world.pager.pages) == 2


async def test_what_acts_alone_does_not_ask_how_users_are(world: World) -> None:
    """An automatic remedy is taken at once, users hurt or not."""
    await world.begin()
    await world.step(1.0)
    fault = dead_dependency(world)
    world.break_(replace(fault, anomalies=fault.anomalies[:1]))
    await world.step(2.0)
    assert len(world.acts()) == 1
    assert world.pager.pages == []
