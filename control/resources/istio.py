"""The field names of Istio's public schema, so that a field we do not support yet is told apart from a typo.

Keys are places in a document with list indices left out (`spec.http[].match[]`). `UNSUPPORTED` fields are errors: what
they ask for would not happen. `WITHOUT_EFFECT` fields are read and warned about: leaving them out changes little.
Source: Istio 1.2x API reference, networking.istio.io/v1.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

UNSUPPORTED: Final[Mapping[str, Mapping[str, frozenset[str]]]] = {
    "VirtualService": {
        "spec": frozenset({"gateways", "tls", "tcp", "exportTo"}),
        "spec.http[]": frozenset(
            {
                "redirect",
                "directResponse",
                "delegate",
                "rewrite",
                "mirror",
                "mirrors",
                "mirrorPercent",
                "mirrorPercentage",
                "corsPolicy",
                "headers",
            }
        ),
        "spec.http[].match[]": frozenset(
            {
                "scheme",
                "authority",
                "port",
                "sourceLabels",
                "gateways",
                "queryParams",
                "ignoreUriCase",
                "withoutHeaders",
                "sourceNamespace",
                "statPrefix",
            }
        ),
        "spec.http[].route[]": frozenset({"headers"}),
        "spec.http[].retries": frozenset({"retryIgnorePreviousHosts", "backoff"}),
        "spec.http[].fault.delay": frozenset({"percent", "exponentialDelay"}),
        "spec.http[].fault.abort": frozenset({"grpcStatus", "http2Error"}),
    },
    "DestinationRule": {
        "spec": frozenset({"exportTo", "workloadSelector"}),
        "spec.subsets[]": frozenset({"trafficPolicy"}),
        "spec.trafficPolicy": frozenset({"tls", "portLevelSettings", "tunnel", "proxyProtocol", "retryBudget"}),
        "spec.trafficPolicy.loadBalancer": frozenset(
            {"consistentHash", "localityLbSetting", "warmupDurationSecs", "warmup"}
        ),
        "spec.trafficPolicy.connectionPool.tcp": frozenset({"tcpKeepalive", "maxConnectionDuration", "idleTimeout"}),
        "spec.trafficPolicy.connectionPool.http": frozenset(
            {"maxRetries", "idleTimeout", "h2UpgradePolicy", "useClientProtocol", "maxConcurrentStreams"}
        ),
        "spec.trafficPolicy.outlierDetection": frozenset(
            {
                "consecutiveErrors",
                "splitExternalLocalOriginErrors",
                "consecutiveLocalOriginFailures",
                "consecutiveGatewayErrors",
                "minHealthPercent",
            }
        ),
    },
}

WITHOUT_EFFECT: Final[Mapping[str, Mapping[str, str]]] = {
    "VirtualService": {
        "spec.http[].retries.retryRemoteLocalities": "retries already go to every zone",
        "spec.http[].route[].destination.port": "an instance has one port, the one it registered",
    },
    "DestinationRule": {
        "spec.trafficPolicy.connectionPool.http.maxRequestsPerConnection": "connections between sidecars are HTTP/2 and live as long as their certificate",
    },
}

KINDS_TO_COME: Final = frozenset(
    {
        "Gateway",
        "ServiceEntry",
        "AuthorizationPolicy",
        "PeerAuthentication",
        "RequestAuthentication",
        "Telemetry",
        "Sidecar",
        "EnvoyFilter",
        "WorkloadEntry",
        "WorkloadGroup",
        "ProxyConfig",
        "WasmPlugin",
        "HTTPRoute",
        "GRPCRoute",
    }
)
"""Kinds of Istio and Gateway API that are real but not read yet."""

_INDEX = re.compile(r"\[\d+\]")


def place(field: str) -> str:
    """Return a rendered path with its indices left out: `spec.http[0].match[1]` → `spec.http[].match[]`."""
    return _INDEX.sub("[]", field)


def is_unsupported(kind: str, field: str) -> bool:
    """Return whether the field at this rendered path is Istio's but not supported yet."""
    parent, _, name = place(field).rpartition(".")
    return name in UNSUPPORTED.get(kind, {}).get(parent, frozenset())
