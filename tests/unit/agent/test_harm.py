"""An act that hurts a neighbour is undone, however well it did for the sick one; a mesh-wide trouble is not its fault."""

from __future__ import annotations

from dataclasses import replace

from models.incident import Cause, CauseKind, Signal

from .conftest import Fault, World, bad_version, slow_instance


def bystander(service: str, caller: str) -> Fault:
    """Return errors at a service that no detector has alarmed about."""
    cause = Cause(CauseKind.SERVICE, service, "", Signal.ERRORS, 0.9)
    return Fault(cause, (), caller, error_ratio=0.5)


async def test_a_step_that_makes_a_neighbour_worse_is_undone(world: World) -> None:
    """The sick service recovers, payment falls ill with the act: undone, with the number, and the next step is tried."""
    await world.begin()
    await world.step(2.0)
    fault = bad_version(world)
    fault.latency_s = 0.5  # requests in flight: the verdict waits
    fault.anomalies = tuple(replace(a, signal=Signal.LATENCY, observed=0.5) for a in fault.anomalies)
    world.break_(fault)
    await world.step(0.2)
    assert world.stage == "verifying"
    hurt = world.break_(bystander("payment", "checkout"))
    await world.step(3.5)
    hurt.over = True
    messages = [m.message for m in world.incident.history]
    assert any(
        "made a neighbour worse: errors of checkout→payment 50.0 % instead of 0.1 %: undoing shift" in m
        for m in messages
    )
    assert ("remove", f"{world.incident.id}-1") in world.actuator.log


async def test_who_was_ill_before_is_not_held_against_the_act(world: World) -> None:
    """A neighbour that was bad before the act stays out of the judgement."""
    await world.begin()
    await world.step(2.0)
    world.break_(bystander("payment", "checkout"))
    await world.step(2.0)
    fault = bad_version(world)
    fault.anomalies = tuple(replace(a, onset=world.clock.now - 1.0) for a in fault.anomalies)
    world.break_(fault)
    await world.step(5.0)
    assert world.stage == "resolved"


async def test_callers_of_the_sick_service_are_not_its_neighbours(world: World) -> None:
    """Whoever calls the sick service suffers from the fault, not from the act."""
    await world.begin()
    await world.step(2.0)
    fault = slow_instance(world)
    world.break_(fault)
    await world.step(5.0)
    assert world.stage == "resolved"
