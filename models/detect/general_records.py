"""How surprising a statistic is: only what tops everything remembered counts, by rarity and by margin.

In n exchangeable samples the newest is the largest with probability 1/n, whatever the distribution (the rank argument of
conformal prediction: Vovk, Gammerman & Shafer 2005). A record therefore carries log10 n decades of surprise with no
assumption on the tail; the margin over the old record adds decades as a Pareto tail would, at most `MARGIN` of them, so that
one absurd value cannot outvote all other evidence. The tail's index is learnt: over the records of a Pareto law the log-ratios
to the record before are independent with mean ξ (Rényi 1962). Records of different kinds of evidence add up, as
independent p-values do (Fisher 1932); within a kind the scales are strongly dependent, so only the largest counts.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import log, log10
from operator import gt
from typing import Final

from models.detect.general_views import DAILY_FROM, FAMILIES, FAMILY_OF, STATISTICS

TAIL: Final = 0.06
"""Pareto index ξ assumed before any record: a value 15 % above the record is worth one decade."""

PRIOR_RECORDS: Final = 30.0
"""Records that this assumption is worth against those seen."""

LONGEST_STEP: Final = 1.0
"""Most that one record's log-ratio teaches, so that one incident does not make the tail look endless."""

MARGIN: Final = 2.0
"""Most decades that the margin adds."""

CREDIT: Final = 2.0
"""Decades taken off each kind's surprise: a record among fewer than a hundred samples says nothing."""

HORIZON: Final = 4000
"""Samples after which a record is forgotten at the earliest; at the latest after twice as many."""

WARM_UP: Final = 50
"""Samples without any evidence."""

NOTHING: Final = -MARGIN - CREDIT
"""Rarity so low that no margin makes evidence of it."""

LN_10: Final = log(10.0)


@dataclass(slots=True)
class Records:
    """The largest value of each statistic over the last `HORIZON` to 2 x `HORIZON` samples.

    `compared` counts the samples for which a daily habit was known: what deviates from it has to earn its rarity from
    there. `ratios` over `records` is each tail's index.
    """

    seen: int = 0
    compared: int = 0
    top: list[float] = field(default_factory=lambda: [0.0] * STATISTICS)
    recent: list[float] = field(default_factory=lambda: [0.0] * STATISTICS)
    records: list[float] = field(default_factory=lambda: [PRIOR_RECORDS] * STATISTICS)
    ratios: list[float] = field(default_factory=lambda: [PRIOR_RECORDS * TAIL] * STATISTICS)

    def surprise(self, statistics: list[float], *, floor: float, compared: bool) -> float:
        """Return the decades of surprise of one sample, 0 for nothing new; learns the sample.

        `floor` is the size of rounding errors: nothing at or below it counts. `compared`: a daily habit is known.
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
                own = rarity if k < DAILY_FROM else daily
                decades = own + (self._margin(k, log(x / top)) if top > 0 and own > NOTHING else MARGIN)
                best[FAMILY_OF[k]] = max(best[FAMILY_OF[k]], decades)
            self.recent[k] = x
        return sum(best)

    def _margin(self, k: int, ratio: float) -> float:
        """Return the decades that a log-ratio to the old record is worth for statistic `k`; learns the ratio."""
        margin = ratio / LN_10 * self.records[k] / self.ratios[k]
        self.records[k] += 1
        self.ratios[k] += min(ratio, LONGEST_STEP)
        return min(margin, MARGIN)


def _rarity(samples: int) -> float:
    """Return the decades that a record among `samples` is worth; so low that nothing counts while warming up."""
    return log10(min(samples, HORIZON) + 1) - CREDIT if samples >= WARM_UP else NOTHING
