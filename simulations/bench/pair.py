"""The limit to measure against: the smallest hand-written pair of Envoys that speaks HTTP/2 over mTLS.

No control plane, no telemetry, no policy: one listener, one route, one cluster on each side, and certificates in files. What
this pair costs, no sidecar mesh on Envoy can undercut.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

Json = dict[str, Any]

_HCM = "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
_ROUTER = "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"
_HTTP = "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
_TLS_UP = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext"
_TLS_DOWN = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext"


def write(folder: Path, client: tuple[str, int], server: tuple[str, int], app: tuple[str, int]) -> tuple[Path, Path]:
    """Write certificates and both configurations into `folder`.

    Args:
        folder: an existing private folder.
        client: where the client side listens for plain HTTP/1.1.
        server: where the server side listens for mTLS.
        app: where the application listens.

    Returns:
        The paths of the client's and the server's configuration.
    """
    tls = _certificates(folder)
    up = {"@type": _TLS_UP, "common_tls_context": {**tls, "alpn_protocols": ["h2"]}}
    down = {
        "@type": _TLS_DOWN,
        "common_tls_context": {**tls, "alpn_protocols": ["h2"]},
        "require_client_certificate": True,
    }
    h2: Json = {"@type": _HTTP, "explicit_http_config": {"http2_protocol_options": {}}}
    outgoing = _envoy(
        _listener(client, None), _cluster(server, {"name": "tls", "typed_config": up}, {"typed": h2}), folder / "client"
    )
    incoming = _envoy(
        _listener(server, {"name": "tls", "typed_config": down}), _cluster(app, None, {}), folder / "server"
    )
    paths = (folder / "client.json", folder / "server.json")
    for path, config in zip(paths, (outgoing, incoming), strict=True):
        path.write_text(json.dumps(config, indent=1), encoding="utf-8")
    return paths


def _certificates(folder: Path) -> Json:
    """Issue one P-256 leaf for both sides, signed by itself; return the common TLS context that uses it."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "pair")])
    now = datetime.now(UTC)
    leaf = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=5))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.UniformResourceIdentifier("spiffe://bench/pair")]), critical=False
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    files = {"cert.pem": leaf.public_bytes(serialization.Encoding.PEM)}
    files["key.pem"] = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    for file, content in files.items():
        (folder / file).write_bytes(content)
        (folder / file).chmod(0o600)
    return {
        "tls_params": {"tls_minimum_protocol_version": "TLSv1_3", "tls_maximum_protocol_version": "TLSv1_3"},
        "tls_certificates": [
            {
                "certificate_chain": {"filename": str(folder / "cert.pem")},
                "private_key": {"filename": str(folder / "key.pem")},
            }
        ],
        "validation_context": {"trusted_ca": {"filename": str(folder / "cert.pem")}},
    }


def _address(place: tuple[str, int]) -> Json:
    return {"socket_address": {"address": place[0], "port_value": place[1]}}


def _listener(place: tuple[str, int], tls: Json | None) -> Json:
    manager: Json = {
        "@type": _HCM,
        "stat_prefix": "pair",
        "generate_request_id": False,
        "route_config": {
            "virtual_hosts": [
                {"name": "all", "domains": ["*"], "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "next"}}]}
            ]
        },
        "http_filters": [{"name": "router", "typed_config": {"@type": _ROUTER}}],
    }
    chain: Json = {"filters": [{"name": "http", "typed_config": manager}]}
    if tls is not None:
        chain["transport_socket"] = tls
    return {"name": "in", "address": _address(place), "filter_chains": [chain]}


def _cluster(place: tuple[str, int], tls: Json | None, options: Json) -> Json:
    cluster: Json = {
        "name": "next",
        "type": "STATIC",
        "connect_timeout": "1s",
        "load_assignment": {
            "cluster_name": "next",
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": _address(place)}}]}],
        },
    }
    if tls is not None:
        cluster["transport_socket"] = tls
    if options:
        cluster["typed_extension_protocol_options"] = {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": options["typed"]
        }
    return cluster


def _envoy(listener: Json, cluster: Json, folder: Path) -> Json:
    folder.mkdir(exist_ok=True)
    return {
        "static_resources": {"listeners": [listener], "clusters": [cluster]},
        "admin": {"address": {"pipe": {"path": str(folder / "admin.sock"), "mode": 384}}},
    }
