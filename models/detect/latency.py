"""Latency as a whole distribution: sequential bets that requests have become slower than the learnt histogram allows.

Null: latencies are stochastically not larger than `f0`, the learnt baseline (smoothed, with a heavy tail for what was
never seen) slowed by `MARGIN` — a service within 15 % of its normal is well. Alternatives: the baseline slowed by a
factor on the log scale, for all or for a quarter of the requests. The bet on a request in bucket `b` is the likelihood
ratio, made non-decreasing in `b`, capped, and normalised so that `Σ f0·bet = 1`: monotone bets have expectation ≤ 1
under *every* distribution stochastically below `f0` (testing by betting: Shafer 2021; Waudby-Smith & Ramdas 2023).
Their logarithms are CUSUMmed and mixed as in `models.detect.errors`.

Guards, each of which can only lower the evidence:

* common mode: a stalled machine slows everything at once. What a typical *other* service shows in the same tick is
  not news about this one: when the median service shows evidence, the largest mean evidence of any service
  per request is subtracted, for at most `COMMON_S` on end (what lasts longer is real, whatever it is);
* requests of one tick share queues and garbage collections: their correlation is learnt (Pearson, on the probability
  integral transform) and the evidence divided by the variance inflation it means;
* no single tick gives more than `TICK_SHARE` of the threshold: at least three slow ticks;
* practical significance: p50 or p90 since the onset is at least `SLOWER` × and `SLOWER_S` above the baseline's.

Assumptions: a fixed grid (`models.signals`); drift slower than about 20 % in 10 s is learnt, not alarmed. Learning lags
by 2.5–5 s and stops while the series is suspicious.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from scipy import special

from models.detect.baseline import BUCKETS_PER_DECADE, BoolArray, FloatArray, IntArray, quantile
from models.detect.finding import HOLD_S, MAX_NATS, QUIET_NATS, QUIET_S, SILENT_S, SUSPICION_NATS, Finding
from models.signals import BUCKETS

SLOWDOWNS: Final[tuple[tuple[float, float], ...]] = ((1.8, 1.0), (2.5, 1.0), (5.0, 1.0), (10.0, 1.0), (8.0, 0.25))
"""(factor, share of requests slowed), one CUSUM each."""

MARGIN: Final = 1.15
TAIL: Final = 0.004
TAIL_PER_DECADE: Final = 0.3
"""The tail's weight falls to this per decade of latency."""

BET_CAP: Final = 5.0
TICK_SHARE: Final = 0.45
MIN_TICKS: Final = 3.0
MIN_REQUESTS: Final = 5.0
SLOWER: Final = 1.5
SLOWER_S: Final = 0.005
HALF_LIFE_S: Final = 600.0
ARMED_REQUESTS: Final = 30.0
MIN_SERVICES: Final = 5
COMMON_S: Final = 3.0
MAX_DISPERSION: Final = 8.0
DISPERSION_PRIOR: Final = 4.0
RECENT_KEEP: Final = 0.9


def _shift(factor: float) -> FloatArray:
    """Return the (BUCKETS, BUCKETS) matrix that slows a row distribution by `factor`; the last bucket absorbs."""
    places = np.log10(factor) * BUCKETS_PER_DECADE
    whole, part = int(np.floor(places)), float(places - np.floor(places))
    matrix = np.zeros((BUCKETS, BUCKETS))
    for b in range(BUCKETS):
        matrix[b, min(b + whole, BUCKETS - 1)] += 1 - part
        matrix[b, min(b + whole + 1, BUCKETS - 1)] += part
    return matrix


def _blur() -> FloatArray:
    kernel = np.eye(BUCKETS) * 0.5 + np.eye(BUCKETS, k=1) * 0.25 + np.eye(BUCKETS, k=-1) * 0.25
    return np.asarray(kernel / kernel.sum(axis=1, keepdims=True))


_BLUR: Final = _blur()
_NULL: Final = _shift(MARGIN)
_SLOWED: Final = np.stack([share * _shift(factor) + (1 - share) * np.eye(BUCKETS) for factor, share in SLOWDOWNS])


def bets(counts: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return log bets, shape (rows, slowdowns, BUCKETS), and centred ranks, shape (rows, BUCKETS), for baselines `counts`.

    `counts` has shape (rows, BUCKETS), any positive weights. Ranks are the probability integral transform minus ½.
    """
    total = counts.sum(axis=1, keepdims=True)
    known = (counts @ _BLUR) / np.maximum(total, 1e-9)
    middle = np.argmax(np.cumsum(known, axis=1) >= 0.5, axis=1)[:, None]  # noqa: PLR2004 # the median
    steps = np.arange(BUCKETS)[None, :] - middle
    tail = np.where(steps >= 0, TAIL_PER_DECADE ** (np.maximum(steps, 0) / BUCKETS_PER_DECADE), 1e-4)
    tail /= tail.sum(axis=1, keepdims=True)
    share = TAIL + 2.0 / (total + 100.0)
    smooth = (1 - share) * known + share * tail
    null = smooth @ _NULL
    slowed = np.einsum("rb,kbc->rkc", smooth, _SLOWED)
    ratio = np.maximum.accumulate(slowed / np.maximum(null, 1e-12)[:, None, :], axis=2)
    ratio = np.minimum(ratio, np.exp(BET_CAP))
    ratio /= np.einsum("rb,rkb->rk", null, ratio)[:, :, None]
    below = np.cumsum(smooth, axis=1)
    return np.log(np.maximum(ratio, 1e-3)), below - smooth / 2 - 0.5


@dataclass(slots=True)
class LatencyTable:
    """Columns: baseline, what waits to be learnt, bets, CUSUMs, episode."""

    counts: FloatArray  # (rows, BUCKETS)
    cross: FloatArray  # Σ over ticks of the cross products of ranks
    own: FloatArray  # Σ of the squared ranks
    noise: FloatArray  # Σ of the variance that `cross` has when requests are independent
    dispersion: FloatArray
    bets: FloatArray  # (rows, slowdowns, BUCKETS)
    ranks: FloatArray  # (rows, BUCKETS)
    fresh: FloatArray  # (rows, BUCKETS)
    ripe: FloatArray
    held_s: FloatArray
    wealth: FloatArray  # (rows, slowdowns)
    start: FloatArray
    run_ticks: FloatArray
    run: FloatArray  # (rows, BUCKETS): since any CUSUM left zero
    alarmed: BoolArray
    onset: FloatArray
    slowdown: IntArray  # index of the alternative that alarmed
    episode_requests: FloatArray
    recent: FloatArray  # (rows, BUCKETS)
    calm: FloatArray
    calm_since: FloatArray
    last_at: FloatArray


def empty_table() -> LatencyTable:
    """Return a table without rows."""
    buckets, slowdowns = {"counts", "ranks", "fresh", "ripe", "run", "recent"}, {"wealth", "start", "run_ticks"}
    arrays: dict[str, FloatArray] = {}
    for name in LatencyTable.__slots__:
        if name in buckets:
            arrays[name] = np.zeros((0, BUCKETS))
        elif name in slowdowns:
            arrays[name] = np.zeros((0, len(SLOWDOWNS)))
        elif name not in {"alarmed", "slowdown", "bets"}:
            arrays[name] = np.zeros(0)
    return LatencyTable(
        alarmed=np.zeros(0, dtype=np.bool_),
        slowdown=np.zeros(0, dtype=np.int64),
        bets=np.zeros((0, len(SLOWDOWNS), BUCKETS)),
        **arrays,
    )


class LatencyDetector:
    """Latency of many series. Rows are given by the owner; a row of zeros is new and not armed."""

    def __init__(self, tick_s: float) -> None:
        self.table = empty_table()
        self._tick_s = tick_s
        self.common_s = 0.0  # seconds on end in which most services were slow

    def update(self, at: float, rows: IntArray, counts: FloatArray, services: IntArray, threshold: float) -> IntArray:
        """Take one tick of distinct `rows` with at least one request each; return the rows that alarm in this tick.

        `counts` has shape (rows, BUCKETS); `services` numbers the callee of each row (for the common mode);
        `threshold` is the natural-log e-value of an alarm.
        """
        t = self.table
        if not len(rows):
            return rows
        requests = counts.sum(axis=1)
        gain = np.einsum("rb,rkb->rk", counts, t.bets[rows])
        behind: FloatArray = t.counts[rows].sum(axis=1)
        common = common_mode(gain, requests, services, np.flatnonzero(behind))
        self.common_s = self.common_s + self._tick_s if common.any() else 0.0
        if self.common_s <= COMMON_S:
            gain -= requests[:, None] * common
        gain = np.minimum(gain / t.dispersion[rows][:, None].clip(min=1), TICK_SHARE * threshold)
        before = t.wealth[rows]
        restart = before <= 0
        armed = behind >= ARMED_REQUESTS
        t.wealth[rows] = np.where(armed[:, None], np.minimum(np.maximum(before, 0) + gain, MAX_NATS), 0.0)
        t.start[rows] = np.where(restart, at - self._tick_s, t.start[rows])
        t.run_ticks[rows] = np.where(restart, 0, t.run_ticks[rows]) + (gain > 0)
        t.run[rows] = np.where(restart.all(axis=1, keepdims=True), 0, t.run[rows]) + counts
        self._collect(at, rows, counts, requests)
        self._quiet(at, rows, gain)
        return self._alarms(rows, threshold)

    def evidence(self, rows: IntArray) -> FloatArray:
        """Return the natural-log e-value of each row (mixture over slowdowns with equal weights)."""
        wealth = np.maximum(self.table.wealth[rows], 0)
        mixed: FloatArray = special.logsumexp(wealth, axis=1) - np.log(len(SLOWDOWNS))
        return mixed

    def learn(self, at: float, elapsed_s: float, rows: IntArray) -> None:
        """Let what has ripened into the baseline; call every few seconds with all open rows."""
        t = self.table
        keep = 0.5 ** (elapsed_s / HALF_LIFE_S)
        suspicious = self.evidence(rows) + np.log(len(SLOWDOWNS)) > SUSPICION_NATS
        held = np.where(suspicious, t.held_s[rows] + elapsed_s, 0.0)
        t.held_s[rows] = held
        free = rows[~t.alarmed[rows] & (~suspicious | (held >= HOLD_S))]
        moved = free[t.ripe[free].any(axis=1)]
        for column in (t.counts, t.cross, t.own, t.noise):
            column[rows] *= keep
        t.counts[free] += t.ripe[free]
        t.ripe[free] = t.fresh[free]
        t.fresh[free] = 0
        t.wealth[free[t.held_s[free] >= HOLD_S]] = 0
        excess = np.maximum(t.cross[rows] - np.sqrt(t.noise[rows]), 0)
        t.dispersion[rows] = np.clip(1 + excess / (t.own[rows] + DISPERSION_PRIOR), 1, MAX_DISPERSION)
        if len(moved):
            t.bets[moved], t.ranks[moved] = bets(t.counts[moved])
        self.reset(rows[t.alarmed[rows] & (at - t.last_at[rows] > SILENT_S)])

    def finding(self, row: int) -> Finding:
        """Describe an alarmed row: medians in seconds, or the 90th percentiles when those moved more."""
        t = self.table
        recent = t.recent[row] if t.recent[row].any() else t.run[row]
        pairs = [(quantile(recent, q), quantile(t.counts[row], q)) for q in (0.5, 0.9)]
        observed, expected = max(pairs, key=lambda p: p[0] / p[1])
        nats = float(self.evidence(np.asarray([row]))[0])
        return Finding(float(t.onset[row]), observed, expected, nats, int(t.episode_requests[row]))

    def reset(self, rows: IntArray) -> None:
        """Forget alarm state and whatever was not learnt yet; keep the baselines."""
        t = self.table
        for column in (t.wealth, t.run_ticks, t.run, t.calm, t.calm_since, t.held_s, t.fresh, t.ripe, t.recent):
            column[rows] = 0
        t.alarmed[rows] = False

    def significant(self, row: int, seen: FloatArray) -> bool:
        """Return whether `seen` is slower than the baseline by a margin that matters to a user."""
        for q in (0.5, 0.9):
            new, old = quantile(seen, q), quantile(self.table.counts[row], q)
            if new >= SLOWER * old and new - old >= SLOWER_S:
                return True
        return False

    def _collect(self, at: float, rows: IntArray, counts: FloatArray, requests: FloatArray) -> None:
        t = self.table
        well = ~t.alarmed[rows]
        t.fresh[rows] += counts * well[:, None]
        learning = well & (self.evidence(rows) + np.log(len(SLOWDOWNS)) < SUSPICION_NATS)
        total = np.einsum("rb,rb->r", counts, t.ranks[rows])
        own = np.einsum("rb,rb->r", counts, t.ranks[rows] ** 2)
        t.cross[rows] += (total**2 - own) * learning
        t.own[rows] += own * learning
        t.noise[rows] += np.where(requests > 1, 2 * own**2, 0.0) * learning
        t.last_at[rows] = at
        t.recent[rows] = t.recent[rows] * RECENT_KEEP + counts
        t.episode_requests[rows] += requests * ~well

    def _alarms(self, rows: IntArray, threshold: float) -> IntArray:
        t = self.table
        over = rows[(self.evidence(rows) >= threshold) & ~t.alarmed[rows]]
        alarms: list[int] = []
        for row in over.tolist():
            best = int(np.argmax(t.wealth[row]))
            requests = float(t.run[row].sum())
            if t.run_ticks[row, best] < MIN_TICKS or requests < MIN_REQUESTS or not self.significant(row, t.run[row]):
                continue
            alarms.append(row)
            t.alarmed[row] = True
            t.onset[row] = t.start[row, best]
            t.slowdown[row] = best
            t.episode_requests[row] = requests
            t.recent[row] = t.run[row]
            t.fresh[row] = t.ripe[row] = 0
            t.calm[row] = 0
        return np.asarray(alarms, dtype=np.int64)

    def _quiet(self, at: float, rows: IntArray, gain: FloatArray) -> None:
        """Run the bet the other way round; quiet also wants the recent window back within the practical margin."""
        t = self.table
        for i in np.flatnonzero(t.alarmed[rows]).tolist():
            row = int(rows[i])
            was = float(t.calm[row])
            calm = max(0.0, was - float(gain[i, t.slowdown[row]]))
            if was <= 0:
                t.calm_since[row] = at
            t.calm[row] = calm
            long_enough = at - t.calm_since[row] >= QUIET_S
            if calm >= QUIET_NATS and long_enough and not self.significant(row, t.recent[row]):
                self.reset(np.asarray([row]))


def common_mode(gain: FloatArray, requests: FloatArray, services: IntArray, known: IntArray) -> FloatArray:
    """Return the evidence per request, per slowdown, that is no news because most services show some.

    Zero unless the median service has positive evidence; then the largest over services. Also zero when fewer
    than `MIN_SERVICES` services with a baseline (rows `known`) answered in this tick: then nobody can tell.
    """
    names, index = np.unique(services[known], return_inverse=True)
    if len(names) < MIN_SERVICES:
        return np.zeros(gain.shape[1])
    sums = np.zeros((len(names), gain.shape[1]))
    counts = np.zeros(len(names))
    np.add.at(sums, index, gain[known])
    np.add.at(counts, index, requests[known])
    each = sums / counts[:, None]
    common: FloatArray = np.where(np.median(each, axis=0) > 0, each.max(axis=0), 0.0)
    return common
