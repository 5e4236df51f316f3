"""What is compared: curves over the seconds around a fault's onset, and numbers that say how far apart two of them are.

Both sides are looked at in the same way: every `STEP_S`, over the `WINDOW_S` before. Users' curves come from their
requests, a service's from the agent's own view of the golden signals.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final, Literal

import numpy as np
import numpy.typing as npt

from agent.telemetry.views import Golden
from simulations.drills.runner import SAMPLE_S
from simulations.drills.seen import WINDOW_S, Sample
from simulations.journal import Record

Unit = Literal["share", "s", "rps"]
Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

STEP_S: Final = SAMPLE_S
BEFORE_S: Final = 4.0
AFTER_S: Final = 10.0
CALM_S: Final = 3.0
"""The last seconds of a run are what it ended as."""


@dataclass(frozen=True, slots=True)
class Run:
    """One side of a pair, as it was seen. `onset`, records and samples in Unix s, the rest in seconds from the onset (None: it did not happen).

    Samples look over the `WINDOW_S` before them.
    """

    onset: float
    records: tuple[Record, ...]
    samples: tuple[Sample, ...]
    detected_s: float | None
    acted_s: float | None
    mitigated_s: float | None
    cause: str


@dataclass(frozen=True, slots=True)
class Curve:
    """One curve on both sides at the times `at`, shape (T,); NaN where nothing was seen."""

    name: str
    unit: Unit
    at: tuple[float, ...]
    real: tuple[float, ...]
    simulated: tuple[float, ...]

    @property
    def before(self) -> tuple[float, float]:
        """Mean before the onset: real, simulated."""
        return self._mean(np.asarray(self.at) < 0)

    @property
    def worst(self) -> tuple[float, float]:
        """The value farthest from the mean before, after the onset."""
        after = np.asarray(self.at) >= 0
        real, simulated = (
            _farthest(np.asarray(side)[after], usual)
            for side, usual in zip((self.real, self.simulated), self.before, strict=True)
        )
        return real, simulated

    @property
    def ended(self) -> tuple[float, float]:
        """Mean of the last `CALM_S` seconds."""
        return self._mean(np.asarray(self.at) > self.at[-1] - CALM_S)

    @property
    def distance(self) -> float:
        """Mean distance of the two, as a share of how far the real one moves (at least of a tenth of its level)."""
        real, simulated = np.asarray(self.real), np.asarray(self.simulated)
        known = ~(np.isnan(real) | np.isnan(simulated))
        if not known.any():
            return math.nan
        moved = max(float(np.ptp(real[known])), 0.1 * float(np.abs(real[known]).max()), _LEAST[self.unit])
        return float(np.abs(real - simulated)[known].mean()) / moved

    def _mean(self, when: Bools) -> tuple[float, float]:
        real, simulated = (_mean_of(np.asarray(side)[when]) for side in (self.real, self.simulated))
        return real, simulated


def _mean_of(values: Floats) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else math.nan


def _farthest(values: Floats, usual: float) -> float:
    known = values[~np.isnan(values)]
    return float(known[np.argmax(np.abs(known - usual))]) if len(known) else math.nan


_LEAST: Final[dict[Unit, float]] = {"share": 0.02, "s": 0.005, "rps": 1.0}
"""A curve that moves by less than this does not move."""


def compare(real: Run, simulated: Run, services: Iterable[str]) -> tuple[Curve, ...]:
    """Return users' curves and those of `services`, on one time axis."""
    at = tuple(round(-BEFORE_S + k * STEP_S, 3) for k in range(round((BEFORE_S + AFTER_S) / STEP_S) + 1))

    def pair(name: str, unit: Unit, of: Callable[[Run], tuple[float, ...]]) -> Curve:
        return Curve(name, unit, at, of(real), of(simulated))

    found = [pair(f"users: {name}", unit, partial(users, at=at, of=of)) for name, unit, of in _USERS]
    for service in services:
        found += [
            pair(f"{service}: {name}", unit, partial(told, at=at, service=service, signal=signal))
            for name, unit, signal in _SIGNALS
        ]
    return tuple(found)


def users(run: Run, at: Sequence[float], of: Callable[[Sequence[Record]], float]) -> tuple[float, ...]:
    """Return a number of the requests whose outcome was seen in the `WINDOW_S` before each time; NaN where there were none."""
    kept = sorted(run.records, key=lambda one: one.seen)
    ends = [one.seen - run.onset for one in kept]
    found = []
    for t in at:
        low, high = np.searchsorted(ends, (t - WINDOW_S, t), side="right").tolist()
        found.append(of(kept[low:high]) if high > low else math.nan)
    return tuple(found)


def told(run: Run, at: Sequence[float], service: str, signal: Callable[[Golden], float | None]) -> tuple[float, ...]:
    """Return a golden signal of a service at each time: that of the latest look, if it is not older than two steps."""
    kept = sorted(run.samples, key=lambda one: one.at)
    times = [one.at - run.onset for one in kept]
    found = []
    for t in at:
        k = int(np.searchsorted(times, t + 1e-9, side="right")) - 1
        golden = kept[k].services.get(service) if k >= 0 and times[k] >= t - 2 * STEP_S else None
        value = signal(golden) if golden is not None else None
        found.append(math.nan if value is None else float(value))
    return tuple(found)


def _missed(seen: Sequence[Record]) -> float:
    return sum(one.missed for one in seen) / len(seen)


def _quantile(seen: Sequence[Record], q: float) -> float:
    return float(np.quantile([one.latency_s for one in seen], q))


_USERS: Final[tuple[tuple[str, Unit, Callable[[Sequence[Record]], float]], ...]] = (
    ("missed", "share", _missed),
    ("median", "s", partial(_quantile, q=0.5)),
    ("p95", "s", partial(_quantile, q=0.95)),
)
_SIGNALS: Final[tuple[tuple[str, Unit, Callable[[Golden], float | None]], ...]] = (
    ("traffic", "rps", lambda golden: golden.rps),
    ("errors", "share", lambda golden: golden.error_ratio),
    ("median", "s", lambda golden: golden.p50_s),
    ("p99", "s", lambda golden: golden.p99_s),
)
