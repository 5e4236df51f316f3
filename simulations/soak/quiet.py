"""`python -m simulations.soak.quiet`: half an hour of a real shop in which nothing breaks, while users come and go.

Load rises and falls like a day in ten minutes and jumps now and then. Held at the end: the agent did nothing and called nobody.
Incidents that it opened and let go are told.
"""

from __future__ import annotations

import argparse
import asyncio
import math
import sys
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Final

from agent.incidents import Incident
from models.errors import FibrinError
from models.incident import Stage
from simulations.cluster import Cluster, Options
from simulations.journal import Tail
from simulations.scratch import scratch
from simulations.watch import Watch

MINUTES: Final = 30.0
BASE_RPS: Final = 20.0
"""Users that are always there."""

DAY_S: Final = 600.0
STEP_S: Final = 30.0
HIGHEST_RPS: Final = 60.0
"""At noon so many more come."""

JUMP_EVERY: Final = 7
"""Every so many steps everybody comes at once: what the day has at its highest."""


@dataclass(frozen=True, slots=True)
class Found:
    """What half an hour left: seconds watched, users' requests and how many missed their objective, incidents, what was laid."""

    seconds: float
    requests: int
    missed: int
    incidents: tuple[Incident, ...]
    laid: tuple[str, ...]


def steps(seconds: float) -> Iterator[tuple[float, float]]:
    """Yield (seconds, requests per second on top of those that are always there) until `seconds` are full.

    >>> [rps for _, rps in steps(300.0)][:4]
    [0.0, 1.5, 5.7, 12.4]
    """
    at, number = 0.0, 0
    while at < seconds:
        number += 1
        noon = HIGHEST_RPS * (1 - math.cos(2 * math.pi * at / DAY_S)) / 2
        yield min(STEP_S, seconds - at), HIGHEST_RPS if number % JUMP_EVERY == 0 else round(noon, 1)
        at += STEP_S


async def play(seconds: float) -> Found:
    """Run the shop for `seconds` and return what the agent made of it.

    Raises:
        Broken: the mesh did not come up, or fell.
    """
    async with scratch(lambda text: print(text, file=sys.stderr)) as folder:
        cluster = Cluster(Options(folder.path, rate=BASE_RPS), tell=lambda text: print(text, flush=True))
        watch = Watch(cluster)
        async with cluster, watch.following():
            users = await cluster.start_users()
            began = time.time()
            crowds = [crowd async for crowd in _come_and_go(cluster, seconds)]
            await asyncio.to_thread(users.read)
            incidents = await watch.incidents(0.0)
            laid = tuple(str(overlay.change) for overlay in watch.agent_overlays())
            seen = [record for tail in (users, *crowds) for record in tail.window(began, math.inf)]
            if laid:
                folder.kept = "what the agent did"
            return Found(time.time() - began, len(seen), sum(r.missed for r in seen), incidents, laid)


async def _come_and_go(cluster: Cluster, seconds: float) -> AsyncIterator[Tail]:
    for number, (lasts, rps) in enumerate(steps(seconds)):
        journal = cluster.state_dir / f"crowd-{number}.jsonl"
        print(f"{number * STEP_S:6.0f} s  {BASE_RPS + rps:.0f} requests per second", flush=True)
        if rps:
            await cluster.start_load("crowd", rps, journal, "--from", str(number * STEP_S))
        await asyncio.sleep(lasts)
        if rps:
            await cluster.stop_load("crowd")
            tail = Tail(journal)
            await asyncio.to_thread(tail.read)
            yield tail


def main() -> int:
    """Play, tell, and return 1 when the agent did or called anything."""
    parser = argparse.ArgumentParser(prog="python -m simulations.soak.quiet", description=__doc__)
    parser.add_argument("--minutes", type=float, default=MINUTES)
    try:
        found = asyncio.run(play(60 * parser.parse_args().minutes))
    except FibrinError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    for incident in found.incidents:
        print(
            f"opened: {incident.title}: {incident.stage}" + (f", waits: {incident.waiting}" if incident.waiting else "")
        )
    print(
        f"{found.seconds / 60:.1f} minutes, {found.requests} requests, {found.missed} missed their objective, "
        f"{len(found.incidents)} incidents, {len(found.laid)} actions"
    )
    called = [incident.title for incident in found.incidents if incident.stage is Stage.ESCALATED]
    for what in (*found.laid, *called):
        print(f"nothing was wrong, but the agent acted or called: {what}", file=sys.stderr)
    return 1 if found.laid or called else 0


if __name__ == "__main__":
    sys.exit(main())
