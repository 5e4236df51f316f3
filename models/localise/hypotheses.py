"""Within one faulty service: which of its parts is bad? All, one version, one zone or one instance."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from models.domain import ChangeEvent, ChangeKind, Instance
from models.incident import CauseKind, Signal
from models.localise.evidence import Member, Sight
from models.localise.likelihood import faulty, healthy, shrink
from models.localise.tallies import Tally

PRIORS: Final = {CauseKind.SERVICE: 0.25, CauseKind.VERSION: 0.3, CauseKind.ZONE: 0.1, CauseKind.INSTANCE: 0.35}
LONE_VERSION_BONUS: Final = 1.5
"""A version of one instance beside a healthy other version: it is the version, not the machine, in nats."""

LONE_ZONE_MALUS: Final = 2.5
"""A zone in which one instance of the service stands: it is the machine, not the zone, in nats."""

CHANGE_BONUS: Final = 3.0
CHANGED: Final = 0.75
"""Nats from which a change of the whole service is named as the cause rather than the service."""

CHANGE_FADES_S: Final = 60.0
CHANGE_WINDOW_S: Final = 300.0
AFTER_ONSET_S: Final = 1.0
UNREACHABLE_SHARE: Final = 0.5
DOWN_RATIO: Final = 0.9
OVERFLOW_SHARE: Final = 0.5


@dataclass(frozen=True, slots=True)
class Part:
    """One hypothesis: these members are bad, the others well. `nats` is log prior + log marginal likelihood."""

    kind: CauseKind
    subject: str
    bad: Tally
    rest: Tally
    nats: float
    changes: tuple[ChangeEvent, ...]


def parts(
    sight: Sight, signal: Signal, known: Sequence[Instance], changes: Iterable[ChangeEvent], onset: float
) -> tuple[Part, ...]:
    """Return every hypothesis about the parts of a faulty service with these `known` instances, best first."""
    members = list(sight.members.values())
    near = tuple(c for c in changes if c.service == sight.service and _nearness(c, onset) > 0)
    whole = sight.own
    if not members:
        members = [Member("", "", "", whole)]
    found = [_whole(members, signal, whole, near, onset)]
    hosts = [m for m in members if m.instance]
    names = {m.instance for m in hosts} | {i.id for i in known}
    versions = {m.version for m in members if m.version} | {i.version for i in known}
    zones = {m.zone for m in hosts if m.zone} | {i.zone for i in known if i.zone}
    if len(versions) > 1:
        names_of = sorted({m.version for m in members if m.version})
        found += [_version(version, members, len(versions), near, onset) for version in names_of]
    if len(zones) > 1:
        for zone in sorted({m.zone for m in hosts if m.zone}):
            inside = [m for m in hosts if m.zone == zone]
            lone = LONE_ZONE_MALUS if len(inside) == 1 else 0.0
            found += [_part(CauseKind.ZONE, zone, members, inside, rivals=len(zones), bonus=-lone)]
    if len(names) > 1:
        for host in sorted(hosts, key=lambda m: m.instance):
            about = tuple(c for c in near if c.subject.endswith(host.instance) and c.kind is ChangeKind.HEALTH)
            bonus = max((_nearness(c, onset) for c in about), default=0.0)
            subject = host.instance
            found += [
                _part(CauseKind.INSTANCE, subject, members, [host], rivals=len(names), bonus=bonus, changes=about)
            ]
    return tuple(sorted(found, key=lambda p: (-p.nats, p.kind, p.subject)))


def _nearness(change: ChangeEvent, onset: float) -> float:
    """Return how suspicious a change is by its time alone, in nats: most just before the onset, none after it."""
    before = onset - change.at
    if change.kind in {ChangeKind.OVERLAY, ChangeKind.NACK} or not -AFTER_ONSET_S <= before <= CHANGE_WINDOW_S:
        return 0.0
    return CHANGE_BONUS * math.exp(-max(0.0, before) / CHANGE_FADES_S)


def _part(
    kind: CauseKind,
    subject: str,
    members: list[Member],
    bad: list[Member],
    *,
    rivals: int,
    bonus: float = 0.0,
    changes: tuple[ChangeEvent, ...] = (),
) -> Part:
    rest = [m for m in members if not any(m is b for b in bad)]
    scale = shrink(sum(m.counts.total for m in members))
    nats = faulty([m.counts for m in bad], scale) + healthy([m.counts for m in rest], scale)
    sums = [sum((m.counts for m in group), Tally()) for group in (bad, rest)]
    if sums[0].ratio <= sums[0].normal:
        nats -= 20.0  # a part that is better than normal is not the fault
    prior = math.log(PRIORS[kind] / rivals)
    return Part(kind, subject, sums[0], sums[1], nats + prior + bonus, changes)


def _version(version: str, members: list[Member], rivals: int, near: tuple[ChangeEvent, ...], onset: float) -> Part:
    bad = [m for m in members if m.version == version]
    about = tuple(c for c in near if c.version in {"", version} and c.kind is not ChangeKind.HEALTH)
    # a change that names no version could be about any of them
    bonus = max((_nearness(c, onset) * (1.0 if c.version else 0.5) for c in about), default=0.0)
    if len({m.instance for m in bad if m.instance}) == 1:
        bonus += LONE_VERSION_BONUS
    return _part(CauseKind.VERSION, version, members, bad, rivals=rivals, bonus=bonus, changes=about)


def _whole(members: list[Member], signal: Signal, whole: Tally, near: tuple[ChangeEvent, ...], onset: float) -> Part:
    kind = CauseKind.SERVICE
    if signal is Signal.ERRORS and whole.bad:
        gone = whole.unreachable + whole.timeouts
        if whole.overflow >= OVERFLOW_SHARE * whole.bad:
            kind = CauseKind.OVERLOAD
        elif whole.ratio >= DOWN_RATIO or (whole.ratio >= UNREACHABLE_SHARE and gone >= UNREACHABLE_SHARE * whole.bad):
            kind = CauseKind.DEPENDENCY
    about = tuple(c for c in near if not c.version and c.kind in {ChangeKind.CONFIG, ChangeKind.SCALE})
    bonus = 0.5 * max((_nearness(c, onset) for c in about), default=0.0)
    if kind is CauseKind.SERVICE and bonus >= CHANGED:
        kind = CauseKind.CHANGE
    part = _part(CauseKind.SERVICE, "", members, members, rivals=1, bonus=bonus, changes=about)
    return Part(kind, "", part.bad, part.rest, part.nats, part.changes)
