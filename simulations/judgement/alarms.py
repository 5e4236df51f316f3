"""Is the false-alarm budget held? Alarms in quiet traffic of every kind, against what was stated.

`python -m simulations.judgement.alarms` runs 10⁸ tests (a test is one look at one series and signal), half at a budget so
loose that a thousand alarms are allowed — there the promise can be seen to fail —, half at the strictness of
a mesh of a hundred series with one false alarm in thirty days. `--quick` takes seconds.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass
from itertools import count
from typing import Final

import numpy as np
from scipy import special

from models.detect import Engine, FalseAlarmBudget
from simulations.bench.figures import Table, Target
from simulations.judgement.quiet import KINDS, Quiet

TESTS: Final = 1.05e8
ROWS: Final = 4000
LOOSE: Final = 1e-5
"""Alarms allowed per test at the loose budget."""

STRICT: Final = 1 / (100 * 2 * 5 * 30 * 86_400)
"""Alarms allowed per test: one in thirty days, a hundred series, errors and latency, five times a second."""

LATENCY_SHARE: Final = 0.15
"""Share of the tests in runs with histograms: drawing these takes most of the time."""

WARM_UP: Final = 60
ROWS_PER_SERVICE: Final = 4


@dataclass(frozen=True, slots=True)
class Held:
    """What came of one run: `tests` made, `allowed` alarms, alarm `events` (ticks in which anything alarmed)."""

    kind: str
    signals: str
    tests: float
    allowed: float
    events: int

    @property
    def most(self) -> int:
        """Alarms that a rate just as allowed exceeds with a probability of one in a thousand."""
        return next(k for k in count() if special.pdtr(k, self.allowed) >= 0.999)  # noqa: PLR2004


def run(kind: str, tests: float, per_test: float, *, with_latency: bool, rows: int = ROWS, seed: int = 1) -> Held:
    """Watch quiet traffic of `kind` for about `tests` tests at a budget of `per_test` alarms per test.

    An alarm resets its series, as if a person had looked and found nothing. The first minute, in which nothing is known
    yet, counts.
    """
    per_s = rows * (2 if with_latency else 1) + rows / ROWS_PER_SERVICE  # tests, were no series ever idle
    engine = Engine(FalseAlarmBudget(alarms=per_test * per_s, period_s=1.0, ticks_per_s=1.0))
    opened = engine.open(np.arange(rows) // ROWS_PER_SERVICE, watched=np.arange(rows) % ROWS_PER_SERVICE == 0)
    traffic = Quiet(kind, rows, np.random.default_rng([seed, KINDS.index(kind)]), with_latency)
    done, events, at = 0.0, 0, 0.0
    while done < tests:
        at += 1.0
        tick = traffic.tick()
        alarms = engine.advance(at, tick)
        done += float((tick.requests > 0).sum()) * (2 if with_latency else 1) + rows / ROWS_PER_SERVICE
        alarmed = np.concatenate([found for _, found in alarms])
        events += len(alarmed) > 0
        engine.reset(opened[alarmed])
        if engine.due():
            engine.learn()
    signals = "errors, latency, traffic" if with_latency else "errors, traffic"
    return Held(kind, signals, done, at * per_test * per_s, events)


def measure(tests: float = TESTS, rows: int = ROWS) -> tuple[Table, tuple[Held, ...]]:
    """Run every kind at both budgets; return the table and its numbers."""
    found: list[Held] = []
    plans = [(kind, with_latency) for kind in KINDS for with_latency in (False, True)]
    plans = [plan for plan in plans if plan != ("stalls", False)]  # a stall spoils nothing but latency
    bare = sum(not with_latency for _, with_latency in plans)
    for per_test in (LOOSE, STRICT):
        for kind, with_latency in plans:
            share = LATENCY_SHARE / (len(plans) - bare) if with_latency else (1 - LATENCY_SHARE) / bare
            found.append(run(kind, tests * share / 2, per_test, with_latency=with_latency, rows=rows))
    lines = tuple(
        (held.kind, held.signals, f"{held.tests:.2g}", f"{held.allowed:.3g}", str(held.events)) for held in found
    )
    total = sum(held.tests for held in found)
    note = f"{total:.3g} tests; above: one alarm allowed in 10⁵ tests, below: one in 2.6·10⁹"
    worst = max(held.events - held.most for held in found)
    targets = (Target("alarms beyond what is allowed, give or take chance", worst, 0),)
    columns = ("traffic", "signals", "tests", "allowed", "alarms")
    return Table("false alarms", columns, lines, note, targets), tuple(found)


def main() -> None:
    """Print the table; exit 1 when a budget is not held."""
    parser = argparse.ArgumentParser(prog="simulations.judgement.alarms", description="Hold the false-alarm budget.")
    parser.add_argument("--quick", action="store_true", help="a hundredth of the tests, in seconds")
    options = parser.parse_args()
    began = time.monotonic()
    table, _ = measure(TESTS / 100 if options.quick else TESTS, 500 if options.quick else ROWS)
    print(table.text())
    print(f"{time.monotonic() - began:.0f} s")
    if table.missed:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
