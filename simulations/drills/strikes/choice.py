"""Which fault is played how, on a mesh that the runner started itself."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import assert_never

from models.domain import Instance
from simulations.cluster import Cluster
from simulations.drills.injections.application import Burn, Capacity, Corruption, Errors, Leak, Slowness
from simulations.drills.injections.envoy import Abort, Delay
from simulations.drills.injections.load import Herd, HotKey, RetryStorm, Surge
from simulations.drills.injections.mesh import Outage, RefusedConfig, Telemetry
from simulations.drills.injections.network import Network
from simulations.drills.injections.process import CrashLoop, FileDescriptors, Kill, Pause, SlowStart
from simulations.drills.places import Place
from simulations.drills.relay import Relay
from simulations.drills.schema import Entry
from simulations.drills.strikes import load, network, parts, process
from simulations.drills.strikes.application import Ailments
from simulations.drills.strikes.envoy import through_envoy
from simulations.drills.tap import Tap


@dataclass(frozen=True, slots=True)
class Ground:
    """What faults are played on."""

    cluster: Cluster
    ailments: Ailments
    relays: Mapping[str, Relay]
    tap: Tap | None
    instances: tuple[Instance, ...]

    def ids(self, place: Place) -> tuple[str, ...]:
        """Return the ids of the instances at a place."""
        return tuple(each.id for each in place.struck(self.instances))


@asynccontextmanager
async def strike(entry: Entry, ground: Ground) -> AsyncIterator[None]:  # noqa: C901, PLR0912 - one case per member of a closed union
    """Put the fault of an entry in force while the block runs."""
    fault, ramp_s, cluster = entry.inject.fault, entry.ramp, ground.cluster
    match fault:
        case Abort() | Delay():
            async with cluster.control() as control, through_envoy(fault, ramp_s, control):
                yield
        case Errors() | Slowness() | Corruption() | Burn() | Capacity():
            async with ground.ailments.suffered(fault, ground.ids(fault), ramp_s):
                yield
        case Leak():
            ids = ground.ids(fault)
            cluster.processes.may_end(ids)
            try:
                async with ground.ailments.suffered(fault, ids, ramp_s):
                    yield
            finally:
                await process.revive(cluster, ids)
        case Kill():
            async with process.killed(cluster, ground.ids(fault)):
                yield
        case Pause():
            async with process.paused(cluster, ground.ids(fault)):
                yield
        case CrashLoop():
            async with process.crashing(cluster, fault, ground.ids(fault)):
                yield
        case SlowStart():
            async with process.restarted(cluster, ground.ailments, fault, ground.ids(fault), ramp_s):
                yield
        case FileDescriptors():
            async with process.starved(cluster, fault, ground.ids(fault)):
                yield
        case Network():
            async with network.degraded(ground.relays, fault, ground.ids(fault), ramp_s):
                yield
        case Outage():
            async with parts.out(cluster, fault):
                yield
        case Telemetry():
            async with parts.spoiled(ground.tap, fault):
                yield
        case RefusedConfig():
            async with parts.refused(cluster, fault):
                yield
        case Surge() | Herd() | HotKey() | RetryStorm():
            async with load.loaded(cluster, fault):
                yield
        case _:
            assert_never(fault)


def relayed(entries: Iterable[Entry], instances: tuple[Instance, ...]) -> frozenset[str]:
    """Return the instances in front of which a relay is needed."""
    faults = [entry.inject.fault for entry in entries]
    return frozenset(each.id for fault in faults if isinstance(fault, Network) for each in fault.struck(instances))
