"""Canary verdicts: the evidence against a canary over time, beside the evidence at which it is rolled back."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np

from models.canary import Margins, Risk
from models.canary.comparison import STAKES
from models.canary.latency import PairedLatency
from simulations.judgement.canaries.rules import Ours
from simulations.judgement.canaries.traffic import World, error_ticks, latency_ticks
from simulations.plot import Axis, Dots, Line, Panel

SECONDS: Final = 300.0
ONSET_S: Final = 60.0
TICK_S: Final = 1.0
RPS: Final = 10.0
"""Requests per second at the canary, a tenth of all."""

LOWEST: Final = -5.0
HIGHEST: Final = 10.0


@dataclass(frozen=True, slots=True)
class Tale:
    """A canary in its weather; `latency` tells which signal is watched."""

    title: str
    caught: bool
    world: World
    latency: bool = False


TALES: Final = (
    Tale("caught: 5 % more errors", caught=True, world=World(RPS, errors=0.001, fault=0.05, onset_s=ONSET_S)),
    Tale("caught: 1.5 times slower", caught=True, world=World(RPS, slower=1.5, onset_s=ONSET_S), latency=True),
    Tale("not: a dependency fails for both versions", caught=False, world=World(RPS, errors=0.001, burst_every_s=60.0)),
    Tale(
        "not: 0.3 % more errors, within the margin",
        caught=False,
        world=World(RPS, errors=0.001, fault=0.003, onset_s=ONSET_S),
    ),
)


@dataclass(frozen=True, slots=True)
class Story:
    """The evidence against the canary (nats) at each second since the onset, what rolls it back, and when it did."""

    tale: Tale
    at: tuple[float, ...]
    evidence: tuple[float, ...]
    limit: float
    back_s: float | None

    def panel(self) -> Panel:
        """Return its picture."""
        back = [] if self.back_s is None else [self.back_s]
        span = (-ONSET_S, SECONDS - ONSET_S)
        return Panel(
            self.tale.title,
            Axis("seconds from the onset", *span),
            Axis("evidence against, nats", LOWEST, HIGHEST),
            lines=(
                Line(self.at, tuple(min(HIGHEST, max(LOWEST, e)) for e in self.evidence), steps=True),
                Line(span, (self.limit, self.limit), dashed=True, colour=4),
            ),
            dots=(Dots(back, [self.limit] * len(back), colour=1, words=[f"back after {s:.0f} s" for s in back]),),
            spans=((0.0, span[1]),) if self.tale.caught else (),
        )


def stories() -> Iterator[Story]:
    """Play every tale."""
    return map(play, TALES)


def play(tale: Tale, seed: int = 5) -> Story:
    """Watch one canary."""
    rng = np.random.default_rng(seed)
    limit = Risk().rollback_nats - (float(np.log(STAKES["latency"])) if tale.latency else 0.0)
    evidence = list(_latency(tale.world, rng) if tale.latency else _errors(tale.world, rng))
    at = [(k + 1) * TICK_S - ONSET_S for k in range(len(evidence))]
    back = next((s for s, e in zip(at, evidence, strict=True) if e >= limit), None)
    return Story(tale, tuple(at), tuple(evidence), limit, back)


def _errors(world: World, rng: np.random.Generator) -> Iterator[float]:
    rule = Ours(1)
    for counts in error_ticks(world, 1, SECONDS, TICK_S, rng):
        rule.add(counts, TICK_S)
        yield float(rule.parts.against()[0])


def _latency(world: World, rng: np.random.Generator) -> Iterator[float]:
    test = PairedLatency((1, 1), Margins())
    for canary, stable in latency_ticks(world, 1, SECONDS, TICK_S, rng):
        test.add(canary[:, None], stable[:, None], TICK_S)
        yield float(test.against()[0])
