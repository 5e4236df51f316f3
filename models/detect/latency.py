"""Latency as a whole distribution: sequential bets that requests have become slower than the learnt histogram allows.

What one request is worth comes from `models.detect.bets`; the logarithms of the bets are CUSUMmed and mixed as in
`models.detect.errors` (e-detectors: Shin, Ramdas, Rinaldo 2022). Guards, each of which can only lower the evidence:

* common mode: a tick counts no more than how rare such a tick is elsewhere in the mesh (`models.detect.common`);
* requests of one tick share queues and garbage collections: a tick counts no more than how rare such a tick is in the
  series' own past, and a second slow tick in a row no more than how rarely those come in pairs elsewhere;
* a late tick (the process that runs the detectors was itself held up) says next to nothing;
* nothing that ends within one report gives more than `PAUSE_SHARE` of the threshold: a process that pauses once answers
  all that waited at one moment, one that is slow is slow in the next report too;
* practical significance: p50 or p90 since the onset is at least `SLOWER` × and `SLOWER_S` above the baseline's.

Assumptions: a fixed grid (`models.signals`); drift slower than about 20 % in 10 s is learnt, not alarmed. Learning lags
by up to 2.5 s and waits while the series is suspicious.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from scipy import special

from models.detect.baseline import MIDS_S, BoolArray, FloatArray, IntArray, SmallArray, quantile
from models.detect.bets import ASSUMED, SLOWDOWNS, STEP, Logs, bets, pooled
from models.detect.budget import promising
from models.detect.columns import peak
from models.detect.common import CommonMode
from models.detect.finding import HOLD_S, MAX_NATS, QUIET_NATS, QUIET_S, SILENT_S, Finding
from models.detect.graph import Graph
from models.detect.shift import MeshShift
from models.detect.window import BELOW, WIDTH, middle, moved, narrowed, spread, unfold
from models.frame import Cells

PAUSE_SHARE: Final = 0.53
PAUSE_S: Final = 0.2
"""One report of a sidecar covers this time; sidecars report at different moments within it."""

MIN_PAUSES: Final = 2
MIN_REQUESTS: Final = 4.0
SLOWER: Final = 1.5
SLOWER_S: Final = 0.010
HALF_LIFE_S: Final = 600.0
ARMED_REQUESTS: Final = 30.0
SUSPICION_NATS: Final = 3.0
SLOW_NATS: Final = 2.0
"""Evidence above which a tick is called slow."""

LATE_NATS: Final = 0.5
"""What a late tick is worth at most."""

OWN_TICKS: Final = 5.0
"""Ticks that must be known before the series' own past limits what a tick is worth."""

OWN_SLOW: Final = 2.0
"""Slow ticks that the assumed excess of a slow tick, 1 nat, counts for in the series' own past."""

RECENT_KEEP: Final = 0.9
STRAY: Final = 2
"""A window is laid anew when its median strayed this many buckets from its place."""

STALE_SHARE: Final = 0.05
"""Bets are computed anew when what is known grew by this share, and once per `ROUNDS` calls of `learn` anyhow."""

ROUNDS: Final = 12


@dataclass(slots=True)
class LatencyTable:
    """Columns: baseline, what waits to be learnt, bets, CUSUMs, episode. Windows are those of `models.detect.window`."""

    offset: npt.NDArray[np.int16]  # first bucket of the windows
    seen: SmallArray  # requests ever
    requests: SmallArray  # behind the baseline
    counts: SmallArray  # (rows, WIDTH)
    fresh: npt.NDArray[np.uint16]  # (rows, WIDTH)
    ticks: SmallArray  # behind the baseline
    slow: SmallArray  # slow ones of these
    excess: SmallArray  # Σ of their evidence beyond `SLOW_NATS`
    fresh_ticks: SmallArray
    fresh_slow: SmallArray
    fresh_excess: SmallArray
    was_slow: BoolArray  # the tick before
    mean_s: SmallArray  # of the baseline
    bets: Logs  # (rows, slowdowns, WIDTH)
    betted: SmallArray  # requests behind the bets
    held_s: SmallArray
    wealth: SmallArray  # (rows, slowdowns)
    start: FloatArray  # (rows, slowdowns) Unix s
    run_pauses: npt.NDArray[np.uint16]  # (rows, slowdowns)
    paced: SmallArray  # nats within the last `PAUSE_S`
    paced_at: FloatArray
    run: npt.NDArray[np.float16]  # (rows, WIDTH): since any CUSUM left zero; the recent window once alarmed
    alarmed: BoolArray
    onset: FloatArray
    slowdown: npt.NDArray[np.int8]  # index of the alternative that alarmed
    episode_requests: SmallArray
    calm: SmallArray
    calm_since: FloatArray
    last_at: FloatArray


def empty_table() -> LatencyTable:
    """Return a table without rows."""
    many = len(SLOWDOWNS)
    return LatencyTable(
        offset=np.zeros(0, np.int16),
        seen=np.zeros(0, np.float32),
        requests=np.zeros(0, np.float32),
        counts=np.zeros((0, WIDTH), np.float32),
        fresh=np.zeros((0, WIDTH), np.uint16),
        ticks=np.zeros(0, np.float32),
        slow=np.zeros(0, np.float32),
        excess=np.zeros(0, np.float32),
        fresh_ticks=np.zeros(0, np.float32),
        fresh_slow=np.zeros(0, np.float32),
        fresh_excess=np.zeros(0, np.float32),
        was_slow=np.zeros(0, np.bool_),
        mean_s=np.zeros(0, np.float32),
        bets=np.zeros((0, many, WIDTH), np.int8),
        betted=np.zeros(0, np.float32),
        held_s=np.zeros(0, np.float32),
        wealth=np.zeros((0, many), np.float32),
        start=np.zeros((0, many)),
        run_pauses=np.zeros((0, many), np.uint16),
        paced=np.zeros(0, np.float32),
        paced_at=np.zeros(0),
        run=np.zeros((0, WIDTH), np.float16),
        alarmed=np.zeros(0, np.bool_),
        onset=np.zeros(0),
        slowdown=np.zeros(0, np.int8),
        episode_requests=np.zeros(0, np.float32),
        calm=np.zeros(0, np.float32),
        calm_since=np.zeros(0),
        last_at=np.zeros(0),
    )


class LatencyDetector:
    """Latency of many series. Rows are given by the owner; a row of zeros is new and not armed."""

    def __init__(self, tick_s: float) -> None:
        self.table = empty_table()
        self.common = CommonMode(tick_s)
        self.shift = MeshShift(tick_s)
        self.shape = ASSUMED
        self._tick_s = tick_s
        self.rounds = 0

    def update(
        self,
        at: float,
        rows: IntArray,
        cells: Cells,
        *,
        services: IntArray,
        graph: Graph,
        threshold: float,
        late: bool = False,
    ) -> None:
        """Take one tick of distinct `rows` with at least one request each.

        `cells` are the counts (see `Tick`), with positions in `rows`; `services` numbers the callee of each row and `graph` knows who calls whom
        (for the common mode); `threshold` is the natural-log e-value of an alarm.
        `late` says that this tick came late.
        """
        t = self.table
        if not len(rows):
            return
        new = t.seen[rows] == 0
        if new.any():
            t.offset[rows[new]] = middle(spread(cells, np.flatnonzero(new))) - BELOW
        known = t.requests[rows] >= ARMED_REQUESTS
        requests = np.bincount(cells.row, cells.count, minlength=len(rows)).astype(np.float64, copy=False)
        extra = np.bincount(cells.row, cells.count * MIDS_S[cells.bucket]) - requests * t.mean_s[rows]
        judged = known & ~t.alarmed[rows]
        self.shift.see(services[judged], requests[judged], np.maximum(extra[judged], 0))
        seen = narrowed(cells, t.offset[rows].astype(np.int64))
        gain = self._gain(rows, seen)
        gain[~known] = 0
        gain = self._uncommon(gain, extra / requests, services, graph)
        gain = np.minimum(gain, self._worth(rows, gain, services, graph, late=late)[:, None])
        gain, again = self._paced(at, rows, gain, PAUSE_SHARE * threshold)
        rising, resting = peak(gain) > 0, peak(t.wealth[rows]) <= 0
        live = rising | ~resting  # of the others no CUSUM leaves zero
        self._move(at, rows[live], gain[live], again[live])
        self._collect(at, rows, seen, requests, resting)
        self._quiet(at, rows, gain)

    def _move(self, at: float, rows: IntArray, gain: SmallArray, again: BoolArray) -> None:
        """Move the CUSUMs of `rows`."""
        t = self.table
        before = t.wealth[rows]
        restart = before <= 0
        t.wealth[rows] = np.minimum(np.maximum(before, 0) + gain, MAX_NATS)
        t.start[rows] = np.where(restart, at - self._tick_s, t.start[rows])
        t.run_pauses[rows] = np.where(restart, 0, t.run_pauses[rows]) + ((gain > 0) & (again[:, None] | restart))

    def _gain(self, rows: IntArray, seen: Cells) -> SmallArray:
        """Return what the bets on each row's requests bring, nats, shape (rows, slowdowns)."""
        bet = self.table.bets[rows[seen.row], :, seen.bucket].astype(np.int64)
        first = np.flatnonzero(np.diff(seen.row, prepend=-1))
        steps = np.add.reduceat(bet * seen.count[:, None], first, axis=0)
        return steps.astype(np.float32) * np.float32(STEP)

    def near(self, rows: IntArray, nats: float) -> IntArray:
        """Return those of `rows` whose evidence may reach `nats`."""
        return rows[promising(self.table.wealth[rows], nats)]

    def evidence(self, rows: IntArray) -> FloatArray:
        """Return the natural-log e-value of each row (mixture over slowdowns with equal weights)."""
        if not len(rows):
            return np.zeros(0)
        wealth = np.maximum(self.table.wealth[rows], 0).astype(np.float64)
        mixed: FloatArray = special.logsumexp(wealth, axis=1) - np.log(len(SLOWDOWNS))
        return mixed

    def alarm(self, rows: IntArray, threshold: float) -> IntArray:
        """Return those of `rows` that alarm now, at a natural-log e-value of `threshold`."""
        t = self.table
        over = rows[(self.evidence(rows) >= threshold) & ~t.alarmed[rows]]
        alarms: list[int] = []
        for row in over.tolist():
            best = int(np.argmax(t.wealth[row]))
            requests = float(t.run[row].sum(dtype=np.float64))
            if t.run_pauses[row, best] < MIN_PAUSES or requests < MIN_REQUESTS or not self.significant(row):
                continue
            alarms.append(row)
            t.alarmed[row] = True
            t.onset[row] = t.start[row, best]
            t.slowdown[row] = best
            t.episode_requests[row] = requests
            for column in (t.fresh, t.fresh_ticks, t.fresh_slow, t.fresh_excess, t.calm):
                column[row] = 0
        return np.asarray(alarms, dtype=np.int64)

    def learn(self, at: float, elapsed_s: float, rows: IntArray) -> None:
        """Let what has ripened into the baseline; call every few seconds with all open rows."""
        t = self.table
        keep = np.float32(0.5 ** (elapsed_s / HALF_LIFE_S))
        suspicious = peak(t.wealth[rows]) > SUSPICION_NATS
        held = np.where(suspicious, t.held_s[rows] + elapsed_s, 0.0)
        t.held_s[rows] = held
        for column in (t.counts, t.requests, t.ticks, t.slow, t.excess, t.betted):
            column[rows] *= keep
        free = rows[~t.alarmed[rows] & (~suspicious | (held >= HOLD_S))]
        free = free[t.fresh_ticks[free] > 0]
        t.counts[free] += t.fresh[free]
        t.requests[free] += t.fresh[free].sum(axis=1, dtype=np.float32)
        t.ticks[free] += t.fresh_ticks[free]
        t.slow[free] += t.fresh_slow[free]
        t.excess[free] += t.fresh_excess[free]
        for fresh in (t.fresh, t.fresh_ticks, t.fresh_slow, t.fresh_excess):
            fresh[free] = 0
        t.wealth[free[t.held_s[free] >= HOLD_S]] = 0
        self.common.learn(elapsed_s)
        self.rounds = (self.rounds + 1) % ROUNDS
        self.shape = pooled(t.counts[rows])
        due = (t.requests[free] - t.betted[free] > STALE_SHARE * t.requests[free]) | (free % ROUNDS == self.rounds)
        self._bet(free[due])
        self.reset(rows[t.alarmed[rows] & (at - t.last_at[rows] > SILENT_S)])

    def blame(self, service: int, graph: Graph) -> None:
        """Note that `service` has a fault: what it and its callers showed lately is not how the mesh is."""
        self.common.forget(service, graph)
        self.shift.forget(service, graph)

    def histogram(self, row: int) -> FloatArray:
        """Return the learnt histogram of a row on the mesh's grid, shape (BUCKETS,)."""
        t = self.table
        full: FloatArray = unfold(t.counts[[row]], t.offset[[row]].astype(np.int64))[0]
        return full

    def finding(self, row: int) -> Finding:
        """Describe an alarmed row: medians in seconds, or the 90th percentiles when those moved more."""
        t = self.table
        observed, expected = max(self._quantiles(row), key=lambda p: p[0] / p[1])
        nats = float(self.evidence(np.asarray([row]))[0])
        return Finding(float(t.onset[row]), observed, expected, nats, int(t.episode_requests[row]))

    def reset(self, rows: IntArray) -> None:
        """Forget alarm state and whatever was not learnt yet; keep the baselines."""
        t = self.table
        for column in (t.wealth, t.run_pauses, t.run, t.calm, t.calm_since, t.held_s, t.fresh):
            column[rows] = 0
        for fresh in (t.fresh_ticks, t.fresh_slow, t.fresh_excess):
            fresh[rows] = 0
        t.was_slow[rows] = t.alarmed[rows] = False

    def significant(self, row: int) -> bool:
        """Return whether the run is slower than the baseline by a margin that matters to a user."""
        return any(new >= SLOWER * old and new - old >= SLOWER_S for new, old in self._quantiles(row))

    def _quantiles(self, row: int) -> tuple[tuple[float, float], ...]:
        """Return (p50, p90) of the run, each with the baseline's, seconds."""
        t = self.table
        both = np.stack([t.run[row].astype(np.float64), t.counts[row].astype(np.float64)])
        new, old = unfold(both, np.repeat(t.offset[[row]].astype(np.int64), 2))
        return tuple((quantile(new, q), quantile(old, q)) for q in (0.5, 0.9))

    def _paced(self, at: float, rows: IntArray, gain: SmallArray, most: float) -> tuple[SmallArray, BoolArray]:
        """Return the evidence, at most `most` within `PAUSE_S`, and which rows begin such a time in this tick."""
        t = self.table
        again = np.asarray(at - t.paced_at[rows] >= PAUSE_S - self._tick_s / 2, dtype=np.bool_)
        t.paced_at[rows] = np.where(again, at, t.paced_at[rows])
        spent = np.where(again, 0, t.paced[rows])
        gain = np.minimum(gain, (most - spent)[:, None]).astype(np.float32)
        t.paced[rows] = spent + np.maximum(peak(gain), 0)
        return gain, again

    def _uncommon(self, gain: SmallArray, extra_s: FloatArray, services: IntArray, graph: Graph) -> SmallArray:
        """Return the evidence, none in favour of slowness where a request's extra time is within what is no news."""
        some = np.flatnonzero(peak(gain) > 0)
        if len(some):
            which, place = np.unique(services[some], return_inverse=True)
            least = np.maximum(SLOWER_S, self.shift.tolerated(which, graph)[place])
            within = some[extra_s[some] < least]
            gain[within] = np.minimum(gain[within], 0)
        return gain

    def _worth(self, rows: IntArray, gain: SmallArray, services: IntArray, graph: Graph, *, late: bool) -> FloatArray:
        """Return the most nats that this tick may be worth for each row; note which ticks are slow."""
        t = self.table
        evidence = np.maximum(peak(gain), 0).astype(np.float64)
        slow = evidence >= SLOW_NATS
        worth = np.full(len(rows), np.inf)
        judged = np.flatnonzero((t.requests[rows] >= ARMED_REQUESTS) & ~t.alarmed[rows])
        before = t.was_slow[rows[judged]]
        worth[judged] = self.common.caps(evidence[judged], services[judged], before, graph)
        beyond = evidence - SLOW_NATS
        usual = (t.excess[rows] + OWN_SLOW) / (t.slow[rows] + OWN_SLOW)
        own = beyond / usual - np.log(np.maximum(t.slow[rows], 1e-12) / (t.ticks[rows] + OWN_TICKS))
        worth = np.where(slow, np.minimum(worth, np.maximum(own, 0)), worth)
        t.was_slow[rows] = slow
        well = ~t.alarmed[rows]
        t.fresh_ticks[rows] += well
        t.fresh_slow[rows] += slow & well
        t.fresh_excess[rows] += np.where(slow & well, beyond, 0)
        return np.asarray(np.minimum(worth, LATE_NATS if late else np.inf))

    def _bet(self, rows: IntArray) -> None:
        """Compute the bets of `rows` anew; lay windows anew whose median strayed."""
        t = self.table
        if not len(rows):
            return
        stray = middle(t.counts[rows]) - BELOW
        far = rows[np.abs(stray) >= STRAY]
        if len(far):
            old = t.offset[far].astype(np.int64)
            new = old + stray[np.abs(stray) >= STRAY]
            for column in (t.counts, t.fresh, t.run):
                column[far] = moved(column[far], old, new)
            t.offset[far] = new
        t.bets[rows] = bets(t.counts[rows], self.shape)
        t.betted[rows] = t.requests[rows]
        full = unfold(t.counts[rows], t.offset[rows].astype(np.int64))
        t.mean_s[rows] = full @ MIDS_S / np.maximum(full.sum(axis=1), 1e-9)

    def _collect(self, at: float, rows: IntArray, seen: Cells, requests: FloatArray, restart: BoolArray) -> None:
        t = self.table
        well = ~t.alarmed[rows]
        t.run[rows[restart & well]] = 0
        sick = rows[~well]
        t.run[sick] = t.run[sick].astype(np.float32) * np.float32(RECENT_KEEP)
        place = (rows[seen.row], seen.bucket)
        t.run[place] = np.minimum(t.run[place] + seen.count.astype(np.float32), np.finfo(np.float16).max)
        learns = well[seen.row]
        place = (rows[seen.row[learns]], seen.bucket[learns])
        t.fresh[place] = np.minimum(t.fresh[place] + seen.count[learns], np.iinfo(np.uint16).max)
        t.seen[rows] += requests
        t.last_at[rows] = at
        t.episode_requests[rows] += requests * ~well

    def _quiet(self, at: float, rows: IntArray, gain: SmallArray) -> None:
        """Run the bet the other way round; quiet also wants the recent window back within the practical margin."""
        t = self.table
        for i in np.flatnonzero(t.alarmed[rows]).tolist():
            row = int(rows[i])
            was = float(t.calm[row])
            calm = max(0.0, was - float(gain[i, t.slowdown[row]]))
            if was <= 0:
                t.calm_since[row] = at
            t.calm[row] = calm
            if calm >= QUIET_NATS and at - t.calm_since[row] >= QUIET_S and not self.significant(row):
                self.reset(np.asarray([row]))
