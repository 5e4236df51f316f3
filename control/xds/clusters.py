"""How a sidecar reaches a service: CDS.

One cluster per service and, where versions matter, one per version. Versions matter as soon as a service has two of
them or a route names one: their clusters exist before the first weight points at them, since a route to a cluster that
is still warming is a 503. A change of a cluster re-opens its connections, so nothing that moves often (members,
health, weights, breakers) is in here.
"""

from __future__ import annotations

from typing import Final

from control.xds.endpoints import socket_address
from control.xds.protos import (
    CircuitBreakers,
    Cluster,
    ClusterLoadAssignment,
    Endpoint,
    Http2ProtocolOptions,
    HttpProtocolOptions,
    KeepaliveSettings,
    LbEndpoint,
    LocalityLbEndpoints,
    Message,
    OutlierDetection,
    Percent,
    UpstreamHttpOptions,
    packed,
    seconds,
    u32,
)
from control.xds.tls import ads, upstream_tls
from control.xds.world import MeshOptions, Node
from models.policy import Limits, ServicePolicy
from models.policy import OutlierDetection as OutlierPolicy

INBOUND_APP: Final = "inbound|app"
HTTP_OPTIONS: Final = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
UNLIMITED: Final = 0xFFFF_FFFF
SMALL_POOL_PERCENT: Final = 34  # the least that lets one of three be ejected
SMALLEST_POOL: Final = 3

_POLICIES: Final = {"least-request": "LEAST_REQUEST", "round-robin": "ROUND_ROBIN", "random": "RANDOM"}


def version_cluster(service: str, version: str) -> str:
    """Return the name of the cluster of one version, `<service>|<version>`."""
    return f"{service}|{version}"


def outbound_cluster(name: str, policy: ServicePolicy, size: int, options: MeshOptions) -> Message:
    """Build the cluster `name` towards `policy.service`; `size` is how many instances it has."""
    cluster = Cluster(
        name=name,
        type=Cluster.DiscoveryType.Value("EDS"),
        eds_cluster_config=Cluster.EdsClusterConfig(eds_config=ads(options), service_name=name),
        connect_timeout=seconds(policy.limits.connect_timeout_s),
        lb_policy=Cluster.LbPolicy.Value(_POLICIES[policy.load_balancer]),
        common_lb_config=Cluster.CommonLbConfig(
            # Zero twice on purpose: health changes take at once, and no request goes to an instance known as bad.
            healthy_panic_threshold=Percent(value=0.0),
            update_merge_window=seconds(0),
        ),
        circuit_breakers=_limits(policy.limits, policy),
        transport_socket=upstream_tls(policy.service, options),
        typed_extension_protocol_options={HTTP_OPTIONS: packed(_http2(options))},
    )
    if policy.outlier is not None:
        cluster.outlier_detection.CopyFrom(_outlier(policy.outlier, size))
    return cluster


def app_cluster(node: Node) -> Message:
    """Build the cluster of the application behind this sidecar: plain HTTP/1.1 on this machine, no limits."""
    endpoint = LbEndpoint(endpoint=Endpoint(address=socket_address(node.app_address, node.app_port)))
    thresholds = CircuitBreakers.Thresholds(
        max_connections=u32(UNLIMITED),
        max_pending_requests=u32(UNLIMITED),
        max_requests=u32(UNLIMITED),
        max_retries=u32(UNLIMITED),
    )
    return Cluster(
        name=INBOUND_APP,
        type=Cluster.DiscoveryType.Value("STATIC"),
        connect_timeout=seconds(1.0),
        load_assignment=ClusterLoadAssignment(
            cluster_name=INBOUND_APP, endpoints=[LocalityLbEndpoints(lb_endpoints=[endpoint])]
        ),
        circuit_breakers=CircuitBreakers(thresholds=[thresholds]),
    )


def _http2(options: MeshOptions) -> Message:
    explicit = UpstreamHttpOptions.ExplicitHttpConfig(
        http2_protocol_options=Http2ProtocolOptions(
            connection_keepalive=KeepaliveSettings(interval=seconds(30), timeout=seconds(10))
        )
    )
    return UpstreamHttpOptions(
        explicit_http_config=explicit,
        common_http_protocol_options=HttpProtocolOptions(
            idle_timeout=seconds(options.idle_s), max_connection_duration=seconds(options.max_connection_s)
        ),
    )


def _limits(limits: Limits, policy: ServicePolicy) -> Message:
    """The budget of a cluster is that of its most generous route: Envoy keeps one per cluster."""
    retries = [route.retries for route in policy.routes if route.retries.attempts > 0]
    thresholds = CircuitBreakers.Thresholds(
        max_connections=u32(limits.max_connections or UNLIMITED),
        max_pending_requests=u32(limits.max_pending or UNLIMITED),
        max_requests=u32(limits.max_requests or UNLIMITED),
        retry_budget=CircuitBreakers.Thresholds.RetryBudget(
            budget_percent=Percent(value=100.0 * max((r.budget for r in retries), default=0.2)),
            min_retry_concurrency=u32(max((r.min_concurrency for r in retries), default=3)),
        ),
    )
    return CircuitBreakers(thresholds=[thresholds])


def _outlier(outlier: OutlierPolicy, size: int) -> Message:
    """A percentage below one instance ejects nobody; in pools of three and more it then means one of them."""
    percent = outlier.max_ejection_percent
    if percent and size >= SMALLEST_POOL and size * percent < 100:  # noqa: PLR2004 - a percentage
        percent = max(percent, SMALL_POOL_PERCENT)
    return OutlierDetection(
        consecutive_5xx=u32(outlier.consecutive_errors),
        interval=seconds(outlier.interval_s),
        base_ejection_time=seconds(outlier.ejection_s),
        max_ejection_percent=u32(percent),
        enforcing_success_rate=u32(0),
    )
