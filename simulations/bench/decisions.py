"""How fast the agent decides: from an incident to its plan, from the plan to the sidecars, and with a thousand at once."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, cast

import aiohttp
import structlog

from agent import pauses
from agent.actuators.base import Order
from agent.actuators.control import ControlActuator
from agent.actuators.memory import MemoryActuator
from agent.api import AgentApi
from agent.backend import Agent
from agent.incidents import Incident, Step, moved, with_step
from agent.loop import HealingLoop
from control.client import ControlClient
from models.domain import Edge, Topology
from models.errors import Broken
from models.incident import Anomaly, Cause, CauseKind, Signal, Stage
from models.overlay import ShiftTraffic
from models.signals import Series, Side
from playbooks.schema import Mode
from simulations.bench.brain import Brain, Held, brain, shop, with_stores
from simulations.bench.figures import Table, Target, milliseconds, quantile
from simulations.bench.rig import CALLEE, Rig

PLAN_S: Final = 0.020
ACKED_S: Final = 0.200
TICK_S: Final = 0.100
ANSWER_S: Final = 0.250
SERVICES: Final = 50
VERIFYING: Final = 10
STAYS: Final = 0.95
"""Share of the thousand that has to be open to the end: those being verified are undone meanwhile, as nothing cures them."""
_TICKS: Final = 40
_PATIENCE_S: Final = 10.0

BREAKER: Final = """
apiVersion: fibrin.dev/v1
kind: Playbook
metadata: {name: measured}
spec:
  when: {cause: [version, service, dependency, instance], services: {all: true}, minProbability: 1%}
  mode: auto
  guard: {cooldown: 0s, strikes: 1000000, concurrency: 1000000, rate: {count: 1000000}, maxTrafficShare: 100%}
  steps:
  - {name: break, action: {openBreaker: {respond: failFast}}, verify: {deadline: 60s}, undo: automatic}
"""


class Ticking:
    """A clock that moves by hand, Unix seconds."""

    def __init__(self) -> None:
        self.now = time.time()

    def __call__(self) -> float:
        """Return the time."""
        return self.now


async def measure(*, quick: bool) -> Table:
    """Measure the three, one after the other, in a process whose collector is set as the agent's is."""
    pauses.rare()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))  # a story each is too much
    trials, sidecars, many = (5, 3, 30) if quick else (200, 20, 1000)
    plans = await planning(trials)
    acked = await acting(trials // 2 or 1, sidecars)
    ticks, answers = await crowd(many, 2.0 if quick else 20.0)
    rows = [
        _row(f"incident → plan on disk, mesh of {SERVICES} services", plans),
        _row(f"plan → ACKed by {sidecars - 1} real sidecars", acked),
        _row(f"tick with {many} open incidents", ticks),
        _row(f"API answer with {many} open incidents", answers),
    ]
    targets = (
        Target("incident → plan p99", quantile(plans, 0.99) * 1e3, PLAN_S * 1e3, " ms"),
        Target("plan → ACK p99", quantile(acked, 0.99) * 1e3, ACKED_S * 1e3, " ms"),
        Target("tick p99", quantile(ticks, 0.99) * 1e3, TICK_S * 1e3, " ms"),
        Target("API answer p99", quantile(answers, 0.99) * 1e3, ANSWER_S * 1e3, " ms"),
    )
    note = "the decision is recorded (fsync) before it counts as made; a tick is due every 100 ms"
    columns = ("from → to", "samples", "p50", "p99", "max")
    return Table("decisions of the agent", columns, tuple(rows), note, targets, judged=not quick)


async def planning(trials: int) -> list[float]:
    """Return seconds of work from the first alarm to a plan that is on disk; what the agent waits on purpose is left out."""
    clock, found = Ticking(), list[float]()
    with tempfile.TemporaryDirectory(prefix="fibrin-bench-") as folder:
        async with brain(Path(folder), shop(SERVICES), clock) as one:
            for trial in range(trials):
                loop = one.loop(MemoryActuator(clock), mode=Mode.APPROVE)
                await loop.start()
                await _calm(loop, clock)
                one.made_up.broken, one.made_up.since = {f"svc{trial % SERVICES}"}, clock.now
                found.append(await _worked(one, loop, clock))
                one.made_up.broken = set()
                await loop.stop()
                await one.forget()
    return found


async def _calm(loop: HealingLoop, clock: Ticking) -> None:
    for _ in range(10):
        clock.now += 0.1
        loop.tick()
        await loop.idle()


async def _worked(one: Brain, loop: HealingLoop, clock: Ticking) -> float:
    """Add up what the ticks take until a decision is on disk."""
    spent = 0.0
    for _ in range(_TICKS):
        clock.now += 0.1
        began = time.perf_counter()
        loop.tick()
        await loop.idle()
        if one.decisions is not None and one.decisions.at > began:
            return spent + one.decisions.at - began
        spent += time.perf_counter() - began
    raise Broken(f"no plan within {_TICKS} ticks", hint=f"{[i.title for i in loop.incidents]}")


async def acting(trials: int, sidecars: int) -> list[float]:
    """Return seconds from a plan to the last sidecar's ACK: store, record, order, propagation, and asking for it."""
    found: list[float] = []
    async with Rig(sidecars) as rig, ControlClient.from_state_dir(rig.state_dir, "agent", actor="bench") as client:
        topology = await client.topology()
        topology = Topology(topology.instances, topology.edges | {Edge("caller", CALLEE)}, weights=topology.weights)
        with tempfile.TemporaryDirectory(prefix="fibrin-bench-") as folder:
            async with brain(Path(folder), topology) as one:
                found += [await _acked(one, client) for _ in range(trials)]
    return found


async def _acked(one: Brain, client: ControlClient) -> float:
    fence = await client.acquire_fence("bench", 30.0)
    loop = one.loop(ControlActuator(client), {"measured.yaml": BREAKER}, fence=Held(fence.fence))
    await loop.start()
    one.mesh.overlays, one.mesh.overlays_at = (), time.time()
    one.made_up.broken, one.made_up.since = {CALLEE}, time.time()
    deadline = time.monotonic() + _PATIENCE_S
    try:
        while time.monotonic() < deadline:
            loop.tick()
            await asyncio.sleep(0.02)
            for incident in loop.incidents:
                if "acked" in incident.times:
                    step = incident.current
                    assert step is not None
                    _whole(step)
                    return incident.times["acked"] - incident.times["planned"]
    finally:
        await loop.stop()
        for overlay in await client.overlays():
            await client.delete_overlay(overlay.id, fence=fence.fence)
    told = "; ".join(f"{i.title}: {i.history[-1].message}" for i in loop.incidents) or "no incident"
    raise Broken(f"no act was acknowledged within {_PATIENCE_S:g} s: {told}", hint="is this machine overloaded?")


def _whole(step: Step) -> None:
    acked, _, rest = step.propagation.partition(" of ")
    if not rest.startswith(acked):
        raise Broken(f"only {step.propagation} acknowledged", hint="is this machine overloaded?")


async def crowd(many: int, seconds: float) -> tuple[list[float], list[float]]:
    """Return the seconds of ticks, and of answers to lists and single incidents, with `many` open at once.

    Each broken service calls a store that is well: were nearly all services sick, the agent would see one fault of the whole mesh.
    """
    ticks: list[float] = []
    with tempfile.TemporaryDirectory(prefix="fibrin-bench-") as folder:
        async with brain(Path(folder), with_stores(shop(many, (1, 1)))) as one:
            now = time.time()
            one.made_up.broken, one.made_up.since = {f"svc{k}" for k in range(many)}, now
            actuator = MemoryActuator(time.time)
            for number in range(many):
                incident = _open(number, now)
                await one.store.put(incident)
                if incident.stage is Stage.VERIFYING:
                    await actuator.lay(_order(incident))
            loop = one.loop(actuator, mode=Mode.APPROVE)
            await loop.start()
            answers = asyncio.create_task(_ask(one, loop, many, seconds), name="asking")
            with contextlib.closing(_Pace(loop, ticks)) as pace:
                while not answers.done():
                    await pace.tick()
            await loop.stop()
            if (left := sum(incident.is_open for incident in loop.incidents)) < STAYS * many:
                raise Broken(f"only {left} of {many} incidents are still open", hint="this is a defect")
            return ticks, await answers


class _Pace:
    """Ticks every tenth of a second, as the agent does, and notes how long each takes."""

    def __init__(self, loop: HealingLoop, ticks: list[float]) -> None:
        self._loop = loop
        self._ticks = ticks
        self._due = time.monotonic()

    async def tick(self) -> None:
        """Wait for the next tick and take it."""
        self._due = max(self._due + TICK_S, time.monotonic())
        await asyncio.sleep(self._due - time.monotonic())
        began = time.perf_counter()
        self._loop.tick()
        self._ticks.append(time.perf_counter() - began)

    def close(self) -> None:
        """Nothing is held."""


async def _ask(one: Brain, loop: HealingLoop, many: int, seconds: float) -> list[float]:
    """Ask over HTTP, a list of a hundred and single incidents in turns, as people do while something burns."""
    nothing = cast("Any", None)
    agent = Agent(
        nothing,
        store=one.store,
        timeline=nothing,
        audit=one.audit,
        chronicle=nothing,
        observer=nothing,
        bank=nothing,
        mesh=one.mesh,
        planner=nothing,
        certification=nothing,
        objectives=nothing,
        leadership=nothing,
        follower=nothing,
        loop=loop,
        switch=nothing,
        canaries=nothing,
    )
    api, found = AgentApi(agent, Path("/nonexistent")), list[float]()
    url = await api.start("127.0.0.1", 0)
    try:
        async with aiohttp.ClientSession() as session:
            until = time.monotonic() + seconds
            while time.monotonic() < until or len(found) < 4:  # noqa: PLR2004
                number = len(found) % many
                for path in ("/v1/incidents?limit=100", f"/v1/incidents/inc-{number}"):
                    began = time.perf_counter()
                    async with session.get(url + path) as response:
                        await response.read()
                        if response.status != 200:  # noqa: PLR2004
                            raise Broken(f"{path} answered {response.status}", hint="this is a defect")
                    found.append(time.perf_counter() - began)
                await asyncio.sleep(0.05)
    finally:
        await api.stop()
    return found


def _open(number: int, now: float) -> Incident:
    """Return an incident whose plan waits for a person; a few (the guards allow no more) are being verified."""
    service, at = f"svc{number}", now - 5.0
    cause = Cause(CauseKind.VERSION, service, "v2", Signal.ERRORS, 0.95, edge=Edge("front", service))
    seen = Series(Side.ATTEMPT, "", service, "v2", "", "")
    change = ShiftTraffic(service, {"v1": 100, "v2": 0})
    step = Step("shift", change, f"inc-{number}-1", 0.0, 3600.0, (service,), Signal.ERRORS, 0.25, 0.25, "measured")
    incident = Incident(
        f"inc-{number}",
        at,
        at,
        anomalies=(Anomaly(seen, Signal.ERRORS, at, at, 1.0, 0.001, 9.0, 40),),
        causes=(cause,),
        playbook="bad-version",
        mode=str(Mode.APPROVE),
        steps=(step,),
        step=0,
    )
    incident = moved(moved(incident, Stage.CORRELATED, at, "cause"), Stage.PLANNED, at, "plan")
    if number >= VERIFYING:
        return incident
    incident = with_step(incident, replace(step, acted_at=at, acked_at=at))
    return moved(moved(incident, Stage.ACTING, at, "act"), Stage.VERIFYING, at, "verifying")


def _order(incident: Incident) -> Order:
    """Return what laid the overlay of the step that is being verified."""
    step = incident.current
    if step is None:
        raise Broken(f"{incident.id} has no step to verify", hint="this is a defect")
    return Order(step.overlay, step.change, "made up", 3600.0, incident.id, 0)


def _row(name: str, seconds: Sequence[float]) -> tuple[str, ...]:
    figures = (quantile(seconds, 0.5), quantile(seconds, 0.99), max(seconds))
    return (name, str(len(seconds)), *(milliseconds(each) for each in figures))
