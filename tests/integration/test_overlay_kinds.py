"""Each kind of overlay laid over a real mesh: what it changes on the wire, and that nothing of it is left when it ends."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from control.effective import effective
from control.xds.world import World
from models.overlay import (
    AdaptConcurrency,
    Change,
    DisableFault,
    DrainInstance,
    EjectInstance,
    HeaderIs,
    InjectFault,
    LimitRate,
    OpenBreaker,
    Overlay,
    Owner,
    RouteCanary,
    SetRetries,
    ShedLoad,
    ShiftZones,
    target,
)
from models.policy import Fault, RequestMatch, Retries, Route, ServicePolicy, StringMatch

from .test_xds_mesh import Mesh, catalog, running, until

pytestmark = pytest.mark.integration

URL = "http://catalog/"
MEASURED = "gradient_controller.sample_rtt_msecs"


@pytest.fixture
async def mesh(tmp_path: Path) -> AsyncIterator[Mesh]:
    """A shop, a cart, and a catalog of one version in two zones: one instance in the east, two in the west."""
    async with running(tmp_path) as mesh:
        await mesh.join("shop", "v1", "shop-1")
        await mesh.join("cart", "v1", "cart-1")
        for number, zone in ((1, "east"), (2, "west"), (3, "west")):
            placed = await mesh.join("catalog", "v1", f"catalog-{number}")
            mesh.instances[placed.id] = dataclasses.replace(placed, zone=zone)
        await mesh.ready()
        yield mesh


def laid(change: Change, owner: Owner = Owner.AGENT) -> Overlay:
    """Return an overlay in force."""
    return Overlay(f"o-{change.kind}-{target(change)}", change, owner, "x", "why", 0.0, 1e12, 30.0, "inc-1")


async def lay(mesh: Mesh, *changes: Change, declared: ServicePolicy | None = None, floor: float = 0.3) -> None:
    """Lay overlays over what is declared, as the control plane does, and wait until every sidecar has it."""
    policies = {"catalog": declared or catalog()}
    found = effective(policies, [laid(change) for change in changes], mesh.instances.values(), floor=floor)
    assert not found.held_back
    generation = mesh.server.set_world(World(found.policies, tuple(mesh.instances.values())))
    assert (await mesh.server.wait_acked(generation, 10.0)).complete
    assert not mesh.observed.nacks


def hits(found: dict[tuple[int, str], int]) -> dict[str, int]:
    """Return how many good answers each instance gave."""
    return {text: count for (status, text), count in found.items() if status == 200}


async def connections(mesh: Mesh, name: str) -> int:
    """Return how many connections from other sidecars an instance's sidecar has."""
    return await _stat(mesh, name, "http.inbound.downstream_cx_active")


async def _stat(mesh: Mesh, name: str, suffix: str) -> int:
    reader, writer = await asyncio.open_unix_connection(str(mesh.directory / f"{name}.adm"))
    writer.write(f"GET /stats?filter={suffix}$ HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n".encode())
    await writer.drain()
    text = (await reader.read()).decode()
    writer.close()
    await writer.wait_closed()
    return max((int(line.rsplit(": ", 1)[1]) for line in text.splitlines() if suffix + ": " in line), default=0)


async def test_zones_share_traffic_as_told(mesh: Mesh) -> None:
    """A zone left gets nothing, shares are held, no connection is opened anew, and in the end all is as it was.

    (Held exactly where hosts are taken in turn; least-request evens out what it finds busy.)
    """
    in_turn = catalog(load_balancer="round-robin")
    await lay(mesh, declared=in_turn)
    even = hits(await mesh.many(300, "shop-1", URL))
    assert set(even) == {"catalog-1", "catalog-2", "catalog-3"}
    before = [await connections(mesh, name) for name in ("catalog-1", "catalog-2", "catalog-3")]
    load = asyncio.create_task(mesh.many(600, "shop-1", URL))
    await lay(mesh, ShiftZones("catalog", {"east": 0, "west": 100}), declared=in_turn)
    assert set(hits(await mesh.many(60, "shop-1", URL))) == {"catalog-2", "catalog-3"}
    await lay(mesh, ShiftZones("catalog", {"east": 80, "west": 20}), declared=in_turn)
    assert all(status == 200 for status, _ in await load)
    found = hits(await mesh.many(400, "shop-1", URL))
    assert 300 < found["catalog-1"] < 340, "four fifths go east, to one instance"
    assert abs(found["catalog-2"] - found["catalog-3"]) < 40
    await lay(mesh, declared=in_turn)
    assert set(hits(await mesh.many(60, "shop-1", URL))) == set(even)
    after = [await connections(mesh, name) for name in ("catalog-1", "catalog-2", "catalog-3")]
    assert after == before


async def test_an_ejected_instance_may_keep_a_slice_of_its_requests(mesh: Mesh) -> None:
    """A tenth of its share reaches it, the others carry the rest evenly, and undone it has its whole share again."""
    in_turn = catalog(load_balancer="round-robin")
    await lay(mesh, EjectInstance("catalog", "catalog-1", 10), declared=in_turn)
    found = hits(await mesh.many(420, "shop-1", URL))
    assert 5 <= found["catalog-1"] <= 40, found
    assert abs(found["catalog-2"] - found["catalog-3"]) < 40
    await lay(mesh, declared=in_turn)
    assert hits(await mesh.many(300, "shop-1", URL))["catalog-1"] > 80


async def test_retries_may_leave_out_a_slice_of_the_requests(mesh: Mesh) -> None:
    """One instance of three fails always. Of the half that keeps its retries (none) a third fails; of those retried, nothing."""
    declared = dataclasses.replace(catalog(), routes=(Route(retries=Retries(0, ("5xx",), min_concurrency=100)),))
    broken = InjectFault("catalog", 100, 503, instance="catalog-1")
    for kept, low, high in ((50, 60, 140), (0, 0, 0)):
        await lay(mesh, broken, SetRetries("catalog", 2, 1.0, keep_percent=kept), declared=declared)
        found = await mesh.many(600, "shop-1", URL)
        failed = sum(count for (status, _), count in found.items() if status == 503)
        assert low <= failed <= high, found


async def test_a_drained_instance_loses_its_connections_and_fails_nothing(mesh: Mesh) -> None:
    """Draining under load fails no request, leaves the instance without a connection, and is undone at once."""
    await mesh.many(60, "shop-1", URL)
    assert await connections(mesh, "catalog-1") > 0
    load = asyncio.create_task(mesh.many(600, "shop-1", URL))
    await lay(mesh, DrainInstance("catalog", "catalog-1"))
    assert all(status == 200 for status, _ in await load)
    assert set(hits(await mesh.many(60, "shop-1", URL))) == {"catalog-2", "catalog-3"}

    async def alone() -> bool:
        return await connections(mesh, "catalog-1") == 0

    await until(alone, "catalog-1 has no connection")
    await lay(mesh)
    assert "catalog-1" in hits(await mesh.many(60, "shop-1", URL))


async def test_one_caller_is_limited_and_no_other(mesh: Mesh) -> None:
    """A caller's rate holds over all instances together; it hears 429 with a reason, others notice nothing."""
    await lay(mesh, LimitRate("catalog", 30.0, "shop", burst_s=0.5))
    begun = time.monotonic()
    found = await mesh.many(400, "shop-1", URL)
    took = time.monotonic() - begun
    admitted = sum(hits(found).values())
    assert {status for status, _ in found} == {200, 429}
    assert admitted <= 30.0 * (took + 0.5) + 12, "rate and burst over three instances, rounded up to whole tokens"
    status, _, headers = await _refused(mesh, "shop-1")
    assert (status, headers["x-fibrin-limit"]) == (429, "rate")
    assert {status for status, _ in await mesh.many(200, "cart-1", URL)} == {200}
    await lay(mesh, LimitRate("catalog", 30.0, ""))
    assert 429 in {status for status, _ in await mesh.many(200, "cart-1", URL)}
    await lay(mesh)
    assert {status for status, _ in await mesh.many(200, "shop-1", URL)} == {200}


async def _refused(mesh: Mesh, caller: str) -> tuple[int, str, dict[str, str]]:
    for _ in range(200):
        answer = await mesh.get(caller, URL)
        if answer[0] != 200:
            return answer
    raise AssertionError("nothing was refused")


async def test_less_important_requests_are_shed(mesh: Mesh) -> None:
    """Low priority goes first, then all that is not high; the share is held; high priority always passes."""
    await lay(mesh, ShedLoad("catalog", 100, "normal"))
    low, normal, high = [{"x-fibrin-priority": word} for word in ("low", "normal", "high")]
    status, text, headers = await mesh.get("shop-1", URL, **low)
    assert (status, headers["x-fibrin-limit"]) == (429, "shed")
    assert "turned away" in text
    assert [(await mesh.get("shop-1", URL, **each))[0] for each in (normal, high, {})] == [200, 200, 200]
    await lay(mesh, ShedLoad("catalog", 100, "high"))
    assert [(await mesh.get("shop-1", URL, **each))[0] for each in (low, normal, {}, high)] == [429, 429, 429, 200]
    await lay(mesh, ShedLoad("catalog", 50, "high"))
    found = await mesh.many(300, "shop-1", URL)
    refused = sum(count for (status, _), count in found.items() if status == 429)
    assert 90 < refused < 210
    await lay(mesh)
    assert (await mesh.get("shop-1", URL, **low))[0] == 200


async def test_adaptive_concurrency_is_switched_on_and_off_by_a_route(mesh: Mesh) -> None:
    """While it is on, the sidecars measure and limit; before and after they do neither, and no listener has changed."""
    await mesh.many(200, "shop-1", URL)
    before = await connections(mesh, "catalog-1")
    assert await _stat(mesh, "catalog-1", MEASURED) == 0, "a disabled filter samples nothing"
    await lay(mesh, AdaptConcurrency("catalog"))

    async def measured() -> bool:
        found = await mesh.many(200, "shop-1", URL)
        assert {status for status, _ in found} <= {200, 429}
        return await _stat(mesh, "catalog-1", MEASURED) > 0

    await until(measured, "the gradient controller knows a round trip", 30.0)
    await lay(mesh)
    assert {status for status, _ in await mesh.many(200, "shop-1", URL)} == {200}
    assert await connections(mesh, "catalog-1") >= before


async def test_declared_faults_rest_and_injected_ones_stay(mesh: Mesh) -> None:
    """A declared fault is silenced for as long as the overlay lasts; a fault that somebody lays on purpose is not."""
    broken = ServicePolicy("catalog", routes=(Route(fault=Fault(abort_percent=100, abort_status=500)),))
    await lay(mesh, declared=broken)
    assert (await mesh.get("shop-1", URL))[0] == 500
    await lay(mesh, DisableFault("catalog"), declared=broken)
    assert (await mesh.get("shop-1", URL))[0] == 200
    await lay(mesh, DisableFault("catalog"), InjectFault("catalog", 100, 418), declared=broken)
    assert (await mesh.get("shop-1", URL))[0] == 418
    await lay(mesh, declared=broken)
    assert (await mesh.get("shop-1", URL))[0] == 500


async def test_a_half_open_breaker_lets_its_probes_through(mesh: Mesh) -> None:
    """At 90 percent one request in ten still reaches the service; the rest is answered at once."""
    await lay(mesh, OpenBreaker("catalog", "", 90, "fail-fast", 10))
    found = await mesh.many(600, "shop-1", URL)
    passed = sum(hits(found).values())
    assert 25 < passed < 110
    await lay(mesh)
    assert sum(hits(await mesh.many(60, "shop-1", URL)).values()) == 60


async def test_an_injected_fault_strikes_the_instance_or_the_caller_it_names(mesh: Mesh) -> None:
    """One instance's fault fails its share of the requests and nobody else's; one caller's fails that caller alone."""
    await lay(mesh, InjectFault("catalog", 100, 418, instance="catalog-2"))
    found = await mesh.many(300, "shop-1", URL)
    assert set(hits(found)) == {"catalog-1", "catalog-3"}
    assert {status for status, _ in found} == {200, 418}
    await lay(mesh, InjectFault("catalog", 100, 418, caller="shop"))
    assert {status for status, _ in await mesh.many(60, "shop-1", URL)} == {418}
    assert {status for status, _ in await mesh.many(60, "cart-1", URL)} == {200}
    await lay(mesh)
    assert {status for status, _ in await mesh.many(60, "shop-1", URL)} == {200}


async def test_a_spread_delay_is_drawn_per_request(mesh: Mesh) -> None:
    """Delays follow their distribution: half of the requests lie on either side of the median, and not all are alike."""
    await lay(mesh, InjectFault("catalog", delay_percent=100, delay_s=0.1, delay_sigma=0.6))
    took = []
    for _ in range(40):
        begun = time.monotonic()
        assert (await mesh.get("shop-1", URL))[0] == 200
        took.append(time.monotonic() - begun)
    assert 5 < sum(each < 0.1 for each in took) < 35
    assert max(took) > 2 * min(took)


@pytest.fixture
async def pair(tmp_path: Path) -> AsyncIterator[Mesh]:
    """A shop, and a catalog of two versions."""
    async with running(tmp_path) as mesh:
        await mesh.join("shop", "v1", "shop-1")
        for version in ("v1", "v2"):
            await mesh.join("catalog", version, f"catalog-{version}")
        await mesh.ready()
        yield mesh


async def test_a_canary_gets_what_matches_and_nobody_else_notices(pair: Mesh) -> None:
    """By header and by cookie, in the rules that are declared; without the overlay all is as it was."""
    timed = RequestMatch(path=StringMatch("prefix", "/slow"))
    declared = ServicePolicy("catalog", routes=(Route("slow", (timed,), {"v1": 1}), Route(weights={"v1": 1})))
    cookie = HeaderIs("cookie", "regex", r"(?:.*;\s*)?beta=yes(?:;.*)?")
    for condition, mine, other in (
        (HeaderIs("X-Beta", "exact", "1"), {"x-beta": "1"}, {"x-beta": "2"}),
        (cookie, {"cookie": "a=1; beta=yes"}, {"cookie": "beta=yesterday"}),
    ):
        await lay(pair, RouteCanary("catalog", "v2", "v1", 100, conditions=(condition,)), declared=declared)
        for path in ("", "slow/1"):
            assert (await pair.get("shop-1", URL + path, **mine))[1] == "catalog-v2"
            assert (await pair.get("shop-1", URL + path, **other))[1] == "catalog-v1"
            assert (await pair.get("shop-1", URL + path))[1] == "catalog-v1"
    await lay(pair, declared=declared)
    assert (await pair.get("shop-1", URL, **{"x-beta": "1"}))[1] == "catalog-v1"


async def test_copies_reach_the_canary_and_its_answers_nobody(pair: Mesh) -> None:
    """A failing canary sees copies of reads, addressed as the request was; users get the stable version's answers."""
    declared = ServicePolicy("catalog", routes=(Route(weights={"v1": 1}),))
    pair.answers["catalog-v2"] = 500
    safe = HeaderIs(":method", "regex", "GET|HEAD")
    await lay(pair, RouteCanary("catalog", "v2", "v1", 50, mirror=True, conditions=(safe,)), declared=declared)
    found = await pair.many(200, "shop-1", URL)
    assert found == {(200, "catalog-v1"): 200}

    async def copied() -> bool:
        return 60 <= len(copies()) <= 140

    def copies() -> list[dict[str, str]]:
        return [seen for seen in pair.seen if seen["at"] == "catalog-v2"]

    await until(copied, "about half the requests copied")
    assert {(seen["Host"], seen["x-fibrin-mirror"]) for seen in copies()} == {("catalog", "1")}
    before = len(copies())
    async with pair.session.post(URL, proxy=f"http://{pair.instances['shop-1'].address}:15001") as response:
        assert response.status == 200
    await lay(pair, declared=declared)
    assert (await pair.many(60, "shop-1", URL)) == {(200, "catalog-v1"): 60}
    assert len(copies()) == before, "no write and nothing after the end is copied"
