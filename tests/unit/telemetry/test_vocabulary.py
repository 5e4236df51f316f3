# mypy: disable-error-code="attr-defined"
"""What control plane, proxy and agent must agree on."""

from typing import Any

import pytest
from envoy.config.bootstrap.v3 import bootstrap_pb2
from envoy.extensions.access_loggers.stats.v3 import stats_pb2
from envoy.extensions.stat_sinks.open_telemetry.v3 import open_telemetry_pb2  # noqa: F401  # registers the sink
from envoy.extensions.tracers.opentelemetry.resource_detectors.v3 import (
    static_config_resource_detector_pb2,  # noqa: F401  # registers the detector
)
from google.protobuf.json_format import ParseDict

from control.xds.telemetry import attempt_access_log, client_access_log, server_access_log
from models.signals import BOUNDS_US, BUCKETS, Side
from models.telemetry import (
    LATENCY,
    LATENCY_FACTS,
    SEPARATOR,
    STAT_PREFIX,
    TAG,
    TROUBLED,
    TROUBLED_FACTS,
    Fact,
    peer_service,
    route_name,
    split_cluster,
    split_flags,
    split_route,
)
from proxy.telemetry import stats_config, stats_sinks

COMMANDS = {
    "%UPSTREAM_CLUSTER_RAW%": Fact.CLUSTER,
    "%ROUTE_NAME%": Fact.ROUTE,
    "%UPSTREAM_HOST%": Fact.HOST,
    "%RESPONSE_CODE%": Fact.CODE,
    "%RESPONSE_FLAGS%": Fact.FLAGS,
    "%GRPC_STATUS_NUMBER%": Fact.GRPC,
    "%DOWNSTREAM_PEER_URI_SAN%": Fact.PEER,
}
LOGS = {Side.CLIENT: client_access_log, Side.ATTEMPT: attempt_access_log, Side.SERVER: server_access_log}


def _told(stat: Any) -> tuple[Fact, ...]:
    (tag,) = stat.tags
    assert tag.name == TAG
    return tuple(COMMANDS[command] for command in tag.value_format.split(SEPARATOR))


@pytest.mark.parametrize("side", Side)
def test_each_side_has_one_counter_and_one_histogram(side: Side) -> None:
    """The loggers carry exactly the statistics and facts that the receiver reads, in its order."""
    counters: dict[str, tuple[str, ...]] = {}
    histograms: dict[str, tuple[str, ...]] = {}
    for log in LOGS[side]():
        config = stats_pb2.Config()
        assert log.typed_config.Unpack(config)
        for into, stats in ((counters, config.counters), (histograms, config.histograms)):
            into |= {f"{config.stat_prefix}.{s.stat.name}": _told(s.stat) for s in stats}
    assert counters == {f"{STAT_PREFIX[side]}.{TROUBLED}": TROUBLED_FACTS[side]}
    assert histograms == {f"{STAT_PREFIX[side]}.{LATENCY}": LATENCY_FACTS[side]}


def test_access_logs_are_byte_stable() -> None:
    """Two builds are equal on the wire, so that xDS does not push a listener again."""
    for build in LOGS.values():
        assert [one.SerializeToString(deterministic=True) for one in build()] == [
            one.SerializeToString(deterministic=True) for one in build()
        ]


def test_the_bootstrap_part_is_envoys_own_schema() -> None:
    """Sink and statistics parse strictly into Envoy's messages, with the mesh's grid."""
    sinks = stats_sinks(service="web", version="v1", zone="a", initial_metadata=(("x-fibrin-node", "web-1"),))
    document = {"stats_sinks": list(sinks), "stats_config": stats_config(extra=(r"listener\..*",))}
    bootstrap = ParseDict(document, bootstrap_pb2.Bootstrap())
    grid = bootstrap.stats_config.histogram_bucket_settings[0]
    assert tuple(grid.buckets) == BOUNDS_US
    assert all(f"{prefix}.{LATENCY}".startswith(grid.match.prefix) for prefix in STAT_PREFIX.values())


def test_the_grid_has_two_significant_digits() -> None:
    """Envoy keeps two significant digits of a latency; bounds between two of them would miscount."""
    assert len(BOUNDS_US) + 1 == BUCKETS == 74
    assert (BOUNDS_US[0], BOUNDS_US[-1]) == (100, 100_000_000)
    assert sorted(set(BOUNDS_US)) == list(BOUNDS_US)
    assert all(int(str(bound)[2:] or 0) == 0 for bound in BOUNDS_US)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (route_name("catalog", "default"), ("catalog", False)),
        (route_name("catalog", "v1", breaker=True), ("catalog", True)),
        ("catalog.shop/a/b#breaker", ("catalog.shop", True)),
        ("", ("", False)),
        ("unknown", ("", False)),
    ],
)
def test_route_names_lead_back_to_the_service(name: str, expected: tuple[str, bool]) -> None:
    """A route name tells whose route it is and whether a breaker answers on it."""
    assert split_route(name) == expected


def test_other_names_lead_back_too() -> None:
    """Clusters, SPIFFE ids and flags are taken apart as Envoy writes them."""
    assert split_cluster("catalog|v1") == ("catalog", "v1")
    assert split_cluster("catalog") == ("catalog", "")
    assert peer_service("spiffe://fibrin.local/ns/default/sa/shop") == "shop"
    assert peer_service("spiffe://elsewhere/ns/default/sa/shop") == ""
    assert split_flags("URX,UT") == ("URX", "UT")
    assert split_flags("-") == split_flags("") == ()
