"""All detectors over all series of the mesh: outcomes of one tick in, new anomalies out.

State is columns of numpy arrays, one row per watched series (`models.detect.views` says which and how they are named).
A series without requests in a tick gives no evidence for or against anything. An anomaly is returned once, when it
alarms, and stays in `active` until its recent window is back (or until nothing has been sent for a minute).
"""

from __future__ import annotations

import io
import json
import math
import zipfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from typing import Final

import numpy as np

from models.detect import columns
from models.detect.baseline import Baseline, FloatArray, IntArray, quantile
from models.detect.budget import FalseAlarmBudget, level
from models.detect.errors import ErrorDetector
from models.detect.finding import Finding
from models.detect.graph import Graph
from models.detect.latency import LatencyDetector
from models.detect.saturation import Fullness, SaturationDetector
from models.detect.traffic import TrafficDetector
from models.detect.views import answered, counted, views
from models.errors import InvalidInput
from models.incident import Anomaly, Signal
from models.signals import BUCKETS, Outcomes, Saturation, Series, Side

LEARN_EVERY_S: Final = 2.5
KNOWN_REQUESTS: Final = 20.0
"""Requests behind a baseline before it is shown to anyone."""

FORGET_S: Final = 6 * 3600.0
"""A series not seen for this long loses its row."""

FORMAT: Final = 2
LATE_TICKS: Final = 2.0
LAG_S: Final = 0.04
"""Telemetry that arrives this much later than usual was held up; on an idle machine it varies by 0.01 s."""

LOOKS_S: Final = 10.0
"""Over how long the number of tests per second is averaged, seconds."""

LN10: Final = math.log(10)
MAX_ROUTES: Final = 200_000


class DetectorBank:
    """Errors, latency, traffic and saturation of every series, within one false-alarm budget.

    Not thread-safe; owned by one loop. Deterministic: the same ticks give the same anomalies, in whatever order the
    mapping lists its series.
    """

    def __init__(self, budget: FalseAlarmBudget | None = None) -> None:
        self.budget = budget or FalseAlarmBudget()
        tick_s = 1 / self.budget.ticks_per_s
        self._errors = ErrorDetector(tick_s)
        self._latency = LatencyDetector(tick_s)
        self._traffic = TrafficDetector(tick_s)
        self._saturation = SaturationDetector()
        self._rows: dict[Series, int] = {}
        self._keys: dict[int, Series] = {}
        self._free: list[int] = []
        self._routes: dict[Series, tuple[int, ...]] = {}
        self._alarm_at: dict[tuple[int, Signal], float] = {}
        self._service = np.zeros(0, dtype=np.int64)
        self._graph = Graph()
        self._looks_per_s = 0.0
        self._learnt_at: float | None = None
        self._now = 0.0

    def __len__(self) -> int:
        """Return the number of watched series."""
        return len(self._rows)

    @property
    def streams(self) -> int:
        """Number of tests that share the budget."""
        return 2 * len(self._rows) + int(self._traffic.table.watched.sum()) + len(self._saturation.instances)

    @property
    def threshold(self) -> float:
        """Present alarm threshold of a stream that alarms alone, natural-log e-value."""
        return self.budget.nats(self._looks_per_s)

    def update(
        self,
        at: float,
        outcomes: Mapping[Series, Outcomes],
        saturation: Iterable[Saturation] = (),
        *,
        lag_s: float = 0.0,
    ) -> tuple[Anomaly, ...]:
        """Take what arrived in one tick that ends at `at` (Unix s); return the anomalies that alarmed in it.

        `lag_s` is how much later than usual the tick's telemetry arrived, seconds. It, or a tick that comes more than
        `LATE_TICKS` tick lengths after the one before, tells of a machine that is held up: then latencies say little.
        """
        late = lag_s > LAG_S
        if self._learnt_at is not None:
            late = late or at - self._now > LATE_TICKS / self.budget.ticks_per_s
        self._now = at
        if self._learnt_at is None:
            self._learnt_at = at
        rows, requests, errors, latency = self._gather(outcomes)
        some, slow = np.flatnonzero(requests > 0), np.flatnonzero(latency.any(axis=1))
        everyone = self._everyone()
        self._look(len(some) + len(slow) + int(self._traffic.table.watched.sum()))
        threshold = self.threshold
        self._errors.update(at, rows[some], requests[some], errors[some], threshold)
        services = self._service[rows[slow]]
        self._latency.update(
            at, rows[slow], latency[slow], services=services, graph=self._graph, threshold=threshold, late=late
        )
        counts = np.zeros(len(self._service))
        counts[rows] = requests
        self._traffic.update(at, everyone, counts[everyone], threshold)
        alarms = self._alarms(rows[some], rows[slow], everyone)
        if at - self._learnt_at >= LEARN_EVERY_S:
            self._learn(at, everyone)
        new = [self._anomaly(int(row), signal, at) for signal, found in alarms for row in found]
        new += [self._full(instance) for instance in self._saturation.update(at, saturation)]
        return tuple(sorted(new, key=_order))

    def _look(self, looks: int) -> None:
        """Note how many streams are tested in this tick; the threshold follows the average, from the most possible on."""
        rate = looks * self.budget.ticks_per_s
        self._looks_per_s = self._looks_per_s or self.streams * self.budget.ticks_per_s
        blend = 1 / (LOOKS_S * self.budget.ticks_per_s)
        self._looks_per_s += blend * (rate - self._looks_per_s)

    def _alarms(self, erring: IntArray, slow: IntArray, everyone: IntArray) -> tuple[tuple[Signal, IntArray], ...]:
        """Return who alarms in this tick, by signal."""
        streams = (
            (Signal.ERRORS, self._errors, erring),
            (Signal.LATENCY, self._latency, slow),
            (Signal.TRAFFIC, self._traffic, everyone),
        )
        waiting = [(signal, test, rows[~test.table.alarmed[rows]]) for signal, test, rows in streams]
        at_least = level(self.threshold, np.concatenate([test.evidence(rows) for _, test, rows in waiting]))
        alarms = tuple((signal, test.alarm(rows, at_least)) for signal, test, rows in waiting)
        for service in np.unique(self._service[np.concatenate([rows for _, rows in alarms])]).tolist():
            self._latency.blame(service, self._graph)
        return alarms

    @property
    def active(self) -> tuple[Anomaly, ...]:
        """Return what is still anomalous, with `observed`, `score` and `requests` of now, sorted by series."""
        found = [
            self._anomaly(int(row), signal, None)
            for signal, alarmed in (
                (Signal.ERRORS, self._errors.table.alarmed),
                (Signal.LATENCY, self._latency.table.alarmed),
                (Signal.TRAFFIC, self._traffic.table.alarmed),
            )
            for row in np.flatnonzero(alarmed)
        ]
        found += [self._full(name) for name, state in self._saturation.instances.items() if state.alarmed]
        return tuple(sorted(found, key=_order))

    def baseline(self, series: Series, signal: Signal) -> Baseline | None:
        """Return the learnt normal of `series`, or None when it is not known (yet).

        `series` may be a watched key or any reported series; the latter gets the finest watched key that knows enough.
        """
        for key in (series, *views(series)):
            row = self._rows.get(key)
            if row is None:
                continue
            e, counts = self._errors.table, self._latency.histogram(row)
            requests = float(max(e.requests[row], counts.sum()))
            if requests < KNOWN_REQUESTS:
                continue
            return Baseline(
                signal=signal,
                error_ratio=float(e.ratio[row]),
                latency=counts,
                p50_s=quantile(counts, 0.5),
                p99_s=quantile(counts, 0.99),
                rps=float(self._traffic.rate(np.asarray([row]))[0]),
                requests=requests,
            )
        return None

    def reset(self, match: Callable[[Series], bool]) -> None:
        """Forget the alarm state of every watched series that `match` accepts; keep the baselines.

        What was not yet learnt of them is dropped too, since it may stem from the fault.
        """
        rows = np.asarray([row for key, row in self._rows.items() if match(key)], dtype=np.int64)
        for detector in (self._errors, self._latency, self._traffic):
            detector.reset(rows)
        for name in list(self._saturation.instances):
            if match(_instance_key(name)):
                del self._saturation.instances[name]

    def save(self) -> bytes:
        """Return the whole state; equal states give equal bytes."""
        arrays: dict[str, columns.Column] = {"service": self._service}
        for prefix, table in self._tables():
            arrays |= {prefix + name: column for name, column in columns.columns(table).items()}
        arrays |= {name: getattr(owner, attribute) for name, owner, attribute in self._wholes()}
        head = {
            "format": FORMAT,
            "series": [[row, *(str(part) for part in _parts(key))] for key, row in sorted(self._rows.items())],
            "free": self._free,
            "services": list(self._graph.numbers),
            "edges": sorted(self._graph.edges),
            "looks_per_s": self._looks_per_s,
            "rounds": self._latency.rounds,
            "alarms": [[row, str(signal), at] for (row, signal), at in sorted(self._alarm_at.items())],
            "priors": [self._errors.prior_requests, self._errors.prior_dispersion],
            "learnt_at": self._learnt_at,
            "now": self._now,
            "saturation": {name: asdict(state) for name, state in sorted(self._saturation.instances.items())},
        }
        text = np.frombuffer(json.dumps(head, sort_keys=True).encode(), dtype=np.uint8)
        buffer = io.BytesIO()
        np.savez(buffer, allow_pickle=False, head=text, **arrays)
        return buffer.getvalue()

    def restore(self, saved: bytes) -> None:
        """Continue from what `save` returned; nothing changes when it cannot be read.

        Raises:
            InvalidInput: the bytes are damaged or of another format (start cold then).
        """
        fresh = DetectorBank(self.budget)
        try:
            fresh._load(saved)
        except (ValueError, KeyError, TypeError, IndexError, OSError, EOFError, zipfile.BadZipFile) as error:
            raise InvalidInput(
                f"detector state cannot be read: {error}", hint="delete it; the detectors learn anew within a minute"
            ) from error
        self.__dict__.update(fresh.__dict__)

    def _load(self, saved: bytes) -> None:
        with np.load(io.BytesIO(saved), allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
        head = json.loads(arrays.pop("head").tobytes())
        if head["format"] != FORMAT:
            raise ValueError(f"format {head['format']}, wanted {FORMAT}")
        for prefix, table in self._tables():
            columns.load(table, arrays, prefix)
        for name, owner, attribute in self._wholes():
            setattr(owner, attribute, arrays[name])
        self._service = arrays["service"]
        for row, side, *names in head["series"]:
            self._rows[Series(Side(side), *names)] = int(row)
        self._keys = {row: key for key, row in self._rows.items()}
        self._free = [int(row) for row in head["free"]]
        for name in head["services"]:
            self._graph.number(str(name))
        for caller, callee in head["edges"]:
            self._graph.add(int(caller), int(callee))
        self._alarm_at = {(int(row), Signal(signal)): float(at) for row, signal, at in head["alarms"]}
        self._errors.prior_requests, self._errors.prior_dispersion = map(float, head["priors"])
        self._looks_per_s, self._latency.rounds = float(head["looks_per_s"]), int(head["rounds"])
        self._learnt_at, self._now = head["learnt_at"], float(head["now"])
        self._saturation.instances = {name: Fullness(**state) for name, state in head["saturation"].items()}

    def _tables(self) -> tuple[tuple[str, object], ...]:
        return (("e.", self._errors.table), ("l.", self._latency.table), ("t.", self._traffic.table))

    def _wholes(self) -> tuple[tuple[str, object, str], ...]:
        """Name the arrays that belong to no row: (name in the saved state, owner, attribute)."""
        common = self._latency.common
        return (
            ("shape", self._latency, "shape"),
            ("shift", self._latency.shift, "sums"),
            *((f"common.{name}", common, name) for name in ("recent", "again", "fresh", "long")),
        )

    def _everyone(self) -> IntArray:
        return np.sort(np.fromiter(self._keys, dtype=np.int64, count=len(self._keys)))

    def _gather(self, outcomes: Mapping[Series, Outcomes]) -> tuple[IntArray, FloatArray, FloatArray, FloatArray]:
        """Sum the tick's series into watched rows: (rows ascending, requests, errors, latency (rows, BUCKETS))."""
        targets: list[int] = []
        sources: list[int] = []
        numbers: list[tuple[int, int]] = []
        arrays = []
        for series, seen in sorted(outcomes.items()) if self._unknown(outcomes) else outcomes.items():
            routed = self._route(series)
            targets += routed
            sources += [len(numbers)] * len(routed)
            numbers.append(counted(seen))
            arrays.append(answered(seen))
        if not targets:
            return np.zeros(0, dtype=np.int64), np.zeros(0), np.zeros(0), np.zeros((0, BUCKETS))
        rows, index = np.unique(np.asarray(targets, dtype=np.int64), return_inverse=True)
        pairs = np.asarray(numbers, dtype=np.float64)
        stack = np.maximum(np.stack(arrays), 0).astype(np.float64)
        sums, latency = np.zeros((len(rows), 2)), np.zeros((len(rows), BUCKETS))
        np.add.at(sums, index, pairs[sources])
        np.add.at(latency, index, stack[sources])
        return rows, sums[:, 0], sums[:, 1], latency

    def _unknown(self, outcomes: Mapping[Series, Outcomes]) -> bool:
        """Return whether a series is new: rows are then opened in sorted order, whatever the mapping's order."""
        return any(series not in self._routes for series in outcomes)

    def _route(self, series: Series) -> tuple[int, ...]:
        routed = self._routes.get(series)
        if routed is None:
            if len(self._routes) >= MAX_ROUTES:
                self._routes.clear()
            routed = tuple(self._row(key) for key in views(series))
            if series.caller:
                self._graph.add(self._graph.number(series.caller), self._graph.number(series.callee))
            self._routes[series] = routed
        return routed

    def _row(self, key: Series) -> int:
        row = self._rows.get(key)
        if row is not None:
            return row
        if not self._free:
            size = len(self._service)
            bigger = max(64, 2 * size)
            for _, table in self._tables():
                columns.grow(table, bigger)
            self._service = np.concatenate([self._service, np.zeros(bigger - size, dtype=np.int64)])
            self._free = list(range(bigger - 1, size - 1, -1))
        row = self._free.pop()
        self._rows[key], self._keys[row] = row, key
        self._service[row] = self._graph.number(key.callee)
        self._errors.open(np.asarray([row]))
        self._errors.table.last_at[row] = self._now
        self._traffic.table.watched[row] = key.side is Side.SERVER
        return row

    def _learn(self, at: float, everyone: IntArray) -> None:
        elapsed = max(0.0, at - (self._learnt_at if self._learnt_at is not None else at))
        self._learnt_at = at
        self._errors.learn(at, elapsed, everyone)
        self._latency.learn(at, elapsed, everyone)
        self._traffic.learn(elapsed, everyone)
        stale = everyone[at - self._errors.table.last_at[everyone] > FORGET_S]
        for row in stale.tolist():
            del self._rows[self._keys.pop(row)]
            self._free.append(row)
        if len(stale):
            self._routes.clear()
            for _, table in self._tables():
                columns.clear(table, stale)
        alarmed = {(row, signal) for row, signal in self._alarm_at if row in self._keys and self._alarmed(row, signal)}
        self._alarm_at = {key: when for key, when in self._alarm_at.items() if key in alarmed}

    def _alarmed(self, row: int, signal: Signal) -> bool:
        match signal:
            case Signal.ERRORS:
                return bool(self._errors.table.alarmed[row])
            case Signal.LATENCY:
                return bool(self._latency.table.alarmed[row])
            case _:
                return bool(self._traffic.table.alarmed[row])

    def _anomaly(self, row: int, signal: Signal, alarmed_at: float | None) -> Anomaly:
        if alarmed_at is not None:
            self._alarm_at[(row, signal)] = alarmed_at
        at = self._alarm_at.get((row, signal), self._now)
        finding = self._finding(row, signal)
        return Anomaly(
            series=self._keys[row],
            signal=signal,
            at=at,
            onset=min(finding.onset, at),
            observed=finding.observed,
            expected=finding.expected,
            score=finding.nats / LN10,
            requests=finding.requests,
        )

    def _finding(self, row: int, signal: Signal) -> Finding:
        match signal:
            case Signal.ERRORS:
                return self._errors.finding(row)
            case Signal.LATENCY:
                return self._latency.finding(row)
            case _:
                return self._traffic.finding(row)

    def _full(self, instance: str) -> Anomaly:
        state = self._saturation.instances[instance]
        return Anomaly(
            series=_instance_key(instance),
            signal=Signal.SATURATION,
            at=self._now,
            onset=state.since,
            observed=state.share,
            expected=1.0,
            score=float(state.reports),
            requests=0,
        )


def _instance_key(instance: str) -> Series:
    return Series(Side.SERVER, "", "", "", instance, "")


def _order(anomaly: Anomaly) -> tuple[Series, str]:
    return (anomaly.series, anomaly.signal)


def _parts(key: Series) -> tuple[str, ...]:
    return (key.side, key.caller, key.callee, key.version, key.instance, key.reporter)
