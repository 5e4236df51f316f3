from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from models.errors import FibrinError, InvalidInput, NotFound, Refused, Unavailable
from proxy.presence import Condition, Presence
from proxy.registration import Registration
from proxy.spec import SidecarSpec


@dataclass
class Api:
    """A control API that answers with `status` and remembers what was asked."""

    status: int = 200
    known: bool = False
    asked: list[tuple[str, object]] = field(default_factory=list)

    async def answer(self, request: web.Request) -> web.Response:
        """Answer any call."""
        body = await request.json() if request.can_read_body else None
        self.asked.append((f"{request.method} {request.path}", body))
        if self.status == 200 and request.method == "PUT":
            self.known = True
        status = 404 if self.status == 200 and not self.known else self.status
        return web.json_response({"auth": request.headers["Authorization"]}, status=status)

    def count(self, what: str) -> int:
        """Return how many calls began with `what`."""
        return sum(call.startswith(what) for call, _ in self.asked)


@pytest.fixture
def api() -> Api:
    """Return the answering side."""
    return Api()


@pytest.fixture
async def registration(api: Api, spec: SidecarSpec) -> AsyncIterator[Registration]:
    """Return a client of `api`."""
    app = web.Application()
    app.router.add_route("*", "/v1/instances/{rest}", api.answer)
    server = TestServer(app)
    async with server, Registration(spec, str(server.make_url("/"))) as client:
        yield client


async def _until(condition: Callable[[], bool]) -> None:
    give_up = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < give_up
        await asyncio.sleep(0.005)


async def test_calls_are_the_contracts(api: Api, registration: Registration) -> None:
    """Paths and bodies are those of the control API."""
    await registration.register()
    await registration.heartbeat(healthy=False, detail="why")
    await registration.drain()
    await registration.deregister()
    at = "/v1/instances/catalog-v1-2"
    instance = {
        "service": "catalog",
        "version": "v1",
        "zone": "zone-a",
        "address": "127.0.10.2",
        "port": 15006,
        "labels": {"track": "stable"},
    }
    assert api.asked == [
        (f"PUT {at}", instance),
        (f"POST {at}:heartbeat", {"healthy": False, "detail": "why"}),
        (f"POST {at}:drain", {}),
        (f"DELETE {at}", None),
    ]


@pytest.mark.parametrize(
    ("status", "kind", "hint"),
    [
        (401, Refused, "proxy.token"),
        (403, Refused, "proxy.token"),
        (404, NotFound, ""),
        (422, InvalidInput, "refused what this sidecar says"),
        (500, Unavailable, ""),
        (503, Unavailable, ""),
    ],
)
async def test_answers_become_errors(
    api: Api, registration: Registration, status: int, kind: type[FibrinError], hint: str
) -> None:
    """Each sort of refusal is its own error, with the call and the answer in it."""
    api.status = status
    with pytest.raises(kind, match=rf"catalog-v1-2:heartbeat: {status}") as caught:
        await registration.heartbeat(healthy=True)
    assert hint in caught.value.hint


async def test_unknown_may_be_deregistered(registration: Registration) -> None:
    """Leaving twice is leaving once."""
    await registration.deregister()


async def test_nobody_listens(spec: SidecarSpec) -> None:
    """A control plane that is not there is Unavailable, and the hint says what to look at."""
    async with Registration(spec, "http://127.0.0.1:1") as client:
        with pytest.raises(
            Unavailable, match=r"the control plane at http://127\.0\.0\.1:1 does not answer: Connection refused"
        ) as caught:
            await client.register()
    assert "fibrin control" in caught.value.hint


def test_condition_names_the_first_trouble() -> None:
    """What is reported is the outermost thing that is wrong."""
    condition = Condition()
    assert condition.detail == "Envoy is not serving yet"
    condition.serving = True
    assert condition.detail == "application not probed yet"
    condition.application = "it hurts"
    assert condition.detail == "it hurts"
    condition.envoy = "Envoy's admin does not answer"
    assert condition.detail == "Envoy's admin does not answer"
    condition.envoy = condition.application = ""
    assert condition.detail == ""


async def test_changes_are_told_at_once(api: Api, registration: Registration) -> None:
    """A change does not wait for the next beat, which here never comes."""
    condition = Condition(serving=True, application="")
    task = asyncio.create_task(Presence(registration, condition, interval_s=3600).keep())
    await _until(lambda: len(api.asked) == 2)
    condition.application = "broken"
    condition.tell()
    await _until(lambda: len(api.asked) == 3)
    task.cancel()
    assert [body for call, body in api.asked if "heartbeat" in call] == [
        {"healthy": True, "detail": ""},
        {"healthy": False, "detail": "broken"},
    ]


async def test_forgotten_registers_again(api: Api, registration: Registration) -> None:
    """A control plane that lost its memory is told again who we are; one that is down is asked until it is back."""
    condition = Condition(serving=True, application="")
    task = asyncio.create_task(Presence(registration, condition, interval_s=0.01).keep())
    await _until(lambda: api.count("POST") > 2)
    api.status = 503
    failed = len(api.asked)
    await _until(lambda: len(api.asked) > failed)
    api.known, api.status = False, 200
    await _until(lambda: api.count("PUT") == 2)
    task.cancel()
    assert api.known


async def test_leaving_is_not_undone(api: Api, registration: Registration) -> None:
    """A draining instance that was forgotten is not registered again."""
    presence = Presence(registration, Condition(serving=True, application=""), interval_s=0.01)
    task = asyncio.create_task(presence.keep())
    await _until(lambda: api.count("POST") > 0)
    presence.draining = True
    api.known = False
    beats = api.count("POST")
    await _until(lambda: api.count("POST") > beats + 3)
    task.cancel()
    assert api.count("PUT") == 1
