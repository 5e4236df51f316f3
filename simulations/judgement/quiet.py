"""Traffic in which nothing is wrong, of the kinds that make detectors cry wolf; vectorised and seeded."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

import numpy as np
import numpy.typing as npt

from models.detect import Tick
from models.frame import Cells
from models.signals import BOUNDS_S, BUCKETS

Floats = npt.NDArray[np.float64]

KINDS: Final = ("i.i.d.", "over-dispersed", "seasonal", "bursty", "low traffic", "stalls")
SEASON_TICKS: Final = 3600
_GRID: Final = np.log(BOUNDS_S)


@dataclass(slots=True)
class Quiet:
    """`rows` series of one `kind`; series differ in rate, error ratio (1e-4 to 1e-2) and latency (2 to 100 ms).

    `with_latency` False leaves histograms out, which is many times faster.
    """

    kind: str
    rows: int
    rng: np.random.Generator
    with_latency: bool = True
    rate: Floats = field(init=False)
    ratio: Floats = field(init=False)
    median: Floats = field(init=False)  # natural log of seconds
    sigma: Floats = field(init=False)
    on: npt.NDArray[np.bool_] = field(init=False)
    drag: Floats = field(init=False)  # natural log; slow wandering of over-dispersed latencies
    number: int = 0
    stalled: int = 0

    def __post_init__(self) -> None:
        rng, rows = self.rng, self.rows
        low = self.kind == "low traffic"
        self.rate = np.exp(rng.uniform(np.log(0.05 if low else 1.0), np.log(0.5 if low else 10.0), rows))
        self.ratio = np.exp(rng.uniform(np.log(1e-4), np.log(1e-2), rows))
        self.median = np.log(np.exp(rng.uniform(np.log(0.002), np.log(0.1), rows)))
        self.sigma = rng.uniform(0.2, 0.7, rows)
        self.on = rng.random(rows) < 0.5  # noqa: PLR2004 # half
        self.drag = np.zeros(rows)

    def tick(self) -> Tick:
        """Return the next tick."""
        self.number += 1
        rng, rate, ratio = self.rng, self.rate, self.ratio
        phase = 2 * np.pi * self.number / SEASON_TICKS
        match self.kind:
            case "seasonal":
                rate = rate * (1 + 0.8 * np.sin(phase))
                ratio = ratio * (1 + 0.3 * np.sin(phase))
            case "bursty":
                self.on ^= rng.random(self.rows) < np.where(self.on, 0.2, 0.05)
                rate = rate * np.where(self.on, 4.0, 0.1)
            case "over-dispersed":
                rate = rate * rng.gamma(2.0, 0.5, self.rows)
            case _:
                pass
        requests = rng.poisson(rate)
        errors = self._errors(requests, ratio)
        latency = self._latency(requests, phase) if self.with_latency else np.zeros((self.rows, BUCKETS))
        return Tick(np.arange(self.rows), requests.astype(np.float64), errors.astype(np.float64), Cells.table(latency))

    def _errors(self, requests: npt.NDArray[np.int64], ratio: Floats) -> npt.NDArray[np.int64]:
        if self.kind != "over-dispersed":
            return self.rng.binomial(requests, ratio)
        # errors come in clusters of three on average, never beyond the requests of the tick
        clusters = self.rng.binomial(requests, ratio / 3)
        return np.minimum(requests, np.where(clusters > 0, clusters + self.rng.poisson(2.0 * clusters), 0))

    def _latency(self, requests: npt.NDArray[np.int64], phase: float) -> Floats:
        rng = self.rng
        shift, added = np.zeros(self.rows), np.zeros(self.rows)
        match self.kind:
            case "over-dispersed":  # requests of one tick share a queue, and the queue lasts
                self.drag = 0.8 * self.drag + 0.06 * rng.standard_normal(self.rows)
                shift = self.drag
            case "seasonal":
                shift = np.full(self.rows, 0.15 * np.sin(phase))
            case "stalls":  # of a machine: some or all of its series wait, again and again
                if self.stalled <= 0 and rng.random() < 0.03:  # noqa: PLR2004 # twice a minute at one tick per second
                    self.stalled = int(rng.integers(1, 3))
                if self.stalled > 0:
                    self.stalled -= 1
                    hit = rng.random(self.rows) < rng.choice([0.3, 0.5, 0.7, 1.0])
                    added = np.where(hit, rng.uniform(0.05, 0.5), 0.0)
            case _:
                pass
        owner = np.repeat(np.arange(self.rows), requests)
        seconds = np.exp((self.median + shift)[owner] + self.sigma[owner] * rng.standard_normal(len(owner)))
        buckets = np.searchsorted(_GRID, np.log(seconds + added[owner]))
        counts = np.bincount(owner * BUCKETS + buckets, minlength=self.rows * BUCKETS)
        return counts.reshape(self.rows, BUCKETS).astype(np.float64)
