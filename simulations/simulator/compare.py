"""The same faults, healed by the agent and watched by what people run today: how long each takes to notice and to heal, per class."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from models.errors import InvalidInput
from simulations.simulator import damage
from simulations.simulator.campaign import SLOW, WARM_UP_S, Plan, Played, day, play
from simulations.simulator.faults import Fault, OfVersion
from simulations.simulator.guilt import Truth
from simulations.simulator.mesh import draw
from simulations.simulator.meshfaults import ControlRefused, Spoiling, TelemetrySpoiled
from simulations.simulator.mixture import MIXES, Mixture
from simulations.simulator.peers import (
    ANALYSIS_S,
    SCRAPE_S,
    AlertRule,
    Analysis,
    Crowd,
    Nobody,
    OutlierDetection,
    Peer,
    Reaction,
    Unseen,
)
from simulations.simulator.plant import Ended, Plant
from simulations.simulator.process import TICK_S
from simulations.simulator.runner import hushed
from simulations.simulator.scenario import Scenario, Wanted
from simulations.simulator.score import mitigated

WATCHED_S: Final = 330.0
"""Long enough for five strikes of an analysis, a minute apart."""

ALERTED_S: Final = 180.0
"""Long enough for an alert rule: a minute of data, a minute of waiting, and a scrape."""

MOST_DRAWS: Final = 20
"""Meshes looked at per fault wanted."""

MOST_WATCHED: Final = 5
"""Of very many services at fault so many, the busiest, are watched."""

OURS: Final = "Fibrin"
OUTLIERS: Final = "outlier detection"
ANALYSED: Final = "analysis 1 min × 5"
ALERTS: Final = "alert rules"
ALONE: Final = "nobody"
SYSTEMS: Final = (OURS, OUTLIERS, ANALYSED, ALERTS, ALONE)
NEVER: Final = "never"


@dataclass(frozen=True, slots=True)
class Case:
    """One incident: what each system did about it, by its name; a system that does not apply is missing. `touched`: the agent acted."""

    scenario: Scenario
    reactions: Mapping[str, Reaction]
    touched: bool = False


def compare(
    services: int,
    seed: int,
    per_class: int,
    kinds: Sequence[str] = tuple(MIXES["default"]),
    tell: Callable[[int, int], None] = lambda _done, _of: None,
) -> tuple[Case, ...]:
    """Play `per_class` incidents of every class on a mesh of its own each: once with the agent, once with nobody acting.

    Raises:
        InvalidInput: hardly any mesh of this size can have one of the classes.
    """
    cases: list[Case] = []
    for kind in kinds:
        for case in _cases(Plan(services, seed, 1, Mixture({kind: 1.0})), kind, per_class):
            cases.append(case)
            tell(len(cases), len(kinds) * per_class)
    return tuple(cases)


def _cases(plan: Plan, kind: str, wanted: int) -> Iterator[Case]:
    """Play so many incidents, on the first meshes that can have them."""
    found = 0
    for number in range(wanted * MOST_DRAWS):
        seed = plan.mesh_seed(number)
        plant = Plant(draw(plan.services, seed), seed=seed, tick_s=TICK_S)
        if not plan.mixture.possible(plant, np.random.default_rng([seed, 17])):
            continue
        try:
            with hushed():
                (played,), _ = asyncio.run(play(plan, number))
        except InvalidInput:  # at its hour of the day it has too little load for it
            continue
        yield _case(plan, number, played)
        found += 1
        if found == wanted:
            return
    raise InvalidInput(f"hardly any mesh of this size can have `{kind}`", hint="give more services, or other classes")


def _case(plan: Plan, number: int, played: Played) -> Case:
    ours = Reaction(played.detected_s, played.mitigated_s if mitigated(played) else None)
    return Case(played.scenario, {OURS: ours, **_watched(plan, number, played.scenario)}, touched=bool(played.actions))


def _watched(plan: Plan, number: int, scenario: Scenario) -> dict[str, Reaction]:
    """Let faults last on a mesh on which nobody acts; return what the peers make of it, in seconds since a service broke."""
    seed = plan.mesh_seed(number)
    random = np.random.default_rng([seed, 13])
    plant = Plant(draw(plan.services, seed), seed=seed, tick_s=TICK_S, load=day(np.random.default_rng([seed, 11])))
    watching = _peers(plant, scenario, random)
    unseen = _unseen(plant, scenario)
    onset = round((WARM_UP_S + ANALYSIS_S) / TICK_S)
    begun: set[Fault] = set()
    ended: Ended | None = None
    lasts = WATCHED_S if ANALYSED in watching else ALERTED_S
    for tick in range(onset + round(lasts / TICK_S)):
        since = (tick - onset) * TICK_S + scenario.breaks_s
        for at_s, fault in scenario.services:
            if tick >= onset and since >= at_s:
                if fault not in begun:
                    begun.add(fault)
                    damage.apply(fault, plant)
                damage.advance(fault, plant, since - at_s, ended)
        ended = plant.step()
        seen = unseen.of(ended, since)
        for name, peer in watching.items():
            peer.see(ended if name in {OUTLIERS, ALONE} else seen, since - scenario.breaks_s)
    return {name: peer.reaction for name, peer in watching.items()}


def _peers(plant: Plant, scenario: Scenario, random: np.random.Generator) -> dict[str, Peer]:
    """Return who watches: one of each system for every service at fault; where none is, the busiest are watched for false alarms."""
    truths = _busiest(plant, [t for t in scenario.guilt(plant.layout).truths if t.service])
    whole = truths or [Truth(s, frozenset(), frozenset()) for s in plant.layout.services[:MOST_WATCHED]]
    scrape, minute = random.uniform(0, SCRAPE_S), random.uniform(0, ANALYSIS_S)
    refused = any(isinstance(part.fault, ControlRefused) for part in scenario.parts)
    watching: dict[str, Peer] = {
        OUTLIERS: Crowd([OutlierDetection(plant, truth.service, truth.guilty) for truth in whole]),
        ALERTS: Crowd([AlertRule(plant, truth.service, scrape) for truth in whole]),
        ALONE: Nobody(plant, SLOW),
    }
    versions = [fault for _, fault in scenario.services if isinstance(fault, OfVersion)]
    if versions:
        strict = [Analysis(plant, v.service, v.version, minute, rolls_back=not refused) for v in versions]
        watching[ANALYSED] = Crowd(strict)
    return watching


def _busiest(plant: Plant, truths: Sequence[Truth]) -> list[Truth]:
    into = np.bincount(plant.layout.callee, weights=plant.rates, minlength=len(plant.layout.services))
    ordered = sorted(truths, key=lambda truth: -into[plant.layout.number[truth.service]])
    return ordered if len(ordered) <= 2 else ordered[:MOST_WATCHED]  # noqa: PLR2004 - two faults are two faults


def _unseen(plant: Plant, scenario: Scenario) -> Unseen:
    """Return which calls' metrics nobody gets when: a scrape fails where the agent's telemetry is dropped or stands still."""
    found = []
    for part in scenario.troubles:
        fault = part.fault
        if isinstance(fault, TelemetrySpoiled) and fault.how in {Spoiling.DROPPED, Spoiling.FROZEN}:
            layout = plant.layout
            all_ = np.ones(len(layout.caller), dtype=bool)
            mine = layout.caller == layout.number[fault.service] if fault.service else all_
            found.append((part.at_s, part.ends_s, mine))
    return Unseen(tuple(found))


def table(cases: Sequence[Case]) -> str:
    """Return a Markdown table: median seconds to notice / to heal per class and system, and how many of all were.

    In the last column users' own fate when nobody acts. Where nothing is at fault it is told who did something nevertheless.
    """
    lines = [f"| class | n | {' | '.join(SYSTEMS)} |", "|---|---|" + "---|" * len(SYSTEMS)]
    for kind in dict.fromkeys(case.scenario.kind for case in cases):
        group = [case for case in cases if case.scenario.kind == kind]
        lines.append(f"| {kind} | {len(group)} | {' | '.join(_cell(group, name) for name in SYSTEMS)} |")
    return "\n".join(lines)


def _cell(group: Sequence[Case], name: str) -> str:
    reactions = [case.reactions[name] for case in group if name in case.reactions]
    if not reactions:
        return "not for this"
    noticed = [r.detected_s for r in reactions if r.detected_s is not None]
    healed = [r.mitigated_s for r in reactions if r.mitigated_s is not None]
    if name == ALONE:
        return _median(healed, len(reactions))
    if group[0].scenario.wanted is Wanted.SPARED:
        acted = sum(case.touched for case in group) if name == OURS else len(healed)
        return _false(len(noticed), acted, len(reactions))
    return f"{_median(noticed, len(reactions))} / {_median(healed, len(reactions))}"


def _false(alarms: int, acts: int, of: int) -> str:
    """Render what was done though nothing is at fault."""
    if not alarms and not acts:
        return "left alone"
    return f"false alarm ({alarms} of {of})" + (f", acted ({acts})" if acts else "")


def _median(known: Sequence[float], of: int) -> str:
    """Render `1.4 s`, with `(3 of 5)` where some were not, `never` where none was."""
    if not known:
        return NEVER
    some = f" ({len(known)} of {of})" if len(known) < of else ""
    return f"{float(np.median(known)):.1f} s{some}"
