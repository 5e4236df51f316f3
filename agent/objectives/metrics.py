"""What the agent shows of objectives on `/metrics`, prefix `fibrin_slo_`: one series per declared objective and label."""

from __future__ import annotations

from typing import Final

from prometheus_client import Counter, Gauge

_NAME: Final = ["slo", "service"]

TARGET: Final = Gauge("fibrin_slo_objective_ratio", "Share of valid requests that is promised to be good", _NAME)
RATIO: Final = Gauge("fibrin_slo_good_ratio", "Share of valid requests that was good in the window", _NAME)
REMAINING: Final = Gauge(
    "fibrin_slo_budget_remaining_ratio", "Share of the error budget left, below 0 if overspent", _NAME
)
BURN: Final = Gauge("fibrin_slo_burn_rate", "How many times too fast the error budget burns", [*_NAME, "window"])
LEVEL: Final = Gauge("fibrin_slo_burning", "1 while a burn alert of this level holds", [*_NAME, "level"])
GOOD: Final = Counter("fibrin_slo_good_requests_total", "Good requests counted", _NAME)
VALID: Final = Counter("fibrin_slo_valid_requests_total", "Valid requests counted", _NAME)
ALERTS: Final = Counter("fibrin_slo_alerts_total", "Burn alerts told to people", ["level"])
FAMILIES: Final = (TARGET, RATIO, REMAINING, BURN, LEVEL, GOOD, VALID)
