"""The general detector beside simple baselines, river's half-space trees and a threshold rule, in one run.

    python -m simulations.judgement.series [--data ../shared/bench/data/nab.npz] [--quick]

The corpus and its evaluator (`detect_eval.py`, `baselines_detect.py` two folders above the data) live outside this repository.
Without them there is nothing to score with: the script says so and ends with 0.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, Final, Protocol

import numpy as np

from models.errors import InvalidInput
from models.evaluation import make
from simulations.judgement import kpi

BASELINES: Final = ("zscore", "robust_z", "ewma", "spot", "zscore_onset", "dspot_onset", "hst", "hst_onset")
QUICK: Final = ("zscore_onset",)
KPI_SEED: Final = 1
LEARN: Final = 500
"""Samples from which a person would set the threshold rule's limits."""


class Detector(Protocol):
    """What the evaluator drives."""

    def update(self, timestamp: float, value: float) -> float:
        """Score one sample in [0, 1]."""
        ...


class ThresholdRule:
    """The usual alert rule: outside the range of the first samples, widened by half its span, for 60 s."""

    def __init__(self) -> None:
        self._low, self._high, self._seen = float("inf"), float("-inf"), 0
        self._since: float | None = None

    def update(self, timestamp: float, value: float) -> float:
        """Return 1 while the rule fires, else 0; the first `LEARN` samples set it."""
        self._seen += 1
        if self._seen <= LEARN:
            self._low, self._high = min(self._low, value), max(self._high, value)
            return 0.0
        slack = (self._high - self._low) / 2
        if self._low - slack <= value <= self._high + slack:
            self._since = None
            return 0.0
        if self._since is None:
            self._since = timestamp
        return float(timestamp - self._since >= 60.0)  # noqa: PLR2004 # the rule's own number


def _module(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise InvalidInput(f"{path} is no Python module", hint="point --data at the evaluator's data/nab.npz")
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module


def _kpi_corpus(evaluator: ModuleType, seed: int, count: int) -> list[dict[str, Any]]:
    """Return generated series as the evaluator loads them, with its own slack around labels."""
    made = kpi.series(seed, count)
    arrays: dict[str, Any] = {f"t{i}": s.t for i, s in enumerate(made)} | {f"v{i}": s.v for i, s in enumerate(made)}
    meta = {"name": "kpi", "series": [{"name": s.name, "group": s.name.split("-")[0], "runs": s.runs} for s in made]}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kpi.npz"
        np.savez(path, meta=json.dumps(meta), **arrays)
        loaded: list[dict[str, Any]] = evaluator.load(str(path))
    return loaded


def _runner(factory: Callable[[], Detector]) -> Callable[[dict[str, Any]], tuple[Any, float, float]]:
    """Return what the evaluator calls per series: scores, seconds spent, state in kB (not measured here)."""

    def run(series: dict[str, Any]) -> tuple[Any, float, float]:
        detector = factory()
        times, values = series["t"].tolist(), series["v"].tolist()
        scores = np.array([detector.update(t, v) for t, v in zip(times, values, strict=True)])
        return scores, float("nan"), 0.0

    return run


def _line(
    name: str, evaluator: ModuleType, corpora: list[list[dict[str, Any]]], factory: Callable[[], Detector]
) -> str:
    nab, made = (evaluator.evaluate(corpus, _runner(factory)) for corpus in corpora)

    def trio(scores: dict[str, float]) -> str:
        return " / ".join(f"{scores[p]:6.1f}" for p in ("standard", "low_FP", "low_FN"))

    events = "   ".join(
        f"{r['events_fixed']['f1']:.2f} ({r['events_fixed']['precision']:.2f}, {r['events_fixed']['recall']:.2f})"
        for r in (nab, made)
    )
    return f"{name:18s} {trio(nab['nab_best'])}   {trio(nab['nab_fixed'])}   {events}"


def main(arguments: list[str] | None = None) -> int:
    """Print the table; return 0, also when the evaluator is absent."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/bench/data/nab.npz"), help="the corpus")
    parser.add_argument("--quick", action="store_true", help="ours, one baseline and the threshold rule only")
    options = parser.parse_args(arguments)
    home: Path = options.data.resolve().parent.parent
    absent = [p for p in (options.data, home / "detect_eval.py", home / "baselines_detect.py") if not p.exists()]
    if absent:
        print(f"skipped: {', '.join(map(str, absent))} not found; pass --data FOLDER/data/nab.npz of the evaluator")
        return 0
    evaluator, baselines = _module(home / "detect_eval.py"), _module(home / "baselines_detect.py")
    corpora = [evaluator.load(str(options.data)), _kpi_corpus(evaluator, KPI_SEED, 10 if options.quick else 40)]
    print(
        f"{'detector':18s} NAB best: standard / low FP / low FN   NAB at 0.5{'':14s} events at 0.5: F1 (P, R) corpus, KPI"
    )
    print(_line("fibrin general", evaluator, corpora, make), flush=True)
    print(_line("60 s threshold", evaluator, corpora, ThresholdRule), flush=True)
    for name in QUICK if options.quick else BASELINES:
        try:
            print(_line(name, evaluator, corpora, getattr(baselines, name)), flush=True)
        except ModuleNotFoundError as error:
            print(f"{name:18s} skipped: {error.name} is not installed (pip install 'fibrin[models]')")
    return 0


if __name__ == "__main__":
    sys.exit(main())
