"""The localiser port over `models.localise`: gathers the evidence the model asks for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from agent.mesh import MeshView
from agent.ports import Detector
from models.incident import Anomaly, Cause
from models.localise import Evidence, localise
from models.signals import Outcomes, Series

BEFORE_S: Final = 0.25
"""The onset is an estimate: evidence begins this much earlier."""

LOOK_BACK_S: Final = 30.0
"""Evidence older than this says little about now."""


class MeshLocaliser:
    """Names causes from the detectors' baselines and what the control plane knows."""

    def __init__(self, detector: Detector, mesh: MeshView) -> None:
        self._detector = detector
        self._mesh = mesh

    def __call__(
        self, anomalies: tuple[Anomaly, ...], since: Callable[[float], Mapping[Series, Outcomes]], now: float
    ) -> tuple[Cause, ...]:
        """Return the suspects behind `anomalies`, best first."""
        onset = max(min(a.onset for a in anomalies) - BEFORE_S, now - LOOK_BACK_S)
        return localise(
            Evidence(
                anomalies=anomalies,
                since_onset=since(onset),
                baselines=self._detector.baseline,
                topology=self._mesh.topology,
                changes=self._mesh.changes(now),
                now=now,
            )
        )
