"""Three rules that look at the same traffic: ours, and those of two known tools, each as its own source has it.

* strikes: Flagger's default analysis (`request-success-rate` at least 99 % over the last minute, checked each minute; a
  failed check, and a check without traffic, is a strike; five strikes roll back). Source: fluxcd/flagger
  `pkg/controller/scheduler.go`, `scheduler_metrics.go`; strikes never expire while an analysis runs.
* ranks: Kayenta's judge (Mann–Whitney on per-minute error ratios of canary and stable; fails when the lower end of the 98 %
  confidence interval of the shift exceeds 0.25 times its Hodges–Lehmann estimate), asked every 5 minutes over everything since
  the start. Source: spinnaker/kayenta `NetflixACAJudge`, `MannWhitneyClassifier`.

Each takes a tick and tells which lanes it rolls back by then.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np

from models.canary.comparison import Parts
from models.canary.margins import Margins, Risk
from models.detect.baseline import BoolArray, FloatArray
from simulations.judgement.canaries.traffic import Counts

MINUTE_S = 60.0
STRIKES = 5
SUCCESS = 0.99
LOOK_MINUTES = 5
TOLERANCE = 0.25
Z_98 = 2.3263


class Rule(Protocol):
    """A rule for `lanes` canaries."""

    def add(self, counts: Counts, tick_s: float) -> BoolArray:
        """Take a tick; return the lanes rolled back so far."""
        ...


class Ours:
    """The always-valid verdict of `models.canary`, errors only."""

    def __init__(self, lanes: int, margins: Margins | None = None) -> None:
        self.parts = Parts(lanes, 1, margins or Margins())
        self.limit = Risk().rollback_nats
        self.back = np.zeros(lanes, dtype=np.bool_)

    def add(self, counts: Counts, tick_s: float) -> BoolArray:
        """Take a tick; return the lanes rolled back so far."""
        (n, e), (others, bad) = counts.canary, counts.stable
        self.parts.errors.add(
            (n[:, None], e[:, None]),
            (others.sum(axis=1, keepdims=True), bad.sum(axis=1, keepdims=True)),
            tick_s,
            instances=(others[:, None, :], bad[:, None, :]),
            chain=counts.chain[:, None],
        )
        self.back |= self.parts.against() >= self.limit
        return self.back


class _Minutes:
    """Sums over a minute."""

    def __init__(self, lanes: int) -> None:
        self.sums = np.zeros((4, lanes))
        self.waited_s = 0.0

    def add(self, counts: Counts, tick_s: float) -> FloatArray | None:
        """Return (canary requests, errors, stable requests, errors) when a minute is full."""
        (n, e), (others, bad) = counts.canary, counts.stable
        self.sums += np.stack([n, e, others.sum(axis=1), bad.sum(axis=1)])
        self.waited_s += tick_s
        if self.waited_s < MINUTE_S - 1e-6:
            return None
        full, self.sums, self.waited_s = self.sums, np.zeros_like(self.sums), 0.0
        return full


class Strikes:
    """Success ratio per minute against a threshold, five strikes."""

    def __init__(self, lanes: int) -> None:
        self.minutes = _Minutes(lanes)
        self.strikes = np.zeros(lanes)

    def add(self, counts: Counts, tick_s: float) -> BoolArray:
        """Take a tick; return the lanes rolled back so far."""
        full = self.minutes.add(counts, tick_s)
        if full is not None:
            n, e = full[0], full[1]
            self.strikes += (n == 0) | (1 - e / np.maximum(n, 1) < SUCCESS)
        back: BoolArray = self.strikes >= STRIKES
        return back


class Ranks:
    """Mann–Whitney on per-minute error ratios, asked again and again."""

    def __init__(self, lanes: int) -> None:
        self.minutes = _Minutes(lanes)
        self.canary: list[FloatArray] = []
        self.stable: list[FloatArray] = []
        self.back = np.zeros(lanes, dtype=np.bool_)

    def add(self, counts: Counts, tick_s: float) -> BoolArray:
        """Take a tick; return the lanes rolled back so far."""
        full = self.minutes.add(counts, tick_s)
        if full is not None:
            self.canary.append(np.where(full[0] > 0, full[1] / np.maximum(full[0], 1), np.nan))
            self.stable.append(np.where(full[2] > 0, full[3] / np.maximum(full[2], 1), np.nan))
            if len(self.canary) % LOOK_MINUTES == 0:
                self.back |= higher(np.stack(self.canary, axis=1), np.stack(self.stable, axis=1))
        return self.back


def higher(canary: FloatArray, stable: FloatArray) -> BoolArray:
    """Return the lanes whose canary samples (lanes, n; NaN: no data) are classified High against the stable ones."""
    differences = np.sort((canary[:, :, None] - stable[:, None, :]).reshape(len(canary), -1), axis=1)
    n, m = (~np.isnan(canary)).sum(axis=1), (~np.isnan(stable)).sum(axis=1)
    pairs = n * m
    rank = np.floor(pairs / 2 - Z_98 * np.sqrt(pairs * (n + m + 1) / 12)).astype(np.int64) - 1
    usable = rank >= 0
    rows = np.arange(len(canary))
    lower = differences[rows, np.maximum(rank, 0)]
    middle = np.maximum(pairs // 2, 0)
    estimate = differences[rows, np.minimum(middle, differences.shape[1] - 1)]
    with np.errstate(invalid="ignore"):
        high: BoolArray = usable & (lower > TOLERANCE * np.abs(estimate))
    return high
