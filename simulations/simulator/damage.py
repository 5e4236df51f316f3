"""Breaks a running mesh, lets what is broken change with time, and repairs it."""

from __future__ import annotations

from typing import Final, assert_never

import numpy as np

from models.domain import ChangeKind
from simulations.simulator import faults
from simulations.simulator.condition import usual_errors
from simulations.simulator.faults import Fault
from simulations.simulator.guilt import struck
from simulations.simulator.layout import Ints
from simulations.simulator.plant import Ended, Plant
from simulations.simulator.requests import BAD

OfLoad = faults.Surge | faults.Herd | faults.HotKey | faults.CacheLost
OnTheWay = faults.ServiceFar | faults.CallerFar | faults.CallerCut | faults.CertificatesExpired
InPlace = (
    faults.OfInstance
    | faults.OfVersion
    | faults.OfZone
    | faults.ZoneLost
    | faults.ServiceErrors
    | faults.ServiceSlow
    | faults.ServiceDown
    | faults.Stall
)

SMOOTH: Final = 0.3
"""How much a tick counts when the share of failing calls is estimated: programs try again after about a second."""


def apply(fault: Fault, plant: Plant) -> None:
    """Break it."""
    _set(fault, plant, broken=True)


def undo(fault: Fault, plant: Plant) -> None:
    """Repair it: the part is as it was on a good day."""
    _set(fault, plant, broken=False)


def announced(fault: Fault) -> tuple[ChangeKind, str, str] | None:
    """Return the change event that comes before the fault, as (kind, service, version); None for a bolt from the blue."""
    match fault:
        case (
            faults.VersionErrors(service=service, version=version)
            | faults.VersionSlow(service=service, version=version)
            | faults.VersionLeaks(service=service, version=version)
            | faults.RetryStorm(service=service, version=version)
        ):
            return (ChangeKind.DEPLOY, service, version)
        case _:
            return None


def advance(fault: Fault, plant: Plant, since_s: float, ended: Ended | None = None) -> None:
    """Let a fault that changes with time be as it is `since_s` seconds after it began (after `apply`, at every tick).

    `ended` is what ended in the tick before: who tries again knows it.
    """
    now = plant.now
    match fault:
        case faults.InstanceCrashes(down_s=down, up_s=up):
            _die(fault, plant, dead=since_s % (down + up) < down)
        case faults.InstanceWarms(down_s=down, factor=factor, warm_s=warm):
            _die(fault, plant, dead=since_s < down)
            cold = max(0.0, 1 - max(0.0, since_s - down) / warm)
            now.slow[struck(fault, plant.layout)] = 1 + (factor - 1) * cold
        case faults.VersionLeaks(per_minute=rate):
            now.slow[struck(fault, plant.layout)] = 1 + rate * since_s / 60
        case faults.RetryStorm(service=service, attempts=attempts):
            _try_again(plant, _calls_to(plant, service), attempts, ended)
        case faults.HotKey():
            _pull(fault, plant)
        case faults.Herd(factor=factor, every_s=every):
            now.surge[_from_users(plant, fault.service)] = factor if since_s % every < plant.tick_s / 2 else 1.0
        case _:
            pass


def _set(fault: Fault, plant: Plant, *, broken: bool) -> None:
    match fault:
        case faults.Surge() | faults.Herd() | faults.HotKey() | faults.CacheLost():
            _load(fault, plant, broken=broken)
        case faults.ServiceFar() | faults.CallerFar() | faults.CallerCut() | faults.CertificatesExpired():
            _way(fault, plant, broken=broken)
        case _:
            _place(fault, plant, broken=broken)
    plant.disturbed()


def _place(fault: InPlace, plant: Plant, *, broken: bool) -> None:
    """Break or repair instances."""
    now, who = plant.now, struck(fault, plant.layout)
    match fault:
        case (
            faults.InstanceErrors(ratio=ratio)
            | faults.VersionErrors(ratio=ratio)
            | faults.RetryStorm(ratio=ratio)
            | faults.ZoneErrors(ratio=ratio)
            | faults.ServiceErrors(ratio=ratio)
        ):
            normal = usual_errors(plant.mesh, plant.layout)[who]
            now.errors[who] = np.maximum(normal, ratio) if broken else normal
            if isinstance(fault, faults.RetryStorm):
                now.surge[_calls_to(plant, fault.service)] = 1.0
        case (
            faults.InstanceSlow(factor=factor)
            | faults.VersionSlow(factor=factor)
            | faults.ZoneSlow(factor=factor)
            | faults.ServiceSlow(factor=factor)
        ):
            now.slow[who] = factor if broken else 1.0
        case faults.VersionLeaks():
            now.slow[who] = 1.0
        case faults.InstanceHangs(ratio=ratio):
            now.stuck[who] = ratio if broken else 0.0
        case faults.ServiceDown() | faults.InstanceCrashes() | faults.InstanceKilled() | faults.ZoneLost():
            now.dead[who] = broken
        case faults.InstanceWarms():
            now.dead[who], now.slow[who] = broken, 1.0
        case faults.Stall(delay_s=delay):
            now.delay_s[:] = delay if broken else 0.0
        case _:
            assert_never(fault)


def _way(fault: OnTheWay, plant: Plant, *, broken: bool) -> None:
    """Break or repair what lies between two of them."""
    now = plant.now
    match fault:
        case faults.ServiceFar(service=service, delay_s=delay):
            now.lag_s[_calls_to(plant, service)] = delay if broken else 0.0
        case faults.CallerFar(caller=caller, callee=callee, delay_s=delay):
            now.lag_s[_calls_to(plant, callee, caller)] = delay if broken else 0.0
        case faults.CallerCut(caller=caller, callee=callee, ratio=ratio):
            now.cut[_calls_to(plant, callee, caller)] = ratio if broken else 0.0
        case faults.CertificatesExpired():
            now.cut[:] = 1.0 if broken else 0.0
        case _:
            assert_never(fault)


def _load(fault: OfLoad, plant: Plant, *, broken: bool) -> None:
    """Let more come than usual, or as many as usual."""
    surge = plant.now.surge
    match fault:
        case faults.Surge(service=service, factor=factor):
            surge[_calls_to(plant, service)] = factor if broken else 1.0
        case faults.CacheLost(service=service, callee=callee, factor=factor):
            surge[_calls_to(plant, callee, service)] = factor if broken else 1.0
        case faults.HotKey(service=service, factor=factor):
            surge[_calls_to(plant, service)] = factor if broken else 1.0
            plant.steer(plant.policies)  # as it is without a key; `advance` pulls
        case faults.Herd(service=service):
            surge[_from_users(plant, service)] = 1.0
        case _:
            assert_never(fault)


def _die(fault: faults.InstanceCrashes | faults.InstanceWarms, plant: Plant, *, dead: bool) -> None:
    who = struck(fault, plant.layout)
    if bool(plant.now.dead[who].all()) != dead:
        plant.now.dead[who] = dead
        plant.disturbed()


def _try_again(plant: Plant, calls: Ints, attempts: int, ended: Ended | None) -> None:
    """Let callers ask again what failed: of a share p of failures come 1 + p + … + p^attempts requests of each."""
    if ended is None:
        return
    size = len(plant.layout.caller)
    asked = np.bincount(ended.requests.call, minlength=size)[calls].sum()
    if not asked:
        return
    failing = np.bincount(ended.requests.call, weights=BAD[ended.requests.fate], minlength=size)[calls].sum() / asked
    wanted = float(np.power(failing, np.arange(attempts + 1)).sum())
    plant.now.surge[calls] = (1 - SMOOTH) * plant.now.surge[calls] + SMOOTH * wanted


def _pull(key: faults.HotKey, plant: Plant) -> None:
    """Let the instance that holds the key draw its share of the requests; of those taken out the next one holds it."""
    layout, routing = plant.layout, plant.routing
    members, number = layout.members(key.service), layout.number[key.service]
    turned = np.roll(members, -int(layout.place[key.instance] - members[0]))
    there = turned[routing.share[turned] > 0]
    if not len(there) or routing.share[there[0]] >= key.share:  # pulled already, or alone
        return
    routing.share[members] *= 1 - key.share
    routing.share[there[0]] += key.share
    routing.edges[members] = number + np.minimum(1.0, np.cumsum(routing.share[members]))
    plant.disturbed()


def _calls_to(plant: Plant, callee: str, caller: str = "") -> Ints:
    """Return the numbers of the calls to a service, of one caller or of all."""
    layout = plant.layout
    to = layout.callee == layout.number[callee]
    return np.flatnonzero(to & (layout.caller == layout.number[caller]) if caller else to)


def _from_users(plant: Plant, service: str) -> Ints:
    calls = _calls_to(plant, service)
    return calls[plant.layout.of_users(calls)]
