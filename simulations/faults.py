"""What may break in the shop, how to break it, how a person repairs it, and what then is right and wrong to do.

The catalogue is a closed union; every fault says which cause an agent should find and which overlays may touch it. An
overlay on anything else hit an innocent.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Iterable
from dataclasses import dataclass
from typing import Protocol, assert_never

from models.incident import Cause, CauseKind
from models.overlay import Change, DrainInstance, EjectInstance, ShiftTraffic, ShiftZones, target
from simulations.shop import fault as injected
from simulations.shop.spec import PLACEMENTS, placement


@dataclass(frozen=True, slots=True)
class VersionErrors:
    """Every instance of one version fails `ratio` (0–1) of its requests with HTTP 500."""

    service: str
    version: str
    ratio: float = 0.2


@dataclass(frozen=True, slots=True)
class SlowInstance:
    """One instance takes `factor` times as long."""

    instance: str
    factor: float = 10.0


@dataclass(frozen=True, slots=True)
class DependencyDown:
    """Every process of a service is killed (SIGKILL)."""

    service: str


Fault = VersionErrors | SlowInstance | DependencyDown


@dataclass(frozen=True, slots=True)
class Guilt:
    """Who is at fault: these `instances` of a service. `whole`: all it has; `version`, `zone`: what they have in common."""

    service: str
    instances: frozenset[str]
    whole: bool = False
    version: str = ""
    zone: str = ""


class Shop(Protocol):
    """What a fault needs of the running shop."""

    async def set_fault(self, instance: str, fault: injected.Fault) -> None:
        """Put an injected fault in force at one instance."""

    async def kill_application(self, instance: str) -> None:
        """Kill an instance's application process with SIGKILL; its sidecar stays."""

    async def start_application(self, instance: str) -> None:
        """Start an instance's application process again and wait until it answers."""


def instances(fault: Fault) -> tuple[str, ...]:
    """Return the ids of the instances that are at fault."""
    match fault:
        case VersionErrors(service=service, version=version):
            return tuple(p.id for p in PLACEMENTS if (p.service, p.version) == (service, version))
        case SlowInstance(instance=instance):
            return (instance,)
        case DependencyDown(service=service):
            return tuple(p.id for p in PLACEMENTS if p.service == service)
    assert_never(fault)


def service(fault: Fault) -> str:
    """Return the service the fault lives in."""
    return placement(fault.instance).service if isinstance(fault, SlowInstance) else fault.service


async def apply(fault: Fault, shop: Shop) -> None:
    """Break it. Returns when the fault is in force everywhere."""
    match fault:
        case VersionErrors(ratio=ratio):
            await _inject(shop, instances(fault), injected.Fault(error_ratio=ratio))
        case SlowInstance(factor=factor):
            await _inject(shop, instances(fault), injected.Fault(slow_factor=factor))
        case DependencyDown():
            await _each(shop.kill_application(i) for i in instances(fault))
        case _:
            assert_never(fault)


async def undo(fault: Fault, shop: Shop) -> None:
    """Repair it, as the person on call does. Returns when everything at fault works again."""
    match fault:
        case VersionErrors() | SlowInstance():
            await _inject(shop, instances(fault), injected.Fault())
        case DependencyDown():
            await _each(shop.start_application(i) for i in instances(fault))
        case _:
            assert_never(fault)


def blames(fault: Fault, trouble: Iterable[str]) -> bool:
    """Tell whether the names a spoiled request carries point at this fault."""
    return bool({service(fault), *instances(fault)} & set(trouble))


def explains(fault: Fault, cause: Cause) -> bool:
    """Tell whether `cause` names exactly this fault: its kind, its service and its subject."""
    match fault:
        case VersionErrors(service=name, version=version):
            return (cause.kind, cause.service, cause.subject) == (CauseKind.VERSION, name, version)
        case SlowInstance(instance=instance):
            return (cause.kind, cause.service, cause.subject) == (CauseKind.INSTANCE, service(fault), instance)
        case DependencyDown(service=name):
            return (cause.kind, cause.service) == (CauseKind.DEPENDENCY, name)
    assert_never(fault)


def guilt(fault: Fault) -> Guilt:
    """Return who is at fault."""
    version = fault.version if isinstance(fault, VersionErrors) else ""
    whole = isinstance(fault, DependencyDown)
    return Guilt(service(fault), frozenset(instances(fault)), whole=whole, version=version)


def hits_innocent(fault: Fault, change: Change) -> bool:
    """Tell whether an overlay touches what is not at fault."""
    return not spares(guilt(fault), change)


def spares(at_fault: Guilt, change: Change) -> bool:
    """Tell whether a change touches only what is at fault.

    On another service it does not. On the service at fault, ejecting an instance that is well does not, nor does moving
    traffic *to* the version or zone at fault; in a service that is at fault as a whole nothing is innocent.
    """
    if target(change) != at_fault.service:
        return False
    match change:
        case _ if at_fault.whole:
            return True
        case EjectInstance(instance=instance) | DrainInstance(instance=instance):
            return instance in at_fault.instances
        case ShiftTraffic(weights=weights) if at_fault.version:
            return weights.get(at_fault.version, 0) < max(weights.values())
        case ShiftZones(weights=weights) if at_fault.zone:
            return weights.get(at_fault.zone, 0) < max(weights.values())
        case _:
            return True


async def _inject(shop: Shop, names: Iterable[str], fault: injected.Fault) -> None:
    await _each(shop.set_fault(name, fault) for name in names)


async def _each(works: Iterable[Awaitable[None]]) -> None:
    await asyncio.gather(*works)
