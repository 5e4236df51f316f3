"""Did the act hurt somebody else? Everyone whom neither the fault nor the act concerns is held to their own baseline.

A neighbour counts as hurt when it is clearly bad since the act took hold and was not before. Callers of the sick service
suffer from the fault itself and are spared, and so is whatever another open incident explains. When most of the mesh is
worse at once, something else is at work, and the act is not blamed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from agent import story
from agent.correlate import upstream
from agent.history import History
from agent.incidents import Incident, Step
from agent.verification import EARLIEST_BAD_S, BaselineOf
from models.detect.views import views
from models.domain import Topology
from models.incident import Cause
from models.signals import Outcomes, Series, Side
from models.verify import Worse, neighbours_worse

LEAST_LOOKED_AT: Final = 3
"""Of fewer neighbours than this, "most of the mesh" says nothing."""


def harmed(
    incident: Incident,
    step: Step,
    history: History,
    baseline: BaselineOf,
    *,
    topology: Topology,
    others: Iterable[Cause],
    start: float,
    now: float,
    sick: frozenset[Series],
) -> tuple[Worse, ...]:
    """Return the neighbours that are worse since the step took hold, worst first; none while it is too early to tell.

    `start` is from when on outcomes count as after the step (Unix s), `others` are the causes of the other open incidents; `sick` is what `ill` returned.
    """
    if incident.cause is None or now - start < EARLIEST_BAD_S:
        return ()
    concerned = {incident.cause.service, *step.verify_services, *(cause.service for cause in others)}
    concerned |= {caller for service in tuple(concerned) for caller in upstream(topology, service)}

    def spared(series: Series) -> bool:
        return series.callee in concerned or series in sick

    after = _edges(history.sums(history.on(Side.CLIENT), start, plainly=True))
    found = neighbours_worse(baseline, after, now - start, spared=spared)
    looked = sum(not spared(series) for series, outcomes in after.items() if outcomes.requests)
    hurt = len({worse.series for worse in found})
    return () if looked >= LEAST_LOOKED_AT and hurt * 2 > looked else found


def ill(incident: Incident, step: Step, history: History, baseline: BaselineOf) -> frozenset[Series]:
    """Return the edges that were clearly bad before the step was taken; it does not change any more."""
    before = _edges(history.sums(history.on(Side.CLIENT), incident.onset, step.acted_at, plainly=True))
    return frozenset(w.series for w in neighbours_worse(baseline, before, max(0.1, step.acted_at - incident.onset)))


def told(found: tuple[Worse, ...]) -> str:
    """Return the worst harm as a sentence."""
    worst = found[0]
    seen = story.figure(worst.judgement.observed, worst.signal)
    normal = story.figure(worst.judgement.expected, worst.signal)
    more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
    return f"made a neighbour worse: {worst.signal} of {story.place(worst.series)} {seen} instead of {normal}{more}"


def _edges(outcomes: Mapping[Series, Outcomes]) -> dict[Series, Outcomes]:
    """Return what callers got, per edge: the sums of what their sidecars reported."""
    found: dict[Series, Outcomes] = {}
    for series, seen in outcomes.items():
        for key in views(series):
            if key in found:
                found[key] += seen
            else:
                found[key] = seen
    return found
