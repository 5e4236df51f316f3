"""The same faults, healed by the agent and watched by what people run today: how long each takes to notice and to heal, per class."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from models.errors import InvalidInput
from simulations.simulator import faults
from simulations.simulator.campaign import WARM_UP_S, Plan, day, play
from simulations.simulator.faults import Fault, VersionErrors, VersionLeaks, VersionSlow
from simulations.simulator.mesh import draw
from simulations.simulator.mixture import SHARES, Mixture
from simulations.simulator.peers import ANALYSIS_S, SCRAPE_S, AlertRule, Analysis, OutlierDetection, Peer, Reaction
from simulations.simulator.plant import Plant
from simulations.simulator.runner import hushed
from simulations.simulator.score import mitigated
from simulations.simulator.world import TICK_S

WATCHED_S: Final = 330.0
"""Long enough for five strikes a minute apart."""

MOST_DRAWS: Final = 20
"""Meshes looked at per fault wanted."""

OURS: Final = "Fibrin"
OUTLIERS: Final = "outlier detection"
ANALYSED: Final = "analysis 1 min × 5"
ALERTS: Final = "alert rules"
SYSTEMS: Final = (OURS, OUTLIERS, ANALYSED, ALERTS)
NEVER: Final = "never"


@dataclass(frozen=True, slots=True)
class Case:
    """One fault of one class: what each system did about it, by its name; a system that does not apply is missing."""

    kind: str
    fault: Fault
    reactions: dict[str, Reaction]


def compare(
    services: int, seed: int, per_class: int, tell: Callable[[int, int], None] = lambda _done, _of: None
) -> tuple[Case, ...]:
    """Play `per_class` faults of every default class on a mesh of its own each: once with the agent, once with nobody acting."""
    kinds = list(SHARES)
    cases: list[Case] = []
    for kind in kinds:
        plan = Plan(services, seed, 1, Mixture({kind: 1.0}))
        for number in _numbers(plan, per_class):
            with hushed():
                (played,), _ = asyncio.run(play(plan, number))
            ours = Reaction(played.detected_s, played.mitigated_s if mitigated(played) else None)
            cases.append(Case(kind, played.fault, {OURS: ours, **_watched(plan, number, played.fault)}))
            tell(len(cases), len(kinds) * per_class)
    return tuple(cases)


def _numbers(plan: Plan, wanted: int) -> list[int]:
    """Return the first meshes that can have the fault asked for at all.

    Raises:
        InvalidInput: hardly any can.
    """
    found: list[int] = []
    for number in range(wanted * MOST_DRAWS):
        seed = plan.mesh_seed(number)
        plant = Plant(draw(plan.services, seed), seed=seed, tick_s=TICK_S)
        if plan.mixture.possible(plant, np.random.default_rng([seed, 17])):
            found.append(number)
        if len(found) == wanted:
            return found
    raise InvalidInput("hardly any mesh of this size can have every fault", hint="give more services")


def _watched(plan: Plan, number: int, fault: Fault) -> dict[str, Reaction]:
    """Let a fault last on a mesh on which nobody acts; return what the peers make of it."""
    seed = plan.mesh_seed(number)
    random = np.random.default_rng([seed, 13])
    plant = Plant(draw(plan.services, seed), seed=seed, tick_s=TICK_S, load=day(np.random.default_rng([seed, 11])))
    truth = faults.truth(fault, plant.layout)
    watching: dict[str, Peer] = {
        OUTLIERS: OutlierDetection(plant, truth.service, truth.guilty),
        ALERTS: AlertRule(plant, truth.service, random.uniform(0, SCRAPE_S)),
    }
    if isinstance(fault, VersionErrors | VersionSlow | VersionLeaks):
        watching[ANALYSED] = Analysis(plant, fault.service, fault.version, random.uniform(0, ANALYSIS_S))
    onset = round((WARM_UP_S + ANALYSIS_S) / TICK_S)
    for tick in range(onset + round(WATCHED_S / TICK_S)):
        since = (tick - onset) * TICK_S
        if tick == onset:
            faults.apply(fault, plant)
        if tick >= onset:
            faults.advance(fault, plant, since)
        ended = plant.step()
        for peer in watching.values():
            peer.see(ended, since)
    return {name: peer.reaction for name, peer in watching.items()}


def table(cases: Sequence[Case]) -> str:
    """Return a Markdown table: median seconds to notice / to heal per class and system, and how many of all were."""
    lines = [f"| class | n | {' | '.join(SYSTEMS)} |", "|---|---|" + "---|" * len(SYSTEMS)]
    for kind in dict.fromkeys(case.kind for case in cases):
        group = [case for case in cases if case.kind == kind]
        cells = [_cell([case.reactions[name] for case in group if name in case.reactions]) for name in SYSTEMS]
        lines.append(f"| {kind} | {len(group)} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(reactions: Sequence[Reaction]) -> str:
    if not reactions:
        return "not for this"
    noticed = [r.detected_s for r in reactions if r.detected_s is not None]
    healed = [r.mitigated_s for r in reactions if r.mitigated_s is not None]
    return f"{_median(noticed, len(reactions))} / {_median(healed, len(reactions))}"


def _median(known: Sequence[float], of: int) -> str:
    """Render `1.4 s`, with `(3 of 5)` where some were not, `never` where none was."""
    if not known:
        return NEVER
    some = f" ({len(known)} of {of})" if len(known) < of else ""
    return f"{float(np.median(known)):.1f} s{some}"
