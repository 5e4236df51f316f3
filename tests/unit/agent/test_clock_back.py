"""The clock is set back while the agent runs: nothing waits for a time that was there before."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from agent.mesh import ABSENT_S, RETURN_S
from models.incident import Stage

from .conftest import World, bad_version
from .shop import open_mesh


@pytest.mark.parametrize("back_s", [5.0, 3600.0])
async def test_a_clock_that_goes_back_stops_no_deadline(tmp_path: Path, back_s: float) -> None:
    """The clock is set back while a step is verified: it is proven or undone as ever, and its lease is kept meanwhile."""
    mesh = await open_mesh(tmp_path, 7)
    await mesh.run(15.0)
    mesh.shop.failing = lambda i: 0.5 if i.id == "checkout-v1-0" else 0.0
    for _ in range(80):
        await mesh.run(0.1)
        if any(i.stage is Stage.VERIFYING for i in mesh.loop.incidents):
            break
    (incident,) = mesh.loop.incidents
    assert incident.stage is Stage.VERIFYING
    mesh.shop.clock.now -= back_s
    await mesh.run(45.0)
    found = mesh.loop.incident(incident.id)
    laid = [overlay.id for overlay in await mesh.actuator.overlays()]
    await mesh.close()
    assert found is not None
    assert found.stage is Stage.RESOLVED
    assert laid == [f"{incident.id}-1"]


async def test_reports_from_a_time_that_is_no_more_do_not_count_twice(world: World) -> None:
    """After the clock went back, what came in before is no part of what came in since."""
    await world.begin()
    await world.step(1.0)
    once = sum(seen.requests for seen in world.loop.history.since(world.clock.now).values())
    world.clock.now -= 60.0
    back = world.clock.now
    await world.step(0.2)
    assert sum(seen.requests for seen in world.loop.history.since(back).values()) == once > 0


async def test_a_return_of_the_control_plane_does_not_hold_for_an_hour_because_the_clock_went_back(
    world: World,
) -> None:
    """What is seen right after an absence waits seconds, also when the clock is set back meanwhile."""
    await world.begin()
    await world.step(1.0)
    world.mesh.silent(world.clock.now)
    await world.step(ABSENT_S)
    world.mesh.answers(world.clock.now)
    world.clock.now -= 3600.0
    await world.step(0.2)
    world.break_(bad_version(world))
    await world.step(RETURN_S + 5.0)
    assert world.stage == "resolved", world.incident.waiting
    known = world.detector.resets
    world.mesh.silent(world.clock.now)
    await world.step(ABSENT_S)
    world.mesh.answers(world.clock.now)
    await world.step(RETURN_S + 0.4)
    assert world.detector.resets > known  # the next return, too, asks for fresh evidence


async def test_a_lease_is_renewed_by_the_clock_of_the_control_plane_that_did_not_go_back(world: World) -> None:
    """Only the agent's clock goes back by an hour: what it laid is still renewed within a third of its lease."""
    await world.begin()
    await world.step(1.0)
    world.break_(bad_version(world))
    await world.step(8.0)
    assert world.stage == "resolved"
    world.clock.now -= 3600.0
    world.actuator.log.clear()
    await world.step(world.settings.lease_s / 3 + 0.4)
    assert ("renew", f"{world.incident.id}-1") in world.actuator.log


async def test_a_storm_calls_a_person_again_after_the_clock_went_back(world: World) -> None:
    """One storm is one page, and a clock that is set back by an hour does not silence the next one for an hour."""
    await world.begin()
    treatment = world.loop.treatment
    assert [treatment._first_of_storm() for _ in range(2)] == [True, False]
    world.clock.now -= 3600.0
    assert treatment._first_of_storm()


async def test_an_incident_that_drags_on_is_thought_about_though_the_clock_went_back(world: World) -> None:
    """What is thought about only now and then is thought about at once by a clock that was set back by an hour."""
    await world.begin()
    await world.step(1.0)
    world.break_(bad_version(world, cured_by=[]))
    await world.step(0.4)
    (track,) = world.loop._tracks.values()
    track.incident, track.doubt_until = replace(track.incident, opened_at=world.clock.now - 7200.0), 0.0
    thinks, now = world.loop._triage._worth_thinking, world.clock.now + 60.0
    assert [thinks([track], now), thinks([track], now), thinks([track], now - 3600.0)] == [True, False, True]
