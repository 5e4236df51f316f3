"""The tests themselves, over numbered rows: arrays of one tick in, rows that alarm out. No names, no dictionaries.

This is the door for whoever has arrays already: `open` rows once, then call `advance` with each tick. `models.detect.bank`
is the same with names.

Example:
    >>> engine = Engine(FalseAlarmBudget())
    >>> rows = engine.open(np.zeros(2, dtype=np.int64), watched=np.zeros(2, dtype=np.bool_))
    >>> tick = Tick(rows, requests=np.ones(2) * 9, errors=np.zeros(2), latency=NOTHING.latency)
    >>> [signal.value for signal, alarmed in engine.advance(1_000.0, tick) if len(alarmed)]
    []
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from models.detect import columns
from models.detect.baseline import BoolArray, FloatArray, IntArray
from models.detect.budget import FalseAlarmBudget, level, lowest
from models.detect.errors import ErrorDetector
from models.detect.graph import Graph
from models.detect.latency import LatencyDetector
from models.detect.traffic import TrafficDetector
from models.frame import Cells
from models.incident import Signal

LEARN_EVERY_S: Final = 2.5
LATE_TICKS: Final = 2.0
LAG_S: Final = 0.04
"""Telemetry that arrives this much later than usual was held up; on an idle machine it varies by 0.01 s."""

LOOKS_S: Final = 10.0
"""Over how long the number of tests per second is averaged, seconds."""

GROWTH: Final = 1.25
LEAST_ROWS: Final = 64


@dataclass(frozen=True, slots=True)
class Tick:
    """What arrived in one tick, by distinct rows: `requests`, `errors` (rows,) and `latency` counts above 0.

    0 ≤ errors ≤ requests. A row without requests says nothing and may be left out. The cells of `latency` are distinct, sorted
    by row and within that by bucket; their rows are positions in `rows`.
    """

    rows: IntArray
    requests: FloatArray
    errors: FloatArray
    latency: Cells


NOTHING: Final = Tick(np.zeros(0, dtype=np.int64), np.zeros(0), np.zeros(0), Cells.of([]))

Alarms = tuple[tuple[Signal, IntArray], ...]


class Engine:
    """Errors, latency and traffic of numbered rows, within one false-alarm budget."""

    def __init__(self, budget: FalseAlarmBudget) -> None:
        self.budget = budget
        tick_s = 1 / budget.ticks_per_s
        self.errors = ErrorDetector(tick_s)
        self.latency = LatencyDetector(tick_s)
        self.traffic = TrafficDetector(tick_s)
        self.graph = Graph()
        self.service = np.zeros(0, dtype=np.int64)
        self.opened = np.zeros(0, dtype=np.bool_)
        self.looks_per_s = 0.0
        self.learnt_at: float | None = None
        self.now = 0.0

    @property
    def streams(self) -> int:
        """Number of tests that share the budget."""
        return 2 * int(self.opened.sum()) + int(self.traffic.table.watched.sum())

    @property
    def threshold(self) -> float:
        """Present alarm threshold of a stream that alarms alone, natural-log e-value."""
        return self.budget.nats(self.looks_per_s)

    def tables(self) -> tuple[tuple[str, object], ...]:
        """Return the tables of rows, each with the prefix of its columns in saved state."""
        return (("e.", self.errors.table), ("l.", self.latency.table), ("t.", self.traffic.table))

    def open(self, services: IntArray, watched: BoolArray) -> IntArray:
        """Open a row for each of `services` (its callee's number); traffic is tested where `watched`. Return the rows."""
        free = np.flatnonzero(~self.opened)[: len(services)]
        missing = len(services) - len(free)
        if missing > 0:
            size = len(self.opened)
            bigger = max(LEAST_ROWS, size + missing, int(GROWTH * size))
            for _, table in self.tables():
                columns.grow(table, bigger)
            self.service = np.concatenate([self.service, np.zeros(bigger - size, dtype=np.int64)])
            self.opened = np.concatenate([self.opened, np.zeros(bigger - size, dtype=np.bool_)])
            free = np.flatnonzero(~self.opened)[: len(services)]
        self.opened[free] = True
        self.service[free] = services
        self.errors.open(free)
        self.errors.table.last_at[free] = self.now
        self.traffic.table.watched[free] = watched
        return free

    def close(self, rows: IntArray) -> None:
        """Forget rows; their numbers are given out again."""
        for _, table in self.tables():
            columns.clear(table, rows)
        self.opened[rows] = False

    def advance(self, at: float, tick: Tick, *, lag_s: float = 0.0) -> Alarms:
        """Take one tick that ends at `at` (Unix s); return who alarms in it, by signal.

        `lag_s` is how much later than usual the tick's telemetry arrived, seconds. It, or a tick that comes more than
        `LATE_TICKS` tick lengths after the one before, tells of a machine that is held up: then latencies say little.
        """
        late = lag_s > LAG_S
        if self.learnt_at is None:
            self.learnt_at = at
        else:
            late = late or at - self.now > LATE_TICKS / self.budget.ticks_per_s
        self.now = at
        some = np.flatnonzero(tick.requests > 0)
        fresh = np.diff(tick.latency.row, prepend=-1) > 0
        slow, place = tick.latency.row[fresh], np.cumsum(fresh) - 1
        erring, slowed = tick.rows[some], tick.rows[slow]
        watched = np.flatnonzero(self.traffic.table.watched)
        self._look(len(erring) + len(slowed) + len(watched))
        threshold = self.threshold
        self.errors.update(at, erring, tick.requests[some], tick.errors[some], threshold)
        self.latency.update(
            at,
            slowed,
            Cells(place, tick.latency.bucket, tick.latency.count),
            services=self.service[slowed],
            graph=self.graph,
            threshold=threshold,
            late=late,
        )
        counts = np.zeros(len(self.opened))
        counts[tick.rows] = tick.requests
        self.traffic.update(at, watched, counts[watched], threshold)
        return self._alarms(erring, slowed, watched)

    def due(self) -> bool:
        """Tell whether it is time to `learn`."""
        return self.learnt_at is not None and self.now - self.learnt_at >= LEARN_EVERY_S

    def learn(self) -> None:
        """Let what has ripened into the baselines."""
        elapsed = max(0.0, self.now - (self.learnt_at if self.learnt_at is not None else self.now))
        self.learnt_at = self.now
        rows = np.flatnonzero(self.opened)
        self.errors.learn(self.now, elapsed, rows)
        self.latency.learn(self.now, elapsed, rows)
        self.traffic.learn(elapsed, np.flatnonzero(self.traffic.table.watched))

    def reset(self, rows: IntArray) -> None:
        """Forget the alarm state of `rows` and what was not yet learnt of them; keep the baselines."""
        self.errors.reset(rows)
        self.latency.reset(rows)
        self.traffic.reset(rows)

    def alarmed(self, signal: Signal) -> BoolArray:
        """Return which rows are anomalous in `signal`."""
        match signal:
            case Signal.ERRORS:
                return self.errors.table.alarmed
            case Signal.LATENCY:
                return self.latency.table.alarmed
            case Signal.TRAFFIC:
                return self.traffic.table.alarmed
            case Signal.SATURATION:
                return np.zeros(len(self.opened), dtype=np.bool_)

    def _look(self, looks: int) -> None:
        """Note how many streams are tested in this tick; the threshold follows the average, from the most possible on."""
        rate = looks * self.budget.ticks_per_s
        self.looks_per_s = self.looks_per_s or self.streams * self.budget.ticks_per_s
        blend = min(1.0, 1 / (LOOKS_S * self.budget.ticks_per_s))
        self.looks_per_s += blend * (rate - self.looks_per_s)

    def _alarms(self, erring: IntArray, slow: IntArray, watched: IntArray) -> Alarms:
        streams = (
            (Signal.ERRORS, self.errors, erring),
            (Signal.LATENCY, self.latency, slow),
            (Signal.TRAFFIC, self.traffic, watched),
        )
        waiting = [(signal, test, rows[~test.table.alarmed[rows]]) for signal, test, rows in streams]
        among = sum(len(rows) for _, _, rows in waiting)
        floor = lowest(self.threshold, among)
        waiting = [(signal, test, test.near(rows, floor)) for signal, test, rows in waiting]
        evidence = np.concatenate([test.evidence(rows) for _, test, rows in waiting])
        at_least = level(self.threshold, evidence, among)
        alarms = tuple((signal, test.alarm(rows, at_least)) for signal, test, rows in waiting)
        for service in sorted({service for _, rows in alarms for service in self.service[rows].tolist()}):
            self.latency.blame(service, self.graph)
        return alarms
