"""The process that is killed: the agent's loop, store, audit log and actuator, on a real control plane.

It stops at each line of its story until it is told to go on (a line on stdin): so whoever watches can kill it exactly
there. Telemetry is made up: the catalog's second version fails until one of the cures is in force.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import structlog

from agent.actuators.control import ControlActuator
from agent.codec import Event
from agent.incidents import Datum
from agent.loop import HealingLoop
from agent.timeline import Timeline
from control.client import ControlClient
from simulations.bench.brain import Brain, Held, brain

SERVICE: Final = "catalog"
TICK_S: Final = 0.05
QUIET_S: Final = 0.5


class Halting(Timeline):
    """Says each line before anything else happens, and waits to be told to go on."""

    def add(self, at: float, stage: str, message: str, incident: str = "", data: Mapping[str, Datum] = {}) -> Event:
        """Say it, wait, add it."""
        print(f"at {stage} {message}", flush=True)
        sys.stdin.readline()
        return super().add(at, stage, message, incident, data)


async def live(state: Path, playbook: Path, cures: frozenset[str]) -> None:
    """Heal until no incident is open, then say how it ended."""
    text = await asyncio.to_thread(playbook.read_text, encoding="utf-8")
    client = ControlClient.from_state_dir(state, "agent", actor="agent")
    async with client, brain(state, await client.topology()) as one:
        fence = await client.acquire_fence("victim", 30.0)
        held = Held(fence.fence)
        await _see(one, client, cures)
        loop = one.loop(ControlActuator(client), {"k.yaml": text}, fence=held, timeline=Halting())
        await loop.start()
        ended = await _until_quiet(one, loop, client, cures)
        await loop.idle()
        await loop.stop()
    print(f"end {ended}", flush=True)


async def _until_quiet(one: Brain, loop: HealingLoop, client: ControlClient, cures: frozenset[str]) -> str:
    quiet_since = time.monotonic()
    while True:
        await _see(one, client, cures)
        loop.tick()
        await asyncio.sleep(TICK_S)
        found = loop.incidents
        if not found or any(incident.is_open for incident in found):
            quiet_since = time.monotonic()
        elif time.monotonic() - quiet_since >= QUIET_S:
            await loop.idle()  # the last word may not be stored yet
            return " ".join(sorted(str(incident.stage) for incident in await one.store.latest(10)))


async def _see(one: Brain, client: ControlClient, cures: frozenset[str]) -> None:
    """Read what is laid; it decides whether the fault shows."""
    overlays = await client.overlays()
    one.mesh.overlays, one.mesh.overlays_at = overlays, time.time()
    cured = any(overlay.change.kind in cures for overlay in overlays)
    if not cured and not one.made_up.broken:
        one.made_up.since = time.time()
    one.made_up.broken = set() if cured else {SERVICE}


def main() -> None:
    """Run until the end or a kill."""
    parser = argparse.ArgumentParser(prog="simulations.soak.victim")
    parser.add_argument("state", type=Path)
    parser.add_argument("playbook", type=Path)
    parser.add_argument("cures", nargs="*")
    given = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    asyncio.run(live(given.state, given.playbook, frozenset(given.cures)))


if __name__ == "__main__":
    main()
