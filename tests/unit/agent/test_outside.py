"""What leaves the mesh: declared hooks and pages, received by a real HTTP server."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

import playbooks
from agent.actuators.base import Order
from agent.actuators.hooks import Hook, HookActuator, declared
from agent.actuators.memory import MemoryActuator
from agent.channels import Channel
from agent.escalation import WebhookPager
from agent.incidents import Incident
from models.errors import InvalidInput, Refused, Unavailable
from models.incident import Cause, CauseKind, Signal
from models.overlay import RunHook

from . import actuator_contract

SCALE = RunHook(
    "catalog",
    "scale",
    {"service": "catalog", "replicas": "4"},
    undo="scale",
    undo_parameters={"service": "catalog", "replicas": "3"},
)
ORDER = Order("inc-1-1", SCALE, "overloaded", 30.0, "inc-1", 1)


@dataclass
class Outside:
    """A server that notes what it is sent and answers as told."""

    server: TestServer = field(init=False)
    seen: list[tuple[str, dict[str, str], Any]] = field(default_factory=list)
    status: int = 200

    async def answer(self, request: web.Request) -> web.Response:
        self.seen.append((request.path, {k.lower(): v for k, v in request.headers.items()}, await request.json()))
        return web.Response(status=self.status, text="so it is")

    def url(self, path: str = "") -> str:
        """Return the server's address."""
        return str(self.server.make_url(path))


@pytest.fixture
async def outside() -> AsyncIterator[Outside]:
    """A running server."""
    found = Outside()
    app = web.Application()
    app.router.add_post("/{tail:.*}", found.answer)
    found.server = TestServer(app)
    await found.server.start_server()
    yield found
    await found.server.close()


async def actuator(*hooks: Hook) -> tuple[HookActuator, MemoryActuator]:
    """Return an actuator with hooks over a mesh in memory."""
    inner = MemoryActuator(time.time)
    found = HookActuator(inner, hooks)
    await found.start()
    return found, inner


async def test_the_hook_actuator_keeps_the_contract() -> None:
    """For everything that is no hook it is the actuator it wraps."""
    found, inner = await actuator()
    inner.fence = 1
    await actuator_contract.holds(found)


async def test_a_hook_is_called_with_its_overlays_id_and_taken_back_by_its_undo(
    outside: Outside, tmp_path: Path
) -> None:
    """Laying calls the hook once more under the same key; removing calls the undo, then the overlay is gone."""
    (tmp_path / "token").write_text("secret\n")
    found, _ = await actuator(Hook("scale", outside.url("/scale"), token_file=tmp_path / "token"))
    await found.lay(ORDER)
    await found.lay(ORDER)
    assert [o.id for o in await found.overlays()] == ["inc-1-1"]
    assert await found.remove("inc-1-1", 1)
    assert not await found.remove("inc-1-1", 1)
    paths, headers, bodies = zip(*outside.seen, strict=True)
    assert set(paths) == {"/scale"}
    assert [h["idempotency-key"] for h in headers] == ["inc-1-1", "inc-1-1", "inc-1-1-undo"]
    assert {h["authorization"] for h in headers} == {"Bearer secret"}
    assert [b["parameters"]["replicas"] for b in bodies] == ["4", "4", "3"]
    assert bodies[0]["reason"] == "overloaded"
    await found.stop()


async def test_only_declared_hooks_are_run(outside: Outside) -> None:
    """A playbook can name what it wants: without a declaration nothing is laid and nothing is called."""
    found, inner = await actuator(Hook("scales", outside.url()))
    with pytest.raises(Refused, match=r"there is no hook `scale`.*settings") as caught:
        await found.lay(ORDER)
    assert caught.value.hint == "did you mean `scales`?"
    half = replace(ORDER, change=replace(SCALE, hook="scales", undo="gone"))
    with pytest.raises(Refused, match="there is no hook `gone`"):
        await found.lay(half)
    assert (outside.seen, inner.log) == ([], [])
    await found.stop()


@pytest.mark.parametrize(("status", "error"), [(500, Unavailable), (404, Refused)])
async def test_a_hook_that_fails_leaves_no_overlay(outside: Outside, status: int, error: type[Exception]) -> None:
    """Its trouble is told in its words; what failed for a while may be tried again, a refusal not."""
    outside.status = status
    found, _ = await actuator(Hook("scale", outside.url("/scale")))
    with pytest.raises(error, match=f"{status}: so it is"):
        await found.lay(ORDER)
    assert await found.overlays() == ()
    await found.stop()


async def test_an_undo_that_fails_keeps_the_overlay_for_the_next_try(outside: Outside) -> None:
    """Nothing is forgotten while the other side is away."""
    found, _ = await actuator(Hook("scale", outside.url("/scale")))
    await found.lay(ORDER)
    outside.status = 503
    with pytest.raises(Unavailable):
        await found.remove("inc-1-1", 1)
    assert [o.id for o in await found.overlays()] == ["inc-1-1"]
    await found.stop()


async def test_a_job_is_created_once_under_a_name_of_its_own(outside: Outside, tmp_path: Path) -> None:
    """The declared Job goes to the API server with what is asked in its environment; existing already is success."""
    manifest = tmp_path / "job.json"
    container = {"name": "flush", "image": "flush:1", "env": [{"name": "A", "value": "1"}]}
    manifest.write_text(json.dumps({"kind": "Job", "spec": {"template": {"spec": {"containers": [container]}}}}))
    found, _ = await actuator(Hook("scale", outside.url(), "job", manifest=manifest, namespace="shop"))
    await found.lay(ORDER)
    outside.status = 409
    await found.lay(ORDER)
    (path, _, first), (_, _, second) = outside.seen
    assert path == "/apis/batch/v1/namespaces/shop/jobs"
    assert first["metadata"]["name"] == second["metadata"]["name"]
    assert first["metadata"]["name"].startswith("fibrin-scale-")
    env = {e["name"]: e["value"] for e in first["spec"]["template"]["spec"]["containers"][0]["env"]}
    assert env == {"A": "1", "FIBRIN_SERVICE": "catalog", "FIBRIN_REPLICAS": "4"}
    await found.stop()


@pytest.mark.parametrize(
    ("hooks", "words"),
    [
        ((Hook("a", "http://x"), Hook("a", "http://y")), "two hooks are named"),
        ((Hook("a", "file:///etc/passwd"),), "no http address"),
        ((Hook("a", "http://x", "job"),), "without `manifest`"),
    ],
)
def test_hooks_that_cannot_work_are_refused(hooks: tuple[Hook, ...], words: str) -> None:
    """A wrong declaration is found when the agent starts."""
    with pytest.raises(InvalidInput, match=words):
        declared(hooks)


BOOK = """
apiVersion: fibrin.dev/v1
kind: Playbook
metadata: {name: mine}
spec:
  description: d
  when: {cause: [version], services: {all: true}}
  steps:
  - {name: shift, action: {shiftTraffic: {}}, verify: {deadline: 5s}, undo: automatic}
  escalate: {severity: warning, summary: "{cause}", details: "version {cause.version}: {cause.evidence}", to: [duty, chat]}
"""


async def test_pages_reach_the_channels_a_playbook_names_in_their_own_words(outside: Outside, tmp_path: Path) -> None:
    """PagerDuty gets an event that deduplicates by incident, Slack blocks, and a channel that is not named nothing."""
    (tmp_path / "key").write_text("routing-key\n")
    channels = (
        Channel("duty", outside.url("/duty"), "pagerduty", tmp_path / "key"),
        Channel("chat", outside.url("/chat"), "slack"),
    )
    pager = WebhookPager(outside.url("/all"), channels, playbooks.load({"t": BOOK}))
    await pager.start()
    cause = Cause(CauseKind.VERSION, "catalog", "v2", Signal.ERRORS, 0.9, evidence=("20 % <failed>",))
    pager.page(Incident("inc-1", 1.0, 0.5, causes=(cause,), playbook="mine"), "v2 is bad & stays bad")
    await until_seen(outside, 2)
    sent = {path: body for path, _, body in outside.seen}
    assert sent.keys() == {"/duty", "/chat"}
    duty = sent["/duty"]
    assert (duty["routing_key"], duty["event_action"], duty["dedup_key"]) == ("routing-key", "trigger", "inc-1")
    payload = duty["payload"]
    assert (payload["severity"], payload["source"], payload["component"]) == ("warning", "catalog", "v2")
    assert payload["custom_details"]["details"] == "version v2: 20 % <failed>"
    texts = [block.get("text", {}).get("text", "") for block in sent["/chat"]["blocks"]]
    assert "v2 is bad &amp; stays bad" in texts[0]
    assert texts[1] == "version v2: 20 % &lt;failed&gt;"
    await pager.stop()


async def test_a_page_of_no_playbook_goes_everywhere(outside: Outside) -> None:
    """Nobody is named: every channel hears it, as plain JSON where nothing else is asked for."""
    pager = WebhookPager(outside.url("/all"), (Channel("more", outside.url("/more")),))
    await pager.start()
    pager.page(Incident("inc-2", 1.0, 0.5), "blind")
    await until_seen(outside, 2)
    assert {path for path, _, _ in outside.seen} == {"/all", "/more"}
    assert {body["text"] for _, _, body in outside.seen} == {"Fibrin inc-2: blind"}
    await pager.stop()


async def until_seen(outside: Outside, count: int) -> None:
    """Wait until so many requests have arrived."""
    async with asyncio.timeout(10):
        while len(outside.seen) < count:
            await asyncio.sleep(0)
