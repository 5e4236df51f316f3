"""Who is there: instances, their heartbeats, and what becomes of those that fall silent.

Silence is ambiguous. One silent instance is lost; most of them silent at once says that we cannot hear, so nobody is
given up (static stability). A process that was itself not running for a while counts nobody's silence over that time.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace

import structlog
from pydantic import TypeAdapter

from control import metrics
from control.changes import ChangeLog
from control.clock import Clock
from control.settings import ControlSettings
from control.store import Drop, Put, Write
from control.wire import InstanceView
from models.domain import ChangeKind, Health, Instance
from models.errors import NotFound
from models.plain import Json

log = structlog.get_logger(__name__)

_INSTANCE: TypeAdapter[Instance] = TypeAdapter(Instance)
_STALL_S = 1.0


@dataclass(slots=True)
class _Record:
    instance: Instance
    registered_at: float  # Unix time
    heard: float  # monotonic time of the last heartbeat; in the future while a grace period runs
    detail: str = ""
    greeted: bool = False  # a heartbeat has said how it is


class Registry:
    """All instances by id. Every method runs in the event loop and returns what to store."""

    def __init__(self, clock: Clock, changes: ChangeLog, settings: ControlSettings) -> None:
        self._clock = clock
        self._changes = changes
        self._settings = settings
        self._records: dict[str, _Record] = {}
        self._instances: tuple[Instance, ...] | None = None  # what `instances` returns, None when it has changed
        self._versions: set[tuple[str, str]] = set()
        self._lost_at: dict[str, float] = {}
        self._last_sweep = clock.monotonic()
        self._doubting = False

    @property
    def instances(self) -> tuple[Instance, ...]:
        """All instances, by id."""
        if self._instances is None:
            self._instances = tuple(self._records[name].instance for name in sorted(self._records))
        return self._instances

    @property
    def services(self) -> frozenset[str]:
        """Every service that has an instance."""
        return frozenset(record.instance.service for record in self._records.values())

    def get(self, name: str) -> Instance | None:
        """Return one instance, or None."""
        record = self._records.get(name)
        return record.instance if record else None

    def views(self) -> tuple[InstanceView, ...]:
        """Return all instances with when they were last heard."""
        now = self._clock.monotonic()
        return tuple(
            InstanceView(record.instance, record.registered_at, max(now - record.heard, 0.0), record.detail)
            for _, record in sorted(self._records.items())
        )

    def restore(self, rows: Mapping[str, Mapping[str, Json]], versions: Iterable[str]) -> None:
        """Take back what the store kept, health included; heartbeats are missed only after the grace period."""
        heard = self._clock.monotonic() + self._settings.grace_s - self._settings.lost_after_s
        for name, body in rows.items():
            instance = _INSTANCE.validate_python(body["instance"])
            at = body["registered_at"]
            assert isinstance(at, int | float)
            self._records[name] = _Record(instance, float(at), heard, greeted=True)
            if instance.health is Health.LOST:
                self._lost_at[name] = heard
        for key in versions:
            service, _, version = key.partition("/")
            self._versions.add((service, version))
        self._last_sweep = self._clock.monotonic()
        self._instances = None

    def register(self, instance: Instance) -> tuple[Write, ...]:
        """Take in an instance, or what has changed of it.

        Until its first heartbeat says that it serves it gets no requests; a known one that was well stays so.
        """
        now = self._clock.monotonic()
        before = self._records.get(instance.id)
        well = before is not None and before.instance.health is Health.HEALTHY
        new = replace(instance, health=Health.HEALTHY if well else Health.UNHEALTHY)
        if before is not None and before.instance == new and before.instance.labels == new.labels:
            before.heard = now
            return ()
        registered_at = before.registered_at if before else self._clock.wall()
        record = _Record(new, registered_at, now, greeted=before is not None)
        self._records[instance.id] = record
        self._instances = None
        self._lost_at.pop(instance.id, None)
        writes: list[Write] = [self._put(record)]
        subject, service, version = f"Instance/{new.id}", new.service, new.version
        if (service, version) not in self._versions:
            self._versions.add((service, version))
            writes.append(Put("versions", f"{service}/{version}", {}))
            message = f"{version} of {service} is new in the mesh"
            writes += self._changes.add(
                ChangeKind.DEPLOY, subject, service=service, version=version, actor=new.id, message=message
            )
        elif before is None or (before.instance.service, before.instance.version) != (service, version):
            message = f"{new.id} joined {service} {version}"
            writes += self._changes.add(
                ChangeKind.SCALE, subject, service=service, version=version, actor=new.id, message=message
            )
        elif before.instance.health is not new.health:
            writes += self._told(new, before.instance.health, "it registered again")
        return tuple(writes)

    def heartbeat(self, name: str, *, healthy: bool, detail: str = "") -> tuple[Instance, tuple[Write, ...]]:
        """Note that an instance is there and whether its application answers. A draining one stays draining.

        Raises:
            NotFound: it is not registered (any more).
        """
        record = self._find(name)
        record.heard = self._clock.monotonic()
        record.detail = detail
        if record.instance.health is Health.DRAINING:
            return record.instance, ()
        health = Health.HEALTHY if healthy else Health.UNHEALTHY
        if not record.greeted and healthy:  # its arrival was told already
            record.greeted = True
            record.instance = replace(record.instance, health=health)
            self._instances = None
            return record.instance, (self._put(record),)
        writes = self._become(record, health, detail)
        return record.instance, writes

    def drain(self, name: str) -> tuple[Instance, tuple[Write, ...]]:
        """Give an instance no new requests until it registers again.

        Raises:
            NotFound: it is not registered.
        """
        record = self._find(name)
        writes = self._become(record, Health.DRAINING, "it asked to drain")
        return record.instance, writes

    def remove(self, name: str, reason: str = "it signed off") -> tuple[Write, ...]:
        """Forget an instance.

        Raises:
            NotFound: it is not registered.
        """
        gone = self._find(name).instance
        del self._records[name]
        self._instances = None
        self._lost_at.pop(name, None)
        message = f"{name} left {gone.service} {gone.version}: {reason}"
        told = self._changes.add(
            ChangeKind.SCALE,
            f"Instance/{name}",
            service=gone.service,
            version=gone.version,
            actor=name,
            message=message,
        )
        return (Drop("instances", name), *told)

    def sweep(self) -> tuple[Write, ...]:
        """Look at who has been silent for too long; call it every `sweep_s`."""
        now = self._clock.monotonic()
        pause = now - self._last_sweep - self._settings.sweep_s
        self._last_sweep = now
        if pause > _STALL_S:
            self._stalled(pause)
        limit = self._settings.lost_after_s
        silent = [
            record
            for _, record in sorted(self._records.items())
            if now - record.heard > limit and record.instance.health is not Health.LOST
        ]
        writes: list[Write] = []
        if not self._deaf(len(silent), now):
            for record in silent:
                self._lost_at[record.instance.id] = now
                writes += self._become(record, Health.LOST, f"silent for {now - record.heard:.0f} s")
        for name in [name for name, at in self._lost_at.items() if now - at > self._settings.forget_after_s]:
            writes += self.remove(name, "it was lost and did not come back")
        return tuple(writes)

    def count(self) -> None:
        """Write the gauges."""
        found = Counter(record.instance.health for record in self._records.values())
        for health in Health:
            metrics.INSTANCES.labels(health.value).set(found.get(health, 0))

    def _deaf(self, silent: int, now: float) -> bool:
        """Return whether so many fell silent together that we doubt our own ears."""
        window = 2 * self._settings.lost_after_s
        lately = sum(1 for at in self._lost_at.values() if now - at <= window)
        lost = sum(1 for record in self._records.values() if record.instance.health is Health.LOST)
        base = len(self._records) - lost + lately
        doubting = silent > 0 and (silent + lately) / base > self._settings.lost_share
        if doubting and not self._doubting:
            metrics.MASS_LOSSES.inc()
            log.warning("registry.mass-loss-doubted", silent=silent, lost_lately=lately, instances=base)
        self._doubting = doubting
        return doubting

    def _stalled(self, pause: float) -> None:
        metrics.STALLS.inc()
        log.warning("registry.stalled", pause_s=round(pause, 2))
        for record in self._records.values():
            record.heard += pause

    def _find(self, name: str) -> _Record:
        record = self._records.get(name)
        if record is None:
            raise NotFound(f"no instance `{name}` is registered", hint="register it first: PUT /v1/instances/<id>")
        return record

    def _become(self, record: _Record, health: Health, why: str) -> tuple[Write, ...]:
        before = record.instance.health
        if before is health:
            return ()
        record.instance = replace(record.instance, health=health)
        self._instances = None
        if health is not Health.LOST:
            self._lost_at.pop(record.instance.id, None)
        return (self._put(record), *self._told(record.instance, before, why))

    def _told(self, instance: Instance, before: Health, why: str) -> tuple[Write, ...]:
        log.info("instance.health", instance=instance.id, before=before.value, now=instance.health.value, why=why)
        message = f"{instance.id}: {before.value} → {instance.health.value}" + (f" ({why})" if why else "")
        return self._changes.add(
            ChangeKind.HEALTH,
            f"Instance/{instance.id}",
            service=instance.service,
            version=instance.version,
            actor=instance.id,
            message=message,
        )

    def _put(self, record: _Record) -> Put:
        body: dict[str, Json] = {"instance": asdict(record.instance), "registered_at": record.registered_at}
        return Put("instances", record.instance.id, body)
