"""The experiments behind the tables."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from models.canary.comparison import STAKES
from models.canary.latency import PairedLatency
from models.canary.margins import Margins, Risk
from models.detect.baseline import FloatArray
from simulations.judgement.canaries.rules import Ours, Ranks, Rule, Strikes
from simulations.judgement.canaries.traffic import World, error_ticks, latency_ticks

HALF_HOUR_S = 1800.0
RATES = (0.05, 0.5, 5.0, 50.0)
RATIOS = (0.0, 0.001, 0.005, 0.01)
SEED = 20210305


@dataclass(frozen=True)
class Size:
    """How much to run."""

    lanes: int
    latency_lanes: int
    delay_lanes: int
    false_s: float = HALF_HOUR_S
    rates: Sequence[float] = RATES
    ratios: Sequence[float] = RATIOS


FULL = Size(lanes=3000, latency_lanes=200, delay_lanes=200)
QUICK = Size(lanes=20, latency_lanes=4, delay_lanes=4, false_s=60.0, rates=(0.5, 5.0), ratios=(0.01,))


def rules(lanes: int) -> dict[str, Rule]:
    """Return the rules in the order of the columns."""
    return {"Fibrin": Ours(lanes), "strikes (Flagger)": Strikes(lanes), "ranks (Kayenta)": Ranks(lanes)}


def rollbacks(world: World, lanes: int, seconds: float, tick_s: float, seed: int) -> dict[str, float]:
    """Return the share of lanes that each rule rolls back."""
    judges = rules(lanes)
    back: dict[str, float] = {}
    for counts in error_ticks(world, lanes, seconds, tick_s, np.random.default_rng(seed)):
        back = {name: float(judge.add(counts, tick_s).mean()) for name, judge in judges.items()}
    return back


def times(world: World, lanes: int, seconds: float, tick_s: float, seed: int) -> dict[str, FloatArray]:
    """Return seconds from onset to rolling back by rule and lane (inf: not within `seconds`)."""
    judges = rules(lanes)
    found = {name: np.full(lanes, np.inf) for name in judges}
    for k, counts in enumerate(error_ticks(world, lanes, seconds, tick_s, np.random.default_rng(seed))):
        at = (k + 1) * tick_s - world.onset_s
        for name, judge in judges.items():
            back = judge.add(counts, tick_s)
            found[name] = np.where(back & np.isinf(found[name]), at, found[name])
        if all(np.isfinite(one).all() for one in found.values()):
            break
    return found


def false_table(size: Size) -> str:
    """A good canary at 10 % of traffic, watched for half an hour: how often it is rolled back."""
    rows = []
    for rps in size.rates:
        for errors in size.ratios:
            world = World(rps=rps, errors=errors)
            back = rollbacks(world, size.lanes, size.false_s, 1.0, SEED)
            rows.append([f"{rps:g}", f"{errors:.1%}", *(f"{share:.2%}" for share in back.values())])
    head = ["rps of the canary", "errors of both", *rules(1)]
    title = f"Rolled back although as good as the stable version, in {size.false_s / 60:.0f} min, {size.lanes} canaries a row"
    return table(title, head, rows)


def hard_worlds(rates: Iterable[float]) -> Mapping[str, World]:
    """Return good canaries in bad weather."""
    worlds: dict[str, World] = {}
    for rps in rates:
        base = World(rps=rps, errors=0.005)
        worlds[f"{rps:g} rps, shared bursts"] = replace(base, burst_every_s=120.0)
        worlds[f"{rps:g} rps, bursts, load 0.1–1.9 ×, half of traffic"] = replace(
            base, burst_every_s=120.0, season=0.9, share=0.5
        )
        worlds[f"{rps:g} rps, bursts, 2 retries"] = replace(base, burst_every_s=120.0, retries=2)
        worlds[f"{rps:g} rps, instances hiccup every 10 min"] = replace(base, hiccup_every_s=600.0, warm_s=600.0)
    return worlds


def hard_table(size: Size) -> str:
    """The same in bad weather."""
    rows = []
    for name, world in hard_worlds(size.rates[1:]).items():
        back = rollbacks(world, size.lanes, size.false_s, 1.0, SEED + 1)
        rows.append([name, *(f"{share:.2%}" for share in back.values())])
    return table("The same, 0.5 % errors, in bad weather", ["weather", *rules(1)], rows)


def delay_table(size: Size) -> str:
    """A bad canary: seconds until it is rolled back."""
    rows = []
    cases = [(rps, fault, 0.1, 0.0) for fault in (0.05, 0.2) for rps in (1.0, 10.0, 50.0, 100.0)]
    cases += [(50.0, 0.2, 0.5, 0.0), (50.0, 0.2, 0.1, 600.0)]
    for rps, fault, share, onset in cases:
        tick_s = 0.2 if fault > 0.1 or rps > 1 else 1.0  # noqa: PLR2004 - finer where it matters
        world = World(rps=rps, errors=0.001, fault=fault, share=share, onset_s=onset)
        found = times(world, size.delay_lanes, onset + min(HALF_HOUR_S, size.false_s * 4), tick_s, SEED + 2)
        what = f"{fault:.0%}" + (f", after {onset / 60:.0f} good min" if onset else "")
        rows.append([f"{rps:g}", f"{share:.0%}", what, *(spread(one) for one in found.values())])
    head = ["rps of the canary", "share", "errors more", *rules(1)]
    return table("Onset to roll back, seconds: median / 95 % (stable version: 0.1 % errors)", head, rows)


def latency_table(size: Size) -> str:
    """Latency: how often an equal canary is rolled back, and how soon one 1.5 times slower."""
    rows = []
    for rps in size.rates:
        seconds, tick_s = size.false_s, 1.0 if rps > 1 else 5.0
        weather = World(rps=rps, burst_every_s=120.0, hiccup_every_s=300.0)
        quiet = latency_times(World(rps=rps), size.latency_lanes, seconds, tick_s)
        bad = latency_times(weather, size.latency_lanes, seconds, tick_s)
        slow = latency_times(World(rps=rps, slower=1.5, onset_s=60.0), size.delay_lanes, seconds, tick_s)
        lost = [f"{np.isfinite(one).mean():.2%}" for one in (quiet, bad)]
        rows.append([f"{rps:g}", *lost, spread(slow)])
    title = f"Latency (log-normal, median 30 ms), {size.latency_lanes} canaries a row, {size.false_s / 60:.0f} min"
    head = [
        "rps of the canary",
        "equal: rolled back",
        "equal, shared slowness and pauses",
        "1.5 × slower: seconds, median / 95 %",
    ]
    return table(title, head, rows)


def latency_times(world: World, lanes: int, seconds: float, tick_s: float) -> FloatArray:
    """Return seconds from onset to rolling back for latency by lane (inf: never)."""
    test = PairedLatency((lanes, 1), Margins())
    limit = Risk().rollback_nats - np.log(STAKES["latency"])
    found = np.full(lanes, np.inf)
    rng = np.random.default_rng(SEED + 3)
    for k, (canary, stable) in enumerate(latency_ticks(world, lanes, seconds, tick_s, rng)):
        test.add(canary[:, None], stable[:, None], tick_s)
        back = (test.against() >= limit) & np.isinf(found)
        found = np.where(back, (k + 1) * tick_s - world.onset_s, found)
    return found


def spread(seconds: FloatArray) -> str:
    """Render median and 95th percentile."""
    return " / ".join("never" if np.isinf(q) else f"{q:.3g}" for q in _quantiles(seconds))


def _quantiles(seconds: FloatArray) -> tuple[float, float]:
    ordered = np.sort(seconds)
    return float(ordered[len(ordered) // 2]), float(ordered[int(0.95 * (len(ordered) - 1))])


def table(title: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Render a Markdown table under its title."""
    lines = [title, "", "| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join(lines)
