# mypy: disable-error-code="attr-defined"
"""Stats access loggers: how a sidecar counts each request without writing it down anywhere.

Envoy's `envoy.access_loggers.stats` adds every finished request to a counter and a histogram whose tag comes from
access-log commands. What leaves the sidecar is then independent of the request rate.

Three places have one: the outbound listener (`client_access_log`: once per request, after retries), its router
(`attempt_access_log`: once per attempt, with the host that was tried), and the inbound listener (`server_access_log`).

Measured on Envoy 1.40, and relied on by the receiver:

* a counter or histogram without a sample since the last flush is not sent;
* `UH` (no healthy host) and direct responses have no host and no attempt; `UO` (overflow) is an attempt without a host;
* an attempt without a response has code 0 and no end time, so that it is in the counter but in no histogram;
* an attempt that ended because the *request* ended (timeout of the route, caller gone) has code 0 and no flag; only the
  request's own entry tells which of the two it was.
"""

from __future__ import annotations

from typing import Any, Final

from envoy.config.accesslog.v3 import accesslog_pb2
from envoy.config.core.v3 import base_pb2
from envoy.extensions.access_loggers.stats.v3 import stats_pb2
from google.protobuf import wrappers_pb2

from control.xds.protos import packed
from models.signals import Side
from models.telemetry import FACTS, LATENCY, LATENCY_FACTS, REQUESTS, SEPARATOR, STAT_PREFIX, TAG, Fact

AccessLog = Any
"""An `envoy.config.accesslog.v3.AccessLog`; the generated classes have no static types."""

_CONFIG: Final[Any] = stats_pb2.Config
_EXTENSION: Final = "envoy.access_loggers.stats"
_COMMANDS: Final[dict[Fact, str]] = {
    Fact.CLUSTER: "%UPSTREAM_CLUSTER_RAW%",
    Fact.ROUTE: "%ROUTE_NAME%",
    Fact.HOST: "%UPSTREAM_HOST%",
    Fact.CODE: "%RESPONSE_CODE%",
    Fact.FLAGS: "%RESPONSE_FLAGS%",
    Fact.GRPC: "%GRPC_STATUS_NUMBER%",
    Fact.PEER: "%DOWNSTREAM_PEER_URI_SAN%",
}
_DURATIONS: Final[dict[Side, str]] = {
    Side.CLIENT: "%COMMON_DURATION(DS_RX_BEG:DS_TX_END:us)%",
    # inside the router "downstream begins" is the moment the attempt was made, before it waited for a connection
    Side.ATTEMPT: "%COMMON_DURATION(DS_RX_BEG:US_RX_END:us)%",
    Side.SERVER: "%COMMON_DURATION(DS_RX_BEG:DS_TX_END:us)%",
}


def client_access_log() -> list[AccessLog]:
    """Return the access logs of an outbound listener's connection manager: what the caller got."""
    return _loggers(Side.CLIENT)


def attempt_access_log() -> list[AccessLog]:
    """Return the `upstream_log` of an outbound listener's router: every attempt, with the host that was tried."""
    return _loggers(Side.ATTEMPT)


def server_access_log() -> list[AccessLog]:
    """Return the access logs of an inbound listener's connection manager: what the application answered."""
    return _loggers(Side.SERVER)


def _loggers(side: Side) -> list[AccessLog]:
    """Return a logger that counts every request and one that times those which got an answer."""
    counter = _CONFIG.Counter(
        stat=_CONFIG.Stat(name=REQUESTS, tags=_tag(FACTS[side])),
        value_fixed=wrappers_pb2.UInt64Value(value=1),
    )
    histogram = _CONFIG.Histogram(
        stat=_CONFIG.Stat(name=LATENCY, tags=_tag(LATENCY_FACTS[side])),
        unit=_CONFIG.Histogram.Unit.Microseconds,
        value_format=_DURATIONS[side],
    )
    prefix = STAT_PREFIX[side]
    counting = _CONFIG(stat_prefix=prefix, counters=[counter])
    timing = _CONFIG(stat_prefix=prefix, histograms=[histogram])
    return [
        accesslog_pb2.AccessLog(name=_EXTENSION, typed_config=packed(counting)),
        accesslog_pb2.AccessLog(name=_EXTENSION, filter=_answered(), typed_config=packed(timing)),
    ]


def _answered() -> Any:
    """Return a filter that passes requests with a status: without one there is no end to measure to."""
    threshold = base_pb2.RuntimeUInt32(default_value=1, runtime_key="fibrin.latency.least_status")
    comparison = accesslog_pb2.ComparisonFilter(op=accesslog_pb2.ComparisonFilter.Op.GE, value=threshold)
    status = accesslog_pb2.StatusCodeFilter(comparison=comparison)
    return accesslog_pb2.AccessLogFilter(status_code_filter=status)


def _tag(facts: tuple[Fact, ...]) -> list[Any]:
    return [_CONFIG.Tag(name=TAG, value_format=SEPARATOR.join(_COMMANDS[fact] for fact in facts))]
