"""What can break in a simulated mesh, what an agent should then name, and what it must not touch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, assert_never

import numpy as np

from models.domain import ChangeKind
from models.incident import Cause, CauseKind
from models.overlay import Change, EjectInstance, ShiftTraffic, target
from simulations.simulator.condition import usual_errors
from simulations.simulator.layout import Ints, Layout
from simulations.simulator.plant import Plant


@dataclass(frozen=True, slots=True)
class InstanceErrors:
    """One instance fails `ratio` (0–1) of its requests, and passes its health probe (a gray failure)."""

    instance: str
    ratio: float


@dataclass(frozen=True, slots=True)
class InstanceSlow:
    """One instance works `factor` times as long."""

    instance: str
    factor: float


@dataclass(frozen=True, slots=True)
class InstanceHangs:
    """One instance never answers `ratio` (0–1) of its requests (a deadlock, half-open connections): callers run into their time-outs."""

    instance: str
    ratio: float


@dataclass(frozen=True, slots=True)
class InstanceCrashes:
    """One instance's process dies again and again: `down_s` seconds gone, `up_s` seconds there (a crash loop)."""

    instance: str
    down_s: float
    up_s: float


@dataclass(frozen=True, slots=True)
class VersionErrors:
    """One version of several fails `ratio` (0–1) of its requests, right after its deployment."""

    service: str
    version: str
    ratio: float


@dataclass(frozen=True, slots=True)
class VersionSlow:
    """One version of several works `factor` times as long, right after its deployment."""

    service: str
    version: str
    factor: float


@dataclass(frozen=True, slots=True)
class VersionLeaks:
    """One version of several gets slower and slower after its deployment: by `per_minute` of its own time each minute (a leak)."""

    service: str
    version: str
    per_minute: float


@dataclass(frozen=True, slots=True)
class ZoneErrors:
    """A service's instances in one zone fail `ratio` (0–1) of their requests."""

    service: str
    zone: str
    ratio: float


@dataclass(frozen=True, slots=True)
class ServiceErrors:
    """The whole service fails `ratio` (0–1) of its requests (a bad configuration, a broken store behind it)."""

    service: str
    ratio: float


@dataclass(frozen=True, slots=True)
class ServiceSlow:
    """The whole service works `factor` times as long."""

    service: str
    factor: float


@dataclass(frozen=True, slots=True)
class ServiceFar:
    """The way to a service takes `delay_s` seconds longer for all its callers (a lossy link, too little bandwidth)."""

    service: str
    delay_s: float


@dataclass(frozen=True, slots=True)
class CallerCut:
    """One caller cannot connect to one callee in `ratio` (0–1) of its attempts (failing DNS, a partition); others can."""

    caller: str
    callee: str
    ratio: float


@dataclass(frozen=True, slots=True)
class ServiceDown:
    """Every process of the service is dead."""

    service: str


@dataclass(frozen=True, slots=True)
class Surge:
    """`factor` times as many requests arrive at a service as on an average day."""

    service: str
    factor: float


@dataclass(frozen=True, slots=True)
class Stall:
    """Everything everywhere takes `delay_s` seconds longer (a starved host, a slow network): nobody's fault."""

    delay_s: float


Fault = (
    InstanceErrors
    | InstanceSlow
    | InstanceHangs
    | InstanceCrashes
    | VersionErrors
    | VersionSlow
    | VersionLeaks
    | ZoneErrors
    | ServiceErrors
    | ServiceSlow
    | ServiceFar
    | ServiceDown
    | CallerCut
    | Surge
    | Stall
)

WHOLE: Final = frozenset({CauseKind.SERVICE, CauseKind.DEPENDENCY, CauseKind.CHANGE})


@dataclass(frozen=True, slots=True)
class Truth:
    """What is so: which service is at fault, which of its instances, and which causes name that rightly.

    `names` are pairs (kind, subject) of which any is right; several where they mean the same instances. `callee` is the service
    towards which only `service` fails ("": none); as its only caller it cannot be told from it (`alone`).
    """

    service: str
    guilty: frozenset[str]
    names: frozenset[tuple[CauseKind, str]]
    callee: str = ""
    alone: bool = False

    def right(self, cause: Cause) -> bool:
        """Tell whether `cause` names this fault: its service, its kind and its subject."""
        named = {self.service, self.callee} if self.alone else {self.service}
        return cause.service in named and ((cause.kind, cause.subject) in self.names or (cause.kind, "") in self.names)

    def innocent(self, change: Change, layout: Layout) -> bool:
        """Tell whether a change takes something away that is not at fault."""
        if target(change) not in {self.service, self.callee}:
            return True
        if isinstance(change, EjectInstance):
            return change.instance not in self.guilty
        if isinstance(change, ShiftTraffic):
            guilty = {layout.version_of[layout.place[name]] for name in self.guilty}
            well = {layout.version_of[k] for k in layout.members(self.service).tolist()} - guilty
            return bool(well) and not any(change.weights.get(version, 0) for version in well)
        return False


def truth(fault: Fault, layout: Layout) -> Truth:
    """Return what `fault` means on a mesh."""
    guilty = frozenset(layout.instances[k] for k in _instances(fault, layout).tolist())
    match fault:
        case (
            InstanceErrors(instance=name)
            | InstanceSlow(instance=name)
            | InstanceHangs(instance=name)
            | InstanceCrashes(instance=name)
        ):
            service = layout.services[layout.service_of[layout.place[name]]]
            return Truth(service, guilty, _names(layout, service, guilty))
        case VersionErrors() | VersionSlow() | VersionLeaks() | ZoneErrors():
            return Truth(fault.service, guilty, _names(layout, fault.service, guilty))
        case ServiceErrors() | ServiceDown():
            names = frozenset((kind, "") for kind in WHOLE) | _names(layout, fault.service, guilty)
            return Truth(fault.service, guilty, names)
        case CallerCut(caller=caller, callee=callee):
            names = frozenset((kind, "") for kind in WHOLE) | {
                (CauseKind.VERSION, layout.version_of[k]) for k in layout.members(caller).tolist()
            }
            alone = int((layout.callee == layout.number[callee]).sum()) == 1
            return Truth(caller, guilty, names, callee, alone)
        case ServiceSlow() | ServiceFar() | Surge():
            names = frozenset((kind, "") for kind in {*WHOLE, CauseKind.OVERLOAD})
            return Truth(fault.service, guilty, names | _names(layout, fault.service, guilty))
        case Stall():
            return Truth("", frozenset(), frozenset({(CauseKind.GLOBAL, "")}))
        case _:
            assert_never(fault)


def _names(layout: Layout, service: str, guilty: frozenset[str]) -> frozenset[tuple[CauseKind, str]]:
    """Return every name that means exactly these instances of the service."""
    members = [layout.instances[k] for k in layout.members(service).tolist()]
    found = {(CauseKind.INSTANCE, name) for name in members if guilty == {name}}
    for kind, of in ((CauseKind.VERSION, layout.version_of), (CauseKind.ZONE, layout.zone_of)):
        for value in {of[layout.place[name]] for name in members}:
            if guilty == {name for name in members if of[layout.place[name]] == value}:
                found.add((kind, value))
    if guilty == set(members):
        found |= {(kind, "") for kind in WHOLE}
    return frozenset(found)


def apply(fault: Fault, plant: Plant) -> None:
    """Break it."""
    _set(fault, plant, broken=True)


def undo(fault: Fault, plant: Plant) -> None:
    """Repair it: the part is as it was on a good day."""
    _set(fault, plant, broken=False)


def advance(fault: Fault, plant: Plant, since_s: float) -> None:
    """Let a fault that changes with time be as it is `since_s` seconds after it began (after `apply`, at every tick)."""
    now = plant.now
    match fault:
        case InstanceCrashes(down_s=down, up_s=up):
            who = _instances(fault, plant.layout)
            dead = since_s % (down + up) < down
            if bool(now.dead[who].all()) != dead:
                now.dead[who] = dead
                plant.disturbed()
        case VersionLeaks(per_minute=rate):
            now.slow[_instances(fault, plant.layout)] = 1 + rate * since_s / 60
        case _:
            pass


def announced(fault: Fault) -> tuple[ChangeKind, str, str] | None:
    """Return the change event that comes before the fault, as (kind, service, version); None for a bolt from the blue."""
    match fault:
        case (
            VersionErrors(service=service, version=version)
            | VersionSlow(service=service, version=version)
            | VersionLeaks(service=service, version=version)
        ):
            return (ChangeKind.DEPLOY, service, version)
        case _:
            return None


def _set(fault: Fault, plant: Plant, *, broken: bool) -> None:
    now, who = plant.now, _instances(fault, plant.layout)
    normal = usual_errors(plant.mesh, plant.layout)
    match fault:
        case (
            InstanceErrors(ratio=ratio)
            | VersionErrors(ratio=ratio)
            | ZoneErrors(ratio=ratio)
            | ServiceErrors(ratio=ratio)
        ):
            now.errors[who] = np.maximum(normal[who], ratio) if broken else normal[who]
        case InstanceSlow(factor=factor) | VersionSlow(factor=factor) | ServiceSlow(factor=factor):
            now.slow[who] = factor if broken else 1.0
        case VersionLeaks():
            now.slow[who] = 1.0
        case InstanceHangs(ratio=ratio):
            now.stuck[who] = ratio if broken else 0.0
        case ServiceDown() | InstanceCrashes():
            now.dead[who] = broken
        case ServiceFar(service=service, delay_s=delay):
            now.lag_s[plant.layout.callee == plant.layout.number[service]] = delay if broken else 0.0
        case CallerCut(caller=caller, callee=callee, ratio=ratio):
            layout = plant.layout
            edge = (layout.caller == layout.number[caller]) & (layout.callee == layout.number[callee])
            now.cut[edge] = ratio if broken else 0.0
        case Surge(service=service, factor=factor):
            calls = np.flatnonzero(plant.layout.callee == plant.layout.number[service])
            now.surge[calls] = factor if broken else 1.0
        case Stall(delay_s=delay):
            now.delay_s[:] = delay if broken else 0.0
        case _:
            assert_never(fault)
    plant.disturbed()


def _instances(fault: Fault, layout: Layout) -> Ints:
    match fault:
        case (
            InstanceErrors(instance=name)
            | InstanceSlow(instance=name)
            | InstanceHangs(instance=name)
            | InstanceCrashes(instance=name)
        ):
            return np.asarray([layout.place[name]])
        case (
            VersionErrors(service=service, version=version)
            | VersionSlow(service=service, version=version)
            | VersionLeaks(service=service, version=version)
        ):
            return np.asarray([k for k in layout.members(service).tolist() if layout.version_of[k] == version])
        case ZoneErrors(service=service, zone=zone):
            return np.asarray([k for k in layout.members(service).tolist() if layout.zone_of[k] == zone])
        case (
            ServiceErrors(service=service)
            | ServiceSlow(service=service)
            | ServiceFar(service=service)
            | ServiceDown(service=service)
            | Surge(service=service)
            | CallerCut(caller=service)
        ):
            return layout.members(service)
        case Stall():
            return np.arange(len(layout.instances))
        case _:
            assert_never(fault)
