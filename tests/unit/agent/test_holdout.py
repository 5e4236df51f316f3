"""A hold-out slice in the loop: opened after the proof, closed by verdict, time, people or death, and never waited for."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from agent.incidents import Step, Verb
from models.errors import Unavailable
from models.overlay import EjectInstance, SetRetries, ShiftTraffic
from models.signals import Series, Side
from models.telemetry import KEPT

from .conftest import World, bad_version, outcomes, step

SICK, WELL = "catalog-v2-1", "catalog-v1-1"
SHIFT = replace(
    step("shift", ShiftTraffic("catalog", {"v1": 100, "v2": 0})),
    hold_out=ShiftTraffic("catalog", {"v1": 95, "v2": 5}),
    hold_out_s=10.0,
)
EJECT = replace(
    step("eject", EjectInstance("catalog", SICK)), hold_out=EjectInstance("catalog", SICK, 5), hold_out_s=10.0
)
RETRY = replace(SHIFT, change=SetRetries("catalog", 2), hold_out=SetRetries("catalog", 2, keep_percent=5))


class Split(World):
    """A world whose telemetry tells attempts on both versions apart while a slice is open; `ill`: errors of ten in it."""

    ill = 5
    slices = 0
    trickle = 10

    def _traffic(self) -> None:
        super()._traffic()
        if not any(name.endswith("-hold-out") for name in self.actuator._alive()):
            return
        self.slices += 1
        if any(isinstance(overlay.change, SetRetries) for overlay in self.actuator._alive().values()):
            kept = Series(Side.CLIENT, "front", "catalog", KEPT, "", "front-1")
            self.sight.next[kept] = outcomes(self.trickle, self.ill)
            return
        for instance, requests, errors in ((WELL, 90, 0), (SICK, self.trickle, self.ill)):
            series = Series(Side.ATTEMPT, "front", "catalog", instance.split("-")[1], instance, "front-1")
            self.sight.next[series] = outcomes(requests, errors)


async def healed(directory: Path, planned: Step, seconds: float = 20.0, **changes: int) -> Split:
    """Let `planned` cure the bad version of the catalog; return the world afterwards."""
    world = Split(directory)
    for name, value in changes.items():
        setattr(world, name, value)
    await world.begin()
    await world.step(1.0)
    world.break_(bad_version(world, cured_by=[planned.change.kind]))
    world.planner.steps["catalog"] = (planned,)
    await world.step(seconds)
    return world


def lays(world: World) -> list[str]:
    """Return what was laid and removed, in order, without the incident's name."""
    return [f"{verb} {name.split('-', 2)[-1]}" for verb, name in world.actuator.log if verb in {"lay", "remove"}]


@pytest.mark.parametrize("planned", [SHIFT, EJECT, RETRY], ids=["weights", "ejection", "retries"])
async def test_an_act_that_helped_is_shown_to_have_helped(tmp_path: Path, planned: Step) -> None:
    """The slice opens after the proof and closes with the verdict; the record holds both sides' numbers."""
    world = await healed(tmp_path, planned)
    found = world.incident.current
    assert found is not None
    assert (world.stage, found.effect) == ("resolved", "helped")
    assert [name.rpartition("-")[-1] for name in lays(world)] == ["1", "out", "out"]
    (verified,) = (data for kind, data in world.audit.records if kind == "verified")
    numbers = verified["step"]["numbers"]
    assert numbers["holdout_untreated_bad"] >= 1
    assert numbers["holdout_untreated"] > numbers["holdout_untreated_bad"]
    assert numbers["holdout_treated_bad"] == 0
    assert numbers["holdout_s"] < planned.hold_out_s
    assert verified["step"]["effect"] == "helped"
    kinds = world.audit.kinds()
    assert kinds.index("acted") < kinds.index("hold-out") < kinds.index("verified")
    await world.store.close()


async def test_an_act_that_was_not_needed_is_not_praised(tmp_path: Path) -> None:
    """A slice that is well again says that the fault passed by itself; the act stays, and the record says so."""
    world = await healed(tmp_path, SHIFT, ill=0)
    found = world.incident.current
    assert found is not None
    assert (world.stage, found.effect) == ("resolved", "passed")
    await world.store.close()


async def test_a_slice_ends_by_time_when_it_says_nothing(tmp_path: Path) -> None:
    """Without a request in the slice it is closed when its time is up, and nothing is claimed."""
    world = await healed(tmp_path, SHIFT, trickle=0, ill=0)
    found = world.incident.current
    assert found is not None
    assert (world.stage, found.effect) == ("resolved", "open")
    assert found.numbers["holdout_s"] == pytest.approx(SHIFT.hold_out_s, abs=0.5)
    await world.store.close()


async def test_users_are_well_as_soon_as_without_a_slice(tmp_path: Path) -> None:
    """The moment from which users are well, and the act itself, do not move by having a slice."""
    times = []
    for name, planned in (("with", SHIFT), ("without", replace(SHIFT, hold_out=None))):
        (tmp_path / name).mkdir()
        world = await healed(tmp_path / name, planned)
        times.append((world.incident.times["acted"], world.incident.times["recovered"]))
        await world.store.close()
    assert times[0] == times[1]


async def test_a_useless_step_opens_no_slice(tmp_path: Path) -> None:
    """Only what is proven against the baseline is measured further."""
    world = Split(tmp_path)
    await world.begin()
    await world.step(1.0)
    world.break_(bad_version(world, cured_by=[]))
    world.planner.steps["catalog"] = (SHIFT,)
    await world.step(20.0)
    assert world.stage == "escalated"
    assert not world.slices
    await world.store.close()


async def test_a_slice_that_cannot_be_opened_costs_nothing(tmp_path: Path) -> None:
    """The control plane refuses the slice: the act is kept, whole."""
    world = Split(tmp_path)
    await world.begin()
    await world.step(1.0)
    world.break_(bad_version(world))
    world.planner.steps["catalog"] = (SHIFT,)
    while not (world.loop.incidents and world.stage == "verifying"):
        await world.step(0.2)
    world.actuator.failure = Unavailable("no control plane", hint="wait")
    world.mesh.control_up = False
    await world.step(5.0)
    found = world.incident.current
    assert found is not None
    assert (world.stage, found.effect, world.slices) == ("resolved", "open", 0)
    await world.store.close()


async def test_an_order_to_stop_takes_the_slice_away_too(tmp_path: Path) -> None:
    """Aborted while the slice is open: neither the act nor its slice is left."""
    world = await healed(tmp_path, SHIFT, 0.2, trickle=0, ill=0)
    while not world.slices:
        await world.step(0.2)
    await world.loop.people.order(Verb.ABORT, world.incident.id, "ada", "enough")
    await world.step(1.0)
    assert await world.actuator.overlays() == ()
    await world.store.close()


async def test_killed_while_the_slice_is_open_everybody_is_treated_and_it_resolves(tmp_path: Path) -> None:
    """The slice's lease ends it; the next process verifies by the baseline and opens no second slice."""
    world = await healed(tmp_path, SHIFT, 0.2, trickle=0, ill=0)
    while not world.slices:
        await world.step(0.2)
    await world.store.close()
    await world.process()
    await world.step(SHIFT.hold_out_s + 5)
    assert world.stage == "resolved"
    assert [overlay.change for overlay in await world.actuator.overlays()] == [SHIFT.change]
    assert [name.endswith("hold-out") for verb, name in world.actuator.log if verb == "lay"].count(True) == 1
    await world.store.close()
