"""Faults of the mesh's own parts: control plane or agent killed or with a wrong clock, telemetry spoiled, configuration that sidecars refuse."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Literal

from models.errors import Broken
from simulations.alongside import alongside
from simulations.cluster import Cluster
from simulations.drills.injections.mesh import Clock, Outage, RefusedConfig, Telemetry
from simulations.drills.tap import Spoil, Tap

REFUSED = """
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: drill-refused}}
spec:
  hosts: [{service}]
  http:
  - match: [{{headers: {{x-drill: {{regex: "drill{number}x{{{{1001}}}}"}}}}}}]
    route: [{{destination: {{host: {service}}}}}]
"""


@asynccontextmanager
async def out(cluster: Cluster, fault: Outage) -> AsyncIterator[None]:
    """Kill a part; start it again at the end."""
    try:
        await cluster.processes.kill(fault.part)
        yield
    finally:
        await _start(cluster, fault.part)


@asynccontextmanager
async def misset(cluster: Cluster, fault: Clock) -> AsyncIterator[None]:
    """Restart a part with a wrong clock; restart it with the right one at the end."""
    try:
        await cluster.processes.kill(fault.part)
        await _start(cluster, fault.part, fault.shift_s)
        yield
    finally:
        if fault.part in cluster.processes.pids():
            await cluster.processes.kill(fault.part)
        await _start(cluster, fault.part)


async def _start(cluster: Cluster, part: Literal["control", "agent"], clock_s: float = 0.0) -> None:
    if part == "control":
        await cluster.start_control(clock_s=clock_s)
    else:
        await cluster.start_agent(observe_only=cluster.options.observe_only, clock_s=clock_s)


@asynccontextmanager
async def spoiled(tap: Tap | None, fault: Telemetry) -> AsyncIterator[None]:
    """Spoil reports."""
    if tap is None:
        raise Broken("nothing stands between the sidecars and the agent", hint="this mesh was started without a tap")
    tap.spoil = Spoil(fault.how, fault.services, fault.by)
    try:
        yield
    finally:
        tap.spoil = None


@asynccontextmanager
async def refused(cluster: Cluster, fault: RefusedConfig) -> AsyncIterator[None]:
    """Declare what sidecars refuse, a little different each time; take it away at the end."""
    async with cluster.control() as control:

        async def storm() -> None:
            number = 0
            while True:
                number += 1
                await control.apply({"drill.yaml": REFUSED.format(service=fault.service, number=number)})
                await asyncio.sleep(fault.every)

        try:
            async with alongside({"refused configuration": storm()}):
                yield
        finally:
            await control.delete_resource("VirtualService", "drill-refused")
