"""Detection: the evidence of one service of a small mesh against the alarm's threshold, for what is caught and what is not."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np

from models.detect import Engine, FalseAlarmBudget, Tick
from models.frame import Cells
from models.incident import Signal
from simulations.judgement.canaries.traffic import latency_counts
from simulations.plot import Axis, Dots, Line, Panel

TICK_S: Final = 0.2
SERVICES: Final = 20
LEARN_S: Final = 150.0
BEFORE_S: Final = 5.0
AFTER_S: Final = 20.0
LASTS_S: Final = 15.0
RATE: Final = 20.0
"""Requests per second at each service."""

ERRORS: Final = 0.001
MEDIAN_S: Final = 0.05
SIGMA: Final = 0.4
MOST: Final = 1.2


@dataclass(frozen=True, slots=True)
class Trouble:
    """What befalls the first service for `lasts_s` seconds: `errors` (share of requests), `slower` and `traffic` (factors);
    with `everybody` it befalls all of them.
    """

    title: str
    signal: Signal
    caught: bool
    errors: float = ERRORS
    slower: float = 1.0
    traffic: float = 1.0
    everybody: bool = False
    lasts_s: float = LASTS_S


TROUBLES: Final = (
    Trouble("caught: 10 % errors instead of 0.1 %", Signal.ERRORS, caught=True, errors=0.1),
    Trouble("caught: everything three times slower", Signal.LATENCY, caught=True, slower=3.0),
    Trouble("caught: traffic falls to a fiftieth", Signal.TRAFFIC, caught=True, traffic=0.02),
    Trouble("not: everything 1.3 times slower", Signal.LATENCY, caught=False, slower=1.3),
    Trouble("not: one tick in which everything fails", Signal.ERRORS, caught=False, errors=1.0, lasts_s=TICK_S),
    Trouble("not: the whole mesh three times slower", Signal.LATENCY, caught=False, slower=3.0, everybody=True),
)


@dataclass(frozen=True, slots=True)
class Story:
    """The evidence over the alarm's threshold at each tick, seconds from the onset, and when it alarmed (s; None: never)."""

    trouble: Trouble
    at: tuple[float, ...]
    evidence: tuple[float, ...]
    alarmed_s: float | None

    def panel(self) -> Panel:
        """Return its picture."""
        alarm = [] if self.alarmed_s is None else [self.alarmed_s]
        return Panel(
            self.trouble.title,
            Axis("seconds from the onset", -BEFORE_S, AFTER_S),
            Axis("evidence ÷ threshold", 0.0, MOST),
            lines=(
                Line(self.at, self.evidence, steps=True),
                Line((-BEFORE_S, AFTER_S), (1.0, 1.0), dashed=True, colour=4),
            ),
            dots=(Dots(alarm, [1.0] * len(alarm), colour=1, words=[f"alarm after {s:.1f} s" for s in alarm]),),
            spans=((0.0, self.trouble.lasts_s),),
        )


def stories() -> Iterator[Story]:
    """Play every trouble."""
    return map(play, TROUBLES)


def play(trouble: Trouble, seed: int = 7) -> Story:
    """Let a mesh learn what is normal, trouble it, and note the evidence."""
    rng = np.random.default_rng(seed)
    engine = Engine(FalseAlarmBudget(ticks_per_s=1 / TICK_S))
    rows = engine.open(np.arange(SERVICES), watched=np.ones(SERVICES, dtype=np.bool_))
    struck = np.arange(SERVICES) < (SERVICES if trouble.everybody else 1)
    at, evidence, alarmed = [], [], None
    for k in range(-round(LEARN_S / TICK_S), round(AFTER_S / TICK_S)):
        sick = struck & (0 <= k < round(trouble.lasts_s / TICK_S))
        requests = rng.poisson(RATE * TICK_S * np.where(sick, trouble.traffic, 1.0))
        errors = rng.binomial(requests, np.where(sick, trouble.errors, ERRORS))
        latency = latency_counts(requests, MEDIAN_S * np.where(sick, trouble.slower, 1.0), SIGMA, rng)
        tick = Tick(rows, requests.astype(np.float64), errors.astype(np.float64), Cells.table(latency))
        end_s = (k + 1) * TICK_S
        alarms = dict(engine.advance(LEARN_S + end_s, tick))
        if engine.due():
            engine.learn()
        if end_s < -BEFORE_S:
            engine.reset(np.concatenate(list(alarms.values())))
            continue
        if alarmed is None and 0 in alarms[trouble.signal] and k >= 0:
            alarmed = end_s
        at.append(end_s)
        evidence.append(min(MOST, _evidence(engine, trouble.signal) / engine.threshold))
    return Story(trouble, tuple(at), tuple(evidence), alarmed)


def _evidence(engine: Engine, signal: Signal) -> float:
    first = np.asarray([0])
    match signal:
        case Signal.ERRORS:
            return float(engine.errors.evidence(first)[0])
        case Signal.LATENCY:
            return float(engine.latency.evidence(first)[0])
        case _:
            return float(engine.traffic.evidence(first)[0])
