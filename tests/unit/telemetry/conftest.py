"""Builds the exports a sidecar would send."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from agent.telemetry.schema import DELTA, ExportRequest, KeyValue, Resource
from models.signals import BOUNDS_US, BUCKETS, Side
from models.telemetry import (
    ACTIVE_REQUESTS,
    LATENCY,
    LATENCY_FACTS,
    LIVE,
    SEPARATOR,
    SERVICE_ATTRIBUTE,
    STAT_PREFIX,
    TAG,
    TROUBLED,
    TROUBLED_FACTS,
    UPTIME,
    VERSION_ATTRIBUTE,
    Fact,
    counts_itself,
    split_flags,
)

MILLISECOND = BOUNDS_US.index(1000)
BOUNDS = np.asarray(BOUNDS_US, dtype="<f8").tobytes()


def _tag(told: tuple[Fact, ...], facts: Mapping[str, str]) -> list[bytes]:
    pair = KeyValue(key=TAG)
    pair.value.string_value = SEPARATOR.join(facts.get(fact, "") for fact in told)
    return [pair.SerializeToString()]


@dataclass
class Export:
    """One export in the making: a heartbeat, then what is added."""

    service: str = "web"
    version: str = "v1"
    uptime: int | None = 7
    sent_at: float = 1000.0
    temporality: int = DELTA
    metrics: list[Callable[[Any], None]] = field(default_factory=list)

    def requests(self, side: Side, count: int = 1, **facts: str) -> "Export":
        """Add requests as Envoy does: answers to the histogram (1 ms each), what is troubled to the counter."""
        code = facts.setdefault("code", "200")
        if code.isdecimal() and int(code):
            self.latency(side, {MILLISECOND: count}, bounds=BOUNDS, count=None, **facts)
            if counts_itself(side, int(code), split_flags(facts.get("flags", ""))):
                return self

        def add(scope: Any) -> None:
            metric = scope.metrics.add(name=f"{STAT_PREFIX[side]}.{TROUBLED}")
            metric.sum.aggregation_temporality = self.temporality
            metric.sum.data_points.add(as_int=count, attributes=_tag(TROUBLED_FACTS[side], facts))

        self.metrics.append(add)
        return self

    def latency(
        self, side: Side, buckets: Mapping[int, int], *, bounds: bytes = BOUNDS, count: int | None = None, **facts: str
    ) -> "Export":
        """Add a histogram point with counts by bucket number."""
        counts = np.zeros(BUCKETS, dtype="<i8")
        for bucket, n in buckets.items():
            counts[bucket] = n

        def add(scope: Any) -> None:
            metric = scope.metrics.add(name=f"{STAT_PREFIX[side]}.{LATENCY}")
            metric.histogram.aggregation_temporality = self.temporality
            metric.histogram.data_points.add(
                count=int(counts.sum()) if count is None else count,
                bucket_counts=counts.tobytes(),
                explicit_bounds=bounds,
                attributes=_tag(LATENCY_FACTS[side], facts),
            )

        self.metrics.append(add)
        return self

    def gauge(self, name: str, value: int) -> "Export":
        """Add a gauge."""

        def add(scope: Any) -> None:
            point = scope.metrics.add(name=name).gauge.data_points.add(as_int=value)
            point.time_unix_nano = round(self.sent_at * 1e9)

        self.metrics.append(add)
        return self

    def active(self, requests: int) -> "Export":
        """Add the number of requests in flight."""
        return self.gauge(ACTIVE_REQUESTS, requests)

    def bytes(self) -> bytes:
        """Return the export as it is on the wire."""
        resource = Resource()
        for key, value in ((SERVICE_ATTRIBUTE, self.service), (VERSION_ATTRIBUTE, self.version)):
            if value:
                resource.attributes.add(key=key).value.string_value = value
        request = ExportRequest()
        resource_metrics = request.resource_metrics.add(resource=resource.SerializeToString())
        scope = resource_metrics.scope_metrics.add()
        if self.uptime is not None:
            self.gauge(UPTIME, self.uptime)
            self.gauge(LIVE, 1)
        for add in self.metrics:
            add(scope)
        payload: bytes = request.SerializeToString()
        return payload


@pytest.fixture
def export() -> type[Export]:
    """Return the builder."""
    return Export
