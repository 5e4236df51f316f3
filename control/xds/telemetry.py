# mypy: disable-error-code="attr-defined"
"""Stats access loggers: how a sidecar counts each request without writing it down anywhere.

Envoy's `envoy.access_loggers.stats` adds every finished request to a histogram or a counter whose tag comes from
access-log commands. What leaves the sidecar is then independent of the request rate. Each logger that a request passes costs some 3 µs, so that a
plain answer passes one (`models.telemetry` says which request is in which).

Three places have one: the outbound listener (`client_access_log`: once per request, after retries), its router
(`attempt_access_log`: once per attempt, with the host that was tried), and the inbound listener (`server_access_log`).

Measured on Envoy 1.40, and relied on by the receiver:

* a counter or histogram without a sample since the last flush is not sent;
* `UH` (no healthy host) and direct responses have no host and no attempt; `UO` (overflow) is an attempt without a host;
* an attempt without a response has code 0 and no end time: it can be counted, not timed;
* an attempt has no end time either when its answer made the router try again, unless that had no body;
* a request, on either side, that ended without a status or before its answer was complete has a flag;
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
from models.telemetry import (
    LATENCY,
    LATENCY_FACTS,
    SEPARATOR,
    STAT_PREFIX,
    TAG,
    TROUBLED,
    TROUBLED_FACTS,
    TROUBLED_STATUS,
    Fact,
)

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
    """Return a logger that times the requests which got an answer, and one that counts those which are troubled."""
    counter = _CONFIG.Counter(
        stat=_CONFIG.Stat(name=TROUBLED, tags=_tag(TROUBLED_FACTS[side])),
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
        accesslog_pb2.AccessLog(name=_EXTENSION, filter=_status("GE", 1), typed_config=packed(timing)),
        accesslog_pb2.AccessLog(name=_EXTENSION, filter=_troubled(side), typed_config=packed(counting)),
    ]


def _troubled(side: Side) -> Any:
    """Return a filter that passes what `models.telemetry.counts_itself` denies; a status costs a look at the runtime."""
    any_flag = accesslog_pb2.AccessLogFilter(response_flag_filter=accesslog_pb2.ResponseFlagFilter())
    if side is not Side.ATTEMPT:
        return any_flag
    either = accesslog_pb2.OrFilter(filters=[_status("EQ", 0), _status("GE", TROUBLED_STATUS), any_flag])
    return accesslog_pb2.AccessLogFilter(or_filter=either)


def _status(op: str, value: int) -> Any:
    """Return a filter that compares the status with `value`; 0 is no answer."""
    threshold = base_pb2.RuntimeUInt32(default_value=value, runtime_key=f"fibrin.status.{op.lower()}{value}")
    comparison = accesslog_pb2.ComparisonFilter(op=accesslog_pb2.ComparisonFilter.Op.Value(op), value=threshold)
    status = accesslog_pb2.StatusCodeFilter(comparison=comparison)
    return accesslog_pb2.AccessLogFilter(status_code_filter=status)


def _tag(facts: tuple[Fact, ...]) -> list[Any]:
    return [_CONFIG.Tag(name=TAG, value_format=SEPARATOR.join(_COMMANDS[fact] for fact in facts))]
