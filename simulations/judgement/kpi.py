"""Production-like KPI series with injected, labelled faults, so that a general detector is judged beyond one public corpus.

Each series is minutes, five minutes or hours of one metric of a cloud service: a daily and a weekly rhythm, noise whose size
follows the level, counts, percentages under a ceiling, a nightly job, single slow requests, missing samples. Faults are drawn by
kind and size, not fitted to any detector; in some series one fault comes again and again, as a cause that nobody mended does.
Everything follows from the seed.

What such series look like is public: Laptev, Amizadeh & Flint, *Generic and Scalable Framework for Automated Time-series Anomaly
Detection*, 2015 (hourly); Microsoft's Cloud Monitoring Dataset (minutes or hours of purchases, queries, latencies, crashes).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]

DAY_S: Final = 86_400.0
FAULTS: Final = ("spike", "dip", "shift", "flat", "noise", "ramp", "burst")
WORKDAYS: Final = 5
OCCASIONAL: Final = 0.05
"""Share of samples in which a healthy error counter is not zero."""

BURSTY: Final = 0.4
"""Share of samples that a bursty fault touches."""

STEPS_S: Final = (60.0, 300.0, 3600.0)
SAMPLES: Final = {60.0: (3000, 9000), 300.0: (3000, 9000), 3600.0: (1400, 3000)}
"""Length of a series by its step: days of minutes, weeks of five minutes, months of hours."""

HOURLY: Final = 0.3
"""Length of a fault in hourly samples beside its length in shorter ones: incidents last hours, not weeks."""

RECURRENT: Final = 0.4
"""Share of series whose faults are all of one kind and about one size."""

JOB: Final = 0.5
"""Share of rates with a nightly job, which is healthy."""

SLOWEST: Final = 0.01
"""Largest share of samples in which a healthy latency has a heavy tail (Pareto, index 2.5)."""

APART: Final = 40
"""Samples between two faults at least."""

EVERY_QUIET: Final = 4
"""One series in so many has no fault at all."""

QUIET_START: Final = 0.2
"""Share of a series before which no fault is put: a detector has to see what is normal first."""


@dataclass(frozen=True, slots=True)
class Kpi:
    """One series: `t` in seconds since the epoch, `v` in the metric's unit, `runs` inclusive index pairs of faults."""

    name: str
    t: FloatArray
    v: FloatArray
    runs: tuple[tuple[int, int], ...]


def _normal(rng: np.random.Generator, t: FloatArray, kind: str) -> tuple[FloatArray, FloatArray]:
    """Return the healthy series and the size of its noise, both of `t`'s shape."""
    phase = 2 * np.pi * (t / DAY_S + rng.random())
    depth = rng.uniform(0.0, 0.6)
    day = 1 + depth * np.sin(phase) + 0.3 * depth * np.sin(2 * phase + 1)
    weekend = np.where((t // DAY_S) % 7 >= WORKDAYS, 1 - 0.5 * rng.random(), 1.0)
    level = day * weekend * 10 ** rng.uniform(0.5, 4)
    share = rng.uniform(0.02, 0.15)
    wander = np.zeros(len(t))
    steps = rng.standard_normal(len(t))
    for i in range(1, len(t)):
        wander[i] = 0.9 * wander[i - 1] + 0.44 * steps[i]
    if kind == "count":
        level = np.minimum(level, 200.0) * 0.2
        return rng.poisson(np.maximum(level, 0.05)).astype(np.float64), np.sqrt(level + 1)
    if kind == "percent":
        level = 60 * level / level.max()
        value = level * (1 + share * wander)
        return np.clip(value, 0, 100), share * level
    if kind == "latency":
        value = level.mean() * np.exp(share * wander + 0.5 * share * rng.standard_normal(len(t)))
        slow = rng.random(len(t)) < rng.uniform(0, SLOWEST)
        return np.where(slow, value * (1 + 0.5 * rng.pareto(2.5, len(t))), value), np.full(len(t), share * level.mean())
    if kind == "errors":
        value = np.where(rng.random(len(t)) < OCCASIONAL, rng.exponential(1.0, len(t)), 0.0)
        return value, np.ones(len(t))
    value = level * (1 + share * wander)
    if rng.random() < JOB:
        begin, length = rng.uniform(0, DAY_S), rng.uniform(600, 5400)
        value = np.where((t - begin) % DAY_S < length, value * rng.uniform(1.3, 2.5), value)
    return value, share * level


def _break(rng: np.random.Generator, v: FloatArray, run: tuple[int, int], fault: str, size: float) -> None:
    """Put one fault of about `size` (in the metric's unit) into the samples of `run` (first, last) of `v`."""
    a, b = run
    part = slice(a, b + 1)
    n = b + 1 - a
    if fault == "spike":
        v[part] += size * 1.5
    elif fault == "dip":
        v[part] = np.maximum(v[part] - size, np.minimum(v[part], 0.0))
    elif fault == "shift":
        v[part] += size
    elif fault == "flat":
        v[part] = v[a - 1]
    elif fault == "noise":
        v[part] = np.maximum(v[part] + 0.6 * size * rng.standard_normal(n), 0.0)
    elif fault == "ramp":
        v[part] += size * 1.5 * np.linspace(0, 1, n)
    else:
        v[part] += np.where(rng.random(n) < BURSTY, size, 0.0)


LENGTHS: Final = {
    "spike": (1, 4),
    "dip": (5, 40),
    "shift": (20, 120),
    "flat": (60, 150),
    "noise": (20, 90),
    "ramp": (40, 120),
    "burst": (15, 60),
}


def _faults(rng: np.random.Generator, kind: str, count: int) -> list[tuple[str, float]]:
    """Return `count` kinds and sizes (in sizes of the noise) of faults for one series of a kind."""
    drawn = [(str(rng.choice(FAULTS)), float(rng.uniform(6, 15))) for _ in range(count)]
    if count and rng.random() < RECURRENT:
        fault, sigmas = drawn[0]
        drawn = [(fault, sigmas * float(rng.uniform(0.8, 1.25))) for _ in drawn]
    return [("shift" if kind == "errors" and f in {"dip", "flat"} else f, sigmas) for f, sigmas in drawn]


def series(seed: int, count: int = 40) -> list[Kpi]:
    """Return `count` series with 1 to 8 faults each, every fourth with none."""
    rng = np.random.default_rng(seed)
    made = []
    for k in range(count):
        kind = ("rate", "count", "percent", "latency", "errors")[k % 5]
        step = float(rng.choice(STEPS_S))
        n = int(rng.integers(*SAMPLES[step]))
        t: FloatArray = np.arange(n, dtype=np.float64) * step + 1.7e9
        v, noise = _normal(rng, t, kind)
        runs: list[tuple[int, int]] = []
        for fault, sigmas in _faults(rng, kind, 0 if k % EVERY_QUIET == EVERY_QUIET - 1 else int(rng.integers(1, 9))):
            length = int(rng.integers(*LENGTHS[fault]))
            a = int(rng.integers(int(QUIET_START * n), n - 200))
            b = a + (max(1, int(HOURLY * length)) if step == STEPS_S[-1] else length)
            if all(b + APART < x or a > y + APART for x, y in runs):
                _break(rng, v, (a, b), fault, sigmas * float(noise[a : b + 1].mean()))
                runs.append((a, b))
        keep = np.ones(n, bool)
        keep[rng.integers(0, n, n // 200)] = False
        for a, b in runs:
            keep[a : b + 1] = True
        at = np.cumsum(keep) - 1
        made.append(Kpi(f"{kind}-{k}", t[keep], v[keep], tuple(sorted((int(at[a]), int(at[b])) for a, b in runs))))
    return made
