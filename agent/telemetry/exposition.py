"""The mesh's golden signals for Prometheus: per edge, as counters since the agent started.

Few labels on purpose: caller and callee, at most `MAX_EDGES` pairs; what comes later is counted under `other`. The grid
of the histogram is every fourth bound of the mesh's own. Scrape the agent, not hundreds of sidecars.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

import numpy as np
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from models.signals import BOUNDS_S, Outcomes, Series, Side

MAX_EDGES: Final = 1000
OUTSIDE: Final = "outside"
"""Caller of requests that entered the mesh from a client without a sidecar."""

_LABELS: Final = ("caller", "callee")
_OTHER: Final = ("other", "other")
_STEP: Final = 4
_COARSE: Final = BOUNDS_S[::_STEP]
_MIDS: Final = np.append(np.sqrt(BOUNDS_S * np.append(BOUNDS_S[0] / 1.21, BOUNDS_S[:-1])), BOUNDS_S[-1])


class GoldenSignals(Collector):
    """Running totals per edge. Register it with a `CollectorRegistry`; feed it each report's outcomes."""

    def __init__(self) -> None:
        self._edges: dict[tuple[str, str], Outcomes] = {}

    def add(self, outcomes: Mapping[Series, Outcomes]) -> None:
        """Count a report in: what callers got, and what came in from outside."""
        for series, found in outcomes.items():
            if series.side is Side.CLIENT:
                key = (series.caller, series.callee)
            elif series.side is Side.SERVER and not series.caller:
                key = (OUTSIDE, series.callee)
            else:
                continue
            if key not in self._edges and len(self._edges) >= MAX_EDGES:
                key = _OTHER
            total = self._edges.get(key)
            if total is None:
                total = self._edges[key] = Outcomes()
            total += found

    def collect(self) -> Iterator[Metric]:
        """Yield the metric families (called at each scrape)."""
        requests = CounterMetricFamily("fibrin_request", "Requests as their caller saw them", labels=_LABELS)
        errors = CounterMetricFamily("fibrin_request_errors", "Requests that failed for their caller", labels=_LABELS)
        seconds = HistogramMetricFamily(
            "fibrin_request_duration_seconds", "Time to the end of the answer (sum from bucket middles)", labels=_LABELS
        )
        for key, total in sorted(self._edges.items()):
            requests.add_metric(key, total.requests)
            errors.add_metric(key, total.errors)
            cumulative = np.cumsum(total.latency)
            buckets = [(repr(float(bound)), float(cumulative[i * _STEP])) for i, bound in enumerate(_COARSE)]
            buckets.append(("+Inf", float(cumulative[-1])))
            seconds.add_metric(key, buckets, sum_value=float(total.latency @ _MIDS))
        yield requests
        yield errors
        yield seconds
