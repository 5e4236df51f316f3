"""No record is lost silently, and nothing that must be recorded first is done without its record."""

from __future__ import annotations

from pathlib import Path

import pytest
import structlog

from agent import chronicle as module
from agent.actuators.base import Order
from agent.actuators.memory import MemoryActuator
from agent.actuators.recorded import RecordedActuator
from agent.audit import AuditLog
from agent.chronicle import Chronicle, Who
from agent.store import Store
from agent.witness import Witness
from models.domain import ChangeEvent, ChangeKind
from models.errors import Conflict
from models.overlay import EjectInstance

from .conftest import Clock, ListAudit, World, bad_version


async def test_what_could_not_be_written_is_written_later_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """Records wait in memory with the time of their happening, and the log counts as broken until they are written."""
    audit, clock = ListAudit(), Clock()
    told = Chronicle(audit, clock)
    audit.broken = True
    assert await told.write("one", {"n": 1}) == 0
    then = clock.now
    clock.now += 5
    assert await told.write("two", {"n": 2}, who=Who("ada", "person")) == 0
    assert (told.waiting, bool(told.broken)) == (2, True)
    assert told.due(clock.now)
    await told.flush()
    assert not told.due(clock.now)
    audit.broken = False
    assert await told.write("three", {"n": 3}) == 3
    assert (told.waiting, told.broken) == (0, "")
    assert [(kind, data["n"], data["at"] - then) for kind, data in audit.records] == [
        ("one", 1, 0),
        ("two", 2, 5),
        ("three", 3, 5),
    ]
    assert audit.records[1][1]["who"] == {"name": "ada", "role": "person"}
    monkeypatch.setattr(module, "WAITING_MOST", 1)
    audit.broken = True
    with structlog.testing.capture_logs() as lines:
        await told.write("kept", {"n": 4})
        await told.write("too many", {"n": 5})
        await told.close()
    lost = [line for line in lines if line["event"] == "audit.lost"]
    assert [line["kind"] for line in lost] == ["too many", "kept"]
    assert '"n": 5' in lost[0]["record"]


@pytest.mark.parametrize("required", [True, False])
async def test_a_deed_waits_for_its_record_only_if_it_must(required: bool) -> None:
    """By default no record, no deed; if so configured the deed is done and its record kept for later."""
    audit = ListAudit()
    told = Chronicle(audit, Clock(), required=required)
    audit.broken = True
    number = await told.write("act", {}, first=True)
    assert told.may_go_on(number) is not required
    assert told.waiting == (0 if required else 1)


async def test_what_the_log_will_never_take_holds_up_nobody(tmp_path: Path) -> None:
    """A record without a JSON form is lost with a word to the process log; the next one is written."""
    async with AuditLog(tmp_path / "audit.log") as audit:
        told = Chronicle(audit, Clock())
        assert await told.write("one", {"n": object()}) == 0
        assert (told.waiting, bool(told.broken)) == (0, True)
        assert await told.write("two", {"n": 2}) == 1
        assert told.broken == ""


async def test_configured_not_to_wait_the_agent_heals_and_records_later(world: World) -> None:
    """With `audit_required` off a full disk does not stop the cure; every record is there once there is room."""
    await world.begin(audit_required=False)
    world.audit.broken = True
    await world.step(1.0)
    world.break_(bad_version(world))
    await world.step(4.0)
    assert world.stage == "resolved"
    assert world.audit.records == []
    world.audit.broken = False
    await world.step(2.0)
    assert {"decision", "act", "acted", "verified"} <= set(world.audit.kinds())
    assert all(data["recorded_late"] for _, data in world.audit.records)


async def test_every_call_that_changes_the_mesh_is_recorded_with_its_answer() -> None:
    """Laid, renewed, removed, refused: request and response or error of each."""
    audit, clock = ListAudit(), Clock()
    inner = MemoryActuator(clock)
    mesh = RecordedActuator(inner, Chronicle(audit, clock), clock)
    order = Order("o-1", EjectInstance("catalog", "catalog-1"), "test", 30.0, "inc-1", 5)
    await mesh.lay(order)
    assert await mesh.renew("o-1", 30.0, 5)
    assert await mesh.remove("o-1", 5)
    assert not await mesh.remove("o-1", 5)
    with pytest.raises(Conflict):
        await mesh.lay(Order("o-2", order.change, "late", 30.0, "inc-1", 4))
    calls = [data for _, data in audit.records]
    assert [c["call"] for c in calls] == ["lay", "renew", "remove", "remove", "lay"]
    assert calls[0]["request"]["fence"] == 5
    assert calls[0]["response"]["overlay"] == "o-1"
    assert [c["response"]["existed"] for c in calls[2:4]] == [True, False]
    assert calls[4]["error"]["kind"] == "Conflict"
    assert await mesh.overlays() == ()
    assert (await mesh.propagation("o-1")).complete


async def test_what_people_do_is_recorded_once_over_restarts(tmp_path: Path) -> None:
    """Overlays and configuration by people's hands, also of the time the agent was away; the agent's own are not."""
    audit, store = ListAudit(), Store(tmp_path / "agent.db")
    await store.open()
    changes = [
        ChangeEvent(1, 10.0, ChangeKind.OVERLAY, "Overlay/hand", "catalog", actor="ada", message="laid: trying"),
        ChangeEvent(2, 11.0, ChangeKind.OVERLAY, "Overlay/inc-1", "catalog", actor="agent", message="laid"),
        ChangeEvent(3, 12.0, ChangeKind.HEALTH, "Instance/x", "catalog", actor="x", message="lost"),
    ]
    for _ in range(2):
        witness = Witness(Chronicle(audit, Clock()), store)
        await witness.begin()
        await witness.see(changes)
        changes.append(
            ChangeEvent(4, 13.0, ChangeKind.CONFIG, "VirtualService/catalog", actor="bob", message="applied")
        )
    assert [(d["who"]["name"], d["subject"], d["at"]) for _, d in audit.records] == [
        ("ada", "Overlay/hand", 10.0),
        ("bob", "VirtualService/catalog", 13.0),
    ]
    await witness.anew()
    await witness.see(changes[:1])
    assert len(audit.records) == 3
    await store.close()
