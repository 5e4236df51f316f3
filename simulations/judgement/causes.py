"""How good is the localiser? `python -m simulations.judgement.causes [--data DIR] [--cases N]`.

Three tables: the general form beside the evaluator's baselines (and BARO, where `fse-baro` is installed) on PetShop and
Nezha, if their folder is given; calibration of the mesh's own localiser on seeded random incidents; and its cost on
meshes of 10² to 10⁴ services.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import itertools
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from models.evaluation import rank
from models.incident import Cause
from models.localise import localise
from models.localise.general import Tuning, blame
from simulations.judgement.incidents import SORTS, Incident, incident
from simulations.judgement.large import large_incident

BASELINES: Final = ("nsigma", "baro", "mad", "epsilon", "same_kind", "traversal", "pagerank", "correlation")
DATA: Final = ("petshop", "nezha")
BINS: Final = (0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 0.97, 1.0 + 1e-9)
SHARES: Final = 0.1
"""A right cause of at least this probability shares the odds with the other right ones."""

SIZES: Final = (100, 300, 1_000, 3_000, 10_000)
LIMIT_MS: Final = 100.0

Case = dict[str, Any]
Ranker = Callable[[Case], Sequence[str]]


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the tables; returns 2 when the data folder is not what it should be."""
    parser = argparse.ArgumentParser(prog="python -m simulations.judgement.causes", description=__doc__)
    parser.add_argument("--data", type=Path, help="folder with rca_eval.py, baselines_rca.py and data/*.npz")
    parser.add_argument("--cases", type=int, default=40, help="random incidents per sort of fault (default 40)")
    parser.add_argument("--sensitivity", action="store_true", help="vary each assumption of the general form by 30 %%")
    parser.add_argument(
        "--largest", type=int, default=SIZES[-1], help="services of the largest mesh timed (default 10000)"
    )
    options = parser.parse_args(arguments)
    if options.data is not None:
        lacking = [n for n in ("rca_eval.py", "baselines_rca.py", "data") if not (options.data / n).exists()]
        if lacking:
            print(
                f"error: {options.data} holds no {', '.join(lacking)}; --data wants the evaluators' folder",
                file=sys.stderr,
            )
            return 2
        compare(options.data, sensitivity=options.sensitivity)
    else:
        print("No --data: the comparison on PetShop and Nezha is left out.\n")
    calibration(options.cases)
    cost(size for size in SIZES if size <= options.largest)
    return 0


def compare(folder: Path, *, sensitivity: bool) -> None:
    """Print AC@1, AC@3, AC@5 and seconds per case of every localiser, by data set and system."""
    sys.path.insert(0, str(folder))
    evaluator = importlib.import_module("rca_eval")
    baselines = importlib.import_module("baselines_rca")
    cases = [
        c
        for name in DATA
        if (folder / "data" / f"{name}.npz").exists()
        for c in evaluator.load(str(folder / "data" / f"{name}.npz"))
    ]
    rankers: dict[str, Ranker] = {"ours": _ours}
    rankers |= {name: _baseline(getattr(baselines, name)) for name in BASELINES}
    if importlib.util.find_spec("baro") is not None:
        rankers["BARO (fse-baro)"] = _fse_baro(importlib.import_module("baro.root_cause_analysis").robust_scorer)
    else:
        print("fse-baro is not installed: BARO is the evaluator's own re-implementation (`baro`).\n")
    print(f"{'localiser':18s}{'system':16s}{'n':>4s}{'AC@1':>8s}{'AC@3':>8s}{'AC@5':>8s}{'ms':>9s}")
    for name, ranker in rankers.items():
        _show(name, _places(evaluator, cases, ranker))
    if sensitivity:
        print("\nassumption ±30 %")
        for field in fields(Tuning):
            for factor in (0.7, 1.3):
                _show(f"{field.name} ×{factor}", _places(evaluator, cases, _tuned(_varied(field.name, factor))))
    print()


def _ours(case: Case) -> Sequence[str]:
    return rank(case["metrics"], case["inject"], case["edges"], _target(case))


def _target(case: Case) -> tuple[str, str | None] | None:
    target = case["target"]
    return (str(target[0]), target[1]) if target else None


def _baseline(function: Callable[..., Sequence[str]]) -> Ranker:
    wants = "target" in function.__code__.co_varnames[: function.__code__.co_argcount]

    def run(case: Case) -> Sequence[str]:
        extra = {"target": _target(case)} if wants else {}
        return function(case["metrics"], case["inject"], case["edges"], **extra)

    return run


def _fse_baro(scorer: Callable[..., Mapping[str, Sequence[str]]]) -> Ranker:
    """Return BARO's robust scorer as published; it wants one table with a `time` column and no gaps."""
    frames = importlib.import_module("pandas")

    def run(case: Case) -> Sequence[str]:
        first = next(iter(case["metrics"].values()))[0]
        columns = {name: values for name, (_, values) in case["metrics"].items()}
        table = frames.DataFrame({"time": first, **columns}).ffill().fillna(0)
        ranked = scorer(table, inject_time=case["inject"])["ranks"]
        return [name.split("|")[0] for name in ranked]

    return run


def _tuned(tuning: Tuning) -> Ranker:
    return lambda case: [
        b.service for b in blame(case["metrics"], case["inject"], case["edges"], _target(case), tuning)
    ]


def _varied(name: str, factor: float) -> Tuning:
    value = getattr(Tuning(), name)
    if name == "tail":  # a quantile: what lies beyond it varies
        return replace(Tuning(), tail=1 - (1 - value) * factor)
    return replace(Tuning(), **{name: round(value * factor) if isinstance(value, int) else value * factor})


def _places(evaluator: Any, cases: Sequence[Case], ranker: Ranker) -> dict[str, list[tuple[float, float]]]:
    """Return (place of the truth, seconds) of every case by system."""
    found: dict[str, list[tuple[float, float]]] = {}
    for case in cases:
        start = time.perf_counter()
        with np.errstate(all="ignore"):
            ranking = list(ranker(case))
        spent = time.perf_counter() - start
        system = {"OB": "Online Boutique", "TT": "Train Ticket"}.get(case["group"].split()[0], "PetShop")
        found.setdefault(system, []).append((evaluator.place(ranking, case["truth"], case["alias"]), spent))
    return found


def _show(name: str, found: Mapping[str, list[tuple[float, float]]]) -> None:
    for system, rows in found.items():
        places, spent = np.array([p for p, _ in rows]), np.array([s for _, s in rows])
        hits = "".join(f"{np.mean(places <= k):8.3f}" for k in (1, 3, 5))
        print(f"{name:18s}{system:16s}{len(rows):4d}{hits}{1000 * spent.mean():9.1f}")


@dataclass(frozen=True, slots=True)
class Answers:
    """What the localiser said of random incidents: by sort of fault whether its first cause and one of the first three were
    right (each incident), and every probability it gave beside what of the truth that cause was: 0 when wrong, 1 when right, a half
    when one of two that share the odds (probabilities add up to 1, also of two faults at once).
    """

    hits: Mapping[str, Sequence[tuple[bool, bool]]]
    said: npt.NDArray[np.float64]
    right: npt.NDArray[np.float64]

    def bins(self) -> Iterator[tuple[float, float, npt.NDArray[np.bool_]]]:
        """Yield the bounds of each bin of `BINS` that is not empty, and which answers lie in it."""
        for low, high in itertools.pairwise(BINS):
            inside = (self.said >= low) & (self.said < high)
            if inside.any():
                yield low, high, inside


def answers(each: int) -> Answers:
    """Ask the localiser about `each` random incidents of every sort."""
    hits: dict[str, list[tuple[bool, bool]]] = {}
    said: list[float] = []
    right: list[float] = []
    for k, sort in enumerate(sorted(SORTS)):
        for found in filter(None, (incident(1000 * n + k, sort) for n in range(each))):
            causes = localise(found.evidence)
            hits.setdefault(sort, []).append((_hit(found, causes[:1]), _hit(found, causes[:3])))
            said += [c.probability for c in causes]
            true = [found.right(c) for c in causes]
            sharing = max(1, sum(ok and c.probability >= SHARES for c, ok in zip(causes, true, strict=True)))
            right += [
                ok / sharing if c.probability >= SHARES else float(ok) for c, ok in zip(causes, true, strict=True)
            ]
    return Answers(hits, np.asarray(said), np.asarray(right))


def calibration(each: int) -> None:
    """Print how often the first and the first three causes are right, by sort of fault, and the reliability table."""
    found = answers(each)
    print(f"random incidents{'':4s}{'n':>5s}{'top-1':>8s}{'top-3':>8s}")
    for sort, rows in found.hits.items():
        _row(sort, rows)
    _row("all", [row for rows in found.hits.values() for row in rows])
    print(f"\n{'probability':16s}{'causes':>8s}{'said':>8s}{'right':>8s}")
    for low, high, inside in found.bins():
        said, right = found.said[inside].mean(), found.right[inside].mean()
        print(f"{low:.2f}–{min(1.0, high):.2f}{'':7s}{inside.sum():8d}{said:8.3f}{right:8.3f}")
    print()


def _hit(found: Incident, causes: Sequence[Cause]) -> bool:
    return any(found.right(c) for c in causes)


def _row(name: str, rows: Sequence[tuple[bool, bool]]) -> None:
    if rows:
        first, three = np.mean(np.array(rows), axis=0)
        print(f"{name:20s}{len(rows):5d}{first:8.3f}{three:8.3f}")


def cost(sizes: Iterable[int]) -> None:
    """Print the processor time to localise one deep fault on meshes of growing size (median of five)."""
    print(f"{'services':>8s}{'series':>9s}{'anomalies':>11s}{'CPU ms':>9s}   hold {LIMIT_MS:.0f} ms")
    for size in sizes:
        found = large_incident(size)
        spent = []
        for _ in range(5):
            start = time.process_time()
            causes = localise(found.evidence)
            spent.append(1000 * (time.process_time() - start))
        middle = float(np.median(spent))
        verdict = "held" if middle <= LIMIT_MS else "MISSED"
        named = "right" if _hit(found, causes[:1]) else "wrong"
        print(
            f"{size:8d}{len(found.evidence.since_onset):9d}{len(found.evidence.anomalies):11d}{middle:9.1f}   {verdict}, first cause {named}"
        )


if __name__ == "__main__":
    raise SystemExit(main())
