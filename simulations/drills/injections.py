"""The faults a drill may inject: a closed set, each with its options, all of them real.

Through Envoy (`abort`, `delay`), in the application (`errors`, `slowness`, `corruption`, `leak`, `burn`, `capacity`), on its
process (`kill`, `pause`, `crashLoop`, `slowStart`, `fileDescriptors`), on the network (`network`), on the mesh's own parts
(`outage`, `telemetry`, `refusedConfig`), on load (`surge`, `herd`, `hotKey`, `retryStorm`).
"""

# mypy: disable-error-code="explicit-any"
# (the constructor that pydantic gives every model takes Any; nothing here is written with it)

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal, Self, TypeAlias

from pydantic import Field, model_validator
from pydantic.alias_generators import to_camel

from playbooks.base import Model
from playbooks.units import Duration, Share, percent, span
from simulations.drills.places import Place

Positive = Annotated[Share, Field(gt=0)]


class Group(StrEnum):
    """What a fault is a fault of."""

    ENVOY = "envoy"
    APPLICATION = "application"
    PROCESS = "process"
    NETWORK = "network"
    MESH = "mesh"
    LOAD = "load"


class _Envoy(Model):
    """What both faults through Envoy share: whose requests they strike."""

    service: str
    """The service whose requests are struck."""
    caller: str = ""
    """Only requests of this service, in its sidecars."""
    route: str = ""
    """Only this route of the callers' tables."""
    version: str = ""
    """Only requests that reach this version, in its sidecars."""
    instance: str = ""
    """Only requests that reach this instance, in its sidecar."""
    share: Positive = 1.0
    """Share of these requests."""

    @model_validator(mode="after")
    def _one_scope(self) -> Self:
        if sum(map(bool, (self.caller, self.version, self.instance))) > 1:
            raise ValueError("give one of `caller`, `version` and `instance`; two faults are two entries")
        if self.route and (self.version or self.instance):
            raise ValueError("only callers know routes: leave `route` out, or name a `caller`")
        return self

    @property
    def place(self) -> Place:
        """Return the instances that callers will find at fault."""
        return Place(service=self.service, version=self.version, instance=self.instance)


class Abort(_Envoy):
    """Requests are answered by a sidecar with an error, not by the service."""

    status: Annotated[int, Field(ge=200, le=599)] = 503
    """HTTP status of the answer."""

    def __str__(self) -> str:
        """Say what happens, for people."""
        return f"{percent(self.share)} of the requests {_scope(self)} are answered with {self.status}"


class Delay(_Envoy):
    """Requests are held back in a sidecar before they go on."""

    by: Duration
    """How long; with `spread` the median."""
    spread: Annotated[float, Field(ge=0, le=3, strict=False)] = 0.0
    """Sigma of a lognormal distribution around `by`; 0: every delay alike."""

    def __str__(self) -> str:
        """Say what happens, for people."""
        spread = f" (lognormal, sigma {self.spread:g})" if self.spread else ""
        return f"{percent(self.share)} of the requests {_scope(self)} are delayed by {span(self.by)}{spread}"


def _scope(fault: _Envoy) -> str:
    source = f"from {fault.caller} " if fault.caller else ""
    route = f" on route {fault.route}" if fault.route else ""
    return f"{source}to {fault.place.where}{route}"


class Errors(Place):
    """The application answers a share of its requests with HTTP 500."""

    share: Positive
    """Share of the requests."""

    def __str__(self) -> str:
        """Say what happens, for people."""
        return f"{self.where} fails {percent(self.share)} of its requests"


class Slowness(Place):
    """The application takes longer for its own work."""

    factor: Annotated[float, Field(gt=1, le=1000, strict=False)]
    """Times as long as usual."""

    def __str__(self) -> str:
        """Say what happens, for people."""
        return f"{self.where} becomes {self.factor:g}× slower"


class Corruption(Place):
    """The application breaks off a share of its answers in the middle of the body: they look fine until they end."""

    share: Positive
    """Share of the answers."""

    def __str__(self) -> str:
        """Say what happens, for people."""
        return f"{self.where} breaks off {percent(self.share)} of its answers"


class Leak(Place):
    """The application leaks memory that every request walks through; at `most` it dies, as an out-of-memory kill would."""

    rate: Annotated[float, Field(gt=0, le=500, strict=False)]
    """MiB per second."""
    most: Annotated[float, Field(gt=0, le=2000, strict=False)] = 400.0
    """MiB at which the process is killed."""

    def __str__(self) -> str:
        """Say what happens, for people."""
        return f"{self.where} leaks {self.rate:g} MiB a second, and dies at {self.most:g} MiB"


class Burn(Place):
    """The application burns processor time in its event loop: requests wait meanwhile."""

    share: Annotated[Share, Field(gt=0, le=0.95)]
    """Share of the time it is busy with nothing."""

    def __str__(self) -> str:
        """Say what happens, for people."""
        return f"{self.where} burns {percent(self.share)} of its processor time"


class Capacity(Place):
    """The application serves at most so many requests at a time; others wait in its queue."""

    workers: Annotated[int, Field(ge=1, le=1000)]
    """Requests at a time, per instance."""

    def __str__(self) -> str:
        """Say what happens, for people."""
        return f"{self.where} serves {self.workers} at a time"


class Kill(Place):
    """The application's process is killed (SIGKILL) and stays away until the fault ends."""

    def __str__(self) -> str:
        """Say what happens, for people."""
        return f"{self.where} is killed"


class Pause(Place):
    """The application's process is stopped (SIGSTOP): connections stay open and nobody answers."""

    def __str__(self) -> str:
        """Say what happens, for people."""
        return f"{self.where} stands still"


class CrashLoop(Place):
    """The application's process is killed again and again, and comes back each time."""

    every: Annotated[Duration, Field(ge=1)] = 3.0
    """From one kill to the next."""

    def __str__(self) -> str:
        """Say what happens, for people."""
        return f"{self.where} crashes every {span(self.every)}"


class SlowStart(Place):
    """The application's process is restarted and is slow at first, getting faster over `ramp` of the entry."""

    factor: Annotated[float, Field(gt=1, le=1000, strict=False)]
    """Times as slow at the start."""

    def __str__(self) -> str:
        """Say what happens, for people."""
        return f"{self.where} restarts, {self.factor:g}× slower at first"


class FileDescriptors(Place):
    """The application's process may open no more files or sockets than it has now (and `left` more)."""

    left: Annotated[int, Field(ge=0, le=1000)] = 0
    """How many more."""

    def __str__(self) -> str:
        """Say what happens, for people."""
        return f"{self.where} has {self.left} file descriptors left"


class Network(Place):
    """The way between a sidecar and its application goes through a relay that does to TCP what bad networks do."""

    delay: Duration = 0.0
    """Added to each piece of data, each way."""
    jitter: Duration = 0.0
    """Most that is added to or taken from it."""
    loss: Share = 0.0
    """Share of pieces that have to be sent again: each waits for TCP's retransmission (200 ms, doubling)."""
    bandwidth: Annotated[float, Field(ge=0, strict=False)] = 0.0
    """KiB per second and direction of each connection; 0: no limit."""
    resets: Share = 0.0
    """Share of pieces upon which the connection is reset."""
    partition: bool = False
    """Nothing gets through: open connections hang, new ones are not taken."""
    half_open: bool = False
    """New connections are taken and nothing is ever forwarded."""

    @model_validator(mode="after")
    def _bad(self) -> Self:
        bad = (self.delay, self.jitter, self.loss, self.bandwidth, self.resets, self.partition, self.half_open)
        if not any(bad):
            raise ValueError(
                "this network is fine: give `delay`, `loss`, `bandwidth`, `resets`, `partition` or `halfOpen`"
            )
        return self

    def __str__(self) -> str:
        """Say what happens, for people."""
        parts = [
            f"{span(self.delay)} delay" if self.delay else "",
            f"{span(self.jitter)} jitter" if self.jitter else "",
            f"{percent(self.loss)} loss" if self.loss else "",
            f"{self.bandwidth:g} KiB/s" if self.bandwidth else "",
            f"{percent(self.resets)} resets" if self.resets else "",
            "a partition" if self.partition else "",
            "half-open connections" if self.half_open else "",
        ]
        return f"the network at {self.where} has {', '.join(filter(None, parts))}"


class Outage(Model):
    """A part of the mesh itself is killed (SIGKILL) and started again when the fault ends."""

    part: Literal["control", "agent"]
    """Which."""

    def __str__(self) -> str:
        """Say what happens, for people."""
        return f"the {'control plane' if self.part == 'control' else 'agent'} is killed"


class Telemetry(Model):
    """What sidecars report to the agent is lost, repeated or late. Requests are not touched."""

    services: tuple[str, ...] = ()
    """Sidecars of these services; none: all."""
    how: Literal["dropped", "frozen", "skewed"]
    """`dropped`: no report arrives; `frozen`: the last one arrives again and again; `skewed`: each arrives late by `by`."""
    by: Duration = 5.0
    """How late skewed reports are."""

    def __str__(self) -> str:
        """Say what happens, for people."""
        late = f" by {span(self.by)}" if self.how == "skewed" else ""
        return f"telemetry of {', '.join(self.services) or 'everybody'} is {self.how}{late}"


class RefusedConfig(Model):
    """A declaration is applied that every sidecar refuses (NACK), again and again."""

    service: str
    """The service whose routes are declared so."""
    every: Annotated[Duration, Field(ge=0.2)] = 1.0
    """From one such declaration to the next."""

    def __str__(self) -> str:
        """Say what happens, for people."""
        return f"every {span(self.every)} a configuration of {self.service} is declared that sidecars refuse"


class Surge(Model):
    """More users come."""

    rate: Annotated[float, Field(gt=0, le=1000, strict=False)]
    """Requests per second on top."""

    def __str__(self) -> str:
        """Say what happens, for people."""
        return f"{self.rate:g} requests a second more"


class Herd(Model):
    """Many users come in the same moment, again and again."""

    size: Annotated[int, Field(ge=1, le=1000)]
    """How many at once."""
    every: Annotated[Duration, Field(ge=0.5)] = 2.0
    """From one herd to the next."""

    def __str__(self) -> str:
        """Say what happens, for people."""
        return f"{self.size} users at once every {span(self.every)}"


class HotKey(Model):
    """More users come, and all of them want the same product."""

    rate: Annotated[float, Field(gt=0, le=1000, strict=False)]
    """Requests per second on top."""
    product: Annotated[int, Field(ge=1, le=9)] = 1
    """Which."""

    def __str__(self) -> str:
        """Say what happens, for people."""
        return f"{self.rate:g} requests a second more, all for product {self.product}"


class RetryStorm(Model):
    """Users who get an error try again at once."""

    attempts: Annotated[int, Field(ge=1, le=20)]
    """How often."""
    rate: Annotated[float, Field(gt=0, le=1000, strict=False)]
    """First requests per second of these users, on top."""

    def __str__(self) -> str:
        """Say what happens, for people."""
        return f"{self.rate:g} requests a second more, each repeated up to {self.attempts} times upon an error"


InApplication: TypeAlias = Errors | Slowness | Corruption | Leak | Burn | Capacity
OnProcess: TypeAlias = Kill | Pause | CrashLoop | SlowStart | FileDescriptors
OnLoad: TypeAlias = Surge | Herd | HotKey | RetryStorm
Fault: TypeAlias = Abort | Delay | InApplication | OnProcess | Network | Outage | Telemetry | RefusedConfig | OnLoad
"""Every fault there is."""


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
    outage: Outage | None = None
    telemetry: Telemetry | None = None
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
        case Network():
            return Group.NETWORK
        case Outage() | Telemetry() | RefusedConfig():
            return Group.MESH
        case _:
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
