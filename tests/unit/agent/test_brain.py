"""The loop with the real detectors, localiser and shipped playbooks, on telemetry of a small shop at 200 rps per edge."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from models.incident import CauseKind, Stage
from models.overlay import EjectInstance, OpenBreaker, ShiftTraffic

from .shop import open_mesh


@pytest.mark.parametrize("seed", range(2))
async def test_a_quiet_shop_stays_quiet(tmp_path: Path, seed: int) -> None:
    """No fault, no incident."""
    mesh = await open_mesh(tmp_path, seed)
    await mesh.run(20.0)
    assert mesh.loop.incidents == ()
    await mesh.close()


@pytest.mark.parametrize("seed", range(2))
async def test_a_canary_that_fails_a_fifth_is_shifted_away_within_a_second(tmp_path: Path, seed: int) -> None:
    """50 rps on the canary, 20 % of them fail: shifted away from, verified, nothing else touched."""
    mesh = await open_mesh(tmp_path, seed)
    await mesh.run(20.0)
    began = mesh.shop.clock.now
    mesh.shop.failing = lambda i: 0.2 if i.version == "v2" else 0.0
    await mesh.run(12.0)
    (incident,) = mesh.loop.incidents
    assert incident.stage is Stage.RESOLVED
    assert incident.cause is not None
    assert (incident.cause.kind, incident.cause.service, incident.cause.subject) == (CauseKind.VERSION, "catalog", "v2")
    assert incident.times["acted"] - began <= 1.2
    assert [type(o.change) for o in await mesh.actuator.overlays()] == [ShiftTraffic]
    await mesh.close()


@pytest.mark.parametrize("seed", range(2))
async def test_one_instance_of_three_that_is_ten_times_slower_is_ejected(tmp_path: Path, seed: int) -> None:
    """The slow one leaves the pool and the latency comes back."""
    mesh = await open_mesh(tmp_path, seed)
    await mesh.run(20.0)
    began = mesh.shop.clock.now
    mesh.shop.slower = lambda i: 10.0 if i.id == "checkout-v1-1" else 1.0
    await mesh.run(12.0)
    (incident,) = mesh.loop.incidents
    assert incident.stage is Stage.RESOLVED
    assert incident.times["acted"] - began <= 2.0
    assert [o.change for o in await mesh.actuator.overlays()] == [EjectInstance("checkout", "checkout-v1-1")]
    await mesh.close()


@pytest.mark.parametrize("seed", range(2))
async def test_a_dependency_that_goes_down_is_answered_by_its_fallback(tmp_path: Path, seed: int) -> None:
    """Checkout fails because payment is down: the breaker to payment opens and its users are well again."""
    mesh = await open_mesh(tmp_path, seed)
    await mesh.run(20.0)
    began = mesh.shop.clock.now
    mesh.shop.failing = lambda i: 1.0 if i.service == "payment" else 0.0
    await mesh.run(12.0)
    (incident,) = mesh.loop.incidents
    assert incident.stage is Stage.RESOLVED
    assert incident.cause is not None
    assert incident.cause.service == "payment"
    assert incident.times["acted"] - began <= 1.0
    (overlay,) = await mesh.actuator.overlays()
    assert isinstance(overlay.change, OpenBreaker)
    assert replace(overlay.change, caller="", probe_percent=0) == OpenBreaker("payment", respond="fallback")
    await mesh.close()


async def test_a_plan_that_waits_for_a_person_gives_way_to_a_better_cause(tmp_path: Path) -> None:
    """At first the service seems to fail in part, and a person is asked; as it turns out to be down, that is planned for."""
    mesh = await open_mesh(tmp_path, 1)
    await mesh.run(20.0)
    mesh.shop.failing = lambda i: 0.6 if i.service == "payment" else 0.0
    await mesh.run(1.0)
    (incident,) = mesh.loop.incidents
    assert incident.cause is not None
    first = incident.playbook
    assert (incident.stage, incident.cause.kind, incident.mode) == (Stage.PLANNED, CauseKind.SERVICE, "approve")
    assert not await mesh.actuator.overlays()
    mesh.shop.failing = lambda i: 1.0 if i.service == "payment" else 0.0
    await mesh.run(3.0)
    (incident,) = mesh.loop.incidents
    assert incident.cause is not None
    assert incident.cause.kind is CauseKind.DEPENDENCY
    assert incident.playbook != first
    assert any("cause, seen better now" in moment.message for moment in incident.history)
    await mesh.close()


async def test_a_breaker_looks_whether_its_dependency_is_well_and_closes_by_itself(tmp_path: Path) -> None:
    """While payment is down each look is short, later than the one before and nobody's incident; once well it closes."""
    mesh = await open_mesh(tmp_path, 0)
    await mesh.run(20.0)
    mesh.shop.failing = lambda i: 1.0 if i.service == "payment" else 0.0
    await mesh.run(60.0)
    (incident,) = mesh.loop.incidents
    assert (incident.stage, incident.held) == (Stage.RESOLVED, True)
    looks = [moment.message for moment in incident.history if moment.message.startswith("half-open")]
    assert len(looks) == 2
    assert all("requests failed; the next look is in" in look for look in looks)
    assert [o.change.kind for o in await mesh.actuator.overlays()] == ["open-breaker"]
    mesh.shop.failing = lambda _: 0.0
    await mesh.run(120.0)
    assert await mesh.actuator.overlays() == ()
    found = await mesh.store.get(incident.id)
    assert found is not None
    assert found.held is False
    assert any("the breaker closes" in moment.message for moment in found.history)
    assert len(await mesh.store.latest(10)) == 1, "no look was taken for a new incident"
    await mesh.close()
