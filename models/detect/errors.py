"""Errors as counts over attempts: a mixture of likelihood-ratio CUSUMs against a baseline learnt online.

Null: each request fails with probability at most `p0`, an upper credible bound of what the series has shown.
Alternatives: a fault that fails a share `q` of the requests that would have gone well, `p1 = p0 + (1 − p0)·q`, for a
grid of `q`. With `e` errors in `n` requests of a tick the log likelihood ratio is `e·ln(p1/p0) + (n−e)·ln(1−q)`.
Each CUSUM `W ← max(0, W) + llr` is (its exponential is) an e-detector, hence so is their mixture
(Shin, Ramdas, Rinaldo 2022, §4; Page 1954; Lorden 1971); see `models.detect.budget` for what that buys.

Guards, each of which can only lower the evidence and so keeps the guarantee:

* over-dispersion: errors come in clusters (one reset connection fails all requests on it). The pair correlation of
  errors within a tick is learnt and the evidence divided by it (an e-value to a power ≤ 1 is an e-value);
* no single tick gives more than `TICK_SHARE` of the threshold, so one burst cannot alarm alone;
* fewer than `MIN_ERRORS` errors or `MIN_TICKS` ticks with errors never alarm: 1 error in 2 requests is not "50 % errors".

Assumptions: errors are exchangeable across ticks under the null. What is normal for a series not seen much is what is
normal in the mesh, unless it is one of the few that are unlike the others (empirical Bayes: a mixture of a Beta prior with
the pooled mean and a wide one, weighed by what the series shows). Learning lags by 2.5–5 s and stops while the series is suspicious.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from scipy import special

from models.detect.baseline import BoolArray, FloatArray, IntArray, SmallArray
from models.detect.budget import promising
from models.detect.columns import peak
from models.detect.finding import MAX_NATS, QUIET_NATS, QUIET_S, SILENT_S, SUSPICION_NATS, Finding

FAULTS: Final[FloatArray] = np.asarray([0.01, 0.03, 0.08, 0.2, 0.5, 0.97])
"""Shares `q` of good requests that a fault spoils, one CUSUM each."""

LOG_WEIGHTS: Final[FloatArray] = np.log([0.05, 0.1, 0.15, 0.25, 0.25, 0.2])
"""Weights of the CUSUMs in the mixture: what needs haste weighs more."""

PRIOR_ERRORS: Final = 0.5
PRIOR_REQUESTS: Final = 50.0
"""What a series is taken for that is unlike the others, or whose mesh nobody has seen yet: 1 % errors, give or take a lot."""

PRIOR_MOST: Final = 10_000.0
"""Requests that the experience of the whole mesh counts at most for a series that is like the others."""

MEAN_MOST: Final = 1000.0
"""The same for the mean that people and judges are told: they are not to be surprised by one error in a thousand."""

UNLIKE: Final = 0.1
"""How likely a series is unlike the others before it has shown anything."""

FLOOR: Final = 1e-4
"""`p0` is never believed below this: one failure in ten thousand requests is nobody's incident."""

CREDIBLE: Final = 0.8
HALF_LIFE_S: Final = 1800.0
HOLD_S: Final = (10.0, 600.0)
"""A suspicion that neither alarms nor fades for half as long as the series is known (at least and at most this long) is
normal: learn from it. A young series that is unlike the others is no fault."""

TICK_SHARE: Final = 0.7
MIN_ERRORS: Final = 3.0
MIN_TICKS: Final = 2.0
ARMED_REQUESTS: Final = 20.0
MAX_DISPERSION: Final = 20.0
PRIOR_CLUSTERS: Final = 4.0
"""Errors that the mesh's pooled dispersion counts for in one series."""

RECENT_KEEP: Final = 0.9
"""Weight that the recent ratio keeps per tick with data: about the last 2 s."""


@dataclass(slots=True)
class ErrorTable:
    """Columns: baseline, what waits to be learnt, CUSUMs, episode."""

    requests: SmallArray
    errors: SmallArray
    pairs: SmallArray  # Σ e(e−1) − its expectation: excess pairs of errors within a tick
    ratio: SmallArray  # posterior mean
    bound: SmallArray  # p0
    dispersion: SmallArray
    fresh_requests: SmallArray
    fresh_errors: SmallArray
    fresh_pairs: SmallArray
    ripe_requests: SmallArray
    ripe_errors: SmallArray
    ripe_pairs: SmallArray
    held_s: SmallArray
    age_s: SmallArray
    seen: SmallArray  # requests ever
    wealth: SmallArray  # (rows, faults) CUSUM
    start: FloatArray  # (rows, faults) Unix s at which it last left zero
    run_requests: SmallArray  # (rows, faults) since then
    run_errors: SmallArray
    run_ticks: SmallArray  # ticks with errors since then
    alarmed: BoolArray
    onset: FloatArray
    fault: SmallArray  # share of failures seen at the alarm
    episode_requests: SmallArray
    recent_requests: SmallArray
    recent_errors: SmallArray
    calm: SmallArray
    calm_since: FloatArray
    last_at: FloatArray


def empty_table() -> ErrorTable:
    """Return a table without rows."""
    wide, times = {"wealth", "run_requests", "run_errors", "run_ticks"}, {"onset", "calm_since", "last_at"}
    arrays = {
        name: np.zeros((0, len(FAULTS)) if name in wide else 0, dtype=np.float32)
        for name in ErrorTable.__slots__
        if name not in {"alarmed", "start", *times}
    }
    return ErrorTable(
        alarmed=np.zeros(0, dtype=np.bool_),
        start=np.zeros((0, len(FAULTS))),
        onset=np.zeros(0),
        calm_since=np.zeros(0),
        last_at=np.zeros(0),
        **arrays,
    )


class ErrorDetector:
    """Errors of many series. Rows are given by the owner; a row of zeros is new."""

    def __init__(self, tick_s: float) -> None:
        self.table = empty_table()
        self._tick_s = tick_s
        self.prior_requests = PRIOR_REQUESTS
        self.prior_dispersion = 1.0

    def open(self, rows: IntArray) -> None:
        """Prepare new rows (capacity must exist)."""
        self._believe(rows)

    def update(self, at: float, rows: IntArray, requests: FloatArray, errors: FloatArray, threshold: float) -> None:
        """Take one tick of distinct `rows` with `requests > 0`.

        `threshold` is the natural-log e-value of an alarm.
        """
        t = self.table
        if not len(rows):
            return
        live = (errors > 0) | (peak(t.wealth[rows]) > 0)  # of the others no CUSUM leaves zero
        self._bet(at, rows[live], requests[live], errors[live], threshold)
        self._collect(at, rows, requests, errors)
        self._quiet(at, rows, requests - errors, errors)

    def _bet(self, at: float, rows: IntArray, requests: FloatArray, errors: FloatArray, threshold: float) -> None:
        """Move the CUSUMs of `rows`."""
        t = self.table
        bound = t.bound[rows][:, None]
        up = np.log(bound + (1 - bound) * FAULTS) - np.log(bound)
        gain = errors[:, None] * up + (requests - errors)[:, None] * np.log1p(-FAULTS)
        gain = np.minimum(gain / t.dispersion[rows][:, None], TICK_SHARE * threshold)
        before = t.wealth[rows]
        restart = before <= 0
        armed = t.seen[rows] >= ARMED_REQUESTS
        wealth = np.minimum(np.maximum(before, 0) + gain, MAX_NATS)
        t.wealth[rows] = np.where(armed[:, None], wealth, 0.0)
        t.start[rows] = np.where(restart, at - self._tick_s, t.start[rows])
        t.run_requests[rows] = np.where(restart, 0, t.run_requests[rows]) + requests[:, None]
        t.run_errors[rows] = np.where(restart, 0, t.run_errors[rows]) + errors[:, None]
        t.run_ticks[rows] = np.where(restart, 0, t.run_ticks[rows]) + (errors > 0)[:, None]

    def near(self, rows: IntArray, nats: float) -> IntArray:
        """Return those of `rows` whose evidence may reach `nats`."""
        return rows[promising(self.table.wealth[rows], nats)]

    def evidence(self, rows: IntArray) -> FloatArray:
        """Return the natural-log e-value of each row (mixture over faults)."""
        if not len(rows):
            return np.zeros(0)
        wealth = np.maximum(self.table.wealth[rows], 0).astype(np.float64)
        mixed: FloatArray = special.logsumexp(wealth + LOG_WEIGHTS, axis=1)
        return mixed

    def learn(self, at: float, elapsed_s: float, rows: IntArray) -> None:
        """Let what has ripened into the baseline; call every few seconds with all open rows."""
        t = self.table
        keep = 0.5 ** (elapsed_s / HALF_LIFE_S)
        suspicious = peak(t.wealth[rows]) > SUSPICION_NATS
        held = np.where(suspicious, t.held_s[rows] + elapsed_s, 0.0)
        t.held_s[rows] = held
        t.age_s[rows] += elapsed_s
        settled = held >= np.clip(t.age_s[rows] / 2, *HOLD_S)
        free = rows[~t.alarmed[rows] & (~suspicious | settled)]
        for total, ripe, fresh in (
            (t.requests, t.ripe_requests, t.fresh_requests),
            (t.errors, t.ripe_errors, t.fresh_errors),
            (t.pairs, t.ripe_pairs, t.fresh_pairs),
        ):
            total[rows] *= keep
            total[free] += ripe[free]
            ripe[free] = fresh[free]
            fresh[free] = 0
        t.wealth[rows[settled & ~t.alarmed[rows]]] = 0
        pooled = (t.errors[rows].sum() + PRIOR_ERRORS) / (t.requests[rows].sum() + PRIOR_REQUESTS)
        self.prior_requests = float(np.clip(PRIOR_ERRORS / pooled, PRIOR_REQUESTS, PRIOR_MOST))
        clusters = np.maximum(t.pairs[rows], 0).sum() / (t.errors[rows].sum() + PRIOR_CLUSTERS)
        self.prior_dispersion = float(np.clip(1 + clusters, 1, MAX_DISPERSION))
        self._believe(rows)
        self._silence(at, rows)

    def finding(self, row: int) -> Finding:
        """Describe an alarmed row."""
        t = self.table
        ratio = t.recent_errors[row] / t.recent_requests[row] if t.recent_requests[row] > 0 else t.fault[row]
        nats = float(self.evidence(np.asarray([row]))[0])
        return Finding(float(t.onset[row]), float(ratio), float(t.ratio[row]), nats, int(t.episode_requests[row]))

    def reset(self, rows: IntArray) -> None:
        """Forget alarm state and whatever was not learnt yet; keep the baselines."""
        t = self.table
        for column in (t.wealth, t.run_requests, t.run_errors, t.run_ticks, t.calm, t.calm_since, t.held_s):
            column[rows] = 0
        for column in (t.fresh_requests, t.fresh_errors, t.fresh_pairs, t.ripe_requests, t.ripe_errors, t.ripe_pairs):
            column[rows] = 0
        t.alarmed[rows] = False

    def _believe(self, rows: IntArray) -> None:
        t = self.table
        errors = np.maximum(t.errors[rows], 0).astype(np.float64)
        good = np.maximum(t.requests[rows].astype(np.float64) - errors, 0)
        a = PRIOR_ERRORS + errors
        like, unlike = self.prior_requests + good, PRIOR_REQUESTS + good
        odds = special.betaln(a, unlike) - special.betaln(PRIOR_ERRORS, PRIOR_REQUESTS)
        odds -= special.betaln(a, like) - special.betaln(PRIOR_ERRORS, self.prior_requests)
        share = special.expit(odds + np.log(UNLIKE / (1 - UNLIKE)))  # probability of being unlike the others
        t.ratio[rows] = a / (a + min(self.prior_requests, MEAN_MOST) + good)
        bound = share * special.betaincinv(a, unlike, CREDIBLE) + (1 - share) * special.betaincinv(a, like, CREDIBLE)
        t.bound[rows] = np.clip(bound, FLOOR, 0.98)
        pairs = np.maximum(t.pairs[rows], 0) + PRIOR_CLUSTERS * (self.prior_dispersion - 1)
        clusters = pairs / (np.maximum(t.errors[rows], 0) + PRIOR_CLUSTERS)
        t.dispersion[rows] = np.clip(1 + clusters, 1, MAX_DISPERSION)

    def _collect(self, at: float, rows: IntArray, requests: FloatArray, errors: FloatArray) -> None:
        t = self.table
        well = ~t.alarmed[rows]
        t.fresh_requests[rows] += requests * well
        t.fresh_errors[rows] += errors * well
        expected = requests * (requests - 1) * t.ratio[rows] ** 2
        t.fresh_pairs[rows] += (errors * (errors - 1) - expected) * well
        t.seen[rows] += requests
        t.last_at[rows] = at
        t.recent_requests[rows] = t.recent_requests[rows] * RECENT_KEEP + requests
        t.recent_errors[rows] = t.recent_errors[rows] * RECENT_KEEP + errors
        t.episode_requests[rows] += requests * ~well

    def alarm(self, rows: IntArray, threshold: float) -> IntArray:
        """Return those of `rows` that alarm now, at a natural-log e-value of `threshold`."""
        t = self.table
        over: IntArray = rows[(self.evidence(rows) >= threshold) & ~t.alarmed[rows]]
        if not len(over):
            return over
        best = np.argmax(t.wealth[over], axis=1)
        enough = (t.run_errors[over, best] >= MIN_ERRORS) & (t.run_ticks[over, best] >= MIN_TICKS)
        over, best = over[enough], best[enough]
        t.alarmed[over] = True
        t.onset[over] = t.start[over, best]
        t.fault[over] = t.run_errors[over, best] / t.run_requests[over, best]
        t.episode_requests[over] = t.run_requests[over, best]
        t.recent_requests[over] = t.run_requests[over, best]
        t.recent_errors[over] = t.run_errors[over, best]
        t.calm[over] = 0
        self._drop(over)
        return over

    def _quiet(self, at: float, rows: IntArray, good: FloatArray, errors: FloatArray) -> None:
        """Run the test the other way round: baseline against half of the fault that alarmed."""
        t = self.table
        sick = t.alarmed[rows]
        if not sick.any():
            return
        rows, good, errors = rows[sick], good[sick], errors[sick]
        bound = t.bound[rows]
        half = bound + (1 - bound) * np.clip(t.fault[rows] / 2, FAULTS[0], 0.6)
        gain = errors * (np.log(bound) - np.log(half)) + good * (np.log1p(-bound) - np.log1p(-half))
        was = t.calm[rows]
        calm = np.maximum(0, was + gain / t.dispersion[rows])
        t.calm_since[rows] = np.where(was <= 0, at, t.calm_since[rows])
        t.calm[rows] = calm
        self.reset(rows[(calm >= QUIET_NATS) & (at - t.calm_since[rows] >= QUIET_S)])

    def _silence(self, at: float, rows: IntArray) -> None:
        t = self.table
        self.reset(rows[t.alarmed[rows] & (at - t.last_at[rows] > SILENT_S)])

    def _drop(self, rows: IntArray) -> None:
        t = self.table
        for column in (t.fresh_requests, t.fresh_errors, t.fresh_pairs, t.ripe_requests, t.ripe_errors, t.ripe_pairs):
            column[rows] = 0
