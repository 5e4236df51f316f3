"""Draws one fault of a service: which one it strikes on this mesh, and how hard."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from simulations.simulator import faults
from simulations.simulator.faults import Fault
from simulations.simulator.layout import Layout
from simulations.simulator.mesh import STABLE, ZONES
from simulations.simulator.plant import Plant

FACTORS: Final = {
    "instance-slow": (4.0, 10.0, 20.0),
    "version-slow": (3.0, 6.0, 12.0),
    "zone-slow": (4.0, 10.0, 25.0),
    "service-slow": (4.0, 10.0),
    "version-leaks": (10.0, 30.0),
    "instance-warms": (4.0, 10.0),
    "cache-lost": (5.0, 10.0),
    "hot-key": (1.5, 2.0),
    "herd": (3.0, 5.0),
    "surge": (3.0, 6.0),
}
"""How many times as long requests take, or as many come; each equally likely."""

SUBTLE: Final = 0.01
SUBTLE_RPS: Final = 8.0
"""One request in a hundred shows in a minute only where there are many."""

HOT: Final = 0.6
"""Share of the requests that are for a hot key."""

OVERFULL: Final = 1.2
"""A lost cache is an incident where whoever is asked instead is then asked for more than it can do, by so much."""

Drawn = Fault | None


@dataclass(frozen=True, slots=True)
class Least:
    """The least traffic (per second) of a struck instance; the least time (seconds) slowness adds, and how many times as long it makes."""

    rps: float
    slow_s: float
    slowdown: float


def draw_fault(name: str, plant: Plant, least: Least, random: np.random.Generator) -> Drawn:
    """Draw a fault of one class; None when the mesh can have none of it."""
    layout = plant.layout
    factor = float(random.choice(FACTORS[name])) if name in FACTORS else 0.0
    busy = [k for k in range(len(layout.instances)) if plant.now.load[k] >= least.rps and plant.in_balance[k]]
    if name.endswith(("-slow", "-leaks", "-warms")):
        busy = [k for k in busy if _felt(plant, k, factor, least)]
    kind = name.partition("-")[0]
    match name:
        case "caller-cut" | "caller-far" | "cache-lost":
            return _call(name, plant, least.rps, factor, random)
        case "herd" | "stall" | "certificates-expired" | "zone-lost":
            return _wide(name, plant, factor, random)
        case "version-subtle":
            busy = [k for k in busy if plant.now.load[k] >= SUBTLE_RPS]
    if kind == "instance":
        return _instance(name, layout, busy, factor, random)
    if kind == "version" or name == "retry-storm":
        return _version(name, layout, busy, factor, random)
    return _service(name, plant, busy, factor, random)


def _felt(plant: Plant, instance: int, factor: float, least: Least) -> bool:
    """Tell whether somebody notices that an instance works `factor` times as long."""
    own = plant.mesh.natures[int(plant.layout.service_of[instance])].median_s
    usual = float(plant.now.busy_s[instance])
    more = own * (factor - 1)
    return more >= least.slow_s and usual + more >= least.slowdown * usual


def _instance(name: str, layout: Layout, busy: list[int], factor: float, random: np.random.Generator) -> Drawn:
    several = [k for k in busy if len(layout.members(layout.services[layout.service_of[k]])) > 1]
    if not several:
        return None
    who = layout.instances[int(random.choice(several))]
    match name:
        case "instance-errors" | "instance-hangs":
            ratio = float(random.choice([0.2, 0.5, 1.0]))
            return faults.InstanceErrors(who, ratio) if name == "instance-errors" else faults.InstanceHangs(who, ratio)
        case "instance-crashes":
            return faults.InstanceCrashes(who, float(random.choice([2.0, 4.0])), float(random.choice([2.0, 5.0])))
        case "instance-killed":
            return faults.InstanceKilled(who)
        case "instance-warms":
            return faults.InstanceWarms(who, float(random.choice([1.0, 3.0])), factor, 15.0)
        case _:
            return faults.InstanceSlow(who, factor)


def _version(name: str, layout: Layout, busy: list[int], factor: float, random: np.random.Generator) -> Drawn:
    pairs = sorted({(layout.services[layout.service_of[k]], layout.version_of[k]) for k in busy})
    pairs = [p for p in pairs if len(_values(layout, p[0], layout.version_of)) > 1 and p[1] != STABLE]
    if not pairs:
        return None
    service, version = pairs[int(random.integers(len(pairs)))]
    match name:
        case "version-errors":
            return faults.VersionErrors(service, version, float(random.choice([0.1, 0.2, 0.5, 1.0])))
        case "version-subtle":
            return faults.VersionErrors(service, version, SUBTLE)
        case "version-leaks":
            return faults.VersionLeaks(service, version, factor)
        case "retry-storm":
            ratio, attempts = float(random.choice([0.5, 1.0])), int(random.choice([3, 6]))
            return faults.RetryStorm(service, version, ratio, attempts)
        case _:
            return faults.VersionSlow(service, version, factor)


def _call(name: str, plant: Plant, least: float, factor: float, random: np.random.Generator) -> Drawn:
    layout = plant.layout
    busy = (plant.rates >= least) & (layout.caller < len(layout.services)) & ~layout.backward
    if name == "cache-lost":
        into = np.bincount(layout.callee, weights=plant.rates, minlength=len(layout.services))[layout.callee]
        held = np.add.reduceat(plant.now.load * plant.now.busy_s, layout.first[:-1])
        use = (held / np.add.reduceat(plant.now.workers, layout.first[:-1]))[layout.callee]
        busy &= use * (1 + (factor - 1) * plant.rates / np.maximum(into, 1e-9)) >= OVERFULL
    if not busy.any():
        return None
    call = int(random.choice(np.flatnonzero(busy)))
    caller, callee = layout.caller_name(call), layout.services[layout.callee[call]]
    match name:
        case "cache-lost":
            return faults.CacheLost(caller, callee, factor)
        case "caller-far":
            return faults.CallerFar(caller, callee, float(random.choice([0.1, 0.3])))
        case _:
            return faults.CallerCut(caller, callee, float(random.choice([0.5, 1.0])))


def _service(name: str, plant: Plant, busy: list[int], factor: float, random: np.random.Generator) -> Drawn:
    layout = plant.layout
    services = sorted({layout.services[layout.service_of[k]] for k in busy} - set(plant.mesh.entries))
    if name.startswith("zone-"):
        services = [s for s in services if len(_values(layout, s, layout.zone_of)) > 1]
    if name == "hot-key":
        services = [s for s in services if len(layout.members(s)) > 1]
    if not services:
        return None
    service = services[int(random.integers(len(services)))]
    if name.startswith("zone-"):
        zones = _values(layout, service, layout.zone_of)
        zone = zones[int(random.integers(len(zones)))]
        if name == "zone-slow":
            return faults.ZoneSlow(service, zone, factor)
        return faults.ZoneErrors(service, zone, float(random.choice([0.5, 1.0])))
    if name == "hot-key":
        who = layout.instances[int(random.choice(layout.members(service)))]
        return faults.HotKey(service, who, HOT, factor)
    return _whole(name, service, factor, random)


def _whole(name: str, service: str, factor: float, random: np.random.Generator) -> Fault:
    match name:
        case "service-down":
            return faults.ServiceDown(service)
        case "service-errors":
            return faults.ServiceErrors(service, float(random.choice([0.2, 0.5, 1.0])))
        case "service-slow":
            return faults.ServiceSlow(service, factor)
        case "service-far":
            return faults.ServiceFar(service, float(random.choice([0.1, 0.3])))
        case _:
            return faults.Surge(service, factor)


def _wide(name: str, plant: Plant, factor: float, random: np.random.Generator) -> Fault:
    match name:
        case "herd":
            return faults.Herd(plant.mesh.entries[int(random.integers(len(plant.mesh.entries)))], factor, 2.0)
        case "stall":
            return faults.Stall(float(random.choice([0.05, 0.2])))
        case "zone-lost":
            return faults.ZoneLost(ZONES[int(random.integers(len(ZONES)))])
        case _:
            return faults.CertificatesExpired()


def _values(layout: Layout, service: str, of: tuple[str, ...]) -> list[str]:
    return sorted({of[k] for k in layout.members(service).tolist()})
