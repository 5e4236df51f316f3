"""From one OTLP export of a sidecar to a `Report`.

Speed is the point: this runs several times a second for each sidecar. What a tag means (which series, is it an
error, which flags) is worked out once and kept per sidecar; afterwards a data point costs one dictionary look-up.

One thing a tag alone does not tell: an attempt that ended because its request ended has code 0 and no flag, be it that
the route's timeout struck (the instance was too slow: an error) or that the caller went away (nobody's error). The
request's own entry, which comes in the same export, tells which; see `_Draft.settle`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from google.protobuf.message import DecodeError

from agent.telemetry.schema import DELTA, ExportRequest, KeyValue, Resource
from models.domain import Instance
from models.errors import InvalidInput
from models.signals import BOUNDS_US, BUCKETS, Outcomes, Report, Saturation, Series, Side
from models.telemetry import (
    ACTIVE_REQUESTS,
    BREAKER_FAILED_FLAG,
    BREAKER_FLAG,
    CANCELLED,
    KEPT,
    KEPT_SUFFIX,
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
    is_error,
    peer_service,
    rule_of,
    split_cluster,
    split_flags,
    split_route,
)

Resolve = Callable[[str], Instance | None]
"""Finds the instance behind `address:port`."""

MAX_TAGS: Final = 8192
"""Remembered tags per sidecar; beyond, the memory starts anew."""

_COUNTERS: Final = {f"{prefix}.{TROUBLED}": side for side, prefix in STAT_PREFIX.items()}
_HISTOGRAMS: Final = {f"{prefix}.{LATENCY}": side for side, prefix in STAT_PREFIX.items()}
_FACTS: Final = {
    **{name: TROUBLED_FACTS[side] for name, side in _COUNTERS.items()},
    **{name: LATENCY_FACTS[side] for name, side in _HISTOGRAMS.items()},
}
_BOUNDS: Final = np.asarray(BOUNDS_US, dtype="<f8").tobytes()
_COUNTS_SIZE: Final = 8 * BUCKETS
_MAX_CODE: Final = 999
_NANO: Final = 1e-9


class Malformed(InvalidInput):
    """An export that no sidecar of this mesh sends; nothing of it was used. `reason` is one of a few words."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message, hint="the sidecar's bootstrap and the agent must be of the same release")
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Origin:
    """Who sent the export, from its resource."""

    service: str
    version: str


@dataclass(frozen=True, slots=True)
class _Meaning:
    """What one tag means. `series` is None for requests that concern no service of the mesh.

    `route` is (cluster, host), `rule` the rule of the route table that the request took ("" if none). `itself`: an answer
    that is counted by its histogram. `undecided`: an attempt without an answer or flag. `cancelled`: a request whose caller went away before an answer. `lasting` False:
    an address was not resolved yet, so look again next time.
    """

    series: Series | None
    code: int = 0
    flags: tuple[str, ...] = ()
    error: bool = False
    route: tuple[str, str] = ("", "")
    rule: str = ""
    itself: bool = False
    undecided: bool = False
    cancelled: bool = False
    lasting: bool = True


class Decoder:
    """Decodes the exports of one sidecar; remembers what its tags mean.

    `resolve` is asked for each new upstream address; call `forget` when the topology changed.
    """

    def __init__(self, reporter: str, resolve: Resolve) -> None:
        self._reporter = reporter
        self._resolve = resolve
        self._resource = b""
        self._origin: Origin | None = None
        self._known: dict[tuple[str | bytes, ...], _Meaning] = {}
        self.unattributed = 0  # requests of the last export that concern no service of the mesh

    def forget(self) -> None:
        """Drop what was remembered; addresses are resolved anew."""
        self._known.clear()

    def decode(self, payload: bytes, received_at: float) -> Report:
        """Return the report in `payload`; `received_at` is our clock, Unix s.

        Raises:
            Malformed: the payload is no export of a sidecar of this mesh.
        """
        try:
            request = ExportRequest.FromString(payload)
        except DecodeError as error:
            raise Malformed("protobuf", f"{self._reporter}: not an OTLP metrics export ({error})") from error
        draft = _Draft()
        self.unattributed = 0
        for resource_metrics in request.resource_metrics:
            self._identify(resource_metrics.resource)
            for scope in resource_metrics.scope_metrics:
                for metric in scope.metrics:
                    self._metric(metric, draft)
        origin = self._origin
        if origin is None or draft.uptime_s < 0:
            raise Malformed("heartbeat", f"{self._reporter}: an export without {UPTIME} or {SERVICE_ATTRIBUTE}")
        if not draft.settle():
            raise Malformed("value", f"{self._reporter}: latency buckets do not add up to their count")
        saturation = () if draft.active is None else (Saturation(self._reporter, draft.active),)
        return Report(
            reporter=self._reporter,
            service=origin.service,
            sent_at=draft.sent_at,
            received_at=received_at,
            uptime_s=draft.uptime_s,
            live=draft.live,
            outcomes=draft.outcomes,
            saturation=saturation,
            rules=draft.rules,
        )

    def _identify(self, resource: bytes) -> None:
        """Learn who speaks; the same bytes as last time cost nothing."""
        if self._origin is not None and resource == self._resource:
            return
        try:
            found = {pair.key: pair.value.string_value for pair in Resource.FromString(resource).attributes}
        except DecodeError as error:
            raise Malformed("resource", f"{self._reporter}: unreadable resource ({error})") from error
        service = found.get(SERVICE_ATTRIBUTE, "")
        if not service:
            raise Malformed("resource", f"{self._reporter}: the export's resource has no {SERVICE_ATTRIBUTE}")
        self._origin = Origin(service, found.get(VERSION_ATTRIBUTE, ""))
        self._resource = resource
        self._known.clear()

    def _metric(self, metric: Any, draft: _Draft) -> None:
        name: str = metric.name
        if (side := _COUNTERS.get(name)) is not None:
            self._counter(name, side, metric.sum, draft)
        elif (side := _HISTOGRAMS.get(name)) is not None:
            self._histogram(name, side, metric.histogram, draft)
        elif name == UPTIME:
            for point in metric.gauge.data_points:
                draft.uptime_s = float(point.as_int)
                draft.sent_at = point.time_unix_nano * _NANO
        elif name == LIVE:
            draft.live = any(point.as_int for point in metric.gauge.data_points)
        elif name == ACTIVE_REQUESTS:
            draft.active = float(sum(point.as_int for point in metric.gauge.data_points))

    def _counter(self, name: str, side: Side, counter: Any, draft: _Draft) -> None:
        if counter.aggregation_temporality != DELTA:
            raise Malformed("temporality", f"{self._reporter}: {name} does not come as deltas")
        for point in counter.data_points:
            count: int = point.as_int
            if count < 0:
                raise Malformed("value", f"{self._reporter}: {name} counts {count} requests")
            if count:
                self._count(self._meaning(name, side, point.attributes), count, draft)

    def _histogram(self, name: str, side: Side, histogram: Any, draft: _Draft) -> None:
        if histogram.aggregation_temporality != DELTA:
            raise Malformed("temporality", f"{self._reporter}: {name} does not come as deltas")
        for point in histogram.data_points:
            if not point.count:
                continue
            counts: bytes = point.bucket_counts
            if len(counts) != _COUNTS_SIZE or point.explicit_bounds != _BOUNDS:
                raise Malformed("grid", f"{self._reporter}: {name} has other latency buckets than this mesh")
            meaning = self._meaning(name, side, point.attributes)
            if meaning.itself:
                self._count(meaning, point.count, draft)
            if meaning.series is not None:
                draft.time(meaning.series, point.count, counts)
                if meaning.rule:
                    draft.time_rule((meaning.series.callee, meaning.rule), counts)

    def _count(self, meaning: _Meaning, count: int, draft: _Draft) -> None:
        if meaning.series is None:
            self.unattributed += count
            return
        draft.count(meaning.series, meaning, count)
        if meaning.rule:
            draft.count_rule((meaning.series.callee, meaning.rule), meaning, count)

    def _meaning(self, name: str, side: Side, attributes: Any) -> _Meaning:
        key = (name, *attributes)
        if (known := self._known.get(key)) is not None:
            return known
        meaning = self._interpret(name, side, attributes)
        if meaning.lasting:
            if len(self._known) >= MAX_TAGS:
                self._known.clear()
            self._known[key] = meaning
        return meaning

    def _interpret(self, name: str, side: Side, attributes: Any) -> _Meaning:
        try:
            told = {pair.key: pair.value.string_value for pair in map(KeyValue.FromString, attributes)}[TAG]
            facts = dict(zip(_FACTS[name], told.split(SEPARATOR), strict=True))
            code = int(facts.get(Fact.CODE) or 0)
            grpc = int(facts[Fact.GRPC]) if facts.get(Fact.GRPC) else None
        except (DecodeError, KeyError, ValueError) as cause:
            raise Malformed("tags", f"{self._reporter}: {name} has an unreadable tag ({cause})") from cause
        if not 0 <= code <= _MAX_CODE:
            raise Malformed("tags", f"{self._reporter}: {name} has the status code {code}")
        flags = split_flags(facts.get(Fact.FLAGS, ""))
        series, breaker, lasting = self._series(side, facts)
        error = is_error(code, flags, grpc)
        itself = counts_itself(side, code, flags)
        if breaker:
            flags = (*flags, BREAKER_FLAG, BREAKER_FAILED_FLAG) if error else (*flags, BREAKER_FLAG)
        return _Meaning(
            series=series,
            code=code,
            flags=flags,
            error=error,
            route=(facts.get(Fact.CLUSTER, ""), facts.get(Fact.HOST, "")),
            rule=rule_of(facts.get(Fact.ROUTE, "")) if side is Side.CLIENT else "",
            itself=itself,
            undecided=side is Side.ATTEMPT and code == 0 and not flags,
            cancelled=side is Side.CLIENT and code == 0 and not CANCELLED.isdisjoint(flags),
            lasting=lasting,
        )

    def _series(self, side: Side, facts: dict[Fact, str]) -> tuple[Series | None, bool, bool]:
        """Return the series, whether a breaker answered, and whether this will hold for the next export."""
        origin = self._origin
        assert origin is not None
        if side is Side.SERVER:
            caller = peer_service(facts.get(Fact.PEER, ""))
            series = Series(side, caller, origin.service, origin.version, self._reporter, self._reporter)
            return series, False, True
        service, version = split_cluster(facts.get(Fact.CLUSTER, ""))
        of_route, breaker = split_route(facts.get(Fact.ROUTE, ""))
        callee = service or of_route
        if not callee:
            return None, breaker, True
        if side is Side.CLIENT:
            part = KEPT if facts.get(Fact.ROUTE, "").endswith(KEPT_SUFFIX) else ""
            return Series(side, origin.service, callee, part, "", self._reporter), breaker, True
        host = facts.get(Fact.HOST, "")
        instance = self._resolve(host) if host else None
        if instance is None:
            return Series(side, origin.service, callee, version, "", self._reporter), breaker, not host
        # a pool of all versions does not name one: the host does
        version = version or instance.version
        return Series(side, origin.service, callee, version, instance.id, self._reporter), breaker, True


class _Draft:
    """A report in the making."""

    def __init__(self) -> None:
        self.outcomes: dict[Series, Outcomes] = {}
        self.rules: dict[tuple[str, str], Outcomes] = {}
        self.uptime_s = -1.0
        self.sent_at = 0.0
        self.live = True
        self.active: float | None = None
        self._undecided: list[tuple[tuple[str, str], Series, int]] = []
        self._cancelled: dict[tuple[str, str], int] = {}
        self._timed: list[Series] = []
        self._totals: list[int] = []
        self._counts: list[bytes] = []
        self._ruled: list[tuple[str, str]] = []
        self._ruled_counts: list[bytes] = []

    def of(self, series: Series) -> Outcomes:
        found = self.outcomes.get(series)
        if found is None:
            found = self.outcomes[series] = Outcomes()
        return found

    def count(self, series: Series, meaning: _Meaning, count: int) -> None:
        """Enter `count` requests that ended as `meaning` says."""
        outcomes = self.of(series)
        outcomes.requests += count
        outcomes.codes[meaning.code] = outcomes.codes.get(meaning.code, 0) + count
        for flag in meaning.flags:
            outcomes.flags[flag] = outcomes.flags.get(flag, 0) + count
        if meaning.undecided:
            self._undecided.append((meaning.route, series, count))
        elif meaning.error:
            outcomes.errors += count
        if meaning.cancelled:
            self._cancelled[meaning.route] = self._cancelled.get(meaning.route, 0) + count

    def count_rule(self, rule: tuple[str, str], meaning: _Meaning, count: int) -> None:
        """Enter the same requests under the rule they took."""
        found = self.rules.get(rule)
        if found is None:
            found = self.rules[rule] = Outcomes()
        found.requests += count
        if meaning.error:
            found.errors += count
        for flag in meaning.flags:
            found.flags[flag] = found.flags.get(flag, 0) + count

    def time_rule(self, rule: tuple[str, str], counts: bytes) -> None:
        """Enter the same latency histogram under the rule they took."""
        self._ruled.append(rule)
        self._ruled_counts.append(counts)

    def time(self, series: Series, total: int, counts: bytes) -> None:
        """Enter a latency histogram of `total` samples: little-endian 64-bit counts, one per bucket."""
        self._timed.append(series)
        self._totals.append(total)
        self._counts.append(counts)

    def settle(self) -> bool:
        """Add up the histograms and decide the undecided; False when a histogram contradicts its own count."""
        self._decide()
        if not self._timed:
            return True
        matrix = np.frombuffer(b"".join(self._counts), dtype="<i8").reshape(-1, BUCKETS)
        if int(matrix.min()) < 0 or matrix.sum(axis=1).tolist() != self._totals:
            return False
        matrix = matrix.astype(np.int64)  # writable, in the machine's byte order
        fresh: set[Series] = set()
        for series, row in zip(self._timed, matrix, strict=True):
            outcomes = self.of(series)
            outcomes.latency = outcomes.latency + row if series in fresh else row
            fresh.add(series)
        for rule, counts in zip(self._ruled, self._ruled_counts, strict=True):
            found = self.rules.get(rule)
            if found is None:
                found = self.rules[rule] = Outcomes()
            found.latency = found.latency + np.frombuffer(counts, dtype="<i8")
        return True

    def _decide(self) -> None:
        """Decide the attempts that ended with their request: as many as callers went away are nobody's error."""
        for route, series, count in self._undecided:
            away = min(count, self._cancelled.get(route, 0))
            outcomes = self.outcomes[series]
            if away:
                self._cancelled[route] -= away
                outcomes.flags["DC"] = outcomes.flags.get("DC", 0) + away
            if late := count - away:
                outcomes.errors += late
                outcomes.flags["UT"] = outcomes.flags.get("UT", 0) + late
