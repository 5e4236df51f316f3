"""The agent's HTTP API and its client, against each other."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from agent.api import AgentApi, Status
from agent.api.app import MAX_BODY
from agent.client import AgentClient
from agent.codec import Event
from agent.incidents import Incident, Step, Verb, moved
from agent.observe import Observer
from agent.timeline import Timeline
from models.errors import Broken, InvalidInput, NotFound, Refused, Unavailable
from models.incident import Cause, CauseKind, Signal, Stage
from models.overlay import ShiftTraffic

from .conftest import anomaly, client

STEP = Step("shift", ShiftTraffic("catalog", {"v1": 100}), "inc-1-1", 1.0, 10.0, acted_at=3.0)
INCIDENT = moved(
    Incident(
        "inc-1",
        2.0,
        1.5,
        anomalies=(anomaly(client("front", "catalog"), 0.2, 2.0),),
        causes=(Cause(CauseKind.VERSION, "catalog", "v2", Signal.ERRORS, 0.9),),
        steps=(STEP,),
        step=0,
    ),
    Stage.CORRELATED,
    2.1,
    "cause: version catalog/v2",
)


@dataclass
class Backend:
    """An agent with one incident."""

    timeline: Timeline = field(default_factory=Timeline)
    why: str = ""
    failure: Exception | None = None
    orders: list[tuple[str, str, str, str]] = field(default_factory=list)

    def status(self) -> Status:
        return Status("1", 1.0, "auto", False, "me", 3, "", True, True, (), 2, 0, 1, ("bad-version",))  # noqa: FBT003

    def ready(self) -> str:
        return self.why

    async def incidents(self, limit: int) -> tuple[Incident, ...]:
        if self.failure:
            raise self.failure
        return (INCIDENT,)[:limit]

    async def incident(self, name: str) -> Incident | None:
        return INCIDENT if name == "inc-1" else None

    async def events(self, since: int, wait_s: float) -> tuple[Event, ...]:
        return await self.timeline.wait(since, wait_s) if wait_s else self.timeline.since(since)

    def signals(self, window_s: float) -> object:
        return Observer().signals(1000.0, window_s)

    async def audit(self, limit: int) -> list[Any]:
        return [{"seq": 1}][:limit]

    def playbooks(self) -> list[dict[str, Any]]:
        return [{"name": "bad-version"}]

    async def order(self, verb: Verb, name: str, who: str, why: str) -> Incident:
        self.orders.append((str(verb), name, who, why))
        return INCIDENT

    async def stop_acting(self, *, stop: bool, who: str, why: str) -> None:
        self.orders.append(("stop" if stop else "go on", "", who, why))

    async def rotate_key(self, *, who: str, why: str) -> str:
        self.orders.append(("rotate-key", "", who, why))
        return "0123456789abcdef"


@pytest.fixture
async def backend() -> Backend:
    """Give the agent behind the API."""
    return Backend()


@pytest.fixture
async def url(backend: Backend, tmp_path: Path) -> AsyncIterator[str]:
    """Give the address of a running API whose operator's token is `secret`."""
    (tmp_path / "operator.token").write_text("secret\n")
    api = AgentApi(backend, tmp_path / "operator.token")
    yield await api.start("127.0.0.1", 0)
    await api.stop()


async def test_the_client_reads_what_the_api_tells(url: str) -> None:
    """Every call comes back with the records the agent holds."""
    async with AgentClient(url) as agent:
        assert await agent.healthy()
        assert await agent.ready()
        assert (await agent.status())["fence"] == 3
        (row,) = await agent.incidents()
        assert (row["id"], row["stage"], row["overlays"]) == ("inc-1", "correlated", ["inc-1-1"])
        assert row["cause"]["service"] == "catalog"
        assert await agent.incident("inc-1") == INCIDENT
        assert set(await agent.signals()) >= {"services", "edges", "versions", "instances"}
        assert await agent.audit() == [{"seq": 1}]
        assert await agent.playbooks() == [{"name": "bad-version"}]


async def test_events_are_followed_live(url: str, backend: Backend) -> None:
    """A long poll returns as soon as something happens, and a later one begins after it."""
    async with AgentClient(url) as agent:
        waiting = asyncio.create_task(agent.events(0, 5.0))
        while not backend.timeline.last:
            await asyncio.sleep(0)
            backend.timeline.add(1.0, "detected", "errors", "inc-1", {"observed": float("nan")})
        (event,) = await waiting
        assert (event.stage, event.incident, event.data) == ("detected", "inc-1", {"observed": None})
        assert await agent.events(event.sequence) == ()


async def test_what_does_not_exist_is_not_found(url: str) -> None:
    """An unknown incident is a NotFound with a hint."""
    async with AgentClient(url) as agent:
        with pytest.raises(NotFound, match="inc-9") as caught:
            await agent.incident("inc-9")
        assert "fibrin incidents" in caught.value.hint


@pytest.mark.parametrize("query", ["limit=x", "limit=0", "limit=nan", "limit=99999999"])
async def test_nonsense_in_a_query_is_refused_by_name(url: str, query: str) -> None:
    """The parameter, what was found and what was wanted."""
    async with AgentClient(url) as agent:
        with pytest.raises(InvalidInput, match="limit must be a number from 1 to 10000"):
            await agent._ask(f"/v1/incidents?{query}")


async def test_unknown_paths_and_methods_answer_in_json(url: str) -> None:
    """Errors have one shape, whatever went wrong."""
    async with aiohttp.ClientSession() as session:
        async with session.get(url + "/nope") as response:
            assert (response.status, (await response.json())["error"]["code"]) == (404, "NotFound")
        async with session.post(url + "/v1/incidents", data=b"x") as response:
            assert response.status == 405
            assert "openapi" in (await response.json())["error"]["hint"]


async def test_a_body_that_is_too_large_is_told_the_limit(url: str) -> None:
    """The answer says how many bytes are accepted."""
    headers = {"Authorization": "Bearer secret"}
    async with (
        aiohttp.ClientSession(headers=headers) as http,
        http.post(f"{url}/v1/stop-acting", data=io.BytesIO(b"x" * (MAX_BODY + 1))) as answer,
    ):
        assert answer.status == 413
        error = (await answer.json())["error"]
    assert error["message"] == f"POST /v1/stop-acting: the body is larger than the {MAX_BODY} bytes accepted"


async def test_a_defect_inside_answers_without_telling_secrets(url: str, backend: Backend) -> None:
    """An unexpected error is a 500 that points to the log."""
    backend.failure = RuntimeError("secret")
    async with AgentClient(url) as agent:
        with pytest.raises(Broken, match="see its log") as caught:
            await agent.incidents()
        assert "secret" not in str(caught.value)


async def test_not_ready_says_why(url: str, backend: Backend) -> None:
    """Readiness names the missing thing."""
    backend.why = "no topology from the control plane yet"
    async with AgentClient(url) as agent:
        assert not await agent.ready()
        with pytest.raises(Unavailable, match="no topology"):
            await agent._ask("/readyz")


async def test_metrics_and_openapi_are_served(url: str) -> None:
    """Prometheus text and an OpenAPI document that names every path."""
    async with aiohttp.ClientSession() as session:
        async with session.get(url + "/metrics") as response:
            assert "fibrin_agent_incidents_opened_total" in await response.text()
        async with session.get(url + "/openapi.json") as response:
            found = await response.json()
    assert found["paths"]["/v1/incidents/{id}/approve"]["post"]["security"] == [{"operator": []}]
    assert {"/v1/incidents/{id}", "/v1/signals", "/v1/events", "/v1/audit"} <= set(found["paths"])
    assert "Incident" in found["components"]["schemas"]


async def test_orders_carry_a_persons_name_and_reason(url: str, backend: Backend) -> None:
    """Every order over the wire, with who gave it and why."""
    async with AgentClient(url, token="secret", actor="ada") as agent:
        for verb in Verb:
            assert (await agent.order(verb, "inc-1", "because"))["id"] == "inc-1"
        await agent.stop_acting("deploying")
        await agent.resume_acting()
    wanted = [(str(verb), "inc-1", "ada", "because") for verb in Verb]
    assert backend.orders == [*wanted, ("stop", "", "ada", "deploying"), ("go on", "", "ada", "")]


@pytest.mark.parametrize("token", ["", "wrong", "s3crét"])
async def test_without_the_operators_token_nobody_gives_orders(
    url: str, backend: Backend, token: str, tmp_path: Path
) -> None:
    """No token, a wrong one, or no token file at all: refused, and nothing happens."""
    headers = {"authorization": f"Bearer {token}"} if token else {}
    async with aiohttp.ClientSession(headers=headers) as session:
        for path in ("/v1/stop-acting", "/v1/incidents/inc-1/approve"):
            async with session.post(url + path) as response:
                assert response.status == 403
                assert "operator" in (await response.json())["error"]["hint"]
    (tmp_path / "operator.token").unlink()
    async with AgentClient(url, token="secret") as agent:
        with pytest.raises(Refused, match="is missing"):
            await agent.stop_acting()
    assert backend.orders == []


async def test_an_order_with_a_wrong_body_or_verb_is_refused_by_name(url: str) -> None:
    """A misspelled field is named; a verb that does not exist is not found."""
    async with aiohttp.ClientSession(headers={"authorization": "Bearer secret"}) as session:
        async with session.post(url + "/v1/stop-acting", json={"raeson": "x"}) as response:
            assert response.status == 400
            assert (await response.json())["error"]["problems"][0]["field"] == "raeson"
        async with session.post(url + "/v1/incidents/inc-1/destroy") as response:
            assert response.status == 404


async def test_a_taken_port_is_broken_with_the_way_out(url: str, backend: Backend, tmp_path: Path) -> None:
    """Two programs on one port: which, and what to do."""
    port = int(url.rsplit(":", 1)[1])
    with pytest.raises(Broken, match=f"{port} is in use") as caught:
        await AgentApi(backend, tmp_path / "operator.token").start("127.0.0.1", port)
    assert "port" in caught.value.hint


async def test_an_agent_that_is_away_is_unavailable(tmp_path: Path) -> None:
    """No process, no file, another program: all say so and never hang."""
    async with AgentClient("http://127.0.0.1:9", timeout_s=1.0) as agent:
        assert not await agent.healthy()
        with pytest.raises(Unavailable, match="cannot be reached"):
            await agent.status()
    with pytest.raises(Unavailable, match=r"agent\.json is missing"):
        AgentClient.from_state_dir(tmp_path)
    (tmp_path / "agent.json").write_text("{")
    with pytest.raises(Broken, match="cannot be used"):
        AgentClient.from_state_dir(tmp_path)
    (tmp_path / "agent.json").write_text(json.dumps({"url": "http://127.0.0.1:9"}))
    assert AgentClient.from_state_dir(tmp_path).url == "http://127.0.0.1:9"
