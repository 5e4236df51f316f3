"""What is no news about one series because others show the like: the mesh's own record of how slow ticks get.

A stalled machine, a paused hypervisor or somebody's test run beside the mesh slows many series in the same ticks, not
all of them and not alike. No model of one series foresees that; the other series show it. So the evidence one tick gives
against a series is never believed beyond how rare such a tick is elsewhere — an empirical null (Efron 2004), taken

* in this very tick, among the services that a fault of this one would not reach (all but itself and its callers,
  direct or not), the most conspicuous of them left out: a second faulty service must not hide the first;
* in the last seconds, among the same services: a starved machine hits one process after the other;
* in the long run, over the whole mesh, with a heavy tail beyond what was ever seen;

and if slow ticks follow on slow ticks elsewhere, a second slow tick in a row is worth only what that leaves. Every cap
can only lower evidence, so the guarantees of the bets stay.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

import numpy as np

from models.detect.baseline import BoolArray, FloatArray, IntArray
from models.detect.graph import Graph

BIN: Final = 0.5
"""Width of a bin of evidence per tick, nats."""

BINS: Final = 25
SLOW_BIN: Final = 4
"""From this bin on (2 nats) a tick is called slow."""

RECENT_S: Final = 5.0
"""Half-life of what counts as the last seconds."""

LONG_S: Final = 900.0
"""Half-life of the long run."""

FEW: Final = 6.0
"""Slow ticks elsewhere that must be seen for their persistence to count half."""

FEW_PER_SERVICE: Final = 3.0
"""Slow ticks of one service that count for persistence at most."""

EXACT: Final = 64
"""More conspicuous services than this in one tick are a storm: then all of the mesh but oneself is the comparison."""

TAIL_NATS: Final = 2.0
"""Mean excess assumed beyond what was ever seen; fair bets alone would have 1."""

PSEUDO: Final = 1.0


def _table(width: int) -> FloatArray:
    return np.zeros((0, width))


@dataclass(slots=True)
class CommonMode:
    """Counts of (series, tick) pairs by service and evidence. `tick_s` is the time between two ticks, seconds."""

    tick_s: float
    recent: FloatArray = field(default_factory=lambda: _table(BINS))  # (services, BINS), last seconds
    again: FloatArray = field(default_factory=lambda: _table(2))  # (services, slow ticks | of these after a slow one)
    fresh: FloatArray = field(default_factory=lambda: _table(BINS))  # (services, BINS), not yet learnt
    long: FloatArray = field(default_factory=lambda: np.zeros(BINS))

    def caps(self, evidence: FloatArray, services: IntArray, slow_before: BoolArray, graph: Graph) -> FloatArray:
        """Enter one tick; return the most nats that each row's evidence of this tick may be believed.

        `evidence` (rows,) is the tick's evidence of rows that are not alarmed, in nats, `services` the callee of each,
        `slow_before` whether its tick before was slow. `graph` tells whom a fault of each would slow.
        """
        caps = np.full(len(evidence), np.inf)
        if not len(evidence):
            return caps
        self._grow(int(services.max()) + 1)
        bins = np.clip(evidence / BIN, 0, BINS - 1).astype(np.int64)
        tick: IntArray = np.bincount(services * BINS + bins, minlength=self.recent.size).reshape(self.recent.shape)
        slow = bins >= SLOW_BIN
        self.recent = self.recent * 0.5 ** (self.tick_s / RECENT_S) + tick
        self.fresh += tick
        pairs = np.stack([slow, slow & slow_before], axis=1)
        self.again *= 0.5 ** (self.tick_s / RECENT_S)
        for part in range(2):
            self.again[:, part] += np.bincount(services, pairs[:, part], minlength=len(self.again))
        news = np.flatnonzero(bins >= SLOW_BIN // 2)
        if not len(news):
            return caps
        caps[news] = self._rarity(evidence[news], bins[news])
        which, place = np.unique(services[news], return_inverse=True)
        elsewhere = graph.elsewhere(which, len(self.recent)) if len(which) <= EXACT else None
        for counts in (tick.astype(np.float64), self.recent):
            share = _share(counts, which, elsewhere, place, bins[news])
            caps[news] = np.minimum(caps[news], -np.log(np.maximum(share, 1e-12)))
        lasting = -np.log(np.maximum(self._persistence(which, elsewhere)[place], 1e-12))
        caps[news] = np.where(slow_before[news], np.minimum(caps[news], lasting), caps[news])
        return np.asarray(np.maximum(caps, 0.0))

    def _rarity(self, evidence: FloatArray, bins: IntArray) -> FloatArray:
        """Return how rare such ticks are in the long run, nats; beyond all that was ever seen by an exponential tail."""
        beyond = _beyond(self.long)
        seen = BIN * (np.flatnonzero(self.long >= PSEUDO / 2)[-1:].sum() + 1)
        rarity = -np.log((beyond[bins] + PSEUDO) / (beyond[0] + PSEUDO))
        return np.asarray(rarity + np.maximum(evidence - max(seen, TAIL_NATS), 0) / TAIL_NATS)

    def learn(self, elapsed_s: float) -> None:
        """Let what was seen since the last call into the long run."""
        self.long = self.long * 0.5 ** (elapsed_s / LONG_S) + self.fresh.sum(axis=0)
        self.fresh[:] = 0

    def forget(self, service: int, graph: Graph) -> None:
        """Drop what `service` and its callers showed lately: it has a fault, and that is no normal."""
        reached = graph.reached(service)
        for table in (self.fresh, self.recent, self.again):
            table[reached[reached < len(table)]] = 0

    def _grow(self, services: int) -> None:
        missing = services - len(self.recent)
        if missing > 0:
            for name in ("recent", "again", "fresh"):
                old: FloatArray = getattr(self, name)
                setattr(self, name, np.concatenate([old, np.zeros((missing, old.shape[1]))]))

    def _persistence(self, which: IntArray, elsewhere: BoolArray | None) -> FloatArray:
        """Return how often a slow tick followed on a slow tick elsewhere, 0–1, for each service of `which`."""
        some = np.minimum(1.0, FEW_PER_SERVICE / np.maximum(self.again[:, 0], 1e-9))
        pairs = self.again * some[:, None]
        sums = pairs.sum(axis=0) - pairs[which] if elsewhere is None else elsewhere @ pairs
        return np.asarray(sums[:, 1] / (sums[:, 0] + FEW))


def _beyond(counts: FloatArray) -> FloatArray:
    """Return the counts in each bin and above, along the last axis."""
    return np.asarray(np.flip(np.cumsum(np.flip(counts, -1), -1), -1))


def _share(
    counts: FloatArray, which: IntArray, elsewhere: BoolArray | None, place: IntArray, bins: IntArray
) -> FloatArray:
    """Return the share of pairs elsewhere in a bin or above, without the worst service.

    Asked for the service `which[place[k]]` and the bin `bins[k]`, for each k. In a storm (`elsewhere` None) elsewhere is
    everywhere but at the service itself, the worst included.
    """
    if elsewhere is None:
        table = _beyond(counts.sum(axis=0)) - _beyond(counts[which])
        sums, totals = table[place, bins], table[place, 0]
    else:
        beyond = _beyond(counts)
        table = elsewhere.astype(np.float64) @ beyond
        worst = np.max(np.where(elsewhere[place], beyond.T[bins], 0.0), axis=1)
        sums, totals = table[place, bins] - worst, table[place, 0]
    return np.asarray(np.maximum(sums, 0) / np.maximum(totals, 1.0))
