"""How surprising a statistic is: only what tops everything remembered counts, by rarity and by margin.

In n exchangeable samples the newest is the largest with probability 1/n, whatever the distribution (the rank argument of
conformal prediction: Vovk, Gammerman & Shafer 2005). A record therefore carries log10 n decades of surprise with no
assumption on the tail; the margin over the old record adds decades as a Pareto tail would, at most `MARGIN` of them, so that
one absurd value cannot outvote all other evidence. The tail's index is learnt: over the records of a Pareto law the log-ratios
to the record before are independent with mean ξ (Rényi 1962). Records of different kinds of evidence add up, as
independent p-values do (Fisher 1932); within a kind the scales are strongly dependent, so only the largest counts.

An incident must not hide the next one of its size: what it reaches raises a record by a bounded step only (Huber 1964), so
that three or four like it make a habit and one does not. In return each incident of late makes a further one less rare.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import exp, log, log10
from operator import gt
from typing import Final

from models.detect.general_onset import HOLD, INCIDENT, Onset
from models.detect.general_views import DAILY_FROM, FAMILIES, FAMILY_OF, PURE, STATISTICS

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

STEP: Final = 1.0
"""Decades of margin by which an incident raises a record at most, per `HOLD` samples."""

REPEATED: Final = 0.5
"""Decades less of rarity, for each kind, per decade of incidents of late: half, for records rest on part of what was seen."""

LN_10: Final = log(10.0)


@dataclass(slots=True)
class Records:
    """The largest value of each statistic over the last `HORIZON` to 2 x `HORIZON` samples.

    `compared` counts the samples for which a daily habit was known: what deviates from it has to earn its rarity from
    there. `ratios` over `records` is each tail's index. `base` is each record when the incident of sample `since` began.
    """

    seen: int = 0
    compared: int = 0
    top: list[float] = field(default_factory=lambda: [0.0] * STATISTICS)
    recent: list[float] = field(default_factory=lambda: [0.0] * STATISTICS)
    records: list[float] = field(default_factory=lambda: [PRIOR_RECORDS] * STATISTICS)
    ratios: list[float] = field(default_factory=lambda: [PRIOR_RECORDS * TAIL] * STATISTICS)
    base: list[float] = field(default_factory=lambda: [0.0] * STATISTICS)
    since: list[int] = field(default_factory=lambda: [-HOLD - 1] * STATISTICS)

    def surprise(self, statistics: list[float], *, floor: float, compared: bool, onset: Onset) -> float:
        """Return the decades of surprise of one sample, 0 for nothing new; learns the sample.

        `floor` is the size of rounding errors: nothing at or below it counts. `compared`: a daily habit is known.
        `onset` knows the incidents of late, and whether one lasts.
        """
        found = 0.0
        if any(map(gt, statistics, self.recent)):
            broken = [
                k for k, x in enumerate(statistics) if x > self.recent[k] and (x > floor or (k in PURE and x > 0))
            ]
            found = self._weigh(statistics, broken, REPEATED * log10(1 + onset.incidents))
            self._learn(statistics, broken, incident=found >= INCIDENT and not onset.lasting)
        self.seen += 1
        self.compared += compared
        if self.seen % HORIZON == 0:
            self.top, self.recent = self.recent, [0.0] * STATISTICS
        return found

    def _weigh(self, statistics: list[float], broken: list[int], less: float) -> float:
        """Return the decades that the records `broken` are worth together; learns how far records are apart."""
        best = [0.0] * len(FAMILIES)
        for k in broken:
            samples = self.seen if k < DAILY_FROM else self.compared
            top = max(self.recent[k], self.top[k])
            if samples >= WARM_UP and statistics[k] > top:
                margin = self._margin(k, log(statistics[k] / top)) if top > 0 else MARGIN
                decades = log10(min(samples, HORIZON) + 1) - CREDIT - less + margin
                best[FAMILY_OF[k]] = max(best[FAMILY_OF[k]], decades)
        return sum(best)

    def _margin(self, k: int, ratio: float) -> float:
        """Return the decades that a log-ratio to the old record is worth for statistic `k`; learns the ratio."""
        margin = ratio / LN_10 * self.records[k] / self.ratios[k]
        self.records[k] += 1
        self.ratios[k] += min(ratio, LONGEST_STEP)
        return min(margin, MARGIN)

    def _learn(self, statistics: list[float], broken: list[int], *, incident: bool) -> None:
        for k in broken:
            x, top = statistics[k], max(self.recent[k], self.top[k])
            if incident and top > 0:
                if self.seen - self.since[k] > HOLD:
                    self.base[k], self.since[k] = top, self.seen
                x = min(x, self.base[k] * exp(STEP * LN_10 * self.ratios[k] / self.records[k]))
            self.recent[k] = max(self.recent[k], x)
