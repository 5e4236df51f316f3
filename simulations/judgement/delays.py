"""How long does detection take, beside the least time that any test with the same false-alarm rate could take?

Lorden (1971): a test whose average run length between false alarms is `A` looks needs, for a change from `f0` to `f1`, at
least `ln A / KL(f1‖f0)` looks in the worst case (asymptotically). Where both are known — errors: the true ratios; latency:
the learnt histogram slowed by the tolerated margin against the same slowed by the fault — the mean delay is divided
by that bound. `python -m simulations.judgement.delays` prints the table and draws it (`--svg FILE`).
"""

from __future__ import annotations

import argparse
import math
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from models.detect import Engine, FalseAlarmBudget, Tick
from models.detect.bets import MARGIN
from models.frame import Cells
from models.incident import Signal
from models.signals import BOUNDS_S
from simulations.bench.figures import Table, Target
from simulations.judgement.canaries.traffic import latency_counts
from simulations.outputs import file_argument
from simulations.plot import Axis, Dots, Line, Panel, drawing

Floats = npt.NDArray[np.float64]

PER_TEST: Final = 1 / (100 * 2 * 5 * 30 * 86_400)
"""Alarms allowed per test: one in thirty days, a hundred series, errors and latency, five times a second."""

TICK_S: Final = 0.2
LEARN_TICKS: Final = 1500
MOST_TICKS: Final = 4000
MEDIAN_S: Final = 0.05
SIGMA: Final = 0.5


@dataclass(frozen=True, slots=True)
class Case:
    """One change: `errors` before and after, or latencies `slower` times as long; `rate` requests per tick."""

    name: str
    rate: float
    before: float = 0.001
    after: float = 0.001
    slower: float = 1.0


@dataclass(frozen=True, slots=True)
class Delay:
    """Mean and 95th percentile of the delay, and the bound, all in ticks."""

    case: Case
    mean: float
    p95: float
    bound: float

    @property
    def ratio(self) -> float:
        """Mean delay over the bound."""
        return self.mean / self.bound


CASES: Final = (
    Case("errors 0.1 → 1 %", 10, after=0.01),
    Case("errors 0.1 → 3 %", 10, after=0.03),
    Case("errors 0.1 → 5 %", 10, after=0.05),
    Case("errors 0.1 → 8 %", 2, after=0.08),
    Case("errors 0.1 → 20 %", 2, after=0.2),
    Case("errors 0.1 → 50 %", 1, after=0.5),
    Case("errors 0.1 → 100 %", 0.5, after=1.0),
    Case("errors 1 → 5 %", 10, before=0.01, after=0.05),
    Case("errors 1 → 20 %", 2, before=0.01, after=0.2),
    Case("latency × 2", 2, slower=2.0),
    Case("latency × 3", 1, slower=3.0),
    Case("latency × 10", 0.5, slower=10.0),
)


def _bernoulli(p: float, q: float) -> float:
    """Return KL(p‖q) of two Bernoulli distributions, nats."""
    rest = (1 - p) * math.log((1 - p) / (1 - q)) if p < 1 else 0.0
    return p * math.log(p / q) + rest


def histogram(factor: float) -> Floats:
    """Return the probabilities of the grid's buckets for log-normal latencies slowed by `factor`."""
    edges = (np.log(BOUNDS_S) - math.log(MEDIAN_S * factor)) / SIGMA
    below = np.asarray([0.5 * (1 + math.erf(edge / math.sqrt(2))) for edge in edges])
    return np.diff(np.concatenate([[0.0], below, [1.0]]))


def bound(case: Case, threshold: float) -> float:
    """Return Lorden's bound in ticks for an average run length of e^`threshold` tests of one series."""
    if case.slower > 1:
        new, old = histogram(case.slower), histogram(MARGIN)
        some = new > 1e-12  # noqa: PLR2004 # what never happens adds nothing
        per_request = float((new[some] * np.log(new[some] / np.maximum(old[some], 1e-12))).sum())
    else:
        per_request = _bernoulli(case.after, case.before)
    return threshold / (per_request * case.rate)


def delay(case: Case, runs: int = 200, seed: int = 1) -> Delay:
    """Let `runs` series of their own services learn what is normal, break them all in one tick each by itself, and time it."""
    rng = np.random.default_rng(seed)
    tests = 10 * runs * 2 * min(1.0, case.rate)  # per tick, roughly
    engine = Engine(FalseAlarmBudget(alarms=PER_TEST * tests, period_s=TICK_S, ticks_per_s=1 / TICK_S))
    quiet = 9 * runs  # series that stay well: in a mesh where most are sick nobody is to blame
    rows = engine.open(np.arange(10 * runs), watched=np.zeros(10 * runs, dtype=np.bool_))
    rate = np.full(len(rows), case.rate)
    signal = Signal.LATENCY if case.slower > 1 else Signal.ERRORS
    first = np.full(runs, math.inf)
    start = rng.integers(LEARN_TICKS, LEARN_TICKS + 300, runs)  # each at a time of its own
    now = 0.0
    for k in range(LEARN_TICKS + MOST_TICKS):
        now += TICK_S
        sick = np.zeros(len(rows), dtype=np.bool_)
        sick[quiet:] = (k >= start) & ~np.isfinite(first)
        requests = rng.poisson(rate)
        errors = rng.binomial(requests, np.where(sick, case.after, case.before))
        latency = latency_counts(requests, MEDIAN_S * np.where(sick, case.slower, 1.0), SIGMA, rng)
        tick = Tick(rows, requests.astype(np.float64), errors.astype(np.float64), Cells.table(latency))
        alarms = dict(engine.advance(now, tick))
        if engine.due():
            engine.learn()
        found = alarms[signal][alarms[signal] >= quiet] - quiet
        found = found[k >= start[found]]
        first[found] = np.minimum(first[found], k + 1 - start[found])
        engine.reset(np.concatenate(list(alarms.values())))
        if np.isfinite(first).all():
            break
    worst = np.where(np.isfinite(first), first, MOST_TICKS)
    return Delay(case, float(worst.mean()), float(np.quantile(worst, 0.95)), bound(case, engine.threshold))


def table(found: tuple[Delay, ...]) -> Table:
    """Return the delays beside their bounds."""
    lines = tuple(
        (
            d.case.name,
            f"{d.case.rate / TICK_S:g}",
            f"{d.bound * TICK_S:.2f} s",
            f"{d.mean * TICK_S:.2f} s",
            f"{d.p95 * TICK_S:.2f} s",
            f"{d.ratio:.2f}",
        )
        for d in found
    )
    note = "one false alarm in thirty days over a hundred series; latency against the tolerated slowdown of 1.15"
    ratios = [d.ratio for d in found if d.case.slower == 1]
    targets = (Target("mean ÷ Lorden for errors, mean of the cases", sum(ratios) / max(1, len(ratios)), 1.3),)
    columns = ("change", "rps", "Lorden", "mean", "p95", "mean ÷ Lorden")
    return Table("detection delay", columns, lines, note, targets)


def picture(found: tuple[Delay, ...]) -> str:
    """Return the delays over their bounds as an SVG drawing, both axes logarithmic (seconds)."""
    low, high, limit = 0.3, 100.0, 1.3
    mine: list[Dots] = []
    for name, colour, slower in (("errors", 0, False), ("latency", 1, True)):
        some = [(k, d) for k, d in enumerate(found, 1) if (d.case.slower > 1) is slower]
        bounds, means = [d.bound * TICK_S for _, d in some], [d.mean * TICK_S for _, d in some]
        mine.append(Dots(bounds, means, name, colour, [str(k) for k, _ in some]))
    panel = Panel(
        "Mean delay beside the least possible one",
        Axis("least possible delay (Lorden), s", low, high, log=True),
        Axis("mean delay, s", low, high, log=True),
        lines=(
            Line((low, high), (low, high), colour=4),
            Line((low, high / limit), (low * limit, high), f"{limit:g} × the bound", colour=4, dashed=True),
        ),
        dots=mine,
        note="numbers: lines of the table",
    )
    return drawing([panel])


def main() -> None:
    """Print the table and draw the picture."""
    parser = argparse.ArgumentParser(prog="simulations.judgement.delays", description="Detection delay and its bound.")
    parser.add_argument("--quick", action="store_true", help="a tenth of the runs")
    parser.add_argument("--svg", type=file_argument, help="file for the picture")
    options = parser.parse_args()
    found = tuple(delay(case, 20 if options.quick else 100) for case in CASES)
    print(table(found).text())
    if options.svg:
        options.svg.write_text(picture(found), encoding="utf-8")


if __name__ == "__main__":
    main()
