"""Which fault is played how, on a mesh that the runner started itself."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import assert_never

from models.domain import Instance
from simulations.cluster import Cluster
from simulations.drills.injections.application import Burn, Capacity, Corruption, Errors, Leak, Slowness
from simulations.drills.injections.envoy import Abort, Delay
from simulations.drills.injections.load import Herd, HotKey, RetryStorm, Surge
from simulations.drills.injections.mesh import Clock, Outage, RefusedConfig, Telemetry
from simulations.drills.injections.network import Dns, Network
from simulations.drills.injections.process import CrashLoop, FileDescriptors, Kill, Pause, SlowStart
from simulations.drills.names import NameServer
from simulations.drills.places import Place
from simulations.drills.relay import Relay
from simulations.drills.schema import Entry
from simulations.drills.strikes import load, network, parts, process
from simulations.drills.strikes.application import Ailments
from simulations.drills.strikes.envoy import through_envoy
from simulations.drills.tap import Tap


@dataclass(frozen=True, slots=True)
class Between:
    """What stands between parts of the mesh to be spoilt: relays by instance, a tap of telemetry, a name server."""

    relays: Mapping[str, Relay]
    tap: Tap | None
    names: NameServer | None


@dataclass(frozen=True, slots=True)
class Ground:
    """What faults are played on."""

    cluster: Cluster
    ailments: Ailments
    between: Between
    instances: tuple[Instance, ...]

    def ids(self, place: Place) -> tuple[str, ...]:
        """Return the ids of the instances at a place."""
        return tuple(each.id for each in place.struck(self.instances))


def strike(entry: Entry, ground: Ground) -> AbstractAsyncContextManager[None]:  # noqa: C901, PLR0911, PLR0912 - one case per member of a closed union
    """Return a context that keeps the fault of an entry in force while it runs."""
    fault, ramp_s, cluster = entry.inject.fault, entry.ramp, ground.cluster
    match fault:
        case Abort() | Delay():
            return _through_envoy(fault, ramp_s, ground)
        case Errors() | Slowness() | Corruption() | Burn() | Capacity():
            return ground.ailments.suffered(fault, ground.ids(fault), ramp_s)
        case Leak():
            return _leaking(fault, ramp_s, ground)
        case Kill():
            return process.killed(cluster, ground.ids(fault))
        case Pause():
            return process.paused(cluster, ground.ids(fault))
        case CrashLoop():
            return process.crashing(cluster, fault, ground.ids(fault))
        case SlowStart():
            return process.restarted(cluster, ground.ailments, fault, ground.ids(fault), ramp_s)
        case FileDescriptors():
            return process.starved(cluster, fault, ground.ids(fault))
        case Network():
            return network.degraded(ground.between.relays, fault, ground.ids(fault), ramp_s)
        case Dns():
            return network.nameless(ground.between.names, fault, ground.ids(fault))
        case Outage():
            return parts.out(cluster, fault)
        case Clock():
            return parts.misset(cluster, fault)
        case Telemetry():
            return parts.spoiled(ground.between.tap, fault)
        case RefusedConfig():
            return parts.refused(cluster, fault)
        case Surge() | Herd() | HotKey() | RetryStorm():
            return load.loaded(cluster, fault)
        case _:
            assert_never(fault)


@asynccontextmanager
async def _through_envoy(fault: Abort | Delay, ramp_s: float, ground: Ground) -> AsyncIterator[None]:
    async with ground.cluster.control() as control, through_envoy(fault, ramp_s, control):
        yield


@asynccontextmanager
async def _leaking(fault: Leak, ramp_s: float, ground: Ground) -> AsyncIterator[None]:
    """Who leaks may die of it, and is started again at the end."""
    ids = ground.ids(fault)
    ground.cluster.processes.may_end(ids)
    try:
        async with ground.ailments.suffered(fault, ids, ramp_s):
            yield
    finally:
        await process.revive(ground.cluster, ids)


def relayed(entries: Iterable[Entry], instances: tuple[Instance, ...]) -> frozenset[str]:
    """Return the instances in front of which a relay is needed."""
    faults = [entry.inject.fault for entry in entries]
    return frozenset(each.id for fault in faults if isinstance(fault, Network) for each in fault.struck(instances))


def named(entries: Iterable[Entry], instances: tuple[Instance, ...]) -> frozenset[str]:
    """Return the instances whose application must look its sidecar up by name."""
    faults = [entry.inject.fault for entry in entries]
    return frozenset(each.id for fault in faults if isinstance(fault, Dns) for each in fault.struck(instances))
