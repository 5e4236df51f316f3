"""Everything a report says of one drill, as plain data: made once from what was seen, kept as JSON, rendered from there.

Times are seconds from the onset (negative: before it). A series has one value per moment, None where nothing is known.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from agent.incidents import Incident, Step
from agent.story import deed, suspicion, symptom
from models.incident import Stage
from simulations.drills.seen import Mark, Sample, Seen
from simulations.drills.verdict import Check, Verdict, standing
from simulations.journal import Record

BIN_S: Final = 0.5
SHOWN: Final = 6
"""Most services in one chart: those that suffered most."""

_KINDS: Final = ("onset", "detected", "acted", "verified", "escalated", "approved", "aborted")


@dataclass(frozen=True, slots=True)
class Series:
    """One line of a chart."""

    name: str
    at: tuple[float, ...]
    values: tuple[float | None, ...]


@dataclass(frozen=True, slots=True)
class Moment:
    """Something that happened."""

    at: float
    kind: str
    text: str


@dataclass(frozen=True, slots=True)
class Case:
    """One incident: what was seen, what was thought, what was done, and how it went."""

    name: str
    title: str
    stage: str
    playbook: str
    evidence: tuple[str, ...]
    causes: tuple[str, ...]
    considered: tuple[str, ...]
    actions: tuple[str, ...]
    story: tuple[Moment, ...]


@dataclass(frozen=True, slots=True)
class Users:
    """What users saw while it lasted: how many requests, how many missed their objective, and as what."""

    requests: int
    lost: int
    kinds: tuple[tuple[str, int], ...]


@dataclass(frozen=True, slots=True)
class Told:
    """One drill. `began` is Unix time; the `…_s` are None when it did not happen."""

    name: str
    topic: str
    description: str
    passed: bool
    phase: str
    why: str
    began: float
    lasted_s: float
    steady: str
    outcome: str
    cause: str
    playbook: str
    detected_s: float | None
    acted_s: float | None
    mitigated_s: float | None
    recovered_s: float | None
    faults: tuple[str, ...]
    checks: tuple[Check, ...]
    moments: tuple[Moment, ...]
    users: Users
    cases: tuple[Case, ...]
    actions: tuple[str, ...]
    innocents: tuple[str, ...]
    served: tuple[Series, ...]
    errors: tuple[Series, ...]
    latency: tuple[Series, ...]
    traffic: tuple[Series, ...]
    recording: str = ""


def told(verdict: Verdict) -> Told:
    """Return what a report says of a drill."""
    seen = verdict.seen
    zero = seen.onset or seen.began
    incident = verdict.incident
    return Told(
        name=seen.drill.name,
        topic=seen.drill.topic,
        description=seen.drill.spec.description,
        passed=verdict.passed,
        phase=str(seen.phase),
        why=seen.why,
        began=seen.began,
        lasted_s=round(max(0.0, seen.ended - seen.onset), 3),
        steady=standing(seen.drill.spec.steady_state),
        outcome=str(verdict.outcome or ""),
        cause=str(incident.cause) if incident and incident.cause else "",
        playbook=incident.playbook if incident else "",
        detected_s=_rounded(verdict.detected_s),
        acted_s=_rounded(verdict.acted_s),
        mitigated_s=_rounded(verdict.mitigated_s if seen.onset else None),
        recovered_s=_rounded(seen.recovered_at - zero if seen.recovered_at else None),
        faults=tuple(_fault(seen, k) for k in range(len(seen.drill.spec.faults))),
        checks=verdict.checks,
        moments=tuple(_moment(mark, zero) for mark in sorted(seen.marks, key=lambda m: m.at)),
        users=_users(verdict.during),
        cases=tuple(_case(each, zero) for each in seen.incidents),
        actions=tuple(f"{verdict.laid_at(o) - zero:+.2f} s  {deed(o.change)}" for o in seen.overlays),
        innocents=tuple(deed(o.change) for o in verdict.innocent),
        served=_served(seen.records, zero),
        errors=_signal(seen.samples, zero, "error_ratio"),
        latency=_signal(seen.samples, zero, "p99_s"),
        traffic=_signal(seen.samples, zero, "rps"),
        recording=seen.recording,
    )


def _fault(seen: Seen, k: int) -> str:
    entry = seen.drill.spec.faults[k]
    when = "before it begins" if entry.setting else f"at {entry.at:g} s"
    until = f", for {entry.lasts:g} s" if entry.lasts else ""
    ramp = f", growing over {entry.ramp:g} s" if entry.ramp else ""
    return f"{when}{until}{ramp}: {entry.inject.fault}"


def _moment(mark: Mark, zero: float) -> Moment:
    return Moment(round(mark.at - zero, 3), mark.kind, mark.text)


def _users(during: Sequence[Record]) -> Users:
    kinds: dict[str, int] = defaultdict(int)
    for record in during:
        if record.missed:
            late = record.status and record.status < 500  # noqa: PLR2004 - HTTP's own boundary
            kinds["too late" if late else f"HTTP {record.status}" if record.status else "no answer"] += 1
    lost = sum(kinds.values())
    return Users(len(during), lost, tuple(sorted(kinds.items(), key=lambda pair: -pair[1])))


def _case(incident: Incident, zero: float) -> Case:
    return Case(
        name=incident.id,
        title=incident.title,
        stage=str(incident.stage),
        playbook=f"{incident.playbook} ({incident.mode})" if incident.playbook else "",
        evidence=tuple(symptom(a) for a in sorted(incident.anomalies, key=lambda a: -a.score)[:SHOWN]),
        causes=tuple(
            line for c in incident.causes[:3] for line in (suspicion(c), *(f"    {e}" for e in c.evidence[1:]))
        ),
        considered=tuple(f"{'√' if w.accepted else '–'} {w.playbook}: {w.reason}" for w in incident.considered),
        actions=tuple(_action(step, zero) for step in incident.steps if step.acted_at),
        story=tuple(Moment(round(m.at - zero, 3), str(m.stage), m.message) for m in incident.history),
    )


def _action(step: Step, zero: float) -> str:
    wire = f", on the wire after {1000 * (step.acked_at - step.acted_at):.0f} ms" if step.acked_at else ""
    proof = f": {step.verdict}" if step.verdict else ""
    return f"{step.acted_at - zero:+.2f} s  {deed(step.change)} ({step.name}{wire}){proof}"


def _served(records: Iterable[Record], zero: float) -> tuple[Series, ...]:
    """Users' experience: the share of good requests and how many there were, by when they saw the outcome."""
    good: dict[int, list[bool]] = defaultdict(list)
    for record in records:
        good[math.floor((record.seen - zero) / BIN_S)].append(not record.missed)
    if not good:
        return ()
    bins = range(min(good), max(good))  # the last one is not whole
    at = tuple(round((k + 0.5) * BIN_S, 3) for k in bins)
    share = tuple(round(sum(good[k]) / len(good[k]), 4) if good[k] else None for k in bins)
    return (Series("users", at, share),)


def _signal(samples: Sequence[Sample], zero: float, name: str) -> tuple[Series, ...]:
    """One golden signal of the services in which it changed most, worst first."""
    services = sorted({service for sample in samples for service in sample.services})
    found: list[tuple[float, Series]] = []
    for service in services:
        at, values = [], []
        for sample in samples:
            golden = sample.services.get(service)
            value = getattr(golden, name) if golden is not None else None
            at.append(round(sample.at - zero, 3))
            values.append(None if value is None else round(float(value), 6))
        known = [v for v in values if v is not None]
        before = [v for t, v in zip(at, values, strict=True) if v is not None and t <= 0]
        usual = sum(before) / len(before) if before else 0.0
        change = max((abs(v - usual) for v in known), default=0.0)
        found.append((change, Series(service, tuple(at), tuple(values))))
    found.sort(key=lambda pair: -pair[0])
    return tuple(series for _, series in found[:SHOWN])


def markers(drill: Told) -> tuple[Moment, ...]:
    """Return the moments that charts are marked with: the first of each kind, and when users were well again."""
    first: dict[str, Moment] = {}
    for moment in drill.moments:
        if moment.kind in _KINDS:
            first.setdefault(moment.kind, moment)
    if drill.mitigated_s:
        first["recovered"] = Moment(drill.mitigated_s, "recovered", "users are well again")
    if drill.lasted_s:
        first["undone"] = Moment(drill.lasted_s, "undone", "faults are taken back")
    return tuple(sorted(first.values(), key=lambda m: m.at))


def closed(case: Case) -> bool:
    """Tell whether an incident ended well or was handed to a person."""
    return case.stage in {Stage.RESOLVED, Stage.ESCALATED, Stage.OBSERVED}


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)
