"""Did it help? The affected signal after the action against its own baseline, over what users of the service got.

The sample starts once late news cannot reach it: after the sidecars confirmed, one telemetry flush later, and after
requests that were already in flight have ended.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Final

import numpy as np

from agent.history import History
from agent.incidents import Incident, Step
from models.detect import Baseline
from models.detect.views import views
from models.frame import Frame
from models.incident import Cause, Signal
from models.overlay import slot
from models.signals import BUCKETS, Outcomes, Series, Side, percentile
from models.telemetry import FLUSH_S
from models.verify import Judgement, Verdict, bad_of, judge

SETTLING_S: Final = FLUSH_S + 0.15
"""One telemetry period and its transport, seconds: what arrives within it may have happened before the action."""

IN_FLIGHT_S: Final = 3.0
"""Requests in flight are waited for at most this long."""

TIMED_OUT: Final = ("UT", "DT")
"""Envoy's response flags of requests that ended because time ran out: the callee's, or the request's as a whole."""

TIMED_OUT_SHARE: Final = 0.25
"""Share of the failures that must have timed out for the fault to be one that lets requests hang."""

EARLIEST_BAD_S: Final = 1.0
"""A step is never called useless on less than this much evidence."""

BaselineOf = Callable[[Series, Signal], Baseline | None]


def in_flight_s(incident: Incident, step: Step, history: History) -> float:
    """Return how long requests that started before the step may still come in, seconds: what the slow ones took, and what
    those waited for that nobody answered (they end in a time-out).
    """
    slow = [2 * a.observed for a in incident.anomalies if a.signal is Signal.LATENCY]
    services = _services(incident, step)
    seen = _after(history, incident.onset, services, Side.CLIENT)
    if TIMED_OUT_SHARE * seen.errors <= sum(seen.flags.get(flag, 0) for flag in TIMED_OUT) > 0:
        slow.append(percentile(seen.latency, 1.0))
    return min(IN_FLIGHT_S, max((s for s in slow if math.isfinite(s)), default=0.0))


def sample_start(step: Step, in_flight_s: float, late_s: float = 0.0) -> float:
    """Return from when on (arrival time, Unix s) outcomes count as after the action.

    `in_flight_s` is how long requests from before it may still come in, `late_s` how much later than usual telemetry has been coming
    since: what arrives then may be as old.
    """
    return step.acked_at + SETTLING_S + late_s + in_flight_s


def judge_step(
    incident: Incident, step: Step, history: History, baseline: BaselineOf, now: float, *, start: float
) -> Judgement | None:
    """Return the judgement over everything seen since `start` (see `sample_start`); None before there can be one."""
    cause = incident.cause
    if cause is None or now <= start:
        return None
    services = _services(incident, step)
    signal = step.verify_signal or cause.signal
    side = _side(history, services)
    normal = _normal(history, services, side, signal, baseline)
    if normal is None:
        return None
    fault = _after(history, incident.onset, services, side, step.acked_at)
    spoilt, seen = bad_of(normal, fault, signal)
    bad, dosed = spoilt / seen if seen else None, _larger(incident, step)
    whole = judge(normal, _after(history, start, services, side), signal, now - start, anomalous=bad, dosed=dosed)
    if whole.verdict is not Verdict.STILL_BAD:
        return whole
    # a bad beginning may weigh on the whole: the newer half has the last word
    middle = start + (now - start) / 2
    recent = judge(normal, _after(history, middle, services, side), signal, now - middle, anomalous=bad, dosed=dosed)
    return whole if recent.verdict is Verdict.STILL_BAD else recent


def useless(step: Step, judgement: Judgement | None, start: float, now: float) -> str:
    """Return why a step is to be given up by now, "" while it may still prove itself; `start` as from `sample_start`.

    An undecided verification in which nothing looks bad may take twice the deadline.
    """
    bad = judgement is not None and judgement.verdict is Verdict.STILL_BAD
    if bad and now >= start + EARLIEST_BAD_S:
        return "did not help"
    if now >= start + step.verify_deadline_s and (bad or now - start >= 2 * step.verify_deadline_s):
        seen = "no traffic to judge by" if judgement is None or not judgement.requests else "not proven in time"
        return f"not verified within {now - step.acked_at:.0f} s ({seen})"
    return ""


def baseline_of_step(incident: Incident, step: Step, history: History, baseline: BaselineOf) -> Baseline | None:
    """Return the normal that a step's requests are held to, None when it is not known."""
    cause = incident.cause
    if cause is None:
        return None
    services = _services(incident, step)
    return _normal(history, services, _side(history, services), step.verify_signal or cause.signal, baseline)


def looks_bad(cause: Cause, outcomes: Frame, expected: float) -> bool:
    """Tell whether users of the cause's service still saw the fault in these outcomes (a quick look, not a test).

    `expected` is the signal's normal value (ratio or seconds). Only for the story's "users were well again at".
    """
    seen = Outcomes()
    for position in outcomes.towards(cause.service):
        if outcomes.names[position].side is Side.CLIENT:
            seen += outcomes.at(position)
    if not seen.requests:
        return False
    match cause.signal:
        case Signal.ERRORS:
            return seen.error_ratio > max(0.02, 3 * expected)
        case Signal.LATENCY:
            return percentile(seen.latency, 0.9) > max(0.01, 3 * expected)
        case _:
            return False


def pooled(baselines: Iterable[Baseline | None], signal: Signal) -> Baseline | None:
    """Return the normal of several series together, weighted by their evidence; None when there is none."""
    known = [b for b in baselines if b is not None and b.requests > 0]
    total = sum(b.requests for b in known)
    if not known or total <= 0:
        return None
    latency = np.zeros(BUCKETS, dtype=np.float64)
    for one in known:
        latency = latency + one.latency
    return Baseline(
        signal=signal,
        error_ratio=sum(b.error_ratio * b.requests for b in known) / total,
        latency=latency,
        p50_s=_weighted([(b.p50_s, b.requests) for b in known]),
        p99_s=max((b.p99_s for b in known if not math.isnan(b.p99_s)), default=float("nan")),
        rps=sum(b.rps for b in known),
        requests=total,
    )


def _weighted(pairs: list[tuple[float, float]]) -> float:
    known = [(value, weight) for value, weight in pairs if not math.isnan(value)]
    total = sum(weight for _, weight in known)
    return sum(value * weight for value, weight in known) / total if total else float("nan")


def _larger(incident: Incident, step: Step) -> bool:
    """Tell whether the plan has a larger dose of the same act left."""
    return any(slot(later.change) == slot(step.change) for later in incident.steps[incident.step + 1 :])


def _services(incident: Incident, step: Step) -> frozenset[str]:
    """Return the services whose requests tell whether the step helped."""
    return frozenset(step.verify_services) or frozenset({incident.cause.service} if incident.cause else ())


def _side(history: History, services: frozenset[str]) -> Side:
    """Return where to look: at the callers, or at the service itself when nobody in the mesh calls it."""
    return Side.CLIENT if history.series(Side.CLIENT, services) else Side.SERVER


def _normal(
    history: History, services: frozenset[str], side: Side, signal: Signal, baseline: BaselineOf
) -> Baseline | None:
    keys = {view for series in history.series(side, services) for view in views(series)}
    return pooled((baseline(key, signal) for key in sorted(keys)), signal)


def _after(history: History, start: float, services: frozenset[str], side: Side, end: float = math.inf) -> Outcomes:
    return history.total(start, lambda series: series.side is side, end, of=lambda: history.towards(services))
