"""Incidents that turn out to be one are merged, what one cause does not explain is split off, and leaders inherit."""

from __future__ import annotations

from dataclasses import replace

from agent.track import Track
from models.incident import Stage

from .conftest import World, anomaly, bad_version, client, dead_dependency


async def test_two_incidents_that_come_to_one_cause_are_merged_into_the_older(world: World) -> None:
    """Waiting plans about the same cause become one; the younger says where it went, the older what it took over."""
    await world.begin()
    world.fence.token = None
    await world.step(1.0)
    world.break_(bad_version(world))
    await world.step(0.6)
    older = world.incident
    more = anomaly(client("front", "cart"), 0.2, world.clock.now)
    younger = replace(older, id="inc-younger", opened_at=world.clock.now, anomalies=(more,))
    world.loop._tracks[younger.id] = Track(younger, live_at=world.clock.now)
    world.loop._triage.merge_into(world.loop._tracks[older.id], world.loop._tracks[younger.id])
    assert world.loop.incident(older.id) is not None  # the older is never merged into the younger
    world.loop._triage.merge_into(world.loop._tracks[younger.id], world.loop._tracks[older.id])
    await world.loop.idle()
    merged = await world.store.get(younger.id)
    assert merged is not None
    assert (merged.stage, merged.merged_into) == (Stage.OBSERVED, older.id)
    kept = world.loop.incident(older.id)
    assert kept is not None
    assert kept.merged == (younger.id,)
    assert more.series in {a.series for a in kept.anomalies}
    assert any("merged into this incident" in m.message for m in kept.history)


async def test_symptoms_that_a_cause_does_not_explain_are_split_off(world: World) -> None:
    """Two faults at once: the second incident tells from which one its symptoms were split."""
    await world.begin()
    await world.step(1.0)
    world.break_(bad_version(world))
    world.break_(dead_dependency(world))
    await world.step(0.2)
    first, second = sorted(world.loop.incidents, key=lambda i: bool(i.split_from))
    assert second.split_from == first.id
    assert first.split_from == ""
    assert not {a.series for a in first.anomalies} & {a.series for a in second.anomalies}


async def test_an_escalated_fault_is_not_begun_anew_by_the_next_process(world: World) -> None:
    """What a person was called for stays escalated over a restart while it lasts, and may come again later."""
    await world.begin()
    await world.step(1.0)
    fault = world.break_(bad_version(world, cured_by=[]))
    await world.step(12.0)
    assert world.stage == "escalated"
    await world.store.close()
    await world.process()
    await world.step(30.0)
    assert len(world.loop.incidents) == 1
    assert len(world.acts()) == 2
    fault.over = True
    await world.step(40.0)
    assert not list(world.loop.incidents)
