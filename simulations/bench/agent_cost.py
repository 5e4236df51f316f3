"""CPU seconds the agent spends per second and per thousand active time series."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc.aio
import numpy as np

from agent.observe import Observer
from agent.telemetry.decode import Decoder
from agent.telemetry.schema import DELTA, ExportRequest, KeyValue, Resource
from models.signals import BOUNDS_US, BUCKETS, Side
from models.telemetry import (
    AUTHORIZATION_HEADER,
    EXPORT_METHOD,
    FLUSH_S,
    LATENCY,
    LATENCY_FACTS,
    LIVE,
    NODE_HEADER,
    SEPARATOR,
    SERVICE_ATTRIBUTE,
    STAT_PREFIX,
    TAG,
    UPTIME,
    VERSION_ATTRIBUTE,
    Fact,
    route_name,
)
from simulations.bench.figures import Table
from simulations.bench.rig import Rig, cpu_seconds

_PER_REPORTER = 20  # series: one callee each
_BOUNDS = np.asarray(BOUNDS_US, dtype="<f8").tobytes()


@dataclass(frozen=True, slots=True)
class Cost:
    """CPU seconds per second: of the whole agent, and of decoding and observing when done alone."""

    series: int
    total: float
    decode: float
    observe: float


async def measure(*, quick: bool) -> Table:
    """Push reports of 0, 200 and 1000 series at the sidecars' pace into an agent that only watches."""
    warm, seconds = (1.0, 1.0) if quick else (10.0, 15.0)
    costs = []
    for series in (0, 200) if quick else (0, 200, 1000):
        async with Rig(0) as rig:
            total = await _spent(rig, series, warm, seconds)
        costs.append(Cost(series, total, *parts(series, seconds)))
    return table(costs, judged=not quick)


def table(costs: Sequence[Cost], *, judged: bool) -> Table:
    """Return the costs; what is neither at rest nor decoding nor observing is the channel (gRPC) and the detectors."""
    rest = next(cost.total for cost in costs if not cost.series)
    rows = []
    for cost in costs:
        others = cost.total - rest - cost.decode - cost.observe
        per = f"{cost.total / cost.series * 1000:.3f}" if cost.series else "–"
        shares = (cost.total, *((cost.decode, cost.observe, others) if cost.series else ()))
        cells = [f"{share:.3f}" for share in shares] + ["–"] * (4 - len(shares))
        rows.append((str(cost.series), str(cost.series // _PER_REPORTER), *cells, per))
    return Table(
        "agent CPU, cores",
        ("active series", "reporters", "whole agent", "decode", "observe", "channel and detectors", "per 1000 series"),
        tuple(rows),
        f"every series active in every report, a report each {FLUSH_S * 1e3:.0f} ms; decode and observe measured alone",
        judged=judged,
    )


def parts(series: int, seconds: float) -> tuple[float, float]:
    """Return the CPU seconds per second of mesh time that decoding and observing take, measured here over `seconds`."""
    reporters = series // _PER_REPORTER
    ticks = max(5, round(seconds / FLUSH_S))
    decoders = [Decoder(f"caller{k}-1", lambda _: None) for k in range(reporters)]
    observer = Observer()
    decoding = observing = 0.0
    for tick in range(ticks + 1):  # the first learns what tags mean, and is not counted
        at = 1e9 + tick * FLUSH_S
        payloads = [export(k, at) for k in range(reporters)]
        began = time.process_time()
        reports = [decoder.decode(payload, at) for decoder, payload in zip(decoders, payloads, strict=True)]
        decoded = time.process_time()
        for report in reports:
            observer.receive(report)
        observer.take_tick(at)
        if tick:
            decoding += decoded - began
            observing += time.process_time() - decoded
    return decoding / ticks / FLUSH_S, observing / ticks / FLUSH_S


async def _spent(rig: Rig, series: int, warm: float, seconds: float) -> float:
    token = (rig.state_dir / "proxy.token").read_text(encoding="utf-8").strip()
    pid = rig.processes.pid("agent")
    async with (
        grpc.aio.insecure_channel(f"unix:{Path(rig.state_dir)}/otlp.sock") as channel,
        asyncio.TaskGroup() as group,
    ):
        pushers = [
            group.create_task(_push(channel, token, k), name=f"reporter {k}") for k in range(series // _PER_REPORTER)
        ]
        await asyncio.sleep(warm)
        began, before = time.monotonic(), cpu_seconds([pid])
        await asyncio.sleep(seconds)
        spent = (cpu_seconds([pid]) - before) / (time.monotonic() - began)
        for pusher in pushers:
            pusher.cancel()
    return spent


async def _push(channel: grpc.aio.Channel, token: str, k: int) -> None:
    """Report as sidecar `k` until cancelled."""
    send: Any = channel.unary_unary(EXPORT_METHOD, request_serializer=bytes, response_deserializer=bytes)
    metadata = ((NODE_HEADER, f"caller{k}-1"), (AUTHORIZATION_HEADER, f"Bearer {token}"))
    due = time.monotonic()
    while True:
        await send(export(k, time.time()), metadata=metadata)
        due += FLUSH_S
        await asyncio.sleep(max(0.0, due - time.monotonic()))


def export(k: int, at: float) -> bytes:
    """Return what sidecar `k` reports at Unix time `at`: `_PER_REPORTER` series, 20 requests each, and its heartbeat."""
    resource = Resource()
    for key, value in ((SERVICE_ATTRIBUTE, f"caller{k}"), (VERSION_ATTRIBUTE, "v1")):
        resource.attributes.add(key=key).value.string_value = value
    request = ExportRequest()
    scope = request.resource_metrics.add(resource=resource.SerializeToString()).scope_metrics.add()
    for name in (UPTIME, LIVE):
        scope.metrics.add(name=name).gauge.data_points.add(as_int=int(at), time_unix_nano=round(at * 1e9))
    counts = np.zeros(BUCKETS, dtype="<i8")
    counts[BUCKETS // 3 : BUCKETS // 3 + 4] = 5
    histogram = scope.metrics.add(name=f"{STAT_PREFIX[Side.CLIENT]}.{LATENCY}").histogram
    histogram.aggregation_temporality = DELTA
    for callee in range(_PER_REPORTER):
        facts = _facts(f"callee{callee}")
        histogram.data_points.add(
            count=20,
            bucket_counts=counts.tobytes(),
            explicit_bounds=_BOUNDS,
            attributes=_tag(LATENCY_FACTS[Side.CLIENT], facts),
        )
    payload: bytes = request.SerializeToString()
    return payload


def _facts(callee: str) -> dict[Fact, str]:
    return {
        Fact.CLUSTER: callee,
        Fact.ROUTE: route_name(callee, "default"),
        Fact.CODE: "200",
        Fact.FLAGS: "-",
        Fact.GRPC: "",
    }


def _tag(told: tuple[Fact, ...], facts: dict[Fact, str]) -> list[Any]:
    pair = KeyValue(key=TAG)
    pair.value.string_value = SEPARATOR.join(facts[fact] for fact in told)
    return [pair.SerializeToString()]
