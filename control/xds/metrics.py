"""What the xDS server counts of itself."""

from __future__ import annotations

from typing import Final

from prometheus_client import Counter, Gauge, Histogram

_FINE: Final = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)

STREAMS: Final = Gauge("fibrin_xds_streams", "Sidecars connected to this control plane")
GENERATION: Final = Gauge("fibrin_xds_generation", "Generation of the configuration in force")
PUSHES: Final = Counter("fibrin_xds_pushes_total", "Responses sent to sidecars", ["type"])
RESOURCES: Final = Counter("fibrin_xds_resources_total", "Resources sent to sidecars", ["type"])
BYTES: Final = Counter("fibrin_xds_sent_bytes_total", "Bytes of responses sent to sidecars", ["type"])
NACKS: Final = Counter("fibrin_xds_nacks_total", "Responses that sidecars refused", ["type"])
REFUSED: Final = Counter("fibrin_xds_refused_streams_total", "Streams refused by the server", ["reason"])
UNREGISTERED: Final = Counter(
    "fibrin_xds_unregistered_leaves_total", "Certificates held back: the sidecar is not registered for the service"
)
WARMING: Final = Counter("fibrin_xds_warming_timeouts_total", "Pushes that went on before new clusters were confirmed")
FAILURES: Final = Counter("fibrin_xds_stream_failures_total", "Streams that ended by an error of the server")
ROTATIONS: Final = Counter("fibrin_identity_rotations_total", "Leaf certificates replaced before their end")
BUILD: Final = Histogram("fibrin_xds_build_seconds", "Time to build a world's resources", buckets=_FINE)
PUSH: Final = Histogram("fibrin_xds_push_seconds", "Time from a new world to a sidecar's last byte", buckets=_FINE)
CONVERGENCE: Final = Histogram(
    "fibrin_xds_convergence_seconds", "Time from a new world until every connected sidecar has answered", buckets=_FINE
)
