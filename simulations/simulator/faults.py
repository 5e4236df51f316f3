"""What can break in the services of a simulated mesh: the vocabulary. `damage` breaks it, `guilt` says what an agent should name.

What breaks in the mesh itself is in `meshfaults`, several of these together in `scenario`.
"""

from __future__ import annotations

from dataclasses import dataclass


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
class InstanceKilled:
    """One instance's process is killed and does not come back."""

    instance: str


@dataclass(frozen=True, slots=True)
class InstanceWarms:
    """One instance restarts: gone for `down_s` seconds, then `factor` times as slow, less and less for `warm_s` (cold caches)."""

    instance: str
    down_s: float
    factor: float
    warm_s: float


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
class RetryStorm:
    """One version fails `ratio` (0–1) of its requests, and the programs that call the service try again at once, up to `attempts`
    times, without a budget: the fault multiplies the load on those who are well.
    """

    service: str
    version: str
    ratio: float
    attempts: int


@dataclass(frozen=True, slots=True)
class ZoneErrors:
    """A service's instances in one zone fail `ratio` (0–1) of their requests."""

    service: str
    zone: str
    ratio: float


@dataclass(frozen=True, slots=True)
class ZoneSlow:
    """A service's instances in one zone work `factor` times as long."""

    service: str
    zone: str
    factor: float


@dataclass(frozen=True, slots=True)
class ZoneLost:
    """Every instance of every service in one zone is dead."""

    zone: str


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
class CallerFar:
    """The way from one caller to one callee takes `delay_s` seconds longer; others' does not."""

    caller: str
    callee: str
    delay_s: float


@dataclass(frozen=True, slots=True)
class CacheLost:
    """The cache that `service` has of `callee`'s answers is lost: it asks `factor` times as often."""

    service: str
    callee: str
    factor: float


@dataclass(frozen=True, slots=True)
class HotKey:
    """`factor` times as many requests arrive at a service, and `share` (0–1) of them are for one key that one instance holds.

    `instance` holds it; when it is taken out, the next one does.
    """

    service: str
    instance: str
    share: float
    factor: float


@dataclass(frozen=True, slots=True)
class Herd:
    """Every `every_s` seconds `factor` times as many users as usual come to an entrance within one tick."""

    service: str
    factor: float
    every_s: float


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


@dataclass(frozen=True, slots=True)
class CertificatesExpired:
    """No sidecar takes another's certificate any more: nobody can connect to anybody."""


OfInstance = InstanceErrors | InstanceSlow | InstanceHangs | InstanceCrashes | InstanceKilled | InstanceWarms
OfVersion = VersionErrors | VersionSlow | VersionLeaks | RetryStorm
OfZone = ZoneErrors | ZoneSlow
OfService = ServiceErrors | ServiceSlow | ServiceFar | ServiceDown | Surge | Herd
OfCall = CallerCut | CallerFar | CacheLost
OfAll = Stall | CertificatesExpired

Local = OfInstance | OfVersion | OfZone | OfService | OfCall | HotKey
"""Faults of one service."""

Fault = Local | ZoneLost | OfAll
