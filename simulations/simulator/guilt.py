"""Who is at fault, what an agent should then name, and whom it must not touch.

A fault of the mesh itself (its telemetry, its control plane, its agent) makes no service guilty: whatever is touched then is innocent.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, assert_never

import numpy as np

from models.incident import Cause, CauseKind
from models.overlay import Change, EjectInstance, ShiftTraffic, target
from simulations.simulator import faults
from simulations.simulator.faults import Fault, Local, ZoneLost
from simulations.simulator.layout import Ints, Layout

WHOLE: Final = frozenset({CauseKind.SERVICE, CauseKind.DEPENDENCY, CauseKind.CHANGE})

Name = tuple[CauseKind, str]
"""A kind of cause and its subject."""


@dataclass(frozen=True, slots=True)
class Truth:
    """What is so: which service is at fault, which of its instances, and which causes name that rightly.

    `names` are pairs (kind, subject) of which any is right; several where they mean the same instances. `callee` is the service
    towards which only `service` fails ("": none); as its only caller it cannot be told from it (`alone`). `service` "": all of the mesh.
    """

    service: str
    guilty: frozenset[str]
    names: frozenset[Name]
    callee: str = ""
    alone: bool = False

    def right(self, cause: Cause) -> bool:
        """Tell whether `cause` names this fault: its service, its kind and its subject."""
        if not self.service:
            return (cause.kind, "") in self.names
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


@dataclass(frozen=True, slots=True)
class Guilt:
    """All that is at fault: for each fault the truths of which any names it rightly. Empty: nobody is."""

    faults: tuple[tuple[Truth, ...], ...]

    @property
    def truths(self) -> tuple[Truth, ...]:
        """Every truth there is."""
        return tuple(truth for each in self.faults for truth in each)

    def right(self, cause: Cause) -> bool:
        """Tell whether `cause` names any of the faults."""
        return any(truth.right(cause) for truth in self.truths)

    def named(self, causes: Iterable[Cause]) -> bool:
        """Tell whether these causes name every fault."""
        found = tuple(causes)
        return bool(self.faults) and all(any(t.right(c) for t in each for c in found) for each in self.faults)

    def innocent(self, change: Change, layout: Layout) -> bool:
        """Tell whether a change takes something away from whom no fault accuses."""
        return all(truth.innocent(change, layout) for truth in self.truths)


def truths(fault: Fault, layout: Layout) -> tuple[Truth, ...]:
    """Return what `fault` means on a mesh: of several truths each names it rightly."""
    match fault:
        case ZoneLost(zone=zone):
            services = sorted({layout.service_of[k] for k, of in enumerate(layout.zone_of) if of == zone})
            return tuple(_zone(layout, layout.services[k], zone) for k in services)
        case faults.Stall() | faults.CertificatesExpired():
            return (Truth("", frozenset(), frozenset({(CauseKind.GLOBAL, "")})),)
        case _:
            return (truth(fault, layout),)


def truth(fault: Local, layout: Layout) -> Truth:
    """Return what a fault of one service means on a mesh."""
    who = struck(fault, layout).tolist()
    guilty = frozenset(layout.instances[k] for k in who)
    match fault:
        case (
            faults.InstanceErrors()
            | faults.InstanceSlow()
            | faults.InstanceHangs()
            | faults.InstanceCrashes()
            | faults.InstanceKilled()
            | faults.InstanceWarms()
            | faults.VersionErrors()
            | faults.VersionSlow()
            | faults.VersionLeaks()
            | faults.RetryStorm()
            | faults.ZoneErrors()
            | faults.ZoneSlow()
        ):
            service = layout.services[layout.service_of[who[0]]]
            return Truth(service, guilty, _names(layout, service, guilty))
        case faults.ServiceErrors() | faults.ServiceDown():
            return Truth(fault.service, guilty, _whole() | _names(layout, fault.service, guilty))
        case faults.CallerCut(caller=caller, callee=callee) | faults.CallerFar(caller=caller, callee=callee):
            of_caller = {(CauseKind.VERSION, layout.version_of[k]) for k in layout.members(caller).tolist()}
            alone = int((layout.callee == layout.number[callee]).sum()) == 1
            return Truth(caller, guilty, _whole() | of_caller, callee, alone)
        case faults.CacheLost(
            service=service, callee=callee
        ):  # who asks too much and who is asked too much: both are right
            return Truth(service, guilty, _whole(CauseKind.OVERLOAD), callee, alone=True)
        case faults.HotKey(service=service, instance=instance):
            names = _whole(CauseKind.OVERLOAD) | {(CauseKind.INSTANCE, instance)}
            return Truth(service, guilty, names | _names(layout, service, guilty))
        case faults.ServiceSlow() | faults.ServiceFar() | faults.Surge() | faults.Herd():
            return Truth(fault.service, guilty, _whole(CauseKind.OVERLOAD) | _names(layout, fault.service, guilty))
        case _:
            assert_never(fault)


def struck(fault: Fault, layout: Layout) -> Ints:
    """Return the numbers of the instances at fault."""
    match fault:
        case (
            faults.InstanceErrors(instance=name)
            | faults.InstanceSlow(instance=name)
            | faults.InstanceHangs(instance=name)
            | faults.InstanceCrashes(instance=name)
            | faults.InstanceKilled(instance=name)
            | faults.InstanceWarms(instance=name)
        ):
            return np.asarray([layout.place[name]])
        case (
            faults.VersionErrors(service=service, version=version)
            | faults.VersionSlow(service=service, version=version)
            | faults.VersionLeaks(service=service, version=version)
            | faults.RetryStorm(service=service, version=version)
        ):
            return np.asarray([k for k in layout.members(service).tolist() if layout.version_of[k] == version])
        case faults.ZoneErrors(service=service, zone=zone) | faults.ZoneSlow(service=service, zone=zone):
            return np.asarray([k for k in layout.members(service).tolist() if layout.zone_of[k] == zone])
        case ZoneLost(zone=zone):
            return np.asarray([k for k, of in enumerate(layout.zone_of) if of == zone])
        case (
            faults.ServiceErrors(service=service)
            | faults.ServiceSlow(service=service)
            | faults.ServiceFar(service=service)
            | faults.ServiceDown(service=service)
            | faults.Surge(service=service)
            | faults.Herd(service=service)
            | faults.HotKey(service=service)
            | faults.CacheLost(service=service)
            | faults.CallerCut(caller=service)
            | faults.CallerFar(caller=service)
        ):
            return layout.members(service)
        case faults.Stall() | faults.CertificatesExpired():
            return np.arange(len(layout.instances))
        case _:
            assert_never(fault)


def _whole(*more: CauseKind) -> frozenset[Name]:
    return frozenset((kind, "") for kind in {*WHOLE, *more})


def _zone(layout: Layout, service: str, zone: str) -> Truth:
    """Return the truth about one service of a lost zone."""
    guilty = frozenset(layout.instances[k] for k in layout.members(service).tolist() if layout.zone_of[k] == zone)
    each = {(CauseKind.INSTANCE, name) for name in guilty}  # whoever sees one of them die first is right as well
    return Truth(service, guilty, _names(layout, service, guilty) | each | {(CauseKind.ZONE, zone)})


def _names(layout: Layout, service: str, guilty: frozenset[str]) -> frozenset[Name]:
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
