"""Thin doors through which evaluators reach the models: plain arrays in, plain answers out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from models.detect.general import GeneralDetector
from models.localise.general import Samples, blame


def make() -> GeneralDetector:
    """Return a detector for one series, whose `update(timestamp, value)` scores in [0, 1]; see `models.detect.general`."""
    return GeneralDetector()


def rank(
    metrics: Mapping[str, Samples],
    inject_time: float,
    edges: Iterable[tuple[str, str]],
    target: tuple[str, str | None] | None = None,
) -> list[str]:
    """Return the services, most to blame first; see `models.localise.general.blame`."""
    return [found.service for found in blame(metrics, inject_time, edges, target)]
