"""The faults a drill may inject: a closed set, each with its options, all of them real.

Through Envoy (`abort`, `delay`), in the application (`errors`, `slowness`, `corruption`, `leak`, `burn`, `capacity`), on its
process (`kill`, `pause`, `crashLoop`, `slowStart`, `fileDescriptors`), on the network (`network`, `dns`), on the mesh's own parts
(`outage`, `telemetry`, `clock`, `refusedConfig`), on load (`surge`, `herd`, `hotKey`, `retryStorm`).
"""

# mypy: disable-error-code="explicit-any"
# (the constructor that pydantic gives every model takes Any; nothing here is written with it)

from __future__ import annotations

from enum import StrEnum
from typing import Self, TypeAlias

from pydantic import model_validator
from pydantic.alias_generators import to_camel

from playbooks.base import Model
from simulations.drills.injections.application import (
    Burn,
    Capacity,
    Corruption,
    Errors,
    InApplication,
    Leak,
    Slowness,
)
from simulations.drills.injections.envoy import Abort, Delay, ThroughEnvoy
from simulations.drills.injections.load import Herd, HotKey, OnLoad, RetryStorm, Surge
from simulations.drills.injections.mesh import Clock, OnMesh, Outage, RefusedConfig, Telemetry
from simulations.drills.injections.network import Dns, Network, OnNetwork
from simulations.drills.injections.process import CrashLoop, FileDescriptors, Kill, OnProcess, Pause, SlowStart
from simulations.drills.places import Place

Fault: TypeAlias = ThroughEnvoy | InApplication | OnProcess | OnNetwork | OnMesh | OnLoad
"""Every fault there is."""


class Group(StrEnum):
    """What a fault is a fault of."""

    ENVOY = "envoy"
    APPLICATION = "application"
    PROCESS = "process"
    NETWORK = "network"
    MESH = "mesh"
    LOAD = "load"


class Injection(Model):
    """Exactly one of the faults."""

    abort: Abort | None = None
    delay: Delay | None = None
    errors: Errors | None = None
    slowness: Slowness | None = None
    corruption: Corruption | None = None
    leak: Leak | None = None
    burn: Burn | None = None
    capacity: Capacity | None = None
    kill: Kill | None = None
    pause: Pause | None = None
    crash_loop: CrashLoop | None = None
    slow_start: SlowStart | None = None
    file_descriptors: FileDescriptors | None = None
    network: Network | None = None
    dns: Dns | None = None
    outage: Outage | None = None
    telemetry: Telemetry | None = None
    clock: Clock | None = None
    refused_config: RefusedConfig | None = None
    surge: Surge | None = None
    herd: Herd | None = None
    hot_key: HotKey | None = None
    retry_storm: RetryStorm | None = None

    @model_validator(mode="after")
    def _one(self) -> Self:
        given = [to_camel(name) for name, _ in self._given()]
        if len(given) != 1:
            found = f"found {', '.join(given)}" if given else "found none"
            raise ValueError(f"an entry injects exactly one fault, {found}; several faults are several entries")
        return self

    @property
    def fault(self) -> Fault:
        """Return the one fault that is given."""
        return self._given()[0][1]

    @property
    def name(self) -> str:
        """Return its name in YAML, like `crashLoop`."""
        return to_camel(self._given()[0][0])

    def _given(self) -> list[tuple[str, Fault]]:
        return [(name, value) for name in type(self).model_fields if (value := getattr(self, name)) is not None]


def group(fault: Fault) -> Group:
    """Return what a fault is a fault of."""
    match fault:
        case Abort() | Delay():
            return Group.ENVOY
        case Errors() | Slowness() | Corruption() | Leak() | Burn() | Capacity():
            return Group.APPLICATION
        case Kill() | Pause() | CrashLoop() | SlowStart() | FileDescriptors():
            return Group.PROCESS
        case Network() | Dns():
            return Group.NETWORK
        case Outage() | Telemetry() | RefusedConfig() | Clock():
            return Group.MESH
        case Surge() | Herd() | HotKey() | RetryStorm():
            return Group.LOAD


def place(fault: Fault) -> Place | None:
    """Return where a fault strikes, None for one that strikes no service of its own."""
    match fault:
        case Abort() | Delay():
            return fault.place
        case Place():
            return fault
        case _:
            return None
