# mypy: disable-error-code="attr-defined"
"""Envoy's API messages under one roof.

The generated modules of `xds-protos` build their classes at import and carry no types, so this is the one module that
names them; everything else in the room imports from here. The three small makers below keep wrapped scalars readable.
"""

from __future__ import annotations

from typing import Any

from envoy.config.accesslog.v3 import accesslog_pb2
from envoy.config.cluster.v3 import circuit_breaker_pb2, cluster_pb2, outlier_detection_pb2
from envoy.config.core.v3 import address_pb2, base_pb2, config_source_pb2, health_check_pb2, protocol_pb2
from envoy.config.endpoint.v3 import endpoint_components_pb2, endpoint_pb2
from envoy.config.listener.v3 import listener_components_pb2, listener_pb2
from envoy.config.route.v3 import route_components_pb2, route_pb2, scoped_route_pb2
from envoy.extensions.filters.http.adaptive_concurrency.v3 import adaptive_concurrency_pb2
from envoy.extensions.filters.http.fault.v3 import fault_pb2
from envoy.extensions.filters.http.local_ratelimit.v3 import local_rate_limit_pb2
from envoy.extensions.filters.http.router.v3 import router_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2
from envoy.extensions.retry.host.previous_hosts.v3 import previous_hosts_pb2
from envoy.extensions.transport_sockets.tls.v3 import common_pb2, secret_pb2, tls_pb2
from envoy.extensions.upstreams.http.v3 import http_protocol_options_pb2
from envoy.service.discovery.v3 import discovery_pb2
from envoy.type.matcher.v3 import regex_pb2, string_pb2
from envoy.type.v3 import http_status_pb2, percent_pb2, token_bucket_pb2
from google.protobuf import any_pb2, duration_pb2, wrappers_pb2

Message = Any
"""A protobuf message; the classes have no static types."""

AccessLog: Any = accesslog_pb2.AccessLog
AccessLogFilter: Any = accesslog_pb2.AccessLogFilter
Address: Any = address_pb2.Address
SocketAddress: Any = address_pb2.SocketAddress
CircuitBreakers: Any = circuit_breaker_pb2.CircuitBreakers
Cluster: Any = cluster_pb2.Cluster
OutlierDetection: Any = outlier_detection_pb2.OutlierDetection
ConfigSource: Any = config_source_pb2.ConfigSource
AggregatedConfigSource: Any = config_source_pb2.AggregatedConfigSource
ApiVersion: Any = config_source_pb2.ApiVersion
DataSource: Any = base_pb2.DataSource
HeaderValue: Any = base_pb2.HeaderValue
HeaderValueOption: Any = base_pb2.HeaderValueOption
Locality: Any = base_pb2.Locality
Node: Any = base_pb2.Node
RuntimeFractionalPercent: Any = base_pb2.RuntimeFractionalPercent
TrafficDirection: Any = base_pb2.TrafficDirection
TransportSocket: Any = base_pb2.TransportSocket
HealthStatus: Any = health_check_pb2.HealthStatus
Http1ProtocolOptions: Any = protocol_pb2.Http1ProtocolOptions
Http2ProtocolOptions: Any = protocol_pb2.Http2ProtocolOptions
HttpProtocolOptions: Any = protocol_pb2.HttpProtocolOptions
KeepaliveSettings: Any = protocol_pb2.KeepaliveSettings
ClusterLoadAssignment: Any = endpoint_pb2.ClusterLoadAssignment
Endpoint: Any = endpoint_components_pb2.Endpoint
LbEndpoint: Any = endpoint_components_pb2.LbEndpoint
LocalityLbEndpoints: Any = endpoint_components_pb2.LocalityLbEndpoints
Filter: Any = listener_components_pb2.Filter
FilterChain: Any = listener_components_pb2.FilterChain
Listener: Any = listener_pb2.Listener
DirectResponseAction: Any = route_components_pb2.DirectResponseAction
FilterConfig: Any = route_components_pb2.FilterConfig
HeaderMatcher: Any = route_components_pb2.HeaderMatcher
RetryPolicy: Any = route_components_pb2.RetryPolicy
Route: Any = route_components_pb2.Route
RouteAction: Any = route_components_pb2.RouteAction
RouteMatch: Any = route_components_pb2.RouteMatch
VirtualHost: Any = route_components_pb2.VirtualHost
WeightedCluster: Any = route_components_pb2.WeightedCluster
RouteConfiguration: Any = route_pb2.RouteConfiguration
ScopedRouteConfiguration: Any = scoped_route_pb2.ScopedRouteConfiguration
AdaptiveConcurrency: Any = adaptive_concurrency_pb2.AdaptiveConcurrency
GradientController: Any = adaptive_concurrency_pb2.GradientControllerConfig
HTTPFault: Any = fault_pb2.HTTPFault
LocalRateLimit: Any = local_rate_limit_pb2.LocalRateLimit
Router: Any = router_pb2.Router
HttpConnectionManager: Any = http_connection_manager_pb2.HttpConnectionManager
HttpFilter: Any = http_connection_manager_pb2.HttpFilter
LocalReplyConfig: Any = http_connection_manager_pb2.LocalReplyConfig
Rds: Any = http_connection_manager_pb2.Rds
ResponseMapper: Any = http_connection_manager_pb2.ResponseMapper
ScopedRds: Any = http_connection_manager_pb2.ScopedRds
ScopedRoutes: Any = http_connection_manager_pb2.ScopedRoutes
PreviousHostsPredicate: Any = previous_hosts_pb2.PreviousHostsPredicate
CertificateValidationContext: Any = common_pb2.CertificateValidationContext
CommonTlsContext: Any = tls_pb2.CommonTlsContext
DownstreamTlsContext: Any = tls_pb2.DownstreamTlsContext
SdsSecretConfig: Any = secret_pb2.SdsSecretConfig
Secret: Any = secret_pb2.Secret
SubjectAltNameMatcher: Any = common_pb2.SubjectAltNameMatcher
TlsCertificate: Any = common_pb2.TlsCertificate
TlsParameters: Any = common_pb2.TlsParameters
UpstreamTlsContext: Any = tls_pb2.UpstreamTlsContext
UpstreamHttpOptions: Any = http_protocol_options_pb2.HttpProtocolOptions
DeltaDiscoveryRequest: Any = discovery_pb2.DeltaDiscoveryRequest
DeltaDiscoveryResponse: Any = discovery_pb2.DeltaDiscoveryResponse
DiscoveryResource: Any = discovery_pb2.Resource
RegexMatcher: Any = regex_pb2.RegexMatcher
StringMatcher: Any = string_pb2.StringMatcher
FractionalPercent: Any = percent_pb2.FractionalPercent
HttpStatus: Any = http_status_pb2.HttpStatus
Percent: Any = percent_pb2.Percent
TokenBucket: Any = token_bucket_pb2.TokenBucket

_MILLIONTHS = 10_000


def seconds(value: float) -> duration_pb2.Duration:
    """Return `value` seconds as a Duration, rounded to microseconds."""
    micros = round(value * 1_000_000)
    return duration_pb2.Duration(seconds=micros // 1_000_000, nanos=micros % 1_000_000 * 1000)


def u32(value: int) -> wrappers_pb2.UInt32Value:
    """Wrap an unsigned integer."""
    return wrappers_pb2.UInt32Value(value=value)


def percentage(percent: float) -> Message:
    """Return a percentage as a FractionalPercent, exact to a ten-thousandth."""
    million = FractionalPercent.DenominatorType.Value("MILLION")
    return FractionalPercent(numerator=round(percent * _MILLIONTHS), denominator=million)


def boolean(*, value: bool) -> wrappers_pb2.BoolValue:
    """Wrap a boolean."""
    return wrappers_pb2.BoolValue(value=value)


def packed(message: Message) -> any_pb2.Any:
    """Pack `message` into an Any, byte-stable."""
    return any_pb2.Any(
        type_url=f"type.googleapis.com/{message.DESCRIPTOR.full_name}",
        value=message.SerializeToString(deterministic=True),
    )
