"""The false-alarm budget: one number an operator states, turned into the threshold of every test.

Every detector of this package is an *e-detector*: a statistic `M` with `E[M_τ] ≤ E[τ]` (τ in ticks) under every
distribution of its null, for every stopping time. An alarm at `M ≥ c` then has an average run length of at least `c`
ticks, by construction, however often one looks (Shin, Ramdas, Rinaldo: "E-detectors: a nonparametric framework for
sequential change detection", 2022/2024; Lorden 1971 for the CUSUM it contains). Over `N` simultaneous streams the
rates of false alarms add at worst (whatever their dependence), so each stream gets `1/N` of the mesh's budget.

Example:
    >>> budget = FalseAlarmBudget()
    >>> round(budget.threshold(streams=100), 1)
    21.0
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from models.errors import InvalidInput

DAY_S = 86_400.0


@dataclass(frozen=True, slots=True)
class FalseAlarmBudget:
    """At most `alarms` false alarms expected in `period_s` seconds over *all* series and signals of the mesh.

    `ticks_per_s` is how often each stream is tested (telemetry flushes every 200 ms).

    Raises:
        InvalidInput: a number is not positive and finite.
    """

    alarms: float = 1.0
    period_s: float = 30 * DAY_S
    ticks_per_s: float = 5.0

    def __post_init__(self) -> None:
        for name in ("alarms", "period_s", "ticks_per_s"):
            value = float(getattr(self, name))
            if not (math.isfinite(value) and value > 0):
                raise InvalidInput(
                    f"false-alarm budget: {name} is {value}, wanted a positive number",
                    hint="state for instance alarms=1, period_s=2592000 (one false alarm in 30 days)",
                )

    def run_length(self, streams: int) -> float:
        """Return the average run length, in ticks, that each of `streams` streams must reach between false alarms."""
        return max(1.0, max(1, streams) * self.ticks_per_s * self.period_s / self.alarms)

    def threshold(self, streams: int) -> float:
        """Return the alarm threshold of one of `streams` streams as a natural-log e-value."""
        return math.log(self.run_length(streams))
