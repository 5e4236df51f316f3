"""The false-alarm budget: one number an operator states, turned into the threshold of every test.

Every detector of this package is an *e-detector*: a statistic `M` with `E[M_τ] ≤ E[τ]` (τ in ticks) under every
distribution of its null, for every stopping time. An alarm at `M ≥ c` then has an average run length of at least `c`
ticks, by construction, however often one looks (Shin, Ramdas, Rinaldo: "E-detectors: a nonparametric framework for
sequential change detection", 2022/2024; Lorden 1971 for the CUSUM it contains). Over many streams the sum of all `M`
is at most the number of looks at any of them, whatever their dependence: at `M ≥ c` the whole mesh has an average of
at least `c` looks between false alarms. A stream without news is not looked at and costs nothing.

Example:
    >>> budget = FalseAlarmBudget()
    >>> round(budget.threshold(streams=100), 1)
    21.0
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from models.detect.baseline import BoolArray, FloatArray, SmallArray
from models.detect.columns import peak
from models.detect.finding import ROUNDING
from models.errors import InvalidInput

DAY_S = 86_400.0


@dataclass(frozen=True, slots=True)
class FalseAlarmBudget:
    """At most `alarms` false alarms expected in `period_s` seconds over *all* series and signals of the mesh.

    `ticks_per_s` is how often each stream is tested (at most once per report of telemetry).

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
        return self.nats(max(1, streams) * self.ticks_per_s)

    def nats(self, looks_per_s: float) -> float:
        """Return the threshold of each stream, natural-log e-value, when all streams together are tested so often."""
        return math.log(max(1.0, looks_per_s * self.period_s / self.alarms))


def lowest(threshold: float, among: int) -> float:
    """Return the least natural-log e-value that can count for one of `among` streams (see `level`)."""
    return threshold - math.log(max(1, among))


def promising(wealth: SmallArray, nats: float) -> BoolArray:
    """Tell which streams' mixtures may reach `nats`: a mixture is worth no more than its best part.

    `wealth` are the natural-log e-values of the parts, shape (streams, parts).
    """
    found: BoolArray = np.maximum(peak(wealth), 0) >= nats - ROUNDING
    return found


def level(threshold: float, evidence: FloatArray, among: int = 0) -> float:
    """Return the natural-log e-value at which the streams of one tick alarm, at most `threshold`.

    `evidence` are the natural-log e-values of streams that have not alarmed; those below `lowest` may be left out where
    `among` says how many streams there are. Where `k` of them reach
    `threshold − ln k` together, all of them alarm (e-BH: Wang & Ramdas 2022). The event that anyone alarms keeps its
    average run length, because then the *sum* of all e-detectors has reached the threshold, which bounds it anyway.

    >>> level(20.0, np.asarray([19.5, 19.4, 3.0])) < 19.4
    True
    >>> level(20.0, np.asarray([19.5, 3.0]))
    20.0
    """
    ranked = np.sort(evidence[evidence >= lowest(threshold, max(among, len(evidence)))])[::-1]
    reached = np.flatnonzero(ranked >= threshold - np.log(np.arange(1, len(ranked) + 1)))
    return threshold - math.log(reached[-1] + 1) if len(reached) else threshold
