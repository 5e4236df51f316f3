"""How fast simulated time passes, agent included, and what a large simulated mesh takes in memory.

Each size is played in a process of its own, so that its peak of memory is its own.
"""

from __future__ import annotations

import asyncio
import resource
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from typing import Final

import numpy as np

from simulations.bench.figures import Table, Target
from simulations.simulator.campaign import day
from simulations.simulator.mesh import draw
from simulations.simulator.world import TICK_S, open_world

SEED: Final = 9
HOUR_S: Final = 3600.0
MOST_S: Final = 60.0
"""What an hour of the small mesh may take, seconds of processor time."""

MOST_GB: Final = 4.0


@dataclass(frozen=True, slots=True)
class Size:
    """A mesh of so many services, played for `learn_s` simulated seconds and then measured for `watch_s`."""

    services: int
    learn_s: float
    watch_s: float


@dataclass(frozen=True, slots=True)
class Found:
    """Processor seconds per simulated hour, requests per simulated second, peak of memory in GB."""

    hour_s: float
    rate: float
    peak_gb: float


SIZES: Final = (Size(200, 120.0, 60.0), Size(10_000, 5.0, 5.0))
QUICK: Final = (Size(30, 2.0, 2.0), Size(60, 1.0, 1.0))


async def measure(*, quick: bool = False) -> Table:
    """Play both meshes, one after the other."""
    sizes = QUICK if quick else SIZES
    loop = asyncio.get_running_loop()
    found: list[Found] = []
    for size in sizes:
        with ProcessPoolExecutor(1, get_context("spawn")) as child:
            found.append(await loop.run_in_executor(child, play, size))
    rows = tuple(
        (
            str(size.services),
            f"{one.rate:.0f}",
            f"{one.hour_s:.0f} s",
            f"{HOUR_S / one.hour_s:.1f} ×",
            f"{one.peak_gb:.2f} GB",
        )
        for size, one in zip(sizes, found, strict=True)
    )
    return Table(
        "a simulated hour of a healthy mesh, its agent included, on one core",
        ("services", "calls/s", "CPU per hour", "faster than time", "peak memory"),
        rows,
        f"ticks of {TICK_S:g} s; measured over {sizes[0].watch_s:g} and {sizes[1].watch_s:g} simulated seconds",
        (
            Target(f"an hour of {sizes[0].services} services", found[0].hour_s, MOST_S, " s"),
            Target(f"memory of {sizes[1].services} services", found[1].peak_gb, MOST_GB, " GB"),
        ),
        judged=not quick,
    )


def play(size: Size) -> Found:
    """Play one mesh in this process."""
    return asyncio.run(_play(size))


async def _play(size: Size) -> Found:
    load = day(np.random.default_rng(SEED))
    async with open_world(draw(size.services, SEED), seed=SEED, load=load) as world:
        for _ in range(round(size.learn_s / TICK_S)):
            await world.step()
        began = time.process_time()
        for _ in range(round(size.watch_s / TICK_S)):
            await world.step()
        spent = time.process_time() - began
        rate = float(world.plant.rates.sum())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    return Found(spent / size.watch_s * HOUR_S, rate, peak)
