"""Canaries on real Envoys: a good one takes over, a bad one is rolled back, and a person's abort holds at once."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from agent.canaries.record import CanaryView, Command
from agent.client import AgentClient
from simulations import faults
from simulations.cluster import Cluster, Options
from simulations.faults import VersionErrors

pytestmark = [pytest.mark.integration, pytest.mark.timeout(420)]

DEADLINE_S = 120.0

log = logging.getLogger(__name__)

STABLE = """
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: catalog}
spec:
  hosts: [catalog]
  http:
  - route:
    - {destination: {host: catalog, subset: v1}, weight: 100}
"""

CANARY = """
apiVersion: fibrin.dev/v1
kind: Canary
metadata: {name: catalog}
spec:
  service: catalog
  canary: v2
  stable: v1
  steps:
  - {mirror: 60, for: 1s}
  - {weight: 20, for: %s}
  - {weight: 50, for: 1s}
  analysis:
    margins: {errors: 5%%, latency: 3, latencyFloor: 50ms}
    falsePromotion: 20%%
    minRequests: 20
"""


async def until(what: str, condition: Callable[[], Awaitable[bool]]) -> None:
    """Poll until the condition holds."""
    deadline = time.monotonic() + DEADLINE_S
    while not await condition():
        assert time.monotonic() < deadline, f"waited {DEADLINE_S:g} s for {what}"
        await asyncio.sleep(0.05)


async def weights(cluster: Cluster) -> dict[str, int]:
    """Return what is in force."""
    async with cluster.control() as control:
        (route,) = (await control.service("catalog")).effective.routes
    return dict(route.weights)


async def test_a_good_canary_takes_over_a_bad_one_goes_back_and_an_abort_holds(tmp_path: Path) -> None:
    """One running shop, three canaries: promoted through copies and both weights; aborted by a person; rolled back for its errors."""
    cluster = Cluster(Options(tmp_path / "s", rate=60.0))
    async with cluster, AgentClient.from_state_dir(cluster.state_dir) as reader:
        token = (cluster.state_dir / "operator.token").read_text(encoding="utf-8").strip()
        await cluster.start_users()
        seen: list[CanaryView] = []

        async def state(wanted: str, step: int = 0) -> bool:
            found = [one for one in await reader.canaries() if one.name == "catalog"]
            seen.extend(found)
            return bool(found) and found[0].state == wanted and found[0].step >= step

        async def apply(least: str) -> None:
            async with cluster.control() as control:
                await control.apply({"catalog.yaml": STABLE, "canary.yaml": CANARY % least})

        await apply("1s")
        await until("the promotion", lambda: state("promoted"))
        steps = {(one.weight, one.what) for one in seen if one.state == "progressing"}
        assert steps == {(60, "copies of matching requests"), (20, "requests"), (50, "requests")}
        assert any(one.requests > 0 for one in seen if one.weight == 60), (
            "judged by what its own sidecar tells of copies"
        )
        await until("all traffic on v2", lambda: _are(cluster, {"v2": 100}))

        await apply("10m")
        await until("the first step", lambda: state("progressing", 2))
        await until("20 % on v2", lambda: _are(cluster, {"v1": 80, "v2": 20}))
        async with AgentClient(reader.url, token=token, actor="ada") as operator:
            assert (await operator.tell_canary("catalog", Command.ABORT)).state == "aborted"
        assert await weights(cluster) == {"v1": 100}

        await apply("11m")
        await until("the first step again", lambda: state("progressing", 2))
        await faults.apply(VersionErrors("catalog", "v2", 0.5), cluster)
        onset = time.time()
        await until("the rollback", lambda: state("rolled-back"))
        log.info("rolled back %.2f s after onset: %s", seen[-1].since - onset, seen[-1].reason)
        await until("no traffic on v2", lambda: _are(cluster, {"v1": 100}))
        kinds = [record["kind"] for record in await reader.audit(1000)]
        assert kinds.count("canary") >= 6


async def _are(cluster: Cluster, wanted: dict[str, int]) -> bool:
    return await weights(cluster) == wanted
