"""Latency and Envoy CPU per request: direct, through both sidecars, through the smallest pair of Envoys."""

from __future__ import annotations

import asyncio
import statistics
import tempfile
from pathlib import Path

from proxy.envoy import find
from simulations.addresses import free_port
from simulations.bench import pair, wire
from simulations.bench.figures import Table, milliseconds, quantile, ratio
from simulations.bench.rig import REQUEST, Rig, cpu_seconds
from simulations.shop.spec import APP_PORT

LIMIT = 1.05


async def measure(*, quick: bool) -> Table:
    """Run alternating rounds and compare."""
    rounds, seconds, rate = (2, 0.5, 300.0) if quick else (5, 3.0, 1500.0)
    async with Rig(2, with_agent=True) as rig:
        app = (rig.addresses["svc-1"], APP_PORT)
        folder = Path(tempfile.mkdtemp(prefix="pair-", dir=rig.state))
        client, server = ("127.0.0.1", free_port()), ("127.0.0.1", free_port())
        children = [await _envoy(path) for path in pair.write(folder, client, server, app)]
        try:
            await _until_served(client)
            ways = {
                "direct": (app, []),
                "minimal pair": (client, [c.pid for c in children]),
                "fibrin": (rig.outbound("caller-1"), rig.envoys()),
            }
            found: dict[str, list[tuple[float, float, float]]] = {name: [] for name in ways}
            for _ in range(rounds):
                for name, (place, pids) in ways.items():
                    before = cpu_seconds(pids)
                    tally = await wire.load(place, REQUEST, rate=rate, seconds=seconds)
                    spent = (cpu_seconds(pids) - before) / max(1, len(tally.latencies))
                    found[name].append((quantile(tally.latencies, 0.5), quantile(tally.latencies, 0.99), spent))
        finally:
            for child in children:
                child.kill()
                await child.wait()
    return _table(found)


def _table(found: dict[str, list[tuple[float, float, float]]]) -> Table:
    """Return medians over the rounds and the ratios of neighbouring rounds."""
    rows: list[tuple[str, ...]] = []
    for name, rounds in found.items():
        p50, p99, cpu = (statistics.median(r[k] for r in rounds) for k in range(3))
        rows.append((name, milliseconds(p50), milliseconds(p99), f"{cpu * 1e6:.0f} µs"))
    ratios = [
        ratio([max(r[k], 1e-9) for r in found["fibrin"]], [max(r[k], 1e-9) for r in found["minimal pair"]])
        for k in range(3)
    ]
    rows.append(("fibrin / minimal pair", *(r.text() for r in ratios)))
    return Table(
        "overhead per request",
        ("way", "p50", "p99", "Envoy CPU"),
        tuple(rows),
        f"ratios: median of paired rounds (lowest–highest); target ≤ {LIMIT}",
        all(r.median <= LIMIT for r in ratios),
    )


async def _envoy(config: Path) -> asyncio.subprocess.Process:
    flags = ("-c", str(config), "--concurrency", "1", "--disable-hot-restart", "-l", "error")
    return await asyncio.create_subprocess_exec(str(find(None)), *flags)


async def _until_served(place: tuple[str, int]) -> None:
    async with asyncio.timeout(20):
        while True:
            try:
                tally = await wire.load(place, REQUEST, rate=100, seconds=0.05, connections=1)
            except OSError:
                tally = wire.Tally()
            if tally.latencies and not tally.failed:
                return
            await asyncio.sleep(0.05)
