"""Which metrics are whose: a process shows what it counts itself, not what it merely has loaded.

One program holds the code of all processes, and every counter it loads is in one registry. Without this, the control plane
would say of itself `fibrin_agent_control_up 0`, and somebody's alert would believe it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from prometheus_client import REGISTRY, CollectorRegistry, Metric
from prometheus_client.registry import Collector

OF_EVERY_PROCESS: Final = ("process_", "python_")
CONTROL: Final = ("fibrin_control_", "fibrin_xds_", "fibrin_identity_")
AGENT: Final = ("fibrin_agent_", "fibrin_telemetry_", "fibrin_audit_", "fibrin_request", "fibrin_slo_")
PROXY: Final = ("fibrin_proxy_",)


class Own(Collector):
    """The families of `registry` whose names begin with one of `prefixes`, and those that every process has."""

    def __init__(self, prefixes: tuple[str, ...], registry: CollectorRegistry = REGISTRY) -> None:
        self._prefixes = (*prefixes, *OF_EVERY_PROCESS)
        self._registry = registry

    def collect(self) -> Iterable[Metric]:
        """Return the families, as they are now."""
        return (family for family in self._registry.collect() if family.name.startswith(self._prefixes))
