"""The localiser port over `models.localise`: gathers the evidence the model asks for."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import accumulate
from typing import Final

from agent.history import History
from agent.mesh import MeshView
from agent.ports import Detector, Diagnosis, Since
from models.detect import Baseline
from models.incident import Anomaly, Signal
from models.localise import Evidence, localise
from models.localise.neighbourhood import neighbourhood
from models.signals import Outcomes, Series
from models.telemetry import FLUSH_S

MIXED_S: Final = FLUSH_S
"""Reports of the first flush after the onset tell of requests before it too: left out once there are later ones."""

EPSILON_S: Final = 0.001
"""What arrived at the very moment of the onset belongs to the time before."""

EPSILON_SCORE: Final = 1e-6

LOOK_BACK_S: Final = 30.0
"""Evidence older than this says little about now."""


class MeshLocaliser:
    """Names causes from the detectors' baselines and what the control plane knows."""

    def __init__(self, detector: Detector, mesh: MeshView) -> None:
        self._detector = detector
        self._mesh = mesh

    def __call__(self, anomalies: tuple[Anomaly, ...], since: Since, now: float) -> Diagnosis:
        """Return the suspects behind `anomalies`, best first, with all that was looked at."""
        onset = max(beginning(anomalies), now - LOOK_BACK_S)
        start = onset + MIXED_S if now - onset > 1.5 * MIXED_S else onset
        evidence = Evidence(
            anomalies=anomalies,
            since_onset={},
            baselines=Remembering(self._detector.baseline),
            topology=self._mesh.topology,
            changes=self._mesh.changes(now),
            now=now,
        )
        near = neighbourhood(evidence)  # nothing else is looked at, so nothing else is added up
        evidence = replace(evidence, since_onset=since(start + EPSILON_S, near))
        return Diagnosis(localise(evidence), evidence)


def beginning(anomalies: Sequence[Anomaly]) -> float:
    """Return since when things are wrong (Unix s): where half of the evidence says so.

    The earliest onset of many is no good guess: one stray error shortly before the fault makes a series' estimate too early, and what
    was well until the fault would then count as evidence of health.
    """
    ordered = sorted(anomalies, key=lambda a: a.onset)
    weights = list(accumulate(max(a.score, EPSILON_SCORE) for a in ordered))
    return ordered[bisect_left(weights, weights[-1] / 2)].onset


def outcomes_of(history: History) -> Since:
    """Return what adds up a history's requests to some services."""

    def since(start: float, services: frozenset[str]) -> Mapping[Series, Outcomes]:
        return {series: seen for series, seen in history.about(services, start).items() if seen.requests}

    return since


class Remembering:
    """Baselines as they are asked for, remembered so that the same question can be answered again in a replay."""

    def __init__(self, source: Callable[[Series, Signal], Baseline | None]) -> None:
        self._source = source
        self.asked: dict[tuple[Series, Signal], Baseline | None] = {}

    def __call__(self, series: Series, signal: Signal) -> Baseline | None:
        """Return the normal of a series, None when nothing is known."""
        key = (series, signal)
        if key not in self.asked:
            self.asked[key] = self._source(series, signal)
        return self.asked[key]
