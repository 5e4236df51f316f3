"""The overlays there are: laid, renewed, removed, expired.

A lease runs on the monotonic clock while this process lives, so that a jump of the wall clock ends no overlay early and
keeps none alive; over a restart the wall clock is all there is, bounded by the lease itself.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Literal, TypeAlias

import structlog

from control import metrics
from control.changes import ChangeLog
from control.clock import Clock
from control.fencing import Fences
from control.settings import ControlSettings
from control.store import Drop, Put, Write
from control.watch import Broadcast
from control.wire import OVERLAY, OverlayEvent
from models.domain import ChangeKind
from models.errors import Conflict, InvalidInput, NotFound, Problem, Refused
from models.overlay import Change, Overlay, Owner, in_force, slot, target
from models.plain import Json

log = structlog.get_logger(__name__)

Ending: TypeAlias = Literal["deleted", "expired"]
Event: TypeAlias = Literal["created", "renewed", "deleted", "expired"]


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a caller asks to be laid. `id` makes the call idempotent."""

    id: str
    change: Change
    reason: str
    lease_s: float
    owner: Owner
    actor: str
    incident: str = ""
    fence: int = 0


@dataclass(slots=True)
class _Lease:
    overlay: Overlay
    deadline: float  # monotonic


class OverlayBook:
    """All overlays that have not ended. Every method runs in the event loop and returns what to store."""

    def __init__(self, clock: Clock, changes: ChangeLog, fences: Fences, settings: ControlSettings) -> None:
        self._clock = clock
        self._changes = changes
        self._fences = fences
        self._settings = settings
        self._leases: dict[str, _Lease] = {}
        self.events: Broadcast[OverlayEvent] = Broadcast("overlays")

    @property
    def all(self) -> tuple[Overlay, ...]:
        """All overlays, by id."""
        return tuple(self._leases[name].overlay for name in sorted(self._leases))

    def get(self, name: str) -> Overlay:
        """Return one overlay, or raise NotFound."""
        return self._find(name).overlay

    def winner(self, overlay: Overlay) -> Overlay:
        """Return the overlay that is in force in this overlay's slot."""
        place = slot(overlay.change)
        return next(other for other in in_force(self.all) if slot(other.change) == place)

    def restore(self, rows: Mapping[str, Mapping[str, Json]]) -> None:
        """Take back what the store kept; what has expired meanwhile ends with the first sweep."""
        for name, body in rows.items():
            overlay = OVERLAY.validate_python(body)
            left = min(overlay.expires_at - self._clock.wall(), overlay.lease_s)
            self._leases[name] = _Lease(overlay, self._clock.monotonic() + left)

    def propose(self, wanted: Wanted) -> Overlay | None:
        """Return the overlay that `wanted` would become, None when it is there already (a repeated call).

        Raises:
            Conflict: the fence is stale, or the id stands for another change.
            InvalidInput: the lease is out of range.
        """
        self._authorise(wanted.owner, wanted.fence)
        self._lease(wanted.owner, wanted.lease_s)
        held = self._leases.get(wanted.id)
        if held is not None:
            if (held.overlay.change, held.overlay.owner) == (wanted.change, wanted.owner):
                return None
            raise Conflict(f"the overlay {wanted.id} is another change", hint="choose another id, or delete it first")
        now = self._clock.wall()
        return Overlay(
            id=wanted.id,
            change=wanted.change,
            owner=wanted.owner,
            actor=wanted.actor,
            reason=wanted.reason,
            created_at=now,
            expires_at=now + wanted.lease_s,
            lease_s=wanted.lease_s,
            incident=wanted.incident,
            fence=wanted.fence if wanted.owner is Owner.AGENT else 0,
        )

    def lay(self, overlay: Overlay) -> tuple[Write, ...]:
        """Lay a proposed overlay."""
        self._leases[overlay.id] = _Lease(overlay, self._clock.monotonic() + overlay.lease_s)
        return (self._put(overlay), *self._tell("created", overlay, overlay.actor, f"laid: {overlay.reason}"))

    def withdraw(self, overlay: Overlay) -> None:
        """Take back an overlay that could not be stored, as if it had never been laid."""
        self._leases.pop(overlay.id, None)
        self.events.send(OverlayEvent("deleted", overlay, self._clock.wall()))

    def renew(self, name: str, lease_s: float, *, owner: Owner, fence: int) -> tuple[Overlay, tuple[Write, ...]]:
        """Make an overlay end `lease_s` seconds from now.

        Raises:
            NotFound: it has ended. Conflict: the fence is stale. Refused: it is a person's and an agent asks.
        """
        lease = self._touch(name, owner, fence)
        self._lease(lease.overlay.owner, lease_s)
        now = self._clock.wall()
        lease.overlay = replace(
            lease.overlay,
            expires_at=now + lease_s,
            lease_s=lease_s,
            fence=fence if owner is Owner.AGENT else lease.overlay.fence,
        )
        lease.deadline = self._clock.monotonic() + lease_s
        self.events.send(OverlayEvent("renewed", lease.overlay, now))
        return lease.overlay, (self._put(lease.overlay),)

    def delete(
        self, name: str, *, owner: Owner, fence: int, actor: str, reason: str = ""
    ) -> tuple[Overlay, tuple[Write, ...]]:
        """Remove an overlay; `reason` stands in the change log.

        Raises:
            NotFound: it has ended. Conflict: the fence is stale. Refused: it is a person's and an agent asks.
        """
        overlay = self._touch(name, owner, fence).overlay
        return overlay, self._end(overlay, "deleted", actor, f"removed: {reason}" if reason else "removed")

    def sweep(self) -> tuple[Write, ...]:
        """End what has run out; call it every `sweep_s`."""
        now = self._clock.monotonic()
        writes: list[Write] = []
        for lease in [lease for lease in self._leases.values() if lease.deadline <= now]:
            writes += self._end(lease.overlay, "expired", "control", "its lease ran out")
        return tuple(writes)

    def count(self) -> None:
        """Write the gauges."""
        metrics.OVERLAYS.clear()
        for (kind, owner), n in Counter((o.change.kind, o.owner.value) for o in self.all).items():
            metrics.OVERLAYS.labels(kind, owner).set(n)

    def _authorise(self, owner: Owner, fence: int) -> None:
        if owner is Owner.AGENT:
            self._fences.check(fence)

    def _touch(self, name: str, owner: Owner, fence: int) -> _Lease:
        self._authorise(owner, fence)
        lease = self._find(name)
        if owner is Owner.AGENT and lease.overlay.owner is Owner.PERSON:
            raise Refused(
                f"the overlay {name} was laid by a person ({lease.overlay.actor}); people beat automation",
                hint="a person has to remove it: `fibrin overlay delete`",
            )
        return lease

    def _lease(self, owner: Owner, lease_s: float) -> None:
        longest = self._settings.lease_max_s if owner is Owner.AGENT else self._settings.person_lease_max_s
        if not 0 < lease_s <= longest:
            message = f"must be above 0 and at most {longest:g} s, found {lease_s:g}"
            hint = "renew it while it is needed"
            raise InvalidInput(f"lease_s: {message}", hint=hint, problems=(Problem(message, field="lease_s"),))

    def _find(self, name: str) -> _Lease:
        lease = self._leases.get(name)
        if lease is None:
            raise NotFound(f"there is no overlay `{name}`", hint="it may have expired; `fibrin get overlays` lists all")
        return lease

    def _end(self, overlay: Overlay, how: Ending, actor: str, message: str) -> tuple[Write, ...]:
        del self._leases[overlay.id]
        metrics.OVERLAYS_ENDED.labels(how).inc()
        return (Drop("overlays", overlay.id), *self._tell(how, overlay, actor, message))

    def _tell(self, event: Event, overlay: Overlay, actor: str, message: str) -> tuple[Write, ...]:
        log.info(
            "overlay.changed",
            event_kind=event,
            overlay=overlay.id,
            kind=overlay.change.kind,
            actor=actor,
            reason=overlay.reason,
        )
        self.events.send(OverlayEvent(event, overlay, self._clock.wall()))
        service, subject = target(overlay.change), f"Overlay/{overlay.id}"
        text = f"{overlay.change.kind} on {service} {message}"
        return self._changes.add(ChangeKind.OVERLAY, subject, service=service, actor=actor, message=text)

    def _put(self, overlay: Overlay) -> Put:
        return Put("overlays", overlay.id, asdict(overlay))
