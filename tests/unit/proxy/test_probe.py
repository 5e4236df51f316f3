from __future__ import annotations

from collections.abc import AsyncIterator

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from proxy.probe import Hysteresis, probe


def test_first_finding_decides() -> None:
    """At the start there is nothing to protect from flapping."""
    for good in (True, False):
        verdict = Hysteresis()
        assert verdict.observe(good)
        assert verdict.healthy is good


def test_one_failure_is_forgiven() -> None:
    """A single bad answer between good ones changes nothing, however often."""
    verdict = Hysteresis(healthy=True)
    assert not any(verdict.observe(good) for good in [False, True] * 10)
    assert verdict.healthy


def test_two_in_a_row_turn_it() -> None:
    """Two failures make it unhealthy, two successes heal it, and each turn is told once."""
    verdict = Hysteresis(healthy=True)
    assert [verdict.observe(good) for good in (False, False, False, True, True, True)] == [
        *(False, True, False),
        *(False, True, False),
    ]
    assert verdict.healthy


def test_an_absent_application_needs_no_second_look() -> None:
    """A certain finding turns the verdict at once; coming back still takes two good ones."""
    verdict = Hysteresis(healthy=True)
    assert verdict.observe(good=False, certain=True)
    assert [verdict.observe(good) for good in (True, True)] == [False, True]


@pytest.fixture
async def application() -> AsyncIterator[TestServer]:
    """Serve one path per sort of answer."""
    app = web.Application()

    async def answer(request: web.Request) -> web.Response:
        return web.Response(status=int(request.match_info["status"]))

    app.router.add_get("/{status}", answer)
    server = TestServer(app, host="127.0.0.1")
    async with server:
        yield server


@pytest.mark.parametrize(
    ("path", "good", "detail"),
    [
        ("/200", True, ""),
        ("/302", True, ""),
        ("/404", False, "/404 answered 404"),
        ("/503", False, "/503 answered 503"),
        ("", True, ""),
    ],
)
async def test_answers(application: TestServer, path: str, good: bool, detail: str) -> None:
    """2xx and 3xx are well, anything else is not; without a path a connection is enough."""
    async with aiohttp.ClientSession() as session:
        finding = await probe(session, "127.0.0.1", application.port or 0, path, 2.0)
    assert (finding.good, finding.detail) == (good, detail)


async def test_nobody_there() -> None:
    """A refused connection is a finding, not an error, and says where nobody was."""
    async with aiohttp.ClientSession() as session:
        for path in ("/healthz", ""):
            finding = await probe(session, "127.0.0.1", 1, path, 2.0)
            assert not finding.good
            assert finding.detail == "cannot reach 127.0.0.1:1: Connection refused"
            assert finding.absent
