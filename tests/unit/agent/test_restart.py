"""`kill -9` at every point of an incident: no action twice, none lost, nothing left behind."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from models.overlay import ShiftTraffic

from .conftest import World, bad_version


class Killed(BaseException):
    """The process ends here."""


def kill(world: World, where: str) -> None:
    """Arrange that the process dies at a named point of its next action."""
    actuator, store, audit = world.actuator, world.store, world.audit

    def die(*_: Any, **__: Any) -> Any:
        raise Killed

    async def die_async(*_: Any, **__: Any) -> Any:
        raise Killed

    async def lay_then_die(order: Any) -> Any:
        await lay(order)
        raise Killed

    async def remove_then_die(overlay: str, fence: int) -> Any:
        await remove(overlay, fence)
        raise Killed

    lay, remove = actuator.lay, actuator.remove
    match where:
        case "before the incident is stored":
            store.put = die_async  # type: ignore[method-assign]
        case "before the audit record":
            audit.append = die_async  # type: ignore[method-assign]
        case "before the overlay is laid":
            actuator.lay = die_async  # type: ignore[method-assign]
        case "after the overlay was laid":
            actuator.lay = lay_then_die  # type: ignore[method-assign]
        case "before the sidecars confirmed":
            actuator.propagation = die_async  # type: ignore[method-assign]
        case "before the undo":
            actuator.remove = die_async  # type: ignore[method-assign]
        case "after the undo":
            actuator.remove = remove_then_die  # type: ignore[method-assign]
        case _:
            raise AssertionError(where)


async def restart(world: World) -> None:
    """Start the next process on what the dead one left."""
    for name in ("lay", "remove", "propagation"):
        vars(world.actuator).pop(name, None)
    vars(world.audit).pop("append", None)
    vars(world.store).pop("put", None)
    await world.store.close()
    await world.process()


async def run_until_killed(world: World, seconds: float) -> None:
    """Let time pass until the process dies."""
    with pytest.raises((Killed, BaseExceptionGroup)):  # noqa: PT012  # the loop is the statement
        for _ in range(round(seconds / 0.2)):
            await world.step(0.2)
    for task in [t for t in asyncio.all_tasks() if t.get_name().startswith("inc-")]:
        task.cancel()


@pytest.mark.parametrize(
    "where",
    [
        "before the incident is stored",
        "before the audit record",
        "before the overlay is laid",
        "after the overlay was laid",
        "before the sidecars confirmed",
    ],
)
async def test_killed_while_acting_the_next_process_ends_with_one_overlay_in_force(world: World, where: str) -> None:
    """Whatever the moment of death: healed, exactly one overlay, the incident resolved once."""
    await world.begin()
    await world.step(1.0)
    world.break_(bad_version(world))
    kill(world, where)
    await run_until_killed(world, 2.0)
    await restart(world)
    await world.step(6.0)
    assert world.stage == "resolved"
    (overlay,) = await world.actuator.overlays()
    assert overlay.change == ShiftTraffic("catalog", {"v1": 100, "v2": 0})
    assert len(set(world.acts())) == 1


async def test_killed_while_verifying_the_next_process_verifies_the_same_overlay(world: World) -> None:
    """The action is not taken again; its proof is."""
    await world.begin()
    await world.step(1.0)
    world.break_(bad_version(world))
    await world.step(0.2)
    assert world.stage == "verifying"
    name = world.incident.id
    await restart(world)
    await world.step(4.0)
    assert world.incident.id == name
    assert world.stage == "resolved"
    assert world.acts() == [f"{name}-1"]


@pytest.mark.parametrize("where", ["before the undo", "after the undo"])
async def test_killed_while_undoing_the_next_process_undoes_and_goes_on(world: World, where: str) -> None:
    """A useless overlay does not survive its agent, and the next step is still taken."""
    await world.begin()
    await world.step(1.0)
    world.break_(bad_version(world, cured_by=["eject-instance"]))
    kill(world, where)
    await run_until_killed(world, 6.0)
    await restart(world)
    await world.step(8.0)
    assert world.stage == "resolved"
    assert [o.change.kind for o in await world.actuator.overlays()] == ["eject-instance"]


async def test_a_fault_that_went_away_while_the_agent_was_dead_is_not_acted_on(world: World) -> None:
    """A plan from before the crash is worth nothing without symptoms."""
    await world.begin()
    await world.step(1.0)
    fault = world.break_(bad_version(world))
    kill(world, "before the overlay is laid")
    await run_until_killed(world, 1.0)
    laid = len(world.acts())
    await restart(world)
    fault.over = True
    await world.step(20.0)
    assert world.acts()[laid:] == []
    assert (await world.store.latest(1))[0].stage == "observed"


async def test_a_held_overlay_is_renewed_by_the_next_process(world: World) -> None:
    """A resolved incident keeps its overlay over a restart."""
    await world.begin(lease_s=3.0)
    await world.step(1.0)
    world.break_(bad_version(world))
    await world.step(3.0)
    assert world.stage == "resolved"
    await restart(world)
    await world.step(15.0)
    assert len(await world.actuator.overlays()) == 1


async def test_an_overlay_that_expired_while_the_agent_was_dead_is_laid_anew_if_needed(world: World) -> None:
    """The mesh went back to what people declared; the fault is detected anew and healed again."""
    await world.begin(lease_s=3.0)
    await world.step(1.0)
    world.break_(bad_version(world))
    await world.step(0.2)
    world.clock.now += 60.0
    await restart(world)
    await world.step(10.0)
    assert len(await world.actuator.overlays()) == 1
    assert len(world.acts()) == 2
