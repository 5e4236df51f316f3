"""A small mesh under virtual time: scripted detectors and causes around the real loop, store and actuator."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agent.actuators.memory import MemoryActuator
from agent.actuators.switched import SwitchedActuator
from agent.chronicle import Chronicle
from agent.decision import Decisions
from agent.incidents import Incident, Step
from agent.loop import HealingLoop
from agent.mesh import MeshView
from agent.ports import Circumstances, Diagnosis, Draft, Objection, Since
from agent.scribe import Tools
from agent.senses import Senses
from agent.settings import AgentSettings
from agent.sources import Sources
from agent.store import Store
from agent.switch import KillSwitch
from agent.timeline import Timeline
from models.detect import Baseline
from models.domain import Edge, Instance, Topology
from models.errors import Broken
from models.incident import Anomaly, Cause, CauseKind, Signal
from models.overlay import EjectInstance, OpenBreaker, ShiftTraffic
from models.signals import BOUNDS_S, BUCKETS, Outcomes, Saturation, Series, Side
from playbooks.guards import Limits
from playbooks.schema import Mode

NORMAL_S = 0.02
RPS = 100


def instance(ident: str, service: str, version: str = "v1") -> Instance:
    """Return a healthy instance."""
    return Instance(ident, service, version, "z1", "127.0.1.1", hash(ident) % 60000)


TOPOLOGY = Topology(
    instances=(
        instance("front-1", "front"),
        instance("catalog-v1-1", "catalog"),
        instance("catalog-v1-2", "catalog"),
        instance("catalog-v2-1", "catalog", "v2"),
        instance("cart-1", "cart"),
        instance("checkout-1", "checkout"),
        instance("checkout-2", "checkout"),
        instance("payment-1", "payment"),
    ),
    edges=frozenset({Edge("front", "catalog"), Edge("front", "checkout"), Edge("checkout", "payment")}),
)


def bucket(seconds: float) -> int:
    """Return the latency bucket of a duration."""
    return int(np.searchsorted(BOUNDS_S, seconds))


def outcomes(requests: int, errors: int = 0, latency_s: float = NORMAL_S) -> Outcomes:
    """Return outcomes whose requests all took `latency_s`."""
    latency = np.zeros(BUCKETS, dtype=np.int64)
    latency[bucket(latency_s)] = requests
    return Outcomes(requests=requests, errors=errors, latency=latency)


def client(caller: str, callee: str, instance_id: str = "", version: str = "") -> Series:
    """Return what a caller's sidecar reports."""
    return Series(Side.CLIENT, caller, callee, version, instance_id, f"{caller}-1")


class Clock:
    """Virtual Unix time."""

    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now

    async def pause(self, seconds: float) -> None:
        """Sleep without waiting."""
        self.now += seconds


class FakeSight:
    """Telemetry that the test writes."""

    def __init__(self) -> None:
        self.next: dict[Series, Outcomes] = {}
        self.blinded: frozenset[str] = frozenset()
        self.late_s = 0.0
        self.deaf = False

    def take_tick(self, now: float) -> Mapping[Series, Outcomes]:
        del now
        taken, self.next = self.next, {}
        return {} if self.deaf else taken

    def blind(self, now: float) -> frozenset[str]:
        del now
        return self.blinded

    def saturation(self, now: float) -> tuple[Saturation, ...]:
        del now
        return ()

    def lag(self, now: float) -> float:
        del now
        return self.late_s

    def reporters(self) -> int:
        return len(TOPOLOGY.instances)


class ScriptedDetector:
    """Alarms what the test says; its normal is no errors at 20 ms."""

    def __init__(self) -> None:
        self.alarms: tuple[Anomaly, ...] = ()
        self.resets = 0

    @property
    def active(self) -> tuple[Anomaly, ...]:
        return self.alarms

    def update(
        self,
        at: float,
        outcomes: Mapping[Series, Outcomes],
        saturation: Iterable[Saturation] = (),
        *,
        lag_s: float = 0.0,
    ) -> tuple[Anomaly, ...]:
        del at, outcomes, saturation, lag_s
        return ()

    def baseline(self, series: Series, signal: Signal) -> Baseline | None:
        del series
        latency = np.zeros(BUCKETS)
        latency[bucket(NORMAL_S)] = 1000.0
        return Baseline(signal, 0.0005, latency, NORMAL_S, NORMAL_S * 1.2, RPS, 1000.0)

    def reset(self, match: Callable[[Series], bool]) -> None:
        del match
        self.resets += 1

    def save(self) -> bytes:
        return b""

    def restore(self, state: bytes) -> None:
        del state


class ScriptedPlanner:
    """Gives the steps the test says."""

    def __init__(self) -> None:
        self.steps: dict[str, tuple[Step, ...]] = {}
        self.mode = Mode.AUTO
        self.entries: list[tuple[str, str]] = []
        self.objection: Objection | None = None
        self.mode_now = Mode.AUTO

    def draft(self, cause: Cause, circumstances: Circumstances) -> Draft:
        del circumstances
        return Draft("test-playbook", self.mode, self.steps.get(cause.service, ()))

    def forbids(self, incident: Incident, step: Step, circumstances: Circumstances) -> Objection | None:
        del incident, step, circumstances
        return self.objection

    def boldness(self, incident: Incident, circumstances: Circumstances) -> tuple[Mode, str]:
        del incident, circumstances
        return self.mode_now, "it was told to"

    def acted(self, incident: Incident, step: Step, at: float) -> None:
        del incident, at
        self.entries.append(("acted", step.overlay))

    def not_acted(self, step: Step) -> None:
        self.entries.append(("not acted", step.overlay))

    def ended(self, step: Step, *, helped: bool, learn: bool = True) -> None:
        del learn
        self.entries.append(("helped" if helped else "failed", step.overlay))

    def save(self) -> bytes:
        return json.dumps(self.entries).encode()

    def restore(self, state: bytes) -> None:
        del state


class ListAudit:
    """An audit log in a list; `broken` makes it fail."""

    def __init__(self) -> None:
        self.records: list[tuple[str, Mapping[str, Any]]] = []
        self.broken = False

    async def append(self, kind: str, data: Mapping[str, Any], *, at: float | None = None) -> int:
        del at
        if self.broken:
            raise Broken("no space left on device", hint="free some")
        self.records.append((kind, data))
        return len(self.records)

    def kinds(self) -> list[str]:
        """Return the kinds in order."""
        return [kind for kind, _ in self.records]


class FakeFence:
    """A fence that the test gives and takes."""

    def __init__(self) -> None:
        self.token: int | None = 1
        self.losses = 0

    def lost(self) -> None:
        self.losses += 1
        self.token = None


class ListPager:
    """Pages in a list."""

    def __init__(self) -> None:
        self.pages: list[str] = []
        self.calm: list[str] = []  # those of them that nobody needs to get up for

    def page(self, incident: Incident, message: str, *, urgent: bool = True) -> None:
        del incident
        self.pages.append(message)
        self.calm += [] if urgent else [message]


@dataclass
class Fault:
    """What is broken: the requests to `service` fail or are slow until an overlay in `cured_by` is laid.

    With `hangs_s` they fail by a time-out of so many seconds: what began before the cure comes in for that long.
    """

    cause: Cause
    anomalies: tuple[Anomaly, ...]
    caller: str
    error_ratio: float = 0.0
    latency_s: float = NORMAL_S
    cured_by: frozenset[str] = frozenset()
    over: bool = False
    hangs_s: float = 0.0
    comes_in_until: float = 0.0


@dataclass
class World:
    """The loop, its surroundings, and the faults of the moment."""

    directory: Path
    clock: Clock = field(default_factory=Clock)
    sight: FakeSight = field(default_factory=FakeSight)
    detector: ScriptedDetector = field(default_factory=ScriptedDetector)
    planner: ScriptedPlanner = field(default_factory=ScriptedPlanner)
    audit: ListAudit = field(default_factory=ListAudit)
    fence: FakeFence = field(default_factory=FakeFence)
    pager: ListPager = field(default_factory=ListPager)
    mesh: MeshView = field(default_factory=MeshView)
    faults: list[Fault] = field(default_factory=list)
    settings: AgentSettings = field(init=False)
    actuator: MemoryActuator = field(init=False)
    store: Store = field(init=False)
    timeline: Timeline = field(init=False)
    switch: KillSwitch = field(init=False)
    loop: HealingLoop = field(init=False)

    async def begin(self, **settings: Any) -> None:
        """Start the first process."""
        self.settings = AgentSettings(state_dir=self.directory, **({"warm_up_s": 0.0} | settings))
        self.actuator = MemoryActuator(self.clock)
        self.mesh.set_topology(TOPOLOGY)
        self.mesh.control_up = True
        await self.process()

    async def process(self) -> None:
        """Start a (new) process on the same state directory; the one before is forgotten as by `kill -9`."""
        self.store = Store(self.directory / "agent.db")
        await self.store.open()
        self.timeline = Timeline()
        self.switch = KillSwitch(self.store, self.directory / "stop-acting", self.clock, flag=self.settings.stop_acting)
        await self.switch.poll()
        chronicle = Chronicle(self.audit, self.clock, required=self.settings.audit_required)
        tools = Tools(
            self.settings,
            self.clock,
            self.store,
            self.timeline,
            chronicle,
            Decisions(chronicle, Sources(), Limits(), lambda: 1),
            SwitchedActuator(self.actuator, lambda: self.switch.stopped),
            self.planner,
            self.fence,
            self.pager,
            self.switch,
            pause=self.clock.pause,
        )
        self.loop = HealingLoop(Senses(self.sight, self.detector, self._localise, self.mesh), tools)
        await self.loop.start()

    async def step(self, seconds: float = 0.2) -> None:
        """Let time pass in ticks of 0.2 s, with traffic; everything started finishes within its tick."""
        until = self.clock.now + seconds - 1e-6
        while self.clock.now < until:
            self.clock.now += 0.2
            self._traffic()
            if self.mesh.control_up:
                self.mesh.overlays = await self.actuator.overlays()
                self.mesh.overlays_at = self.clock.now
            self.loop.tick()
            await self.loop.idle()

    def break_(self, fault: Fault) -> Fault:
        """Begin a fault."""
        self.faults.append(fault)
        return fault

    @property
    def incident(self) -> Incident:
        """Return the only incident there is."""
        (found,) = self.loop.incidents
        return found

    @property
    def stage(self) -> str:
        """Return the stage of the only incident."""
        return str(self.incident.stage)

    def stages(self) -> list[str]:
        """Return the stages of the only incident, without repetitions."""
        found: list[str] = []
        for moment in self.incident.history:
            if not found or found[-1] != moment.stage:
                found.append(str(moment.stage))
        return found

    def acts(self) -> list[str]:
        """Return what was laid, in order."""
        return [name for verb, name in self.actuator.log if verb == "lay"]

    def sick(self) -> list[Fault]:
        """Return the faults that nothing cures now."""
        kinds = {str(o.change.kind) for o in self.actuator._alive().values()}
        return [f for f in self.faults if not f.over and not (f.cured_by & kinds)]

    def _traffic(self) -> None:
        for hanging in (f for f in self.sick() if f.hangs_s):
            hanging.comes_in_until = self.clock.now + hanging.hangs_s
        felt = [*self.sick(), *(f for f in self.faults if self.clock.now < f.comes_in_until)]
        sick = {(f.caller, f.cause.service): f for f in felt}
        self.sight.next = {}
        for edge in sorted(TOPOLOGY.edges):
            fault = sick.get((edge.caller, edge.callee))
            requests = round(RPS * 0.2)
            errors = round(requests * fault.error_ratio) if fault else 0
            slow = fault.latency_s if fault else NORMAL_S
            seen = outcomes(requests, errors, slow)
            if fault and fault.hangs_s:
                seen.latency[bucket(slow)] -= errors
                seen.latency[bucket(fault.hangs_s)] += errors
                seen.flags["UT"] = errors
            self.sight.next[client(edge.caller, edge.callee)] = seen
        for fault in self.sick():
            for series in (a.series for a in fault.anomalies if a.series.side is Side.ATTEMPT):
                self.sight.next[replace(series, caller=fault.caller, reporter=f"{fault.caller}-1")] = outcomes(5, 1)
        self.detector.alarms = tuple(a for f in self.sick() for a in f.anomalies)

    def _localise(self, anomalies: tuple[Anomaly, ...], since: Since, now: float) -> Diagnosis:
        since(now, frozenset())
        found = [f.cause for f in self.faults if set(_keys(f.anomalies)) & set(_keys(anomalies))]
        return Diagnosis(tuple(sorted(found, key=lambda c: -c.probability)))


def _keys(anomalies: tuple[Anomaly, ...]) -> list[tuple[Series, Signal]]:
    return [(a.series, a.signal) for a in anomalies]


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    """Give a mesh whose loop has not begun: call `begin` with settings."""
    made = World(tmp_path)
    yield made
    if hasattr(made, "store"):
        await made.store.close()


def anomaly(series: Series, observed: float, at: float, signal: Signal = Signal.ERRORS) -> Anomaly:
    """Return an anomaly that began 0.3 s before `at`."""
    return Anomaly(series, signal, at, at - 0.3, observed, 0.001 if signal is Signal.ERRORS else NORMAL_S, 8.0, 30)


def bad_version(world: World, *, probability: float = 0.95, cured_by: Iterable[str] = ("shift-traffic",)) -> Fault:
    """Return the fault of a canary that fails; the playbook shifts its traffic, then ejects its instance."""
    series = Series(Side.ATTEMPT, "", "catalog", "v2", "", "")
    edge = Series(Side.CLIENT, "front", "catalog", "", "", "")
    cause = Cause(
        CauseKind.VERSION,
        "catalog",
        "v2",
        Signal.ERRORS,
        probability,
        edge=Edge("front", "catalog"),
        evidence=("20.0 % of attempts on catalog v2 fail, 0.0 % on v1",),
    )
    world.planner.steps["catalog"] = (
        step("shift", ShiftTraffic("catalog", {"v1": 100, "v2": 0})),
        step("eject", EjectInstance("catalog", "catalog-v2-1")),
    )
    now = world.clock.now
    found = (anomaly(series, 0.2, now), anomaly(edge, 0.2, now))
    return Fault(cause, found, "front", error_ratio=0.2, cured_by=frozenset(cured_by))


def slow_instance(world: World) -> Fault:
    """Return the fault of one instance of checkout that is ten times slower."""
    series = Series(Side.ATTEMPT, "", "checkout", "v1", "checkout-2", "")
    cause = Cause(CauseKind.INSTANCE, "checkout", "checkout-2", Signal.LATENCY, 0.9, edge=Edge("front", "checkout"))
    world.planner.steps["checkout"] = (
        replace(step("eject", EjectInstance("checkout", "checkout-2")), verify_signal=Signal.LATENCY),
    )
    found = (anomaly(series, 0.3, world.clock.now, Signal.LATENCY),)
    return Fault(cause, found, "front", latency_s=0.3, cured_by=frozenset({"eject-instance"}))


def dead_dependency(world: World) -> Fault:
    """Return the fault of a payment that is down: everybody upstream suffers."""
    series = Series(Side.CLIENT, "checkout", "payment", "", "", "")
    symptom = Series(Side.CLIENT, "front", "checkout", "", "", "")
    cause = Cause(CauseKind.DEPENDENCY, "payment", "", Signal.ERRORS, 0.9, edge=Edge("checkout", "payment"))
    world.planner.steps["payment"] = (
        replace(step("breaker", OpenBreaker("payment", respond="fallback")), verify_services=("checkout",)),
    )
    now = world.clock.now
    found = (anomaly(series, 1.0, now), anomaly(symptom, 0.9, now))
    return Fault(cause, found, "checkout", error_ratio=1.0, cured_by=frozenset({"open-breaker"}))


def step(name: str, change: ShiftTraffic | EjectInstance | OpenBreaker) -> Step:
    """Return a planned step."""
    service = change.callee if isinstance(change, OpenBreaker) else change.service
    return Step(name, change, "", 0.0, 8.0, (service,), Signal.ERRORS, 0.2, 0.3, reason=f"because of {name}")
