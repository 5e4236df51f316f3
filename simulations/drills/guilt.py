"""Who is at fault in a drill, and so whom the agent may touch.

Everything else is innocent, and one overlay on it fails the drill.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from models.domain import Instance
from models.incident import Cause
from models.overlay import Change, target
from simulations.drills.injections import place
from simulations.drills.schema import Cause as Wanted
from simulations.drills.schema import Drill
from simulations.faults import Guilt, spares


def guilty(drill: Drill, instances: Iterable[Instance]) -> tuple[Guilt, ...]:
    """Return who is at fault, one per service and fault, settings left out."""
    known = tuple(instances)
    found: list[Guilt] = []
    for entry in drill.spec.faults:
        where = None if entry.setting else place(entry.inject.fault)
        if where is None:
            continue
        struck = where.struck(known)
        for service in sorted({each.service for each in struck}):
            hit = frozenset(each.id for each in struck if each.service == service)
            whole = hit == {each.id for each in known if each.service == service}
            zones = {each.zone for each in struck if each.service == service}
            versions = {each.version for each in struck if each.service == service}
            found.append(
                Guilt(
                    service,
                    hit,
                    whole=whole,
                    version=next(iter(versions)) if len(versions) == 1 and not whole else "",
                    zone=next(iter(zones)) if len(zones) == 1 and not whole else "",
                )
            )
    return tuple(found)


def innocent(changes: Sequence[Change], guilt: Sequence[Guilt], may_touch: Iterable[str]) -> tuple[Change, ...]:
    """Return the changes that touch somebody who is not at fault."""
    allowed = set(may_touch)
    return tuple(c for c in changes if target(c) not in allowed and not any(spares(g, c) for g in guilt))


def explains(wanted: Wanted, cause: Cause) -> bool:
    """Tell whether a cause is one of those wanted."""
    return (
        cause.kind in wanted.kind
        and wanted.service in {"", cause.service}
        and (not wanted.subject or cause.subject in wanted.subject)
    )
