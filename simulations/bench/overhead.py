"""Latency and Envoy CPU per request: direct, through both sidecars, through the smallest pair of Envoys.

The ways are measured in rounds. Within a round each way gets the same load for the same time, in an order drawn anew,
and ratios are taken within the round: what slows the machine for a while slows both sides of a ratio. A round counts only
if every request was answered with 200 and the rate was reached; a round that was disturbed is repeated, a few times.

The load generator and the application run in this process, on the same cores. Their cost is the same for every way and
stands in the table: `direct` is what they take alone.
"""

from __future__ import annotations

import asyncio
import os
import random
import statistics
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from models.errors import Broken
from proxy.envoy import find
from simulations.addresses import free_port
from simulations.bench import pair, wire
from simulations.bench.child import tethered
from simulations.bench.figures import Table, Target, milliseconds, quantile, ratio
from simulations.bench.rig import REQUEST, Rig, cpu_seconds
from simulations.shop.spec import APP_PORT

LIMIT = 1.05
REACHED = 0.95
"""Share of the requests due that must have been answered in time for a round to count."""

MESHES = 4
"""Meshes and pairs that are started anew, one after another: two equal pairs differ by 3 %, by where their memory happens to lie."""

DIRECT, PAIR, FIBRIN = "direct", "minimal pair", "fibrin"


@dataclass(frozen=True, slots=True)
class Way:
    """A way to the application: where requests go in, and the Envoys they pass."""

    place: tuple[str, int]
    envoys: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Sample:
    """One way in one round. Seconds; CPU per request."""

    p50: float
    p99: float
    envoy_cpu: float
    harness_cpu: float
    rate: float


class Disturbed(Broken):
    """A round that does not count."""


async def measure(*, quick: bool) -> Table:
    """Run the rounds and compare.

    Raises:
        Broken: requests failed, or this machine does not reach the rate.
    """
    meshes, rounds, seconds, rate = (1, 2, 0.5, 100.0) if quick else (MESHES, 20, 0.5, 1500.0)
    found: list[dict[str, Sample]] = []
    idle: list[dict[str, float]] = []
    for _ in range(meshes):
        async with _ways() as ways:
            idle.append({name: await _idle(way, 0.2 if quick else 2.0) for name, way in ways.items() if way.envoys})
            found += await _rounds(ways, rounds, rate, seconds)
    resting = {name: statistics.fmean(one[name] for one in idle) for name in idle[0]}
    return table(found, resting, rate, judged=not quick)


@asynccontextmanager
async def _ways() -> AsyncIterator[dict[str, Way]]:
    """Start a mesh, a pair and an application, and yield the ways to it."""
    async with Rig(2) as rig:
        app = (rig.addresses["svc-1"], APP_PORT)
        folder = Path(tempfile.mkdtemp(prefix="pair-", dir=rig.state_dir))
        client, server = ("127.0.0.1", free_port()), ("127.0.0.1", free_port())
        children = [await _envoy(path) for path in pair.write(folder, client, server, app)]
        try:
            await _until_served(client)
            yield {
                DIRECT: Way(app, ()),
                PAIR: Way(client, tuple(c.pid for c in children)),
                FIBRIN: Way(rig.outbound("caller-1"), tuple(rig.envoys())),
            }
        finally:
            for child in children:
                child.kill()
                await child.wait()


async def _rounds(ways: Mapping[str, Way], rounds: int, rate: float, seconds: float) -> list[dict[str, Sample]]:
    """Return `rounds` rounds that count; as many again may be disturbed."""
    rng = random.Random(1)
    found: list[dict[str, Sample]] = []
    spoiled: list[Disturbed] = []
    while len(found) < rounds:
        try:
            found.append({name: await sample(ways[name], rate, seconds) for name in rng.sample(list(ways), len(ways))})
        except Disturbed as error:
            spoiled.append(error)
            if len(spoiled) > rounds:
                raise
    return found


async def sample(way: Way, rate: float, seconds: float) -> Sample:
    """Load one way for `seconds`.

    Raises:
        Disturbed: an answer failed or did not come, or the rate was not reached.
    """
    before, own = cpu_seconds(way.envoys), cpu_seconds([os.getpid()])
    tally = await wire.load(way.place, REQUEST, rate=rate, seconds=seconds)
    answered = len(tally.latencies)
    if tally.failed or tally.unanswered:
        where = f"{way.place[0]}:{way.place[1]}"
        raise Disturbed(
            f"{tally.failed} of {answered} answers of {where} were no 200 and {tally.unanswered} did not come",
            hint="see envoy.log in the sidecar's directory",
        )
    if answered < REACHED * rate * seconds:
        raise Disturbed(
            f"{answered / seconds:.0f} of {rate:.0f} requests a second were sent",
            hint="stop what else runs on this machine",
        )
    return Sample(
        quantile(tally.latencies, 0.5),
        quantile(tally.latencies, 0.99),
        (cpu_seconds(way.envoys) - before) / answered,
        (cpu_seconds([os.getpid()]) - own) / answered,
        answered / seconds,
    )


async def _idle(way: Way, seconds: float) -> float:
    """Return the CPU seconds per second of a way's Envoys without a request."""
    before = cpu_seconds(way.envoys)
    await asyncio.sleep(seconds)
    return (cpu_seconds(way.envoys) - before) / seconds


def table(rounds: Sequence[Mapping[str, Sample]], idle: Mapping[str, float], rate: float, *, judged: bool) -> Table:
    """Return medians over the rounds, and the ratios within them."""
    rows: list[tuple[str, ...]] = []
    for name in (DIRECT, PAIR, FIBRIN):
        p50, p99, cpu, own = (
            statistics.median(getattr(found[name], field) for found in rounds)
            for field in ("p50", "p99", "envoy_cpu", "harness_cpu")
        )
        resting = f"{idle[name] * 1e3:.1f} ms/s" if name in idle else "–"
        rows.append((name, milliseconds(p50), milliseconds(p99), _micro(cpu), resting, _micro(own)))
    ratios = {
        field: ratio([getattr(r[FIBRIN], field) for r in rounds], [getattr(r[PAIR], field) for r in rounds])
        for field in ("p50", "p99", "envoy_cpu")
    }
    rows.append((f"{FIBRIN} / {PAIR}", *(found.text() for found in ratios.values()), "", ""))
    return Table(
        "overhead per request",
        ("way", "p50", "p99", "Envoy CPU", "Envoy CPU at rest", "harness CPU"),
        tuple(rows),
        f"{len(rounds)} rounds on {MESHES if judged else 1} meshes at {rate:.0f} requests/s; ratios: median within rounds (lowest–highest)",
        tuple(
            Target(f"{name} ratio", ratios[field].median, LIMIT)
            for field, name in (("envoy_cpu", "Envoy CPU"), ("p50", "p50"), ("p99", "p99"))
        ),
        judged,
    )


def _micro(seconds: float) -> str:
    return f"{seconds * 1e6:.1f} µs"


async def _envoy(config: Path) -> asyncio.subprocess.Process:
    flags = ("-c", str(config), "--concurrency", "1", "--disable-hot-restart", "-l", "error")
    return await asyncio.create_subprocess_exec(*tethered(), str(find(None)), *flags)


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
