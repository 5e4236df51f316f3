"""The demo's plot: break, let the agent heal, repair as a person would, wait for quiet; then all of it without the agent.

The second run is identical: one seed gives the same users' requests at the same seconds of the schedule, and each breakage
strikes at the very second of the schedule at which it struck in the first run.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable
from dataclasses import dataclass, replace
from typing import Final

from models.errors import FibrinError, NotFound
from models.overlay import Owner
from simulations import faults
from simulations.cluster import Cluster
from simulations.demo.account import CALM_S, Result, Window, main_incident, result, window
from simulations.demo.breakages import BREAKAGES, Breakage
from simulations.demo.story import Story
from simulations.demo.watch import DemoWatch

WARM_UP_S: Final = 9.0
"""Traffic before the first breakage: what the agent needs to know what is normal."""

WINDOW_S: Final = 12.0
"""How long a breakage lasts, in both runs, before a person repairs it."""

LEAD_S: Final = 3.0
"""Users before a breakage of the second run."""

QUIET_S: Final = 30.0
"""Longest wait for quiet after a repair."""

_POLL_S: Final = 0.1
_SETTLE_S: Final = 1.0
_CLOSING_S: Final = 10.0


@dataclass(frozen=True, slots=True)
class Played:
    """One breakage of the first run: its account, and the second of the users' schedule at which it struck."""

    breakage: Breakage
    second: float
    result: Result


class Scenario:
    """Plays the breakages on a running cluster."""

    def __init__(self, cluster: Cluster, watch: DemoWatch, story: Story) -> None:
        self._cluster = cluster
        self._watch = watch
        self._story = story
        self._since = time.time()

    async def with_agent(self) -> tuple[Played, ...]:
        """Play everything with the agent acting."""
        self._story.phase(f"users arrive; {WARM_UP_S:g} s to learn what is normal")
        tail = await self._cluster.start_users()
        self._watch.follow_users(tail)
        await self._pause(WARM_UP_S)
        await self._quiet()
        return tuple([await self._play(breakage) for breakage in BREAKAGES])

    async def without_agent(self, played: tuple[Played, ...]) -> tuple[Result, ...]:
        """Play the same again with an agent that only looks, and complete the results."""
        self._story.state.healing = False
        self._story.phase("the same again, with the agent only looking")
        await self._cluster.stop_users()
        self._watch.follow_users(None)
        await self._cluster.restart_agent(observe_only=True)
        results = []
        for one in played:
            seen = await self._replay(one)
            results.append(replace(one.result, lost_without=seen.lost))
            self._story.state.results = [*results, *(p.result for p in played[len(results) :])]
        return tuple(results)

    async def _pause(self, seconds: float) -> None:
        """Let time pass; raises Broken as soon as a process has ended that should not have."""
        until = time.monotonic() + seconds
        while True:
            self._cluster.processes.require_running()
            left = until - time.monotonic()
            if left <= 0:
                return
            await asyncio.sleep(min(left, _POLL_S))

    # --- the first run ------------------------------------------------------------------------------------------

    async def _play(self, breakage: Breakage) -> Played:
        tail = self._story.state.users
        assert tail is not None and tail.began is not None, "users have come"  # noqa: PT018 - one thought
        since, self._since = self._since, time.time()
        self._story.state.phase = breakage.title
        onset = time.time()
        self._story.state.onset = onset
        await faults.apply(breakage.fault, self._cluster)
        self._story.tell("onset", breakage.title, onset)
        await self._until_over(breakage, onset)
        seen = window(self._watch.records, breakage.fault, onset, WINDOW_S)
        await self._let_the_agent_finish(breakage, onset)
        incidents = await self._watch.incidents(onset)
        await self._repair(breakage)
        await self._quiet()
        laid = tuple(o for o in self._watch.agent_overlays() if o.created_at >= since)
        self._since = time.time()
        account = result(breakage.name, breakage.fault, seen, incidents, laid)
        self._story.state.results.append(account)
        self._story.state.onset = None
        return Played(breakage, tail.start + onset - tail.began, account)

    async def _until_over(self, breakage: Breakage, onset: float) -> None:
        """Wait for the window's end; tell when users are served again."""
        told = False
        while (now := time.time()) < onset + WINDOW_S + _SETTLE_S:
            seen = window(self._watch.records, breakage.fault, onset, now - onset)
            if not told and seen.lost_to_fault and now - onset - seen.mitigated_s > CALM_S:
                told = True
                text = f"users are served again; {seen.lost} of {seen.requests} requests were lost"
                self._story.tell("SLI back", text, onset + seen.mitigated_s)
            await self._pause(_POLL_S)

    async def _let_the_agent_finish(self, breakage: Breakage, onset: float) -> None:
        deadline = time.monotonic() + _CLOSING_S
        while time.monotonic() < deadline:
            incident = main_incident(breakage.fault, await self._watch.incidents(onset), onset)
            if incident is None or not incident.is_open:
                return
            await self._pause(_POLL_S)

    async def _repair(self, breakage: Breakage) -> None:
        self._story.tell("repair", "a person repairs the fault and takes the agent's overlays away")
        await faults.undo(breakage.fault, self._cluster)
        await self._cluster.until_healthy()
        async with self._cluster.control() as control:
            for overlay in await control.overlays():
                if overlay.owner is Owner.AGENT:
                    await _gone_is_fine(control.delete_overlay(overlay.id))

    async def _quiet(self) -> None:
        """Wait until no incident is open, no overlay of the agent lies and no user misses anything; else say so and go on."""
        deadline = time.monotonic() + QUIET_S
        began = time.time()
        why = ""
        while time.monotonic() < deadline:
            why = await self._noise(began)
            if not why:
                return
            await self._pause(_POLL_S)
        self._story.tell("demo", f"it did not become quiet within {QUIET_S:g} s: {why}")

    async def _noise(self, began: float) -> str:
        now = time.time()
        if now < began + CALM_S:
            return "it was quiet for a moment only"
        try:
            still_open = [i.id for i in await self._watch.incidents(0.0) if i.is_open]
            async with self._cluster.control() as control:
                laid = [o.id for o in await control.overlays() if o.owner is Owner.AGENT]
        except FibrinError as error:
            return str(error)
        missed = sum(r.missed for r in self._watch.records if r.seen > now - CALM_S)
        if still_open:
            return f"incident {', '.join(still_open)} is open"
        if laid:
            return f"overlay {', '.join(laid)} lies"
        return f"users missed {missed} requests in the last {CALM_S:g} s" if missed else ""

    # --- the second run -----------------------------------------------------------------------------------------

    async def _replay(self, one: Played) -> Window:
        fault = one.breakage.fault
        self._story.state.phase = f"without the agent: {one.breakage.title}"
        tail = await self._cluster.start_users(max(0.0, one.second - LEAD_S))
        self._watch.follow_users(tail)
        assert tail.began is not None, "users have come"
        await self._pause(tail.began + one.second - tail.start - time.time())
        onset = time.time()
        self._story.state.onset = onset
        await faults.apply(fault, self._cluster)
        self._story.tell("onset", f"{one.breakage.title}; nobody acts", onset)
        await self._pause(onset + WINDOW_S + _SETTLE_S - time.time())
        seen = window(self._watch.records, fault, onset, WINDOW_S)
        self._story.tell("lost", f"{seen.lost} of {seen.requests} requests were lost")
        await faults.undo(fault, self._cluster)
        await self._cluster.stop_users()
        await self._cluster.until_healthy()
        self._story.state.onset = None
        return seen


async def _gone_is_fine(call: Awaitable[None]) -> None:
    try:
        await call
    except NotFound:
        return
