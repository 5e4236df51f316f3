"""The telemetry channel's vocabulary: names that Envoy's configuration and the agent's receiver must agree on.

The control plane puts stats access loggers into listeners and routers, the proxy puts a sink into the bootstrap, the
agent decodes what arrives. These three rooms never import each other; what they share stands here.

Each side (`models.signals.Side`) has one histogram, `fibrin.<side>.latency`, of the requests that got an answer, which tells the facts in
`LATENCY_FACTS`, and one counter, `fibrin.<side>.troubled`, of those with a response flag, which tells those in `TROUBLED_FACTS`. A plain
answer, which is nearly every one, is thus written down once, and counted by its histogram; what is in both is counted by the counter
(`counts_itself`). Attempts are troubled without an answer and from `TROUBLED_STATUS` on, too: they may have neither end nor flag. The facts travel in one tag, joined by `SEPARATOR`: each tag costs Envoy a name of its own per
request. Envoy renders what it does not know as "" (flags: "-").
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final

from models.signals import Side

FLUSH_S: Final = 0.25
"""Seconds between two reports of a sidecar. Idle sidecars report too: the heartbeat is in each report."""

EXPORT_METHOD: Final = "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export"
NODE_HEADER: Final = "x-fibrin-node"
AUTHORIZATION_HEADER: Final = "authorization"

SERVICE_ATTRIBUTE: Final = "service.name"
VERSION_ATTRIBUTE: Final = "service.version"
ZONE_ATTRIBUTE: Final = "cloud.availability_zone"

STAT_PREFIX: Final[dict[Side, str]] = {side: f"fibrin.{side.value}" for side in Side}
TROUBLED: Final = "troubled"
TROUBLED_STATUS: Final = 400
LATENCY: Final = "latency"

UPTIME: Final = "server.uptime"
LIVE: Final = "server.live"
INBOUND_CLUSTER: Final = "inbound|app"
ACTIVE_REQUESTS: Final = f"cluster.{INBOUND_CLUSTER}.upstream_rq_active"

BREAKER_SUFFIX: Final = "#breaker"
BREAKER_FLAG: Final = "BRK"
"""Not one of Envoy's: an open breaker answered in the caller's sidecar (fallback or fail-fast)."""
BREAKER_FAILED_FLAG: Final = "BRKF"
"""Beside `BRK`: that answer was an error to the caller. Errors without these are `errors - flags["BRKF"]`."""

SPIFFE_PREFIX: Final = "spiffe://fibrin.local/ns/default/sa/"


class Fact(StrEnum):
    """What a statistic tells of a request."""

    CLUSTER = "cluster"
    ROUTE = "route"
    HOST = "host"
    CODE = "code"
    FLAGS = "flags"
    GRPC = "grpc"
    PEER = "peer"


TAG: Final = "k"
"""Name of the one tag, short because it travels with each sample."""

SEPARATOR: Final = "\x1f"
"""Between the facts in a tag: the unit separator of ASCII, which is in no name."""

TROUBLED_FACTS: Final[dict[Side, tuple[Fact, ...]]] = {
    Side.CLIENT: (Fact.CLUSTER, Fact.ROUTE, Fact.HOST, Fact.CODE, Fact.FLAGS, Fact.GRPC),
    Side.ATTEMPT: (Fact.CLUSTER, Fact.HOST, Fact.CODE, Fact.FLAGS, Fact.GRPC),
    Side.SERVER: (Fact.PEER, Fact.CODE, Fact.FLAGS, Fact.GRPC),
}
"""Told by the counter, in this order."""

LATENCY_FACTS: Final[dict[Side, tuple[Fact, ...]]] = {
    **TROUBLED_FACTS,
    Side.CLIENT: (Fact.CLUSTER, Fact.ROUTE, Fact.CODE, Fact.FLAGS, Fact.GRPC),
}
"""Told by the latency histogram, in this order: no more than needed, because a histogram costs 1.2 KB per report and combination. A
caller's does not ask which host answered (its attempts do)."""

CANCELLED: Final = frozenset({"DC", "DR"})
"""Envoy's flags for a caller that went away first: never an error of anybody behind."""

BROKEN: Final = frozenset({"UF", "UH", "UO", "UT", "UC", "UR", "LR", "UPE", "SI", "DT", "NC", "DF", "OM", "UMSDR"})
"""Envoy's flags for a request that failed on its way, whatever status had been sent by then."""

GRPC_FAILURES: Final = frozenset({2, 4, 12, 13, 14, 15})
"""gRPC statuses that are the server's fault (OpenTelemetry's convention): unknown, deadline exceeded, unimplemented,
internal, unavailable, data loss."""

_SERVER_ERROR: Final = 500


KEPT_SUFFIX: Final = "#kept"
"""Ends the name of the route of a hold-out slice: requests that an act on a whole service leaves out."""

KEPT: Final = "#kept"
"""The version of what callers report about such requests; no subset is called so."""


def route_name(service: str, route: str, *, breaker: bool = False) -> str:
    """Return the name of a route in Envoy's table: `service/route`, with a suffix for a breaker's direct response."""
    return f"{service}/{route}{BREAKER_SUFFIX if breaker else ''}"


def split_route(name: str) -> tuple[str, bool]:
    """Return the service of a route name and whether it is a breaker's answer; `("", False)` for no route of ours.

    >>> split_route("catalog/default#breaker")
    ('catalog', True)
    """
    service, separator, rest = name.partition("/")
    return (service, rest.endswith(BREAKER_SUFFIX)) if separator else ("", False)


def rule_of(name: str) -> str:
    """Return which rule of its service's route table a route name means, "" for no route of ours and for a breaker's answer.

    >>> rule_of("catalog/route-1")
    'route-1'
    """
    rule = name.partition("/")[2].removesuffix(KEPT_SUFFIX)
    return "" if rule.endswith(BREAKER_SUFFIX) else rule


def split_cluster(name: str) -> tuple[str, str]:
    """Return service and version ("" for the pool of all versions) of an outbound cluster's name.

    >>> split_cluster("catalog|v1")
    ('catalog', 'v1')
    """
    service, _, version = name.partition("|")
    return (service, version)


def peer_service(uri: str) -> str:
    """Return the service in a SPIFFE id of this mesh, "" for anybody else (plain text, foreign trust domain)."""
    return uri.removeprefix(SPIFFE_PREFIX) if uri.startswith(SPIFFE_PREFIX) else ""


def split_flags(text: str) -> tuple[str, ...]:
    """Return Envoy's response flags (`URX,UT`) one by one; "-" means none."""
    return tuple(flag for flag in text.split(",") if flag and flag != "-")


def counts_itself(side: Side, code: int, flags: tuple[str, ...]) -> bool:
    """Tell whether a request is counted by its latency histogram alone."""
    return not flags and (side is not Side.ATTEMPT or 0 < code < TROUBLED_STATUS)


def is_error(code: int, flags: tuple[str, ...], grpc: int | None) -> bool:
    """Tell whether a request failed: server error, gRPC failure, broken on the way, or no response at all.

    A caller that went away first (`CANCELLED`) makes it no error; neither do 4xx.
    """
    if not CANCELLED.isdisjoint(flags):
        return False
    return code == 0 or code >= _SERVER_ERROR or grpc in GRPC_FAILURES or not BROKEN.isdisjoint(flags)
