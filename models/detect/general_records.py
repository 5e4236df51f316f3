"""How surprising a statistic is: only what tops everything remembered counts, by rarity and by margin.

In n exchangeable samples the newest is the largest with probability 1/n, whatever the distribution (the rank argument of
conformal prediction: Vovk, Gammerman & Shafer 2005). A record therefore carries log10 n decades of surprise with no
assumption on the tail; the margin over the old record adds decades as a Pareto tail of index `TAIL` would, at most `MARGIN`
of them, so that one absurd value cannot outvote all other evidence. Records of different kinds of evidence add up, as
independent p-values do (Fisher 1932); within a kind the scales are strongly dependent, so only the largest counts.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import log10
from operator import gt
from typing import Final

from models.detect.general_views import DAILY_FROM, FAMILIES, FAMILY_OF, STATISTICS

TAIL: Final = 0.06
"""Pareto index ξ of the margin over a record: a value 15 % above the record is worth one decade."""

MARGIN: Final = 2.0
"""Most decades that the margin adds."""

CREDIT: Final = 2.0
"""Decades taken off each kind's surprise: a record among fewer than a hundred samples says nothing."""

HORIZON: Final = 8000
"""Samples after which a record is forgotten at the earliest; at the latest after twice as many."""

WARM_UP: Final = 50
"""Samples without any evidence."""


@dataclass(slots=True)
class Records:
    """The largest value of each statistic over the last `HORIZON` to 2 x `HORIZON` samples.

    `compared` counts the samples for which an earlier day was known: what deviates from the day is new on the second day
    and has to earn its rarity from there.
    """

    seen: int = 0
    compared: int = 0
    top: list[float] = field(default_factory=lambda: [0.0] * STATISTICS)
    recent: list[float] = field(default_factory=lambda: [0.0] * STATISTICS)

    def surprise(self, statistics: list[float], *, floor: float, compared: bool) -> float:
        """Return the decades of surprise of one sample, 0 for nothing new; learns the sample.

        `floor` is the size of rounding errors: nothing at or below it counts. `compared`: an earlier day is known.
        """
        found = self._learn(statistics, floor) if any(map(gt, statistics, self.recent)) else 0.0
        self.seen += 1
        self.compared += compared
        if self.seen % HORIZON == 0:
            self.top, self.recent = self.recent, [0.0] * STATISTICS
        return found

    def _learn(self, statistics: list[float], floor: float) -> float:
        rarity, daily = _rarity(self.seen), _rarity(self.compared)
        best = [0.0] * len(FAMILIES)
        for k, x in enumerate(statistics):
            if x <= self.recent[k] or x <= floor:
                continue
            top = max(self.recent[k], self.top[k])
            if x > top:
                margin = min(log10(x / top) / TAIL, MARGIN) if top > 0 else MARGIN
                decades = (rarity if k < DAILY_FROM else daily) + margin
                best[FAMILY_OF[k]] = max(best[FAMILY_OF[k]], decades)
            self.recent[k] = x
        return sum(best)


def _rarity(samples: int) -> float:
    """Return the decades that a record among `samples` is worth; so low that nothing counts while warming up."""
    return log10(min(samples, HORIZON) + 1) - CREDIT if samples >= WARM_UP else -MARGIN - CREDIT
