"""The golden signals of the last seconds, per service, edge, version and instance: what people and the API see.

Which side says what: an edge and a service show what callers got (client side, after retries); a version and an instance
show what each attempt met. Where no caller has a sidecar (the mesh's entrance), the callee's own sidecar speaks.
Plain frozen data, NaN-free, so that `dataclasses.asdict` gives JSON.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from pydantic import TypeAdapter

from models.signals import Outcomes, Saturation, Series, Side, percentile
from models.telemetry import BREAKER_FLAG


@dataclass(frozen=True, slots=True)
class Golden:
    """Golden signals over one window. `rps` per second, `error_ratio` 0–1, percentiles in seconds (None: no answer).

    `breaker` counts requests that an open breaker answered. `saturation` is requests in flight (None: not known).
    """

    requests: int
    errors: int
    rps: float
    error_ratio: float
    p50_s: float | None
    p90_s: float | None
    p99_s: float | None
    breaker: int = 0
    saturation: float | None = None


@dataclass(frozen=True, slots=True)
class ServiceSignals:
    """What the callers of `service` got."""

    service: str
    golden: Golden


@dataclass(frozen=True, slots=True)
class EdgeSignals:
    """What `caller` got from `callee`; `attempts` per request (1: no retries, 0: none got out)."""

    caller: str
    callee: str
    golden: Golden
    attempts: float


@dataclass(frozen=True, slots=True)
class VersionSignals:
    """What attempts met at one version."""

    service: str
    version: str
    golden: Golden


@dataclass(frozen=True, slots=True)
class InstanceSignals:
    """What attempts met at one instance."""

    service: str
    version: str
    instance: str
    golden: Golden


@dataclass(frozen=True, slots=True)
class SignalsView:
    """Golden signals of the `window_s` seconds before `at` (Unix s); each part sorted by name."""

    at: float
    window_s: float
    services: tuple[ServiceSignals, ...]
    edges: tuple[EdgeSignals, ...]
    versions: tuple[VersionSignals, ...]
    instances: tuple[InstanceSignals, ...]


SIGNALS: Final[TypeAdapter[SignalsView]] = TypeAdapter(SignalsView)
"""The view as JSON and back."""


def view(
    sums: Mapping[Series, Outcomes],
    saturation: Iterable[Saturation],
    *,
    at: float,
    window_s: float,
) -> SignalsView:
    """Return the view over `sums` (outcomes per series of the window). `window_s` > 0 is what rates divide by."""
    edges: dict[tuple[str, str], Outcomes] = defaultdict(Outcomes)
    attempts: dict[tuple[str, str], int] = defaultdict(int)
    services: dict[Side, dict[str, Outcomes]] = {side: defaultdict(Outcomes) for side in Side}
    versions: dict[Side, dict[tuple[str, str], Outcomes]] = {side: defaultdict(Outcomes) for side in Side}
    instances: dict[Side, dict[tuple[str, str, str], Outcomes]] = {side: defaultdict(Outcomes) for side in Side}
    for series, outcomes in sums.items():
        side = series.side
        services[side][series.callee] += outcomes
        if side is Side.CLIENT:
            edges[series.caller, series.callee] += outcomes
            continue
        if side is Side.ATTEMPT:
            attempts[series.caller, series.callee] += outcomes.requests
        if series.version:
            versions[side][series.callee, series.version] += outcomes
        if series.instance:
            instances[side][series.callee, series.version, series.instance] += outcomes
    active = {one.instance: one.active for one in saturation}
    by_instance = {**instances[Side.SERVER], **instances[Side.ATTEMPT]}
    by_version = {**versions[Side.SERVER], **versions[Side.ATTEMPT]}
    by_service = {**services[Side.SERVER], **services[Side.CLIENT]}
    in_service: dict[str, float] = defaultdict(float)
    in_version: dict[tuple[str, str], float] = defaultdict(float)
    for service, version, instance in by_instance:
        in_service[service] += active.get(instance, 0.0)
        in_version[service, version] += active.get(instance, 0.0)
    return SignalsView(
        at=at,
        window_s=window_s,
        services=tuple(
            ServiceSignals(name, golden(found, window_s, in_service.get(name)))
            for name, found in sorted(by_service.items())
        ),
        edges=tuple(
            EdgeSignals(*key, golden(found, window_s), attempts[key] / found.requests if found.requests else 0.0)
            for key, found in sorted(edges.items())
        ),
        versions=tuple(
            VersionSignals(*key, golden(found, window_s, in_version.get(key)))
            for key, found in sorted(by_version.items())
        ),
        instances=tuple(
            InstanceSignals(*key, golden(found, window_s, active.get(key[2])))
            for key, found in sorted(by_instance.items())
        ),
    )


def golden(outcomes: Outcomes, window_s: float, saturation: float | None = None) -> Golden:
    """Return the golden signals of outcomes gathered in `window_s` seconds."""
    return Golden(
        requests=outcomes.requests,
        errors=outcomes.errors,
        rps=outcomes.requests / window_s,
        error_ratio=outcomes.error_ratio,
        p50_s=_seconds(outcomes, 0.5),
        p90_s=_seconds(outcomes, 0.9),
        p99_s=_seconds(outcomes, 0.99),
        breaker=outcomes.flags.get(BREAKER_FLAG, 0),
        saturation=saturation,
    )


def _seconds(outcomes: Outcomes, q: float) -> float | None:
    value = percentile(outcomes.latency, q)
    return None if math.isnan(value) else value
