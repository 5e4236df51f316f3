"""What the agent counts about its telemetry; all on `/metrics`, prefix `fibrin_telemetry_`."""

from __future__ import annotations

from typing import Final

from prometheus_client import Counter, Gauge, Histogram

REPORTS: Final = Counter("fibrin_telemetry_reports_total", "Reports of sidecars taken in")
BYTES: Final = Counter("fibrin_telemetry_bytes_total", "Bytes of reports taken in")
MALFORMED: Final = Counter("fibrin_telemetry_malformed_total", "Reports that no sidecar of ours sends", ["reason"])
REFUSED: Final = Counter("fibrin_telemetry_refused_total", "Reports without the right to be heard", ["reason"])
FAILED: Final = Counter("fibrin_telemetry_failed_total", "Reports lost to an error of ours")
DECODE: Final = Histogram(
    "fibrin_telemetry_decode_seconds",
    "Time to decode one report and hand it on",
    buckets=(0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.05),
)
DELAY: Final = Histogram(
    "fibrin_telemetry_delay_seconds",
    "From a sidecar's clock at sending to ours at receiving",
    buckets=(0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 1.0, 2.0),
)
MISSED: Final = Counter("fibrin_telemetry_missed_total", "Reports that a living sidecar should have sent and did not")
REPEATED: Final = Counter(
    "fibrin_telemetry_repeated_total", "Reports dated like the one before, whose counts were known"
)
UNATTRIBUTED: Final = Counter("fibrin_telemetry_unattributed_total", "Requests to no service of the mesh")
RESETS: Final = Counter("fibrin_telemetry_resets_total", "Sidecars seen to have started anew")
REPORTERS: Final = Gauge("fibrin_telemetry_reporters", "Sidecars by whether their telemetry can be trusted", ["trust"])
SERIES: Final = Gauge("fibrin_telemetry_series", "Series kept")
SERIES_DROPPED: Final = Counter("fibrin_telemetry_series_dropped_total", "Series refused because there are too many")
