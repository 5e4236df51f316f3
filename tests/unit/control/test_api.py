"""The control API over real HTTP: what it answers, whom it lets do what, and how it says no."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

import aiohttp
import pytest

from control.api.app import ENDPOINTS
from control.client import ControlClient, Role
from control.plane import ControlPlane, ControlSettings
from control.store import Store, Write
from control.wire import BODY_LIMIT
from models.domain import ChangeKind, Edge, Health, Instance
from models.errors import Broken, Conflict, FibrinError, InvalidInput, NotFound, Refused, Unavailable
from models.overlay import EjectInstance, OpenBreaker, Owner, SetTimeout, ShiftTraffic

Dial = Callable[..., AbstractAsyncContextManager[ControlClient]]
Make = Callable[..., Instance]


async def raw(
    client: ControlClient, plane: ControlPlane, method: str, path: str, *, role: Role | None = "operator", **kwargs: Any
) -> tuple[int, Any]:
    """Send one request by hand; return its status and its JSON."""
    headers = {"authorization": f"Bearer {plane.tokens.by_role[role]}"} if role else {}
    async with (
        aiohttp.ClientSession() as session,
        session.request(method, client.url + path, headers=headers, **kwargs) as response,
    ):
        text = await response.text()
        return response.status, json.loads(text) if text.startswith(("{", "[")) else text


async def test_apply_get_describe_delete(dial: Dial, routes: str) -> None:
    """The life of declared resources: created, unchanged, configured, read, deleted."""
    async with dial() as client:
        first = await client.apply({"r.yaml": routes})
        assert [(r.kind, r.action) for r in first.results] == [
            ("VirtualService", "created"),
            ("DestinationRule", "created"),
        ]
        assert {r.action for r in (await client.apply({"r.yaml": routes})).results} == {"unchanged"}
        dry = await client.apply({"r.yaml": routes.replace("weight: 90", "weight: 50")}, dry_run=True)
        assert dry.results[0].action == "configured"
        assert (await client.service("catalog")).declared.routes[0].weights == {"v1": 90, "v2": 10}
        await client.apply({"r.yaml": routes.replace("weight: 90", "weight: 50")})
        assert (await client.resource("VirtualService", "catalog")).generation == 2
        assert (await client.topology()).weights["catalog"] == {"v1": 50 / 60, "v2": 10 / 60}
        assert (await client.topology()).fallbacks == {"catalog"}
        with pytest.raises(InvalidInput, match="is needed"):
            await client.delete_resource("DestinationRule", "catalog")
        await client.delete_resource("VirtualService", "catalog")
        await client.delete_resource("DestinationRule", "catalog")
        assert await client.resources() == ()
        with pytest.raises(NotFound):
            await client.resource("VirtualService", "catalog")


async def test_a_bad_document_applies_nothing_of_all(dial: Dial, routes: str) -> None:
    """One finding in one file, and no file is applied; the finding names file, line and field over the wire."""
    async with dial() as client:
        with pytest.raises(InvalidInput) as caught:
            await client.apply({"good.yaml": routes, "bad.yaml": routes.replace("timeout: 2s", "timeot: 2s")})
        problem = caught.value.problems[0]
        assert (problem.source, problem.line, problem.field) == ("bad.yaml", 15, "spec.http[0].timeot")
        assert problem.hint == "did you mean `timeout`?"
        assert await client.resources() == ()


async def test_why_an_overlay_was_removed_stands_in_the_change_log(dial: Dial, routes: str) -> None:
    """A reason is kept as it was written, none is fine, and one that is too long changes nothing."""
    async with dial() as client:
        await client.apply({"r.yaml": routes})
        for reason in ("v2 is fixed & tested", ""):
            laid = await client.create_overlay(ShiftTraffic("catalog", {"v1": 100}), reason="v2 fails", lease_s=30)
            with pytest.raises(InvalidInput, match=r"reason.*at most 1000 characters"):
                await client.delete_overlay(laid.id, reason="x" * 1001)
            await client.delete_overlay(laid.id, reason=reason)
        told = [change.message for change in (await client.changes()).changes if change.kind is ChangeKind.OVERLAY]
    assert [text for text in told if "removed" in text] == [
        "shift-traffic on catalog removed: v2 is fixed & tested",
        "shift-traffic on catalog removed",
    ]


async def test_an_overlay_from_birth_to_end(dial: Dial, routes: str) -> None:
    """An agent's overlay changes what is effective, can be renewed, and leaves no trace when removed."""
    async with dial() as operator, dial("agent") as agent:
        await operator.apply({"r.yaml": routes})
        fence = (await agent.acquire_fence("agent-1", 30)).fence
        overlay = await agent.create_overlay(
            ShiftTraffic("catalog", {"v1": 100, "v2": 0}), reason="v2 fails", lease_s=30, incident="i1", fence=fence
        )
        assert (overlay.owner, overlay.actor, overlay.fence) == (Owner.AGENT, "agent", fence)
        status = await agent.overlay(overlay.id)
        assert status.in_force
        assert status.propagation.generation > 0
        assert status.propagation.complete
        assert (await agent.service("catalog")).effective.routes[0].weights == {"v1": 100}
        assert (await agent.topology()).weights["catalog"] == {"v1": 1.0, "v2": 0.0}
        renewed = await agent.renew_overlay(overlay.id, lease_s=60, fence=fence)
        assert renewed.expires_at > overlay.expires_at
        await agent.delete_overlay(overlay.id, fence=fence)
        view = await agent.service("catalog")
        assert view.effective == view.declared
        with pytest.raises(NotFound):
            await agent.overlay(overlay.id)


@pytest.mark.parametrize(("claimed", "kept"), [("ada", "ada"), ("agent", "operator"), ("control", "operator")])
async def test_nobody_writes_under_the_agents_name(
    dial: Dial, settings: ControlSettings, claimed: str, kept: str
) -> None:
    """A person's name is shown as given; the names of Fibrin's own parts are theirs alone."""
    token = (settings.state_dir / "operator.token").read_text().strip()
    async with dial() as known, ControlClient(known.url, token, actor=claimed) as client:
        laid = await client.create_overlay(SetTimeout("catalog", 1.0), reason="x", lease_s=30)
        assert (laid.owner, laid.actor) == (Owner.PERSON, kept)


async def test_a_repeated_call_lays_one_overlay(dial: Dial) -> None:
    """The id is an idempotency key."""
    async with dial() as client:
        one = await client.create_overlay(SetTimeout("catalog", 1.0), reason="x", lease_s=30, overlay_id="mine")
        two = await client.create_overlay(SetTimeout("catalog", 1.0), reason="x", lease_s=30, overlay_id="mine")
        assert one == two
        assert len(await client.overlays()) == 1


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (ShiftTraffic("catalog", {"v1": 0}), Refused),
        (EjectInstance("catalog", "nobody"), InvalidInput),
        (OpenBreaker("nothing"), InvalidInput),
    ],
)
async def test_refusals_reach_the_client_as_themselves(dial: Dial, change: Any, error: type[FibrinError]) -> None:
    """The error raised inside is the error raised at the client, with its hint."""
    async with dial() as client:
        with pytest.raises(error) as caught:
            await client.create_overlay(change, reason="x", lease_s=30)
        assert caught.value.hint
        assert await client.overlays() == ()
        with pytest.raises(error) as dry:
            await client.create_overlay(change, reason="x", lease_s=30, dry_run=True)
        assert (dry.value.message, dry.value.hint) == (caught.value.message, caught.value.hint)


async def test_a_dry_run_judges_and_lays_nothing(dial: Dial) -> None:
    """What would be laid comes back, and neither overlay nor change event is left behind."""
    async with dial() as client:
        before = await client.changes()
        would = await client.create_overlay(SetTimeout("catalog", 1.0), reason="x", lease_s=30, dry_run=True)
        assert would.change == SetTimeout("catalog", 1.0)
        assert await client.overlays() == ()
        assert await client.changes() == before


async def test_a_stale_fence_is_409(dial: Dial, plane: ControlPlane) -> None:
    """An agent whose fence is not the newest is told Conflict, with status 409."""
    async with dial("agent") as agent:
        fence = (await agent.acquire_fence("agent-1", 30)).fence
        with pytest.raises(Conflict, match="held by agent-1"):
            await agent.acquire_fence("agent-2", 30)
        with pytest.raises(Conflict, match="stale"):
            await agent.create_overlay(SetTimeout("catalog", 1), reason="x", lease_s=30, fence=fence - 1)
        body = {"change": {"kind": "set-timeout", "service": "catalog", "timeout_s": 1}, "reason": "x", "lease_s": 5}
        assert (await raw(agent, plane, "POST", "/v1/overlays", role="agent", json=body))[0] == 409


@pytest.mark.parametrize(
    ("body", "field", "message"),
    [
        ({"reason": "x", "lease_s": 5}, "change", "missing"),
        ({"change": {"kind": "fly"}, "reason": "x", "lease_s": 5}, "change", "fly"),
        (
            {"change": {"kind": "set-timeout", "service": "catalog", "timeout_s": "1"}, "reason": "x", "lease_s": 5},
            "change.set-timeout.timeout_s",
            'found "1"',
        ),
        (
            {"change": {"kind": "set-timeout", "service": "c", "timeout_s": 1, "x": 1}, "reason": "x", "lease_s": 5},
            "change.set-timeout.x",
            "unknown field",
        ),
        (
            {"change": {"kind": "eject-instance", "service": "c", "instance": "a"}, "reason": " ", "lease_s": 5},
            "reason",
            "",
        ),
        (
            {"change": {"kind": "eject-instance", "service": "c", "instance": "a"}, "reason": "x", "lease_s": -1},
            "lease_s",
            "greater than 0",
        ),
    ],
)
async def test_wrong_types_name_their_field(
    dial: Dial, plane: ControlPlane, body: dict[str, Any], field: str, message: str
) -> None:
    """A body of the wrong shape is 400 and says which field, what was found and what was wanted."""
    async with dial() as client:
        status, answer = await raw(client, plane, "POST", "/v1/overlays", json=body)
    assert status == 400
    problem = answer["error"]["problems"][0]
    assert problem["field"] == field
    assert message in problem["message"]


@pytest.mark.parametrize(
    ("method", "path", "kwargs", "status", "code"),
    [
        ("POST", "/v1/overlays", {"data": b"{", "headers": {}}, 400, "InvalidInput"),
        ("POST", "/v1/overlays", {"data": b"\xff"}, 400, "InvalidInput"),
        ("POST", "/v1/resources:apply", {"json": {"manifests": []}}, 400, "InvalidInput"),
        ("POST", "/v1/resources:apply", {"json": {"manifests": [{"text": "a: ["}]}}, 422, "InvalidInput"),
        ("GET", "/v1/nothing", {}, 404, "NotFound"),
        ("GET", "/v1/services/nothing", {}, 404, "NotFound"),
        ("GET", "/v1/proxies/nothing", {}, 404, "NotFound"),
        ("GET", "/v1/resources/Nothing", {}, 404, "NotFound"),
        ("PUT", "/v1/overlays", {}, 405, "InvalidInput"),
        ("GET", "/v1/changes?since=-1", {}, 400, "InvalidInput"),
        ("GET", "/v1/changes?wait=forever", {}, 400, "InvalidInput"),
        ("DELETE", "/v1/overlays/x?fence=one", {}, 400, "InvalidInput"),
        ("PUT", "/v1/instances/x", {"json": {"service": "a", "version": "v1", "address": "::x", "port": 1}}, 400, ""),
        (
            "PUT",
            "/v1/instances/a%2Fb",
            {"json": {"service": "a", "version": "v1", "address": "::1", "port": 1}},
            400,
            "",
        ),
        ("POST", "/v1/instances/nobody:heartbeat", {"json": {}}, 404, "NotFound"),
    ],
)
async def test_everything_wrong_has_one_shape(
    dial: Dial, plane: ControlPlane, *, method: str, path: str, kwargs: dict[str, Any], status: int, code: str
) -> None:
    """Every refusal is JSON with code and message, whatever layer it comes from."""
    kwargs = {key: value for key, value in kwargs.items() if key != "headers"}
    if "data" in kwargs:
        kwargs["data"] = aiohttp.BytesPayload(kwargs["data"], content_type="application/json")
    async with dial() as client:
        found, answer = await raw(client, plane, method, path, **kwargs)
    assert found == status, answer
    assert answer["error"]["message"]
    assert answer["error"]["code"] == (code or "InvalidInput")


async def test_a_body_of_ten_megabytes_is_413(dial: Dial, plane: ControlPlane) -> None:
    """Too large is told before it is read whole, and the server goes on."""
    async with dial() as client:
        data = io.BytesIO(json.dumps({"manifests": [{"source": "big.yaml", "text": "x" * 10_000_000}]}).encode())
        payload = aiohttp.BytesIOPayload(data, content_type="application/json")
        status, answer = await raw(client, plane, "POST", "/v1/resources:apply", data=payload)
        assert status == 413
        assert str(BODY_LIMIT) in answer["error"]["message"]
        with pytest.raises(InvalidInput, match=r"big\.yaml has 10000000 bytes"):
            await client.apply({"big.yaml": "x" * 10_000_000})
        assert await client.healthy()


@pytest.mark.parametrize(
    ("role", "method", "path", "status"),
    [
        (None, "GET", "/v1/topology", 200),
        (None, "GET", "/metrics", 200),
        (None, "POST", "/v1/overlays", 401),
        (None, "POST", "/v1/resources:apply", 401),
        (None, "PUT", "/v1/instances/x", 401),
        ("agent", "POST", "/v1/resources:apply", 403),
        ("agent", "DELETE", "/v1/resources/VirtualService/x", 403),
        ("agent", "PUT", "/v1/instances/x", 403),
        ("proxy", "POST", "/v1/overlays", 403),
        ("proxy", "POST", "/v1/fence", 403),
        ("proxy", "PUT", "/v1/edges", 403),
        ("proxy", "POST", "/v1/resources:apply", 403),
    ],
)
async def test_each_role_may_do_its_own(
    dial: Dial, plane: ControlPlane, *, role: Role | None, method: str, path: str, status: int
) -> None:
    """Reads are open on loopback; writes need the token of a role that may."""
    async with dial() as client:
        kwargs: dict[str, Any] = {} if method in ("GET", "DELETE") else {"json": {}}
        found, _ = await raw(client, plane, method, path, role=role, **kwargs)
    assert found == status


async def test_a_wrong_token_is_not_the_same_as_none(dial: Dial) -> None:
    """A token that is not ours is refused even where none is needed."""
    async with dial() as client, ControlClient(client.url, "not-a-token-of-this-mesh") as stranger:
        with pytest.raises(Refused, match="not one of this control plane"):
            await stranger.topology()


async def test_watching_the_topology(dial: Dial, make: Make) -> None:
    """A watcher sees what is at once and then every change."""
    async with dial() as client, dial("proxy") as sidecar:
        stream = client.watch_topology()
        assert len((await anext(stream)).instances) == 3
        await sidecar.register(make("d"))
        assert [i.id for i in (await anext(stream)).instances] == ["a", "b", "c", "d"]
        await client.report_edges([Edge("cart", "catalog")])
        assert (await anext(stream)).edges == {Edge("cart", "catalog")}
        await stream.aclose()  # type: ignore[attr-defined]  # an async generator


async def test_watching_the_overlays(dial: Dial) -> None:
    """A watcher gets the overlays there are, then their ends and beginnings."""
    async with dial() as client:
        await client.create_overlay(SetTimeout("catalog", 1), reason="x", lease_s=30, overlay_id="one")
        stream = client.watch_overlays()
        assert (await anext(stream)).event == "snapshot"
        await client.create_overlay(EjectInstance("catalog", "a"), reason="x", lease_s=0.3, overlay_id="two")
        seen = [await anext(stream) for _ in range(2)]
        assert [(e.event, e.overlay.id) for e in seen] == [("created", "two"), ("expired", "two")]
        await stream.aclose()  # type: ignore[attr-defined]  # an async generator


async def test_changes_are_waited_for(dial: Dial, make: Make) -> None:
    """A long poll returns with the first change, and with nothing when there is none."""
    async with dial() as client, dial("proxy") as sidecar:
        since = (await client.changes()).next
        assert (await client.changes(since, wait_s=0.05)).changes == ()
        waiting = asyncio.create_task(client.changes(since, wait_s=10))
        await asyncio.sleep(0)
        await sidecar.register(make("x", service="new"))
        found = await asyncio.wait_for(waiting, 5)
        assert [(c.kind, c.service) for c in found.changes] == [(ChangeKind.DEPLOY, "new")]


async def test_instances_come_drain_and_go(dial: Dial, make: Make) -> None:
    """The calls of a sidecar's life."""
    async with dial("proxy") as sidecar:
        await sidecar.register(make("x"))
        assert (await sidecar.heartbeat("x")).health is Health.HEALTHY
        assert (await sidecar.heartbeat("x", healthy=False, detail="probe")).health is Health.UNHEALTHY
        assert (await sidecar.drain("x")).health is Health.DRAINING
        await sidecar.deregister("x")
        assert [i.id for i in await sidecar.instances()] == ["a", "b", "c"]
        assert [s.name for s in await sidecar.services()] == ["catalog"]


async def test_an_overlay_that_cannot_be_stored_is_taken_back(dial: Dial, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a full disk an overlay is refused as Broken, and the mesh is what it was."""

    async def full(_: Store, *__: Write) -> None:
        raise Broken("the disk is full", hint="make room")

    async with dial() as client:
        monkeypatch.setattr(Store, "write", full)
        with pytest.raises(Broken, match="the disk is full"):
            await client.create_overlay(SetTimeout("catalog", 1), reason="x", lease_s=30)
        assert await client.overlays() == ()
        view = await client.service("catalog")
        assert view.effective == view.declared


async def test_openapi_describes_every_route(dial: Dial, plane: ControlPlane) -> None:
    """The document is OpenAPI 3.1, has every route, and every reference in it leads somewhere."""
    async with dial() as client:
        status, document = await raw(client, plane, "GET", "/openapi.json", role=None)
    assert status == 200
    assert document["openapi"].startswith("3.1")
    for endpoint in ENDPOINTS:
        assert endpoint.method.lower() in document["paths"][endpoint.path]
    names = [operation["operationId"] for path in document["paths"].values() for operation in path.values()]
    assert len(names) == len(set(names))
    text = json.dumps(document)
    wanted = {part.split('"')[0] for part in text.split("#/components/schemas/")[1:]}
    assert wanted
    assert wanted <= set(document["components"]["schemas"])


async def test_metrics_tell_what_is_there(dial: Dial, plane: ControlPlane) -> None:
    """The gauges follow the state and requests are counted by route, never by path."""
    async with dial() as client:
        await client.create_overlay(SetTimeout("catalog", 1), reason="x", lease_s=30)
        await raw(client, plane, "GET", "/v1/services/catalog")
        _, text = await raw(client, plane, "GET", "/metrics")
    assert 'fibrin_control_instances{health="healthy"} 3.0' in text
    assert 'fibrin_control_overlays{kind="set-timeout",owner="person"} 1.0' in text
    assert 'route="/v1/services/{name}"' in text
    assert "/v1/services/catalog" not in text
    assert "fibrin_agent_" not in text  # loaded in this process, but not its own
    assert "process_cpu_seconds_total" in text


@pytest.fixture
async def stranger() -> AsyncIterator[str]:
    """Something that listens but does not speak HTTP."""

    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        yield "http://{}:{}".format(*server.sockets[0].getsockname())


async def test_a_control_plane_that_is_away_is_unavailable(stranger: str, settings: ControlSettings) -> None:
    """No plane, a dead plane, another program on the port: Unavailable with a hint, never a hang."""
    with pytest.raises(Unavailable, match="no control plane has been started"):
        ControlClient.from_state_dir(settings.state_dir)
    async with ControlClient("http://127.0.0.1:1") as client:
        with pytest.raises(Unavailable) as caught:
            await client.topology()
        assert caught.value.hint
        assert not await client.healthy()
    async with ControlClient(stranger) as client:
        with pytest.raises(Unavailable):
            await client.topology()
