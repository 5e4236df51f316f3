"""Where a sidecar listens: LDS.

`outbound` is the application's HTTP proxy, `explicit|<service>` a port that leads to one service only, `inbound` takes
mTLS from other sidecars to the application. The filter chains hold nothing that a request does not need: the fault
filter is there but disabled, a route that declares a fault enables it (and no listener has to change).
"""

from __future__ import annotations

from typing import Final

from control.xds.admission import admission_filters, inbound_table
from control.xds.endpoints import socket_address
from control.xds.protos import (
    AccessLogFilter,
    DataSource,
    DirectResponseAction,
    Filter,
    FilterChain,
    HttpConnectionManager,
    HTTPFault,
    HttpFilter,
    HttpProtocolOptions,
    Listener,
    LocalReplyConfig,
    Message,
    Rds,
    ResponseMapper,
    Route,
    RouteConfiguration,
    RouteMatch,
    Router,
    ScopedRds,
    ScopedRoutes,
    TrafficDirection,
    VirtualHost,
    boolean,
    packed,
    seconds,
    u32,
)
from control.xds.routes import FAULT_FILTER, UNREACHED_HEADER, header_option
from control.xds.tls import ads, downstream_tls
from control.xds.world import MeshOptions, Node

INBOUND: Final = "inbound"
OUTBOUND: Final = "outbound"
UNKNOWN_HOST_BODY: Final = (
    "no service of the mesh is called '%REQ(:AUTHORITY)%': `fibrin get services` lists those there are, "
    "`hosts` of a VirtualService gives one another name\n"
)
UNREACHED_FLAG: Final = "UF"  # the connection to the application could not be made: nothing was sent
INBOUND_GRACE: Final = 1.25  # the caller ends an old connection first; the callee insists a little later


def explicit_name(service: str) -> str:
    """Return the name of the listener that leads to one service."""
    return f"explicit|{service}"


def outbound_listener(node: Node, options: MeshOptions) -> Message:
    """Build the HTTP proxy for the application: the service is chosen by the request's host."""
    extractor = ScopedRoutes.ScopeKeyBuilder.FragmentBuilder.HeaderValueExtractor(name=":authority", index=0)
    fragment = ScopedRoutes.ScopeKeyBuilder.FragmentBuilder(header_value_extractor=extractor)
    manager = _client_manager(OUTBOUND, options)
    manager.scoped_routes.CopyFrom(
        ScopedRoutes(
            name=OUTBOUND,
            scope_key_builder=ScopedRoutes.ScopeKeyBuilder(fragments=[fragment]),
            rds_config_source=ads(options),
            scoped_rds=ScopedRds(scoped_rds_config_source=ads(options)),
        )
    )
    return _listener(OUTBOUND, node.address, node.outbound_port, manager, "OUTBOUND")


def explicit_listener(node: Node, service: str, port: int, options: MeshOptions, *, known: bool) -> Message:
    """Build a port for one service; while the service is not known it answers 502."""
    manager = _client_manager(explicit_name(service), options)
    if known:
        manager.rds.CopyFrom(Rds(config_source=ads(options), route_config_name=service))
    else:
        body = f"no service of the mesh is called '{service}': `fibrin get services` lists those there are\n"
        answer = DirectResponseAction(status=502, body=DataSource(inline_string=body))
        route = Route(name=f"{service}/-", match=RouteMatch(prefix="/"), direct_response=answer)
        manager.route_config.CopyFrom(_inline(service, route))
    return _listener(explicit_name(service), node.address, port, manager, "OUTBOUND")


def inbound_listener(node: Node, options: MeshOptions) -> Message:
    """Build the mTLS side: requests that are admitted go to the application, with the caller's identity in XFCC.

    A request that found no application says so, and the caller's sidecar may send it elsewhere; a sidecar hears of a
    dead application a second later than the next request does. Only this sidecar may say it, not the application.
    """
    details = HttpConnectionManager.SetCurrentClientCertDetails(uri=True)
    forward = HttpConnectionManager.ForwardClientCertDetails.Value("SANITIZE_SET")
    manager = HttpConnectionManager(
        codec_type=HttpConnectionManager.CodecType.Value("HTTP2"),
        stat_prefix=INBOUND,
        rds=Rds(config_source=ads(options), route_config_name=inbound_table(node.service)),
        http_filters=[*admission_filters(), _router(())],
        local_reply_config=_unreached(),
        common_http_protocol_options=HttpProtocolOptions(
            idle_timeout=seconds(2 * options.idle_s),
            max_connection_duration=seconds(INBOUND_GRACE * options.max_connection_s),
        ),
        access_log=list(options.access_logs.server),
        forward_client_cert_details=forward,
        set_current_client_cert_details=details,
    )
    _plain(manager, options)
    listener = _listener(INBOUND, node.address, node.inbound_port, manager, "INBOUND")
    listener.filter_chains[0].transport_socket.CopyFrom(downstream_tls(options))
    listener.filter_chains[0].transport_socket_connect_timeout.CopyFrom(seconds(5))
    return listener


def _client_manager(name: str, options: MeshOptions) -> Message:
    fault = HttpFilter(name=FAULT_FILTER, typed_config=packed(HTTPFault()), disabled=True)
    manager = HttpConnectionManager(
        stat_prefix=name.replace("|", "_"),
        http_filters=[fault, _router(options.access_logs.attempt)],
        common_http_protocol_options=HttpProtocolOptions(idle_timeout=seconds(options.idle_s)),
        access_log=list(options.access_logs.client),
        strip_any_host_port=True,
        local_reply_config=_unknown_host(),
    )
    _plain(manager, options)
    return manager


def _plain(manager: Message, options: MeshOptions) -> None:
    """No request ids, no headers of Envoy's own, no waiting for peers that say no goodbye.

    Nor a timer that is set anew with each piece of a stream (it costs 3 % of a sidecar's CPU): a request ends by its route's timeout, a stream
    without one by its ends, and a dead peer is found by keep-alive.
    """
    manager.generate_request_id.CopyFrom(boolean(value=False))
    manager.stream_idle_timeout.CopyFrom(seconds(0))
    manager.server_header_transformation = HttpConnectionManager.ServerHeaderTransformation.Value("PASS_THROUGH")
    manager.drain_timeout.CopyFrom(seconds(options.drain_s))


def _router(attempt_logs: tuple[Message, ...]) -> Message:
    """Return the router; Envoy's own statistics of answers by status are off, because the access loggers tell more (and they cost some 2 %)."""
    router = Router(suppress_envoy_headers=True, dynamic_stats=boolean(value=False), upstream_log=list(attempt_logs))
    return HttpFilter(name="envoy.filters.http.router", typed_config=packed(router))


def _unknown_host() -> Message:
    """A host without scope leaves Envoy without routes: 404 with flag NR. Users get a 502 that says what to do."""
    mapper = ResponseMapper(status_code=u32(502))
    mapper.filter.CopyFrom(AccessLogFilter())
    mapper.filter.response_flag_filter.flags.append("NR")
    mapper.body_format_override.text_format_source.inline_string = UNKNOWN_HOST_BODY
    return LocalReplyConfig(mappers=[mapper])


def _unreached() -> Message:
    mapper = ResponseMapper(headers_to_add=[header_option(UNREACHED_HEADER, "1")])
    mapper.filter.CopyFrom(AccessLogFilter())
    mapper.filter.response_flag_filter.flags.append(UNREACHED_FLAG)
    return LocalReplyConfig(mappers=[mapper])


def _inline(name: str, route: Message) -> Message:
    return RouteConfiguration(name=name, virtual_hosts=[VirtualHost(name=name, domains=["*"], routes=[route])])


def _listener(name: str, address: str, port: int, manager: Message, direction: str) -> Message:
    """`direction` is `INBOUND` or `OUTBOUND`: a drain of a sidecar goes by it (`/drain_listeners?inboundonly`)."""
    hcm = Filter(name="envoy.filters.network.http_connection_manager", typed_config=packed(manager))
    return Listener(
        name=name,
        stat_prefix=name.replace("|", "_"),
        traffic_direction=TrafficDirection.Value(direction),
        address=socket_address(address, port),
        filter_chains=[FilterChain(filters=[hcm])],
    )
