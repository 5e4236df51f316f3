"""What an incident has a claim to: its symptoms, joined and said; the causes that are left to it; whether they are open to doubt."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable
from dataclasses import replace

from agent.incidents import Incident
from agent.track import Track
from models.incident import Anomaly, Cause, Stage
from playbooks.schema import Mode


def presentable(causes: tuple[Cause, ...]) -> tuple[Cause, ...]:
    """Return causes without the figures that JSON cannot say."""
    return tuple(replace(c, numbers={k: v for k, v in c.numbers.items() if math.isfinite(v)}) for c in causes)


def remaining(causes: tuple[Cause, ...], refuted: Collection[str]) -> tuple[Cause, ...]:
    """Return the causes that treatment has not refuted; the probability of those it has goes to the others."""
    left = [cause for cause in causes if cause.key not in refuted]
    total = math.fsum(cause.probability for cause in causes)
    share = math.fsum(cause.probability for cause in left)
    if len(left) == len(causes) or share <= 0.0:
        return tuple(left)
    return tuple(replace(cause, probability=cause.probability * total / share) for cause in left)


def thinks(track: Track) -> bool:
    """Tell whether the incident's cause is still open to discussion: until something is done about it."""
    open_to = track.incident.stage in {Stage.DETECTED, Stage.CORRELATED} or asks(track.incident)
    return open_to and not track.busy and not track.recover


def asks(incident: Incident) -> bool:
    """Tell whether a plan waits for a person's word (or only watches), with nothing done so far."""
    waits = incident.stage is Stage.PLANNED and incident.mode in {Mode.SHADOW, Mode.APPROVE}
    return waits and not incident.approved_by and not any(step.acted_at for step in incident.steps)


def without(pool: Iterable[Anomaly], mine: Iterable[Anomaly]) -> list[Anomaly]:
    """Return those of `pool` that are not among `mine`, which were taken from it."""
    taken = {id(a) for a in mine}
    return [a for a in pool if id(a) not in taken]


def joined(incident: Incident, anomalies: Iterable[Anomaly]) -> Incident:
    """Add anomalies, the strongest numbers of each winning."""
    known = {(a.series, a.signal): a for a in incident.anomalies}
    news = False
    for found in anomalies:
        before = known.get((found.series, found.signal))
        if found is not before and (before is None or found.score >= before.score):
            known[(found.series, found.signal)] = _sayable(found)
            news = True
    if not news:
        return incident
    return replace(incident, anomalies=tuple(known.values()))


def _sayable(anomaly: Anomaly) -> Anomaly:
    """Return the anomaly with 0 for what JSON cannot say (a percentile of nothing)."""
    if math.isfinite(anomaly.observed) and math.isfinite(anomaly.expected):
        return anomaly
    return replace(anomaly, observed=_finite(anomaly.observed), expected=_finite(anomaly.expected))


def _finite(value: float) -> float:
    return value if math.isfinite(value) else 0.0
