"""What the control plane counts about itself (the xDS server counts its own)."""

from __future__ import annotations

from typing import Final

from prometheus_client import Counter, Gauge, Histogram

RESOURCES: Final = Gauge("fibrin_control_resources", "Declared resources.", ["kind"])
OVERLAYS: Final = Gauge("fibrin_control_overlays", "Overlays that have not expired.", ["kind", "owner"])
OVERLAYS_ENDED: Final = Counter("fibrin_control_overlays_ended", "Overlays that ended.", ["how"])
INSTANCES: Final = Gauge("fibrin_control_instances", "Registered instances.", ["health"])
SERVICES: Final = Gauge("fibrin_control_services", "Services declared or served.")
GENERATION: Final = Gauge("fibrin_control_world_generation", "Generation of the world last pushed.")
RECONCILES: Final = Counter("fibrin_control_reconciles", "Recomputations of the world.", ["outcome"])
RECONCILE_SECONDS: Final = Histogram(
    "fibrin_control_reconcile_seconds",
    "Time from the first unseen change to the new world handed over.",
    buckets=(0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 1.0),
)
REQUESTS: Final = Counter("fibrin_control_api_requests", "Requests to the control API.", ["route", "method", "code"])
REQUEST_SECONDS: Final = Histogram(
    "fibrin_control_api_request_seconds",
    "Time to answer, streams and long polls left out.",
    ["route"],
    buckets=(0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 1.0, 5.0),
)
STREAMS: Final = Gauge("fibrin_control_api_streams", "Open watch streams.", ["stream"])
STREAMS_DROPPED: Final = Counter("fibrin_control_api_streams_dropped", "Watchers too slow to keep.", ["stream"])
REFUSALS: Final = Counter("fibrin_control_refusals", "Overlays refused.", ["error"])
ADJUSTMENTS: Final = Gauge("fibrin_control_adjustments", "Places where an overlay is held back for lack of capacity.")
MASS_LOSSES: Final = Counter("fibrin_control_mass_losses", "Times most instances fell silent at once and were kept.")
STALLS: Final = Counter("fibrin_control_stalls", "Times this process itself was not running for a while.")
STORE_SECONDS: Final = Histogram(
    "fibrin_control_store_commit_seconds",
    "Time of one durable commit.",
    buckets=(0.0005, 0.001, 0.002, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0),
)
STORE_FAILURES: Final = Counter("fibrin_control_store_failures", "Commits that failed.")
FAILURES: Final = Counter("fibrin_control_failures", "Errors nobody foresaw, caught at the rim.", ["where"])
