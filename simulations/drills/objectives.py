"""Does an objective hold now, and when were users well again? Pure functions of what was seen."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from playbooks.units import percent, span
from simulations.drills.schema import Objective
from simulations.drills.seen import Sample
from simulations.journal import Record

TRAIL_S: Final = 1.0
"""How far back users' experience is looked at when it is asked whether they are well."""

LEAST_SEEN: Final = 5
"""An objective over fewer requests than this says nothing."""

_UNKNOWN: Final = "too little is known of"


def failing(objective: Objective, records: Sequence[Record], samples: Sequence[Sample], now: float) -> str:
    """Return why an objective does not hold at `now` (Unix s), "" when it does.

    Users are judged by what they saw within the last seconds, services by their latest sample.
    """
    return _users(objective, records, now) if objective.users else _service(objective, samples, now)


def unseen(samples: Sequence[Sample], now: float) -> str:
    """Return what the agent does not see at `now` (Unix s), "" when it sees everything."""
    if not samples or samples[-1].at < now - 2 * TRAIL_S:
        return "the agent does not answer"
    blind = samples[-1].blind
    return f"the agent cannot trust the telemetry of {', '.join(blind)}" if blind else ""


def unknown(why: str) -> bool:
    """Tell whether `failing` only says that too little was seen."""
    return why.startswith(_UNKNOWN)


def _users(objective: Objective, records: Sequence[Record], now: float) -> str:
    seen = [r for r in records if now - objective.over <= r.seen <= now]
    if len(seen) < LEAST_SEEN:
        return f"{_UNKNOWN} users: {len(seen)} requests in {span(objective.over)}"
    good = 1 - sum(r.missed for r in seen) / len(seen)
    return "" if good >= objective.good else f"users: {percent(good)} good, {percent(objective.good)} wanted"


def _service(objective: Objective, samples: Sequence[Sample], now: float) -> str:
    golden = samples[-1].services.get(objective.service) if samples else None
    if golden is None or samples[-1].at < now - 2 * TRAIL_S:
        return f"{_UNKNOWN} {objective.service}: no news"
    if golden.requests < LEAST_SEEN:
        return f"{_UNKNOWN} {objective.service}: {golden.requests} requests"
    good = 1 - golden.error_ratio
    if good < objective.good:
        return f"{objective.service}: {percent(good)} good, {percent(objective.good)} wanted"
    slow = golden.p99_s or 0.0
    if objective.p99 and slow > objective.p99:
        return f"{objective.service}: p99 {span(slow)}, at most {span(objective.p99)} wanted"
    return ""


def well_again(records: Iterable[Record], onset: float, until: float, good: float) -> float | None:
    """Return how long after `onset` users were well for good (seconds; 0: they always were), None when they were not.

    They are unwell at a request's end when it missed its objective and more than the share `1 - good` of what they saw in
    the second before did; one miss alone is nobody's fault. The last such moment counts, and `until` must be more than
    two trails away from it.
    """
    seen = sorted((r for r in records if onset - TRAIL_S <= r.seen <= until), key=lambda r: r.seen)
    last = 0.0
    first, missed = 0, 0
    for k, record in enumerate(seen):
        missed += record.missed
        while seen[first].seen <= record.seen - TRAIL_S:
            missed -= seen[first].missed
            first += 1
        if record.missed and record.seen >= onset and missed > 1 and missed / (k + 1 - first) > 1 - good:
            last = record.seen - onset
    return None if last > until - onset - 2 * TRAIL_S else last


def loosest(objectives: Sequence[Objective]) -> float:
    """Return the least share of good requests (0–1) that is promised to users; 0.95 where nothing is."""
    return min((each.good for each in objectives if each.users), default=0.95)


def services_well_again(
    objectives: Sequence[Objective], samples: Sequence[Sample], onset: float, until: float
) -> float | None:
    """Return the same by what services' callers saw, for meshes whose users cannot be asked: the last missed objective."""
    last = 0.0
    for k, sample in enumerate(samples):
        if onset <= sample.at <= until and any(
            (why := failing(objective, (), samples[: k + 1], sample.at)) and not unknown(why)
            for objective in objectives
        ):
            last = sample.at - onset
    return None if last > until - onset - 2 * TRAIL_S else last
