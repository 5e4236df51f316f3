"""The bootstrap's part of the telemetry channel: what Envoy measures at all, on which grid, and where it goes.

Every `FLUSH_S` Envoy sends what changed (counters and histograms as deltas, gauges as they are) in one OTLP call over
the `otlp` cluster. The inclusion list keeps everything else from being measured in the first place: a report is
about 1 KB idle, and a sidecar saves the memory of some hundred statistics per cluster.

JSON and not protobuf messages, as the rest of the bootstrap.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Final

from models.signals import BOUNDS_US, Side
from models.telemetry import (
    ACTIVE_REQUESTS,
    FLUSH_S,
    LIVE,
    SERVICE_ATTRIBUTE,
    STAT_PREFIX,
    UPTIME,
    VERSION_ATTRIBUTE,
    ZONE_ATTRIBUTE,
)

FLUSH_INTERVAL_S: Final = FLUSH_S
EVICTION_INTERVAL_S: Final = 300.0
"""For `stats_eviction_interval`: statistics of hosts and codes unused for this long are freed. Loses no count."""

_SINK: Final = "envoy.extensions.stat_sinks.open_telemetry.v3.SinkConfig"
_RESOURCE: Final = "envoy.extensions.tracers.opentelemetry.resource_detectors.v3.StaticConfigResourceDetectorConfig"
_EXPORT_TIMEOUT: Final = "1s"  # a dead agent must not pile up exports
_INCLUDED: Final = (
    # the heartbeat: an idle sidecar still reports these
    re.escape(UPTIME),
    re.escape(LIVE),
    re.escape(ACTIVE_REQUESTS),
    # what the supervisor and `fibrin describe` read on the admin socket; few, because gauges travel with each report
    r"listener_manager\.(workers_started|total_listeners_(warming|active|draining))",
    r"cluster_manager\.(warming|active)_clusters",
    r"control_plane\.connected_state",
    r"http\.(inbound|outbound)\.downstream_(cx|rq)_active",
)


def stats_sinks(
    *,
    service: str,
    version: str,
    zone: str,
    initial_metadata: Iterable[tuple[str, str]],
    cluster: str = "otlp",
) -> tuple[Mapping[str, object], ...]:
    """Return the bootstrap's `stats_sinks`.

    `initial_metadata` are the headers of each export (node id, bearer token), `cluster` the static cluster of the
    agent's socket. Service, version and zone travel as the report's resource.
    """
    attributes = {SERVICE_ATTRIBUTE: service, VERSION_ATTRIBUTE: version, ZONE_ATTRIBUTE: zone}
    detector = {
        "name": "envoy.tracers.opentelemetry.resource_detectors.static_config",
        "typed_config": {"@type": f"type.googleapis.com/{_RESOURCE}", "attributes": attributes},
    }
    config: dict[str, object] = {
        "@type": f"type.googleapis.com/{_SINK}",
        "grpc_service": {
            "envoy_grpc": {"cluster_name": cluster},
            "timeout": _EXPORT_TIMEOUT,
            "initial_metadata": [{"key": key, "value": value} for key, value in initial_metadata],
        },
        "report_counters_as_deltas": True,
        "report_histograms_as_deltas": True,
        "emit_tags_as_attributes": True,
        "use_tag_extracted_name": True,
        "resource_detectors": [detector],
    }
    return ({"name": "envoy.stat_sinks.open_telemetry", "typed_config": config},)


def stats_config(extra: Iterable[str] = ()) -> dict[str, object]:
    """Return the bootstrap's `stats_config`: what is measured, and the mesh's latency grid.

    `extra` are further statistics to keep, as RE2 expressions of whole names.
    """
    prefixes = [{"prefix": f"{STAT_PREFIX[side]}."} for side in Side]
    expressions = [{"safe_regex": {"regex": expression}} for expression in (*_INCLUDED, *extra)]
    grid = {"match": {"prefix": "fibrin."}, "buckets": [float(bound) for bound in BOUNDS_US]}
    return {
        "use_all_default_tags": False,  # a cluster's name would be taken out of ours
        "stats_matcher": {"inclusion_list": {"patterns": [*prefixes, *expressions]}},
        "histogram_bucket_settings": [grid],
    }
