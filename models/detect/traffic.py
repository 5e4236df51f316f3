"""Traffic as counts: has a service that used to be called fallen nearly silent while its callers have not?

Poisson CUSUM for a fall to a tenth, against a null that already allows half of the learnt rate, scaled by how the whole
mesh's traffic moves (a change of load alone is no anomaly). Traffic comes in bursts: the evidence is divided by the index
of dispersion of the series' own counts in blocks of `BLOCK_S` (quasi-Poisson; an e-value to a power ≤ 1 is an e-value).
A series with few blocks is not tested yet. What is usual at an hour of the day, on weekdays and at weekends, is no anomaly:
the lowest rate of each is remembered, and a fall to about that one does not alarm. A fall that lasts for
`HOLD_S` is the new normal, and remembered as such. Thin and conservative on purpose: at least 10 s of evidence,
rates above 2 per second, and at least one request in the window — total silence is never read as failure, because lost
telemetry looks the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from models.detect.baseline import BoolArray, FloatArray, IntArray
from models.detect.finding import MAX_NATS, Finding

FALL: Final = 0.1
NORMAL: Final = 0.5
MIN_RPS: Final = 2.0
MIN_S: Final = 10.0
HALF_LIFE_S: Final = 120.0
BLOCK_S: Final = 10.0
MIN_BLOCKS: Final = 4.0
DOUBT: Final = 16.0
"""So many blocks make the dispersion known to a factor of two."""

BLOCKS_HALF_LIFE: Final = 90.0
"""Blocks after which one counts half: a quarter of an hour."""

HOLD_S: Final = 600.0
HOURS: Final = 48
"""Hours of a weekday and of a day of the weekend (UTC), each with the lowest usual rate."""

USUAL: Final = 0.5
"""A rate of at least this share of the lowest usual one is usual (both plus one request per second, for the slow ones)."""

RISE: Final = 1 / 720
"""Share by which a remembered low follows higher rates per block: half of it in two days."""

RATE_S: Final = 2.0
"""Time constant of the recent rate, seconds."""


Small = npt.NDArray[np.float32]


@dataclass(slots=True)
class TrafficTable:
    """Columns of request rates."""

    learnt_s: Small  # Σ seconds behind `learnt`
    learnt: Small  # Σ requests, exponentially forgotten
    fresh_s: Small
    fresh: Small
    block_s: Small  # seconds in the block under way
    block: Small  # requests in it
    held: Small  # whole blocks that wait until they are above suspicion
    held_sum: Small
    held_squares: Small
    blocks: Small  # whole blocks behind the dispersion
    block_sum: Small  # Σ requests of whole blocks
    block_squares: Small
    lows: npt.NDArray[np.float16]  # (rows, HOURS) lowest usual rate by hour, requests per second, plus 1; 0: not known
    alarmed_s: Small  # seconds since the alarm
    recent: Small  # recent rate, requests per second
    wealth: Small
    start: FloatArray  # Unix s
    run: Small
    alarmed: BoolArray
    watched: BoolArray


def empty_table() -> TrafficTable:
    """Return a table without rows."""
    names = [name for name in TrafficTable.__slots__ if name not in {"alarmed", "watched", "start", "lows"}]
    return TrafficTable(
        alarmed=np.zeros(0, dtype=np.bool_),
        watched=np.zeros(0, dtype=np.bool_),
        start=np.zeros(0),
        lows=np.zeros((0, HOURS), dtype=np.float16),
        **{name: np.zeros(0, dtype=np.float32) for name in names},
    )


def hour_of(at: float) -> int:
    """Return the place of a moment (Unix s) among `HOURS`: 0–23 on weekdays, 24–47 at weekends, UTC.

    >>> hour_of(0.0), hour_of(2 * 86_400 + 3_600.0)  # a Thursday's midnight, a Saturday's one o'clock
    (0, 25)
    """
    days, seconds = divmod(at, 86_400)
    weekend = (int(days) + 3) % 7 >= 5  # noqa: PLR2004 # Monday is 0, and the epoch began on a Thursday
    return int(seconds // 3600) + (24 if weekend else 0)


class TrafficDetector:
    """Request rates of many series; only rows marked `watched` can alarm."""

    def __init__(self, tick_s: float) -> None:
        self.table = empty_table()
        self._tick_s = tick_s
        self._now = 0.0
        self.mesh_recent = 0.0
        self.mesh_learnt = 0.0

    def rate(self, rows: IntArray) -> FloatArray:
        """Return the learnt rate of each row, requests per second (0 when nothing is learnt)."""
        t = self.table
        return np.where(t.learnt_s[rows] > 0, t.learnt[rows] / np.maximum(t.learnt_s[rows], 1e-9), 0.0)

    def update(self, at: float, rows: IntArray, requests: FloatArray, threshold: float) -> None:
        """Take one tick of *all* open rows (`requests` 0 where nothing came)."""
        t, dt = self.table, self._tick_s
        blend = dt / RATE_S
        t.recent[rows] += blend * (requests / dt - t.recent[rows])
        t.fresh[rows] += requests * ~t.alarmed[rows]
        t.fresh_s[rows] += dt * ~t.alarmed[rows]
        self._count(at, rows, requests)
        rate = self.rate(rows)
        self.mesh_recent = float(t.recent[rows][t.watched[rows]].sum())
        self.mesh_learnt = float(rate[t.watched[rows]].sum())
        load = min(1.0, self.mesh_recent / self.mesh_learnt) if self.mesh_learnt > 0 else 1.0
        normal = NORMAL * load * rate
        gain = requests * np.log(FALL / NORMAL) + (1 - FALL / NORMAL) * normal * dt
        gain = np.minimum(gain / self.dispersion(rows), threshold * dt / MIN_S)
        watched = t.watched[rows] & (rate >= MIN_RPS) & (t.learnt_s[rows] >= MIN_S) & (t.blocks[rows] >= MIN_BLOCKS)
        restart = t.wealth[rows] <= 0
        t.start[rows] = np.where(restart, at - dt, t.start[rows])
        t.run[rows] = np.where(restart, 0, t.run[rows]) + requests
        t.wealth[rows] = np.where(watched, np.clip(np.maximum(0, t.wealth[rows]) + gain, 0, MAX_NATS), 0.0)
        t.alarmed_s[rows] = np.where(t.alarmed[rows], t.alarmed_s[rows] + dt, 0)
        stayed = rows[t.alarmed_s[rows] >= HOLD_S]
        t.learnt[stayed] = t.recent[stayed] * t.learnt_s[stayed]
        self._remember(at, stayed, t.recent[stayed])
        self.reset(np.concatenate([stayed, rows[t.alarmed[rows] & (t.recent[rows] >= normal)]]))
        self._now = at

    def dispersion(self, rows: IntArray) -> FloatArray:
        """Return by how much the counts of blocks vary more than Poisson counts, ≥ 1; wide while there are few blocks."""
        t = self.table
        blocks = np.maximum(t.blocks[rows].astype(np.float64), 1.0)
        mean = t.block_sum[rows] / blocks
        variance = np.maximum(t.block_squares[rows] / blocks - mean**2, 0)
        few = (
            1 + DOUBT / blocks
        )  # the variance of a few blocks is known badly, most of all where traffic comes in bursts
        return np.asarray(np.maximum(1.0, few * variance / np.maximum(mean, 1e-9)))

    def _count(self, at: float, rows: IntArray, requests: FloatArray) -> None:
        t = self.table
        t.block[rows] += requests
        t.block_s[rows] += self._tick_s
        done = rows[t.block_s[rows] >= BLOCK_S]
        for held, value in ((t.held, 1.0), (t.held_sum, t.block[done]), (t.held_squares, t.block[done] ** 2)):
            held[done] += value
        sure = done[~t.alarmed[done] & ((t.wealth[done] <= 0) | (t.blocks[done] < MIN_BLOCKS))]
        keep = np.float32(0.5 ** (1 / BLOCKS_HALF_LIFE))
        for total, held in ((t.blocks, t.held), (t.block_sum, t.held_sum), (t.block_squares, t.held_squares)):
            total[sure] = total[sure] * keep + held[sure]
            held[sure] = 0
        self._remember(at, sure, t.block[sure] / BLOCK_S)
        t.block[done] = t.block_s[done] = 0

    def _remember(self, at: float, rows: IntArray, rate: Small) -> None:
        """Note a usual rate of this hour."""
        if not len(rows):
            return
        lows, hour = self.table.lows, hour_of(at)
        low = lows[rows, hour].astype(np.float32)
        risen = low + RISE * (rate + 1 - low)
        lows[rows, hour] = np.where(low == 0, rate + 1, np.where(rate + 1 < low, rate + 1, risen))

    def near(self, rows: IntArray, nats: float) -> IntArray:
        """Return those of `rows` whose evidence may reach `nats`."""
        return rows[self.evidence(rows) >= nats]

    def evidence(self, rows: IntArray) -> FloatArray:
        """Return the natural-log e-value of each row."""
        return self.table.wealth[rows].astype(np.float64)

    def alarm(self, rows: IntArray, threshold: float) -> IntArray:
        """Return those of `rows` that alarm now, at a natural-log e-value of `threshold`."""
        t = self.table
        alarms = rows[(t.wealth[rows] >= threshold) & ~t.alarmed[rows] & (t.run[rows] >= 1)]
        low = t.lows[alarms, hour_of(self._now)].astype(np.float32)
        lately = t.run[alarms] / np.maximum(self._now - t.start[alarms], self._tick_s)
        usual = (low > 0) & (lately + 1 >= USUAL * low)
        self.reset(alarms[usual])
        alarms = np.asarray(alarms[~usual], dtype=np.int64)
        t.alarmed[alarms] = True
        return alarms

    def learn(self, elapsed_s: float, rows: IntArray) -> None:
        """Let what has ripened into the learnt rates."""
        t = self.table
        keep = 0.5 ** (elapsed_s / HALF_LIFE_S)
        free = rows[t.wealth[rows] <= 0]
        for total, fresh in ((t.learnt, t.fresh), (t.learnt_s, t.fresh_s)):
            total[free] = total[free] * keep + fresh[free]
            fresh[free] = 0

    def finding(self, row: int) -> Finding:
        """Describe an alarmed row; rates in requests per second."""
        t = self.table
        expected = float(self.rate(np.asarray([row]))[0])
        return Finding(float(t.start[row]), float(t.recent[row]), expected, float(t.wealth[row]), int(t.run[row]))

    def reset(self, rows: IntArray) -> None:
        """Forget alarm state; keep the learnt rates."""
        if not len(rows):
            return
        t = self.table
        for column in (t.wealth, t.run, t.fresh, t.fresh_s, t.held, t.held_sum, t.held_squares):
            column[rows] = 0
        t.alarmed[rows] = False
