"""What a sidecar's supervisor counts about itself; one counter stands beside every warning it logs."""

from __future__ import annotations

from typing import Final

from prometheus_client import Counter

RESTARTS: Final = Counter("fibrin_proxy_envoy_restarts_total", "Envoys started again after one ended unasked")
WAITS: Final = Counter("fibrin_proxy_configuration_waits_total", "Times a sidecar waited long for its configuration")
PROBE_TURNS: Final = Counter("fibrin_proxy_probe_turns_total", "Changes of the verdict on the application", ["to"])
CONTROL_FAILURES: Final = Counter(
    "fibrin_proxy_control_failures_total", "Calls to the control plane that failed", ["reason"]
)
DRAINS: Final = Counter("fibrin_proxy_drains_total", "Drains by how they ended", ["outcome"])
ENVOY_KILLS: Final = Counter("fibrin_proxy_envoy_kills_total", "Envoys that ignored SIGTERM and were killed")
