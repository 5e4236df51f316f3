from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from envoy.config.bootstrap.v3 import bootstrap_pb2
from envoy.extensions.resource_monitors.downstream_connections.v3 import downstream_connections_pb2
from envoy.extensions.stat_sinks.open_telemetry.v3 import open_telemetry_pb2
from envoy.extensions.tracers.opentelemetry.resource_detectors.v3 import static_config_resource_detector_pb2
from envoy.extensions.upstreams.http.v3 import http_protocol_options_pb2
from google.protobuf import json_format

from proxy import bootstrap
from proxy.spec import SidecarSpec

_GOLDEN = Path(__file__).parent / "golden" / "bootstrap.json"
_EXTENSIONS = (  # loaded, so that their Any can be parsed
    downstream_connections_pb2,
    open_telemetry_pb2,
    static_config_resource_detector_pb2,
    http_protocol_options_pb2,
)


def test_golden(spec: SidecarSpec) -> None:
    """The whole bootstrap of a sidecar is what was reviewed, byte for byte."""
    assert bootstrap.render(bootstrap.build(spec)) == _GOLDEN.read_text(encoding="utf-8")


def test_is_envoys(spec: SidecarSpec) -> None:
    """Every field exists in Envoy's own messages, extensions included, and the node says who it is."""
    assert all(module.DESCRIPTOR for module in _EXTENSIONS)
    message = json_format.Parse(bootstrap.render(bootstrap.build(spec)), bootstrap_pb2.Bootstrap())  # type: ignore[attr-defined]
    assert (message.node.id, message.node.cluster) == ("catalog-v1-2", "catalog")
    assert message.node.locality.zone == "zone-a"
    assert message.node.metadata["app_address"] == "127.0.10.2"
    assert message.node.metadata["listen"]["payment"] == 9001
    assert message.admin.address.pipe.mode == 0o600


def test_every_grpc_call_says_who_calls(spec: SidecarSpec) -> None:
    """Configuration and telemetry streams both carry the node id and the token."""
    message = json_format.Parse(bootstrap.render(bootstrap.build(spec)), bootstrap_pb2.Bootstrap())  # type: ignore[attr-defined]
    sink = open_telemetry_pb2.SinkConfig()  # type: ignore[attr-defined]
    assert message.stats_sinks[0].typed_config.Unpack(sink)
    wanted = {"x-fibrin-node": "catalog-v1-2", "authorization": "Bearer proxy-token-of-the-test"}
    for service in (message.dynamic_resources.ads_config.grpc_services[0], sink.grpc_service):
        assert {header.key: header.value for header in service.initial_metadata} == wanted


def test_equal_specs_equal_bytes(spec: SidecarSpec) -> None:
    """The order in which listeners were named does not show."""
    one = replace(spec, listen={"a": 1, "b": 2})
    two = replace(spec, listen={"b": 2, "a": 1})
    assert bootstrap.render(bootstrap.build(one)) == bootstrap.render(bootstrap.build(two))


@pytest.mark.parametrize("interval", ["stats_flush_interval"])
def test_flush_is_quick(spec: SidecarSpec, interval: str) -> None:
    """Golden signals leave the sidecar within a quarter of a second."""
    value = json.loads(bootstrap.render(bootstrap.build(spec)))[interval]
    assert float(value.removesuffix("s")) <= 0.25
