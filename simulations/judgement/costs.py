"""What watching costs: time and memory per series from 10² to 10⁵ series, beside river's one-series models in the same run.

`python -m simulations.judgement.costs`. Each series has ten requests with a latency histogram per tick of one second. River's
models (extra `models`) look at one number per series and tick; where river is not installed its columns stay empty.
"""

from __future__ import annotations

import argparse
import importlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from models.detect import Engine, FalseAlarmBudget, Tick
from models.detect.columns import columns
from models.frame import Cells
from models.signals import BUCKETS
from simulations.bench.figures import Table, Target

SIZES: Final = (100, 1_000, 10_000, 100_000)
CORE_SHARE: Final = 1.0
"""CPU seconds per second that 10⁵ series may take at one tick per second."""

BYTES: Final = 1024
WARM_UP: Final = 30
REQUESTS: Final = 10
_PEER_UPDATES: Final = 2_000


@dataclass(frozen=True, slots=True)
class Cost:
    """CPU seconds per tick and series, and bytes of state per series."""

    series: int
    seconds: float
    size: float


def ours(series: int, ticks: int = 15) -> Cost:
    """Watch `series` series in full, learning included, after a warm-up."""
    rng = np.random.default_rng(1)
    engine = Engine(FalseAlarmBudget(ticks_per_s=1.0))
    rows = engine.open(np.arange(series) // 4, watched=np.arange(series) % 4 == 0)
    size = sum(column.nbytes for _, table in engine.tables() for column in columns(table).values()) / len(engine.opened)
    middle = rng.integers(15, 40, series)
    drawn = []
    for _ in range(3):
        buckets = np.clip(np.rint(middle[:, None] + 2 * rng.standard_normal((series, REQUESTS))), 0, BUCKETS - 1)
        places = np.repeat(np.arange(series), REQUESTS) * BUCKETS + buckets.astype(np.int64).ravel()
        latency = np.bincount(places, minlength=series * BUCKETS).reshape(series, BUCKETS).astype(np.float64)
        errors = rng.binomial(REQUESTS, 1e-3, series).astype(np.float64)
        drawn.append(Tick(rows, latency.sum(axis=1), errors, Cells.table(latency)))
    began = 0.0
    for k in range(WARM_UP + ticks):
        if k == WARM_UP:
            began = time.process_time()
        engine.advance(float(k), drawn[k % len(drawn)])
        if engine.due():
            engine.learn()
    return Cost(series, (time.process_time() - began) / ticks / series, size)


def peers() -> dict[str, float]:
    """Return CPU seconds per update of river's models, by name; empty without river."""
    try:
        anomaly, stats = importlib.import_module("river.anomaly"), importlib.import_module("river.stats")
    except ModuleNotFoundError:
        return {}
    values = np.random.default_rng(2).random(_PEER_UPDATES).tolist()
    trees, mean = anomaly.HalfSpaceTrees(seed=1), stats.EWMean()

    def tree(value: float) -> None:
        seen: dict[str, Any] = {"value": value}
        trees.score_one(seen)
        trees.learn_one(seen)

    updates: dict[str, Callable[[float], object]] = {"HalfSpaceTrees": tree, "EWMean": mean.update}
    found = {}
    for name, update in updates.items():
        began = time.process_time()
        for value in values:
            update(value)
        found[name] = (time.process_time() - began) / len(values)
    return found


def measure(sizes: tuple[int, ...] = SIZES) -> Table:
    """Return the table; its target is one core and 1 kB per series for the largest size."""
    others, costs = peers(), [ours(size) for size in sizes]
    lines = []
    for cost in costs:
        beside = (
            f"{others[name] / cost.seconds:.2g} ×" if name in others else "–" for name in ("HalfSpaceTrees", "EWMean")
        )
        core = f"{cost.seconds * cost.series:.3f}"
        lines.append((f"{cost.series}", f"{cost.seconds * 1e6:.2f} µs", core, f"{cost.size:.0f} B", *beside))
    last = costs[-1]
    targets = (
        Target("cores for 10⁵ series at 1 Hz", last.seconds * max(SIZES), CORE_SHARE),
        Target("state per series", last.size, BYTES, " B"),
    )
    names = ("series", "per series and tick", "cores at 1 Hz", "state", "HalfSpaceTrees ÷ ours", "EWMean ÷ ours")
    note = "errors, latency and traffic of each series"
    return Table("cost of watching", names, tuple(lines), note, targets, judged=last.series == max(SIZES))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="simulations.judgement.costs", description="Time and memory per series.")
    parser.add_argument("--quick", action="store_true", help="up to a thousand series")
    options = parser.parse_args()
    print(measure(SIZES[:2] if options.quick else SIZES).text())


if __name__ == "__main__":
    main()
