"""The agent's process on a simulated mesh: its own loop, started, killed and started again from what it stored.

Nothing of the agent is replaced but its rims: where telemetry comes from, where actions go, what time it is, and where
pages and audit records end. Everything an incident starts finishes within its tick, unless it waits for sidecars to take a change, so that equal
seeds give equal histories however fast the machine is.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from agent.chronicle import Chronicle
from agent.decision import Decisions
from agent.incidents import Incident
from agent.leadership import Leadership
from agent.loop import HealingLoop
from agent.mesh import MeshView
from agent.planner import PlaybookPlanner
from agent.remembering import LEDGER, REMEMBER_S, keep, take_up
from agent.scribe import Tools
from agent.senses import Senses
from agent.settings import AgentSettings
from agent.sources import read_sources
from agent.store import Store
from agent.switch import FILE as STOP_FILE
from agent.switch import KillSwitch
from agent.thinking import MeshLocaliser
from agent.timeline import Timeline
from models.detect import DetectorBank, FalseAlarmBudget
from models.telemetry import FLUSH_S
from simulations.simulator.control import HOLDER, SimulatedControl, VirtualClock
from simulations.simulator.plant import Plant
from simulations.simulator.sight import SimulatedSight
from simulations.simulator.telemetry import Telemetry

TICK_S: Final = FLUSH_S
"""As often as real sidecars report."""

POLL_S: Final = 0.001
"""How often, in real time, a wait for work under way looks."""


@dataclass(slots=True)
class Records:
    """An audit log and a pager in memory: `audit` holds (kind, data), `pages` (incident, message)."""

    audit: list[tuple[str, Mapping[str, Any]]] = field(default_factory=list)
    pages: list[tuple[str, str]] = field(default_factory=list)

    async def append(self, kind: str, data: Mapping[str, Any], *, at: float | None = None) -> int:
        """Keep one audit record; return its number."""
        del at
        self.audit.append((kind, data))
        return len(self.audit)

    def page(self, incident: Incident, message: str, *, urgent: bool = True) -> None:
        """Keep one page."""
        self.pages.append((incident.id, message if urgent else f"no haste: {message}"))


class AgentTime:
    """The agent's calendar clock: `by_s` seconds ahead of the true time."""

    def __init__(self, true: VirtualClock) -> None:
        self._true = true
        self.by_s = 0.0

    def __call__(self) -> float:
        """Return Unix time as the agent has it."""
        return self._true.now + self.by_s


class SimulatedAgent:
    """One agent over all its processes; `mortal` ones keep what they learn, as the real one does, so that they can be killed.

    `seen_at` tells for each incident when it was opened, in true time.
    """

    def __init__(
        self, settings: AgentSettings, control: SimulatedControl, plant: Plant, clock: VirtualClock, *, mortal: bool
    ) -> None:
        self.settings = settings
        self.time = AgentTime(clock)
        self.records = Records()
        self.telemetry = Telemetry(plant.layout)
        self.sight = SimulatedSight(self.telemetry, plant, self.time)
        self.seen_at: dict[str, float] = {}
        self.alive = False
        self._mortal = mortal
        self._control = control
        self._clock = clock
        self._kept_at = clock.now
        self._past: dict[str, Incident] = {}
        self._asleep: list[tuple[float, asyncio.Future[None]]] = []
        self.bank: DetectorBank
        self.view: MeshView
        self.loop: HealingLoop
        self._store: Store
        self._planner: PlaybookPlanner
        self._leadership: Leadership
        self._clean = b""
        self._told = -1
        self._led_at = 0.0

    # --- life ---------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Start a process on what the one before it stored."""
        settings, clock = self.settings, self._clock
        self._store = Store(settings.state_dir / "agent.db")
        await self._store.open()
        self.bank = DetectorBank(FalseAlarmBudget(ticks_per_s=1 / TICK_S))
        self.view = MeshView()
        sources = await asyncio.to_thread(read_sources, settings)
        limits = settings.limits
        self._planner = PlaybookPlanner(sources.playbooks(), limits)
        self._clean = self._clean or self._planner.save()
        self._leadership = Leadership(self._control, HOLDER, settings.fence_ttl_s, clock.monotonic)
        await self._lead()
        chronicle = Chronicle(self.records, self.time)
        switch = KillSwitch(self._store, settings.state_dir / STOP_FILE, self.time)
        await switch.poll()
        tools = Tools(
            settings,
            self.time,
            self._store,
            Timeline(),
            chronicle,
            Decisions(chronicle, sources, limits, lambda: 0),
            self._control,
            self._planner,
            self._leadership,
            self.records,
            switch,
            pause=self._pause,
        )
        self._told = -1
        self.inform()
        senses = Senses(self.sight, self.bank, MeshLocaliser(self.bank, self.view), self.view)
        self.loop = HealingLoop(senses, tools)
        self.loop.remembers_normal = await take_up(self._store, self.bank, self._planner, self.time())
        await self.loop.start()
        self.alive = True

    async def kill(self) -> None:
        """End the process as `kill -9` does between two of its turns: nothing is written any more."""
        self._past.update({i.id: i for i in self.loop.incidents})
        for _, waiting in self._asleep:
            waiting.cancel()
        self._asleep = []
        self.alive = False
        await self.loop.stop()
        await self._store.close()

    async def restart(self) -> None:
        """Start anew after `kill`."""
        self.sight.restart()
        await self.start()
        self._past = {name: incident for name, incident in self._past.items() if not incident.is_open}

    # --- one turn -----------------------------------------------------------------------------------------------

    async def turn(self) -> None:
        """Take one turn of the loop, and let everything it starts come to its end or to a wait."""
        if not self.alive:
            return
        now = self._clock.now
        if now - self._led_at >= self.settings.fence_ttl_s / 3:
            await self._lead()
        if self._mortal and now - self._kept_at >= REMEMBER_S:
            self._kept_at = now
            await keep(self._store, self.bank, self.time())
        awake = [waiting for due, waiting in self._asleep if due <= now]
        self._asleep = [pair for pair in self._asleep if pair[0] > now]
        for waiting in awake:
            waiting.set_result(None)
        self.loop.tick()
        if self._waits:
            while self.loop.at_work > len(self._asleep):  # noqa: ASYNC110 - the database's threads tell nobody when they are done
                await asyncio.sleep(POLL_S)
        else:
            await self.loop.idle()
        for incident in self.loop.incidents:
            self.seen_at.setdefault(incident.id, now)

    def inform(self) -> None:
        """Tell the agent what changed at the control plane; overlays every second, as its poll does."""
        now, version, away = self.time(), self._control.changes.sequence, self._control.away
        if not 0 <= now - self.view.overlays_at < 1.0 or (version != self._told and not away):
            self._told = self._told if away else version
            self._control.inform(self.view, now)

    async def forget(self) -> None:
        """Wipe the guards' memory of rates, cool-downs and strikes, closed incidents, and what detectors have half seen (not what they
        have learnt).

        Real incidents are hours apart, these are not: an onset must not reach back into the incident before.
        """
        self._planner.restore(self._clean)
        self.bank.reset(lambda _: True)
        if self._mortal:
            await self._store.remember(LEDGER, self._clean, shared=True)
            await self._store.trim(incidents=0)

    @property
    def incidents(self) -> tuple[Incident, ...]:
        """Return the incidents of all processes; what was closed before the last start is as it was then."""
        if not self._past:
            return self.loop.incidents
        return tuple((self._past | {i.id: i for i in self.loop.incidents}).values())

    @property
    def _waits(self) -> bool:
        return bool(self._asleep) or self._control.late_s > 0

    async def _lead(self) -> None:
        self._led_at = self._clock.now
        await self._leadership.renew()

    async def _pause(self, seconds: float) -> None:
        """Wait in virtual time. Where changes are in force at once nobody has to."""
        if not self._waits:
            await asyncio.sleep(0)
            return
        waiting: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._asleep.append((self._clock.now + seconds, waiting))
        await waiting

    async def close(self) -> None:
        """End the last process."""
        if self.alive:
            await self.kill()
