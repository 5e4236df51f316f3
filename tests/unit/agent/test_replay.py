"""A decision can be made again from the audit log alone, in another process, and comes out the same."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from click.testing import CliRunner

from agent.audit import AuditLog, read, verify
from agent.audit.export import ship
from agent.audit.keys import encoded, load_signer, new_signer
from agent.decision import DECISION, MATERIAL, draft_json
from agent.planner import PlaybookPlanner
from agent.replay import asked, decisions, replay
from agent.sources import Sources
from fibrin.cli import cli
from models.errors import InvalidInput, NotFound, Unavailable
from playbooks.guards import Limits
from playbooks.ledger import Ledger
from playbooks.loading import library_texts

from .shop import open_mesh

ROOT = Path(__file__).resolve().parents[3]

REPLAY = """
import sys
from pathlib import Path
from agent.replay import decisions, replay
path = Path(sys.argv[1])
for seq in decisions(path):
    again = replay(path, seq)
    print(again.playbook, again.steps, again.localised, again.same, *again.differences)
"""


async def record(directory: Path) -> Path:
    """Let the canary of the shop fail until it is healed; return the log."""
    mesh = await open_mesh(directory, 1)
    await mesh.run(20.0)
    mesh.shop.failing = lambda i: 0.2 if i.version == "v2" else 0.0
    await mesh.run(8.0)
    await mesh.close()
    return directory / "audit.log"


async def test_a_decision_is_made_again_from_the_record_in_any_process(tmp_path: Path) -> None:
    """Localise, select and plan give the recorded suspects and draft, whatever the order of Python's hashes."""
    path = await record(tmp_path)
    assert verify(path).ok
    (seq,) = decisions(path)
    again = replay(path, seq)
    assert (again.localised, again.same) == (True, True), again.differences
    assert (again.playbook, again.cause) == ("bad-version", "version catalog/v2 (errors)")
    for seed in ("0", "1", "77"):
        done = subprocess.run(
            [sys.executable, "-c", REPLAY, str(path)],
            cwd=ROOT,
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout.split() == ["bad-version", str(again.steps), "True", "True"]


async def test_the_record_of_a_healed_incident_tells_who_what_why_when(tmp_path: Path) -> None:
    """Decision with guards and numbers, the act before the call, the call's request and answer, the proof."""
    path = await record(tmp_path)
    records = read(path)
    assert [r.kind for r in records] == [MATERIAL, MATERIAL, DECISION, "act", "api-call", "acted", "verified"]
    bodies: list[Any] = [r.data for r in records]
    assert all(b["who"] == {"name": "agent", "role": "agent"} for b in bodies)
    assert all(b["why"] for b in bodies if "call" not in b)
    decision, act, call, verified = bodies[2], bodies[3], bodies[4], bodies[6]
    guards = {g["guard"]: g for g in decision["draft"]["guards"]}
    assert {"storm-stop", "max-traffic-share", "mesh-blast-radius"} <= guards.keys()
    assert all({"observed", "limit", "ok"} <= g.keys() for g in guards.values())
    assert act["decision"] == records[2].seq
    assert (call["call"], call["request"]["overlay"]) == ("lay", call["response"]["overlay"])
    numbers = verified["step"]["numbers"]
    assert numbers["requests"] > 0
    assert numbers["p_value"] <= 1


async def test_a_replay_says_where_it_differs(tmp_path: Path) -> None:
    """A record whose outcome was not what its inputs give is found, even if it is signed."""
    path = await record(tmp_path)
    (seq,) = decisions(path)
    original = next(r for r in read(path) if r.seq == seq)
    draft = original.data["draft"]
    assert isinstance(draft, dict)
    async with AuditLog(path) as log:
        forged = await log.append(DECISION, {**original.data, "draft": {**draft, "playbook": "another"}})
    assert replay(path, forged).differences == ("draft.playbook: the record says another, now bad-version",)
    assert replay(path, seq).same
    with pytest.raises(InvalidInput, match="not a decision"):
        replay(path, 1)
    with pytest.raises(NotFound):
        replay(path, 999)
    assert load_signer(path, fresh=False).id == original.key


def test_the_command_line_reads_proves_replays_and_exports_the_log(tmp_path: Path) -> None:
    """Every verb of `fibrin audit` on the log of a healed incident, and on one that was changed."""
    path = asyncio.run(record(tmp_path))

    def fibrin(*arguments: str, code: int = 0) -> str:
        done = CliRunner().invoke(cli, ["--state-dir", str(tmp_path), "audit", *arguments])
        assert done.exit_code == code, done.output
        return done.output

    (seq,) = decisions(path)
    listed = fibrin("list", "--kind", "act", "--kind", "verified").splitlines()
    assert [line.split()[2] for line in listed] == ["KIND", "act", "verified"]
    assert "version catalog/v2 (errors)" in listed[1]
    incident = str(read(path)[seq - 1].data["incident"])
    assert len(fibrin("list", "--incident", incident[:8]).splitlines()) > 4
    assert f"seq: {seq}" in fibrin("show", str(seq))
    assert "has no record 999" in fibrin("show", "999", code=1)
    assert "chain unbroken; signed by" in fibrin("verify")
    assert "chain unbroken" in fibrin("verify", "--key", str(tmp_path / "audit.pub"))
    assert "wrong-key: record 1" in fibrin("verify", "--key", encoded(new_signer().public), code=1)
    assert "bad-version, " in fibrin("replay")
    assert fibrin("export").encode() == path.read_bytes()
    (request,) = [json.loads(line) for line in fibrin("export", "--format", "otlp").splitlines()]
    logs = request["resourceLogs"][0]["scopeLogs"][0]["logRecords"]
    assert [log["eventName"].removeprefix("fibrin.audit.") for log in logs] == [r.kind for r in read(path)]
    assert "--reason" in fibrin("rotate-key", code=2)
    assert "signs from now on" in fibrin("rotate-key", "--reason", "drill")
    assert json.loads(fibrin("verify", "-o", "json"))["ok"]
    path.write_bytes(path.read_bytes().replace(b'"kind":"acted"', b'"kind":"acter"'))
    assert "edited: record 6" in fibrin("verify", code=1)


async def test_a_collector_gets_every_record_and_a_refusal_is_told(tmp_path: Path) -> None:
    """Batches go to `/v1/logs` as OTLP JSON; what the collector refuses ends the export with its answer."""
    path, got = tmp_path / "audit.log", []
    async with AuditLog(path, clock=lambda: 1000.0) as log:
        for number in range(1100):
            await log.append("test", {"n": number, "big": 2**70, "none": None, "share": 0.5, "yes": True, "list": [1]})

    async def collect(request: web.Request) -> web.Response:
        got.append(await request.json())
        return web.json_response({}, status=200 if len(got) < 4 else 400)

    app = web.Application(client_max_size=8 << 20)
    app.add_routes([web.post("/v1/logs", collect)])
    async with TestServer(app) as server:
        assert await ship(read(path), str(server.make_url("/"))) == 1100
        with pytest.raises(Unavailable, match="took 0 records, then answered HTTP 400"):
            await ship(read(path), str(server.make_url("/v1/logs")))
    with pytest.raises(Unavailable, match="took 0 records"):
        await ship(read(path), "http://127.0.0.1:9")
    sizes = [len(one["resourceLogs"][0]["scopeLogs"][0]["logRecords"]) for one in got[:3]]
    assert sizes == [500, 500, 100]
    body = got[0]["resourceLogs"][0]["scopeLogs"][0]["logRecords"][0]["body"]["kvlistValue"]["values"]
    assert {v["key"]: v["value"] for v in body} == {
        "n": {"intValue": "0"},
        "big": {"stringValue": str(2**70)},
        "none": {},
        "share": {"doubleValue": 0.5},
        "yes": {"boolValue": True},
        "list": {"arrayValue": {"values": [{"intValue": "1"}]}},
    }


async def test_what_was_remembered_is_in_the_record_and_replay_gives_the_same_plan(tmp_path: Path) -> None:
    """The healed canary is remembered; the next decision carries it, says so, and comes out the same from the record."""
    mesh = await open_mesh(tmp_path, 1)
    await mesh.run(20.0)
    mesh.shop.failing = lambda i: 0.2 if i.version == "v2" else 0.0
    await mesh.run(8.0)
    kept = await mesh.store.recall("ledger", shared=True)
    await mesh.close()
    memory = Ledger.loads((kept or b"").decode()).memory
    assert [(r.kind, r.service, r.playbook, r.helped, r.failed) for r in memory.results] == [
        ("version", "catalog", "bad-version", 1, 0)
    ]
    path = tmp_path / "audit.log"
    (seq,) = decisions(path)
    original = next(r for r in read(path) if r.seq == seq)
    inputs: Any = original.data["inputs"]
    planner = PlaybookPlanner(Sources(library=library_texts()).playbooks(), Limits())
    planner.restore(Ledger(memory=memory).dumps().encode())
    causes, around, _, _ = asked(path, original)
    draft = planner.draft(causes[0], around)
    assert any("helped 1 of 1 times here" in each.reason for each in draft.considered)
    inputs = {**inputs, "ledger": planner.save().decode()}
    async with AuditLog(path) as log:
        later = await log.append(DECISION, {**original.data, "inputs": inputs, "draft": draft_json(draft)})
    assert replay(path, later).differences == ()
