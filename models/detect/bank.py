"""All detectors over all series of the mesh: outcomes of one tick in, new anomalies out.

State is columns of numpy arrays, one row per watched series (`models.detect.views` says which and how they are named).
A series without requests in a tick gives no evidence for or against anything. An anomaly is returned once, when it
alarms, and stays in `active` until its recent window is back (or until nothing has been sent for a minute).
"""

from __future__ import annotations

import math
import zipfile
from collections.abc import Callable, Iterable, Mapping
from typing import Final

import numpy as np

from models.detect import saved
from models.detect.baseline import Baseline, quantile
from models.detect.budget import FalseAlarmBudget
from models.detect.engine import Engine
from models.detect.finding import Finding
from models.detect.rows import Rows
from models.detect.saturation import SaturationDetector
from models.detect.views import views
from models.errors import InvalidInput
from models.incident import Anomaly, Signal
from models.signals import Outcomes, Saturation, Series, Side

KNOWN_REQUESTS: Final = 20.0
"""Requests behind a baseline before it is shown to anyone."""

FORGET_S: Final = 6 * 3600.0
"""A series not seen for this long loses its row."""

LN10: Final = math.log(10)


class DetectorBank:
    """Errors, latency, traffic and saturation of every series, within one false-alarm budget.

    Not thread-safe; owned by one loop. Deterministic: the same ticks give the same anomalies, in whatever order the
    mapping lists its series.

    Example:
        >>> bank = DetectorBank(FalseAlarmBudget(alarms=1, period_s=30 * 86_400))
        >>> edge = Series(Side.CLIENT, "web", "catalog", "", "", "web-1")
        >>> for k in range(200):
        ...     new = bank.update(0.2 * k, {edge: Outcomes(requests=10, errors=0 if k < 190 else 4)})
        ...     if new:
        ...         print(k, new[0].signal.value, new[0].series.callee)
        191 errors catalog
    """

    def __init__(self, budget: FalseAlarmBudget | None = None) -> None:
        self.budget = budget or FalseAlarmBudget()
        self.engine = Engine(self.budget)
        self._rows = Rows(self.engine)
        self._saturation = SaturationDetector()
        self._alarm_at: saved.AlarmTimes = {}

    def __len__(self) -> int:
        """Return the number of watched series."""
        return len(self._rows.by_key)

    @property
    def streams(self) -> int:
        """Number of tests that share the budget."""
        return self.engine.streams + len(self._saturation.instances)

    @property
    def threshold(self) -> float:
        """Present alarm threshold of a stream that alarms alone, natural-log e-value."""
        return self.engine.threshold

    def update(
        self,
        at: float,
        outcomes: Mapping[Series, Outcomes],
        saturation: Iterable[Saturation] = (),
        *,
        lag_s: float = 0.0,
    ) -> tuple[Anomaly, ...]:
        """Take what arrived in one tick that ends at `at` (Unix s); return the anomalies that alarmed in it.

        `lag_s` is how much later than usual the tick's telemetry arrived, seconds (see `Engine.advance`).
        """
        alarms = self.engine.advance(at, self._rows.gather(outcomes), lag_s=lag_s)
        if self.engine.due():
            self._learn()
        new = [self._anomaly(int(row), signal, at) for signal, found in alarms for row in found]
        new += [self._full(instance) for instance in self._saturation.update(at, saturation)]
        return tuple(sorted(new, key=_order))

    @property
    def active(self) -> tuple[Anomaly, ...]:
        """Return what is still anomalous, with `observed`, `score` and `requests` of now, sorted by series."""
        found = [
            self._anomaly(int(row), signal, None)
            for signal in Signal
            for row in np.flatnonzero(self.engine.alarmed(signal))
        ]
        found += [self._full(name) for name in self._saturation.alarmed()]
        return tuple(sorted(found, key=_order))

    def baseline(self, series: Series, signal: Signal) -> Baseline | None:
        """Return the learnt normal of `series`, or None when it is not known (yet).

        `series` may be a watched key or any reported series; the latter gets the finest watched key that knows enough.
        """
        for key in (series, *views(series)):
            row = self._rows.by_key.get(key)
            if row is None:
                continue
            e, counts = self.engine.errors.table, self.engine.latency.histogram(row)
            requests = float(max(e.requests[row], counts.sum()))
            if requests < KNOWN_REQUESTS:
                continue
            return Baseline(
                signal=signal,
                error_ratio=float(e.ratio[row]),
                latency=counts,
                p50_s=quantile(counts, 0.5),
                p99_s=quantile(counts, 0.99),
                rps=float(self.engine.traffic.rate(np.asarray([row]))[0]),
                requests=requests,
            )
        return None

    def reset(self, match: Callable[[Series], bool]) -> None:
        """Forget the alarm state of every watched series that `match` accepts; keep the baselines.

        What was not yet learnt of them is dropped too, since it may stem from the fault.
        """
        rows = [row for key, row in self._rows.by_key.items() if match(key)]
        self.engine.reset(np.asarray(rows, dtype=np.int64))
        self._saturation.forget([name for name in self._saturation.instances if match(_instance_key(name))])

    def save(self) -> bytes:
        """Return the whole state; equal states give equal bytes."""
        return saved.dump(self._rows, self._saturation, self._alarm_at)

    def restore(self, state: bytes) -> None:
        """Continue from what `save` returned; nothing changes when it cannot be read.

        Raises:
            InvalidInput: the bytes are damaged or of another format (start cold then).
        """
        fresh = DetectorBank(self.budget)
        try:
            saved.load(state, fresh._rows, fresh._saturation, fresh._alarm_at)
        except (ValueError, KeyError, TypeError, IndexError, OSError, EOFError, zipfile.BadZipFile) as error:
            raise InvalidInput(
                f"detector state cannot be read: {error}", hint="delete it; the detectors learn anew within a minute"
            ) from error
        self.__dict__.update(fresh.__dict__)

    def _learn(self) -> None:
        engine, names = self.engine, self._rows.keys
        engine.learn()
        idle = np.flatnonzero(engine.opened & (engine.now - engine.errors.table.last_at > FORGET_S))
        if len(idle):
            self._rows.forget(idle)
        gone = [key for key in self._alarm_at if key[0] not in names or not engine.alarmed(key[1])[key[0]]]
        for key in gone:
            del self._alarm_at[key]

    def _anomaly(self, row: int, signal: Signal, alarmed_at: float | None) -> Anomaly:
        if alarmed_at is not None:
            self._alarm_at[(row, signal)] = alarmed_at
        at = self._alarm_at.get((row, signal), self.engine.now)
        finding = self._finding(row, signal)
        return Anomaly(
            series=self._rows.keys[row],
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
                return self.engine.errors.finding(row)
            case Signal.LATENCY:
                return self.engine.latency.finding(row)
            case _:
                return self.engine.traffic.finding(row)

    def _full(self, instance: str) -> Anomaly:
        state = self._saturation.instances[instance]
        return Anomaly(
            series=_instance_key(instance),
            signal=Signal.SATURATION,
            at=self.engine.now,
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
