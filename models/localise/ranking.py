"""From symptoms everywhere to causes, best first.

One fault is assumed to explain the incident; the posterior then is a softmax over services of how much better "this
service is faulty itself" explains its counts than "it only passes on what its own callees did to it" — all other terms
of the two joint likelihoods cancel. The second hypothesis lets an unknown share of the callees' failures through (for
latency: in so far as the waiting for callees accounts for the extra time). Several simultaneous faults share the mass.
Within the service, `models.localise.hypotheses` compares its parts.

Cf. PC-free graph localisers such as MicroRCA and the Bayesian comparison in Ikram et al. (2022, RCD); here the graph is
known, so no structure is learnt.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from scipy import special

from models.detect.baseline import FloatArray
from models.domain import Edge, Instance
from models.incident import Cause, CauseKind, Signal
from models.localise.evidence import Evidence, Sight, read, reporting, sights
from models.localise.hypotheses import CHANGE_WINDOW_S, Part, parts
from models.localise.likelihood import explained, faulty, healthy, shrink
from models.localise.neighbourhood import neighbourhood
from models.localise.tallies import Row, Tally
from models.localise.words import sentences

CERTAIN: Final = 12.0
"""Evidence between services saturates here (nats): models are wrong sooner than 1 in 160 000."""

SIGNIFICANT: Final = 3.0
"""Nats by which a service must be worse than its baseline to be a suspect."""

GLOBAL_SERVICES: Final = 5
GLOBAL_LEAST: Final = 3
"""`global` wants this many services seen, and this many bad by themselves."""

GLOBAL_SHARE: Final = 0.65
"""Share of the bad-by-themselves among them and the well at which `global` is as likely as not."""

GLOBAL_STEEP: Final = 20.0
GLOBAL_MOST: Final = 0.97
HALF: Final = 0.5

WAITING: Final = 0.5
"""Callees explain slowness fully when the time spent waiting on them is at least this share of the extra time."""

SEEN_BY_MEMBERS: Final = 0.5
"""Share of a service's excess that its members must show to be judged one by one."""

LEAST: Final = 1e-3
MOST: Final = 12
CALLER_BONUS: Final = 1.0
CALLER_PRIOR: Final = 0.1
CALLER_MOST: Final = 0.75


@dataclass(frozen=True, slots=True)
class Suspect:
    """A service that is worse than its baseline: evidence in nats that it is bad, and bad by itself.

    `parts` are the hypotheses about which of its parts is bad, `passed` the share of its requests that its callees'
    trouble accounts for. `blamed_on` is the caller that may be the only one to meet failures ("": nobody), with
    probability `blame` given that the fault is not a callee's of this service.
    """

    sight: Sight
    signal: Signal
    parts: tuple[Part, ...]
    worse: float
    itself: float
    passed: float
    blamed_on: str
    blame: float


def localise(evidence: Evidence) -> tuple[Cause, ...]:
    """Return the causes of an incident, most probable first; probabilities add to at most 1, empty without anomalies."""
    signals = sorted({a.signal for a in evidence.anomalies} & {Signal.ERRORS, Signal.LATENCY})
    suspects: list[Suspect] = []
    everything: dict[Signal, dict[str, Sight]] = {}
    rows = read(evidence, neighbourhood(evidence))
    slow = sights(evidence, Signal.LATENCY, rows)
    for signal in signals:
        seen = slow if signal is Signal.LATENCY else sights(evidence, signal, rows)
        everything[signal] = seen
        suspects += _suspects(evidence, seen, slow, signal)
    if not suspects:
        return _fallback(evidence)
    causes: list[Cause] = []
    hidden = _hidden(evidence, rows)
    for suspect, weight in zip(suspects, _posterior(suspects).tolist(), strict=True):
        own = suspect.sight.own
        answers = own.unreachable < HALF * own.bad  # who gives no answer at all passes none of his callees' on
        unseen = hidden.get(suspect.sight.service, ()) if answers else ()
        causes += [_unseen_cause(suspect, callee, weight / (len(unseen) + 1)) for callee in unseen]
        causes += _causes(evidence, suspect, weight / (len(unseen) + 1), everything[suspect.signal])
    merged = _merge(causes)
    return _with_global(evidence, suspects, everything, merged)[:MOST]


def _hidden(evidence: Evidence, rows: tuple[Row, ...]) -> dict[str, tuple[str, ...]]:
    """Return the callees of which nothing is seen, by caller, for callers whose own sidecars report nothing.

    Such a caller cannot be told from a victim of its unseen callees: each is as likely as the caller itself.
    """
    heard, seen = reporting(rows), {s.callee for s, _, _ in rows}
    blind = seen - heard
    found: dict[str, list[str]] = {}
    for edge in sorted(e for e in evidence.topology.edges if e.caller in blind and e.callee not in seen):
        found.setdefault(edge.caller, []).append(edge.callee)
    return {caller: tuple(callees) for caller, callees in found.items()}


def _unseen_cause(suspect: Suspect, callee: str, probability: float) -> Cause:
    caller = suspect.sight.service
    own = suspect.sight.own
    text = (
        f"{caller} is bad for {own.bad:.0f} of {own.total:.0f} requests ({own.ratio:.1%}) and its sidecars report nothing; "
        f"nothing is seen of {callee} either, which it calls and which may be the reason."
    )
    return Cause(CauseKind.SERVICE, callee, "", suspect.signal, probability, Edge(caller, callee), (text,))


def _suspects(evidence: Evidence, seen: dict[str, Sight], slow: dict[str, Sight], signal: Signal) -> list[Suspect]:
    suspects = []
    known: dict[str, list[Instance]] = {}
    for instance in evidence.topology.instances:
        if instance.service in seen:
            known.setdefault(instance.service, []).append(instance)
    for name, sight in seen.items():
        views = [v for v in (sight.attempts, sight.served, sight.clients) if v.total]
        own = max(views, key=lambda v: v.excess / max(1.0, v.total), default=Tally())
        if own.excess <= 0:
            continue
        found = parts(sight, signal, known.get(name, ()), evidence.changes, evidence.onset)
        groups = [m.counts for m in sight.members.values()]
        if sum(g.excess for g in groups) < SEEN_BY_MEMBERS * own.excess:
            groups = [own]
        scale = shrink(sum(g.total for g in groups))
        well = healthy(groups, scale)
        sick = max(
            float(special.logsumexp([p.nats for p in found])) if len(groups) > 1 else -math.inf, faulty(groups, scale)
        )
        passed = _passed(sight, own, signal, slow.get(name))
        theirs = explained(groups, passed, scale)
        worse, itself = max(sick, theirs) - well, sick - max(theirs, well)
        if worse < SIGNIFICANT:
            continue
        suspects.append(Suspect(sight, signal, found, worse, itself, passed, *_one_caller(sight, found)))
    return suspects


def _passed(sight: Sight, own: Tally, signal: Signal, slow: Sight | None) -> float:
    """Return the share (0–1) of this service's requests that a callee's trouble accounts for."""
    total = max(sight.served.total, 1.0) if sight.served.total else max(own.total, 1.0)
    if signal is Signal.LATENCY:
        return _waited(sight, own, total)
    failed = sum(t.excess for name, t in sight.asked.items() if name != sight.service)
    passed = failed / total
    if slow is not None and own.timeouts >= 0.5 * own.bad:  # cut off while waiting
        passed += _waited(slow, slow.own, total)
    return min(1.0, passed)


def _waited(sight: Sight, own: Tally, total: float) -> float:
    delayed = [t for name, t in sight.asked.items() if name != sight.service and t.excess > 0]
    if not delayed or own.delay_s <= 0:
        return 0.0
    per_request = own.delay_s / max(own.total, 1.0)
    waiting = sum(t.delay_s for t in delayed) / total
    accounted = min(1.0, waiting / (WAITING * per_request)) if per_request > 0 else 0.0
    # many calls per request multiply the chance that one of them was slow
    return min(1.0, 1.5 * sum(t.excess for t in delayed) / total) * accounted


def _one_caller(sight: Sight, found: tuple[Part, ...]) -> tuple[str, float]:
    """Return the caller that alone meets failures while others do not, and the probability of that ("" and 0: none).

    Compared with every hypothesis about parts of the callee, which may explain the same counts. At most `CALLER_MOST`:
    a fault of the callee that only one caller's kind of request meets looks the same.
    """
    views = {c: t for c, t in sight.attempts_of.items() if c and t.total}
    if len(views) < 2:  # noqa: PLR2004
        return "", 0.0
    scale = shrink(sum(t.total for t in views.values()))
    nats = {}
    for caller, counts in views.items():
        if counts.excess > 0:
            others = [t for c, t in views.items() if c != caller]
            nats[caller] = faulty([counts], scale) + healthy(others, scale) + math.log(CALLER_PRIOR / len(views))
    if not nats:
        return "", 0.0
    callers = list(nats)
    shares = special.softmax(np.asarray([nats[c] for c in callers] + [p.nats for p in found]))[: len(callers)]
    best = int(np.argmax(shares))
    return callers[best], CALLER_MOST * float(shares[best])


def _posterior(suspects: list[Suspect]) -> FloatArray:
    """Return the probability of each suspect, leaving room for a cause that nobody suspects."""
    nats = np.asarray([CERTAIN * (1 - math.exp(-s.itself / CERTAIN)) if s.itself > 0 else s.itself for s in suspects])
    size = np.asarray([0.25 * math.log1p(s.sight.own.excess) for s in suspects])
    errors_first = np.asarray([0.3 if s.signal is Signal.ERRORS else 0.0 for s in suspects])
    weights: FloatArray = special.softmax(np.append(nats + size + errors_first, 0.0))
    return weights[:-1]


def _causes(evidence: Evidence, suspect: Suspect, weight: float, seen: dict[str, Sight]) -> list[Cause]:
    sight = suspect.sight
    shares = special.softmax(np.asarray([p.nats for p in suspect.parts]))
    edge = _worst_edge(sight)
    causes = []
    if suspect.blamed_on and weight * suspect.blame >= LEAST:
        causes.append(_caller_cause(evidence, suspect, weight * suspect.blame))
        weight *= 1 - suspect.blame
    for part, share in zip(suspect.parts, shares.tolist(), strict=True):
        probability = weight * share
        if probability < LEAST:
            continue
        causes.append(
            Cause(
                kind=part.kind,
                service=sight.service,
                subject=part.subject,
                signal=suspect.signal,
                probability=probability,
                edge=edge,
                evidence=sentences(sight, suspect.signal, part, passed=suspect.passed, seen=seen, onset=evidence.onset),
                numbers=_numbers(part, suspect),
                changes=part.changes,
            )
        )
    return causes


def _caller_cause(evidence: Evidence, suspect: Suspect, probability: float) -> Cause:
    """Build the cause that lives in the one caller whose requests fail; its version when only one of them is hit."""
    caller, callee = suspect.blamed_on, suspect.sight.service
    split = {v: t for (c, v), t in suspect.sight.by_caller_version.items() if c == caller}
    version = ""
    if len(split) > 1:
        scale = shrink(sum(t.total for t in split.values()))
        scored = {
            v: faulty([t], scale) + healthy([o for w, o in split.items() if w != v], scale) for v, t in split.items()
        }
        best = max(sorted(scored), key=lambda v: scored[v])
        if scored[best] > faulty(list(split.values()), scale) + CALLER_BONUS:
            version = best
    counts = suspect.sight.attempts_of[caller]
    text = (
        f"{callee} answers only {caller} badly: {counts.bad:.0f} of {counts.total:.0f} requests ({counts.ratio:.1%}); "
        f"its other callers are well."
    )
    return Cause(
        kind=CauseKind.VERSION if version else CauseKind.SERVICE,
        service=caller,
        subject=version,
        signal=suspect.signal,
        probability=probability,
        edge=Edge(caller, callee),
        evidence=(text,),
        numbers={"bad": counts.bad, "requests": counts.total, "ratio": counts.ratio, "normal": counts.normal},
        changes=tuple(c for c in evidence.changes if c.service == caller),
    )


def _numbers(part: Part, suspect: Suspect) -> dict[str, float]:
    return {
        "bad": part.bad.bad,
        "requests": part.bad.total,
        "ratio": part.bad.ratio,
        "normal": part.bad.normal,
        "rest_ratio": part.rest.ratio,
        "rest_requests": part.rest.total,
        "explained_by_callees": suspect.passed,
        "nats": suspect.itself,
    }


def _worst_edge(sight: Sight) -> Edge | None:
    views = sight.by_caller or sight.attempts_by_caller
    named = [(t.excess, caller) for caller, t in views.items() if caller]
    if not named:
        return None
    return Edge(max(named, key=lambda x: (x[0], x[1]))[1], sight.service)


def _merge(causes: list[Cause]) -> list[Cause]:
    """Join causes of the same part seen in two signals: probabilities add, the stronger signal gives the words."""
    merged: dict[tuple[CauseKind, str, str], Cause] = {}
    for cause in sorted(causes, key=lambda c: (-c.probability, c.service, c.subject, c.kind, c.signal)):
        key = (cause.kind, cause.service, cause.subject)
        first = merged.get(key)
        merged[key] = cause if first is None else _joined(first, cause)
    return sorted(merged.values(), key=lambda c: (-c.probability, c.service, c.subject, c.kind))


def _joined(first: Cause, second: Cause) -> Cause:
    return Cause(
        kind=first.kind,
        service=first.service,
        subject=first.subject,
        signal=first.signal,
        probability=min(1.0, first.probability + second.probability),
        edge=first.edge,
        evidence=first.evidence + tuple(s for s in second.evidence if s not in first.evidence),
        numbers=first.numbers,
        changes=first.changes,
    )


def _with_global(
    evidence: Evidence, suspects: list[Suspect], everything: dict[Signal, dict[str, Sight]], causes: list[Cause]
) -> tuple[Cause, ...]:
    """Weigh `global` against every cause within the mesh: many services bad by themselves, hardly any well.

    One fault leaves those well that do not depend on it; a starved host or a broken network leaves nobody well. Services
    whose callees account for their trouble speak for neither.
    """
    best, chance = None, 0.0
    for signal, seen in everything.items():
        bad = [s for s in suspects if s.signal is signal]
        alone = [s for s in bad if s.itself > SIGNIFICANT and s.blame < HALF and s.passed < HALF]
        well = len(seen) - len(bad)
        if len(seen) < GLOBAL_SERVICES or len(alone) < GLOBAL_LEAST:
            continue
        share = len(alone) / (len(alone) + well)
        likely = GLOBAL_MOST * float(special.expit(GLOBAL_STEEP * (share - GLOBAL_SHARE)))
        if likely > chance:
            best, chance = _global_cause(evidence, signal, len(alone), well, likely), likely
    if best is None or chance < LEAST:
        return tuple(causes)
    rest = [replace(c, probability=c.probability * (1 - chance)) for c in causes]
    return tuple(sorted([best, *rest], key=lambda c: -c.probability))


def _global_cause(evidence: Evidence, signal: Signal, alone: int, well: int, chance: float) -> Cause:
    text = f"{alone} services show {signal} of their own at once and {well} of those seen are well; no single one explains the others."
    near = tuple(c for c in evidence.changes if not c.service and 0 <= evidence.onset - c.at <= CHANGE_WINDOW_S)
    numbers = {"services": float(alone), "well": float(well), "share": alone / (alone + well)}
    said = (
        text,
        *(f"{evidence.onset - c.at:.1f} s before the onset: {c.kind} of {c.subject} ({c.message})." for c in near),
    )
    return Cause(CauseKind.GLOBAL, "", "", signal, chance, None, said, numbers, near)


def _only(sick: set[str], siblings: set[str]) -> str:
    """Return the only one of several siblings that is sick, "" when there is none or more than one, or it has no siblings."""
    named = sick - {""}
    return next(iter(named)) if len(named) == 1 and len(siblings) > 1 else ""


def _fallback(evidence: Evidence) -> tuple[Cause, ...]:
    """Name what the detectors saw when the counts prove nothing: weak, and said so.

    Where only one version of several left its baseline, it is the version; where only one instance did, the instance.
    """
    found: dict[str, Cause] = {}
    for anomaly in sorted(evidence.anomalies, key=lambda a: (-a.score, a.series, a.signal)):
        service = anomaly.series.callee
        if not service or service in found:
            continue
        own = [a.series for a in evidence.anomalies if a.series.callee == service]
        placed = evidence.topology.of(service)
        version = _only({series.version for series in own}, {i.version for i in placed})
        instance = "" if version else _only({series.instance for series in own}, {i.id for i in placed})
        name = " ".join(part for part in (service, version, instance) if part)
        text = (
            f"{anomaly.signal} of {name} left its baseline ({anomaly.observed:.3g}, normally {anomaly.expected:.3g}), "
            "but the counts since the onset do not say where the fault lives."
        )
        kind = CauseKind.VERSION if version else CauseKind.INSTANCE if instance else CauseKind.SERVICE
        found[service] = Cause(kind, service, version or instance, anomaly.signal, 0.0, None, (text,))
    share = 0.5 / len(found) if found else 0.0
    return tuple(
        Cause(c.kind, c.service, c.subject, c.signal, share, c.edge, c.evidence, c.numbers, c.changes)
        for c in found.values()
    )
