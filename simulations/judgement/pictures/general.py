"""The general detector: a metric of a week, and its scores, for what is caught and what is not."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np

from models.detect.baseline import FloatArray
from models.detect.general import GeneralDetector
from simulations.plot import Axis, Dots, Line, Panel

STEP_S: Final = 300.0
PER_DAY: Final = 288
DAYS: Final = 8
SHOWN_DAYS: Final = 3.0
ONSET: Final = 7 * PER_DAY + 120
"""The sample at which the trouble begins."""

ALARM: Final = 0.5


@dataclass(frozen=True, slots=True)
class Trouble:
    """What happens to the metric for `lasts` samples. `change` takes the healthy values from the onset on, and a generator."""

    title: str
    caught: bool
    lasts: int
    change: Callable[[FloatArray, np.random.Generator], FloatArray]
    before: tuple[int, ...] = ()  # the same happened already, so many days before


def _spike(values: FloatArray, _: np.random.Generator) -> FloatArray:
    return values + 12.0


TROUBLES: Final = (
    Trouble("caught: a new level", caught=True, lasts=60, change=lambda v, _: v + 6.0),
    Trouble("caught: restless", caught=True, lasts=40, change=lambda v, rng: v + rng.normal(0, 4, len(v))),
    Trouble("caught: a rush hour that is missing", caught=True, lasts=72, change=lambda v, _: np.minimum(v, 10.0)),
    Trouble("caught: the same spike as two days before", caught=True, lasts=1, change=_spike, before=(2,)),
    Trouble("not: what lately happens every day", caught=False, lasts=1, change=_spike, before=(1, 2, 3, 4, 5, 6)),
    Trouble("not: flat at a usual value", caught=False, lasts=12, change=lambda v, _: np.full(len(v), v[0])),
)


@dataclass(frozen=True, slots=True)
class Story:
    """The metric's last days and their scores; days from the onset. `alarms`: when the score passed 0.5 within the trouble."""

    trouble: Trouble
    at: tuple[float, ...]
    values: tuple[float, ...]
    scores: tuple[float, ...]
    alarms: tuple[float, ...]

    def panel(self) -> Panel:
        """Return its picture."""
        top = 30.0
        low, high = self.at[0], self.at[-1]
        return Panel(
            self.trouble.title,
            Axis("days from the onset", low, high),
            Axis(
                "the metric; below: the score",
                -10.0,
                top,
                ticks=((-10.0, "0"), (-5.0, "0.5"), (0.0, "1 | 0"), (10.0, "10"), (20.0, "20"), (30.0, "30")),
            ),
            lines=(
                Line(self.at, self.values),
                Line(self.at, [10 * score - 10 for score in self.scores], colour=2, steps=True),
                Line((low, high), (-5.0, -5.0), dashed=True, colour=4),
            ),
            dots=(Dots(self.alarms, [-5.0] * len(self.alarms), colour=1),),
            spans=((0.0, self.trouble.lasts / PER_DAY),),
        )


def stories() -> Iterator[Story]:
    """Play every trouble."""
    return map(play, TROUBLES)


def play(trouble: Trouble, seed: int = 3) -> Story:
    """Score a metric with a daily rhythm that gets into trouble."""
    rng = np.random.default_rng(seed)
    k = np.arange(DAYS * PER_DAY)
    values = 12.0 + 6.0 * np.sin(2 * np.pi * k / PER_DAY - 1.0) + rng.normal(0, 0.8, len(k))
    for begin in (*(ONSET - PER_DAY * days for days in trouble.before), ONSET):
        struck = slice(begin, begin + trouble.lasts)
        values[struck] = trouble.change(values[struck], rng)
    detector = GeneralDetector()
    scores = [detector.update(STEP_S * i, float(v)) for i, v in enumerate(values)]
    shown = range(int(DAYS * PER_DAY - SHOWN_DAYS * PER_DAY), len(k))
    at = [(i - ONSET) / PER_DAY for i in shown]
    alarms = [(i - ONSET) / PER_DAY for i in shown if scores[i] >= ALARM and ONSET <= i <= ONSET + trouble.lasts]
    return Story(trouble, tuple(at), tuple(values[i] for i in shown), tuple(scores[i] for i in shown), tuple(alarms))
