"""What one Envoy must know before it can ask the control plane for everything else.

The bootstrap is a pure function of a `SidecarSpec`: no file is read, no clock is asked, so that a golden test can
hold all of it. It says who this sidecar is (node), where its configuration comes from (delta ADS over a Unix socket),
where its golden signals go (OTLP over a Unix socket), where its admin listens (a Unix socket of mode 0600), and
how much of the machine it may use. Listeners, routes, clusters and certificates come by xDS.

It is written as the JSON that Envoy reads rather than with protobuf classes: this reads like Envoy's own reference, and a
sidecar's runner need not load them. A test parses it strictly into Envoy's messages, another has Envoy validate it.

Static stability: an Envoy that once had its configuration keeps it for as long as it runs, whether or not the control
plane lives. A fresh Envoy without a control plane is live after `_INITIAL_FETCH` per resource type, without listeners;
the supervisor does not call that ready, and goes on waiting. The same holds for one that crashed meanwhile: no last good
configuration is kept on disk (the private key of the certificate would have to lie there too).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from proxy import telemetry
from proxy.spec import SidecarSpec

XDS_CLUSTER: Final = "xds"
OTLP_CLUSTER: Final = "otlp"

_INITIAL_FETCH: Final = "2s"  # default 15 s: how long a fresh Envoy waits for a dead control plane
_CONNECT: Final = "1s"
_KEEPALIVE: Final = {"interval": "10s", "timeout": "5s"}  # a stopped (not dead) control plane is noticed after 15 s
_RETRY: Final = {
    "base_interval": "0.1s",
    "max_interval": "2s",
}  # Envoy's own is 0.5 to 30 s: too late to a returned one
# Envoy's own look at its threads, which ends nothing and is only counted: by default every 100 ms, at 1 % of a sidecar's
# CPU. The supervisor asks the admin, and that is what a hanging Envoy is found by.
_WATCHDOG: Final = {"miss_timeout": "2s", "megamiss_timeout": "5s"}
_OWNER_ONLY: Final = 0o600
_HTTP_OPTIONS: Final = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
_SUPERVISED: Final = (r"http\.explicit_.*\.downstream_rq_active",)  # in flight on explicit listeners, for the drain
_CONNECTIONS: Final = "envoy.extensions.resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig"


def build(spec: SidecarSpec) -> dict[str, object]:
    """Return the bootstrap of `spec` as JSON; equal specs give equal documents."""
    return {
        "node": {
            "id": spec.id,
            "cluster": spec.service,
            "locality": {"zone": spec.zone},
            "metadata": _metadata(spec),
        },
        "static_resources": {
            "clusters": [_socket_cluster(XDS_CLUSTER, spec.xds_socket), _socket_cluster(OTLP_CLUSTER, spec.otlp_socket)]
        },
        "dynamic_resources": _dynamic_resources(spec),
        "admin": {
            "address": {"pipe": {"path": str(spec.admin_socket), "mode": _OWNER_ONLY}},
            "ignore_global_conn_limit": True,  # the last connection left must be ours
        },
        "stats_sinks": list(
            telemetry.stats_sinks(
                service=spec.service,
                version=spec.version,
                zone=spec.zone,
                initial_metadata=initial_metadata(spec),
                cluster=OTLP_CLUSTER,
            )
        ),
        "stats_config": telemetry.stats_config(extra=_SUPERVISED),
        "stats_flush_interval": f"{telemetry.FLUSH_INTERVAL_S:g}s",
        "stats_eviction_interval": f"{telemetry.EVICTION_INTERVAL_S:g}s",
        # one static layer: a layer by xDS would hold up every cold start by its fetch
        "layered_runtime": {"layers": [{"name": "fibrin", "static_layer": {"re2.max_program_size.error_level": 1000}}]},
        "overload_manager": _overload(spec),
        "watchdogs": {"main_thread_watchdog": _WATCHDOG, "worker_watchdog": _WATCHDOG},
    }


def render(bootstrap: Mapping[str, object]) -> str:
    """Return `bootstrap` as text: two spaces, keys sorted, a final newline."""
    return json.dumps(bootstrap, indent=2, sort_keys=True) + "\n"


def initial_metadata(spec: SidecarSpec) -> tuple[tuple[str, str], ...]:
    """Return the headers that every gRPC call of this sidecar carries: who calls, and its right to."""
    return (("x-fibrin-node", spec.id), ("authorization", f"Bearer {spec.token}"))


def _metadata(spec: SidecarSpec) -> dict[str, object]:
    """Return what the control plane builds this sidecar's listeners from."""
    address, port = spec.application
    return {
        "service": spec.service,
        "version": spec.version,
        "zone": spec.zone,
        "address": spec.address,
        "inbound_port": spec.inbound_port,
        "outbound_port": spec.outbound_port,
        "app_address": address,
        "app_port": port,
        "listen": dict(spec.listen),
        "mesh": {},
    }


def _dynamic_resources(spec: SidecarSpec) -> dict[str, object]:
    from_ads = {"ads": {}, "resource_api_version": "V3", "initial_fetch_timeout": _INITIAL_FETCH}
    return {
        "lds_config": from_ads,
        "cds_config": from_ads,
        "ads_config": {
            "api_type": "DELTA_GRPC",
            "transport_api_version": "V3",
            "set_node_on_first_message_only": True,
            "grpc_services": [
                {
                    "envoy_grpc": {"cluster_name": XDS_CLUSTER, "retry_policy": {"retry_back_off": _RETRY}},
                    "initial_metadata": [{"key": key, "value": value} for key, value in initial_metadata(spec)],
                }
            ],
        },
    }


def _socket_cluster(name: str, path: Path) -> dict[str, object]:
    """Return a static cluster that speaks HTTP/2 to the Unix socket at `path`."""
    http2 = {"connection_keepalive": _KEEPALIVE}
    return {
        "name": name,
        "type": "STATIC",
        "connect_timeout": _CONNECT,
        "typed_extension_protocol_options": {
            _HTTP_OPTIONS: {
                "@type": f"type.googleapis.com/{_HTTP_OPTIONS}",
                "explicit_http_config": {"http2_protocol_options": http2},
            }
        },
        "load_assignment": {
            "cluster_name": name,
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": {"pipe": {"path": str(path)}}}}]}],
        },
    }


def _overload(spec: SidecarSpec) -> dict[str, object]:
    """Return the bound that keeps a storm of connections from taking every file descriptor of the machine."""
    return {
        "resource_monitors": [
            {
                "name": "envoy.resource_monitors.global_downstream_max_connections",
                "typed_config": {
                    "@type": f"type.googleapis.com/{_CONNECTIONS}",
                    "max_active_downstream_connections": spec.max_connections,
                },
            }
        ]
    }
