"""What a service promises: an objective over a rolling window, and what remains of it.

`kind: ServiceLevelObjective` is read in the control plane (`control/resources/objective.py`) into an `Objective`; the agent counts
good and valid requests (`models/budget.py`) and judges them here. Shares and ratios are 0–1, times seconds.

The error budget is the share `1 - target` of a window's valid requests that may be bad. The burn rate is how many times
faster than evenly over the window it is used up: at 1 it is gone when the window is over. Where less than the window has been
seen, the rest of it is taken to have had as much traffic, without an error: an agent that has just begun to look does
not declare a budget spent by the first failure.

Burn alerts are those of the SRE workbook, chapter 5 ("Multiwindow, Multi-Burn-Rate Alerts"): a long window shows that much of
the budget went, a short one that it still goes. Its windows are meant for objectives over 30 days; for another window they are
scaled with it, so that each alert stands for the same share of the budget.
Source: https://sre.google/workbook/alerting-on-slos/
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final, Literal

import numpy as np

from models.signals import BOUNDS_S

MONTH_S: Final = 30 * 86_400.0
LEAST_SHORT_S: Final = 60.0
"""A burn alert whose short window would be shorter than this is left out: telemetry is counted in slots of 10 s."""

LEAST_BAD: Final = 5
"""So many bad requests in an alert's long window before it is raised: of fewer nothing can be told."""


class Burn(StrEnum):
    """How urgent a burning budget is, in ascending order."""

    NONE = "none"
    WARNING = "warning"  # look at it today
    PAGE = "page"  # look at it now

    @property
    def rank(self) -> int:
        """Return its place in the order, from 0."""
        return list(Burn).index(self)


@dataclass(frozen=True, slots=True)
class BurnRule:
    """Raise `level` when the budget burns at least `factor` times too fast over both windows."""

    long_s: float
    short_s: float
    factor: float
    level: Burn


RULES: Final = (
    BurnRule(3600.0, 300.0, 14.4, Burn.PAGE),
    BurnRule(21_600.0, 1800.0, 6.0, Burn.PAGE),
    BurnRule(86_400.0, 7200.0, 3.0, Burn.WARNING),
    BurnRule(259_200.0, 21_600.0, 1.0, Burn.WARNING),
)
"""For a window of 30 days: 2 %, 5 %, 10 % and 10 % of the budget gone."""


@dataclass(frozen=True, slots=True)
class Objective:
    """A declared objective: `target` (0–1) of the valid requests to `service` are good, over `window_s` seconds.

    `route` is the name of a rule in the service's route table ("" for all requests). A request is good by `availability` when
    it did not fail, by `latency` when it took at most `threshold_s`.
    """

    name: str
    service: str
    signal: Literal["availability", "latency"]
    target: float
    window_s: float
    route: str = ""
    threshold_s: float = 0.0
    generation: int = 1
    created_at: float = 0.0

    @property
    def counted(self) -> str:
        """Return what tells the requests that are counted from others: two objectives with the same share their history."""
        what = f"{self.service}\n{self.route}\n{self.signal}\n{self.buckets if self.signal == 'latency' else ''}"
        return hashlib.sha256(what.encode()).hexdigest()[:16]

    @property
    def buckets(self) -> int:
        """Return how many of the mesh's latency buckets hold only requests within the threshold."""
        return int(np.searchsorted(BOUNDS_S, self.threshold_s * (1 + 1e-9), side="right"))

    @property
    def effective_s(self) -> float:
        """Return the threshold that is really counted with: the nearest bucket bound that is not above the declared one."""
        return float(BOUNDS_S[self.buckets - 1]) if self.signal == "latency" and self.buckets else self.threshold_s

    @property
    def rules(self) -> tuple[BurnRule, ...]:
        """Return the burn alerts that fit the window."""
        scale = self.window_s / MONTH_S
        fitting = (BurnRule(r.long_s * scale, r.short_s * scale, r.factor, r.level) for r in RULES)
        return tuple(rule for rule in fitting if rule.short_s >= LEAST_SHORT_S * (1 - 1e-9))


@dataclass(frozen=True, slots=True)
class Tally:
    """What was counted in one window: `good` of `valid` requests, over the `seen_s` seconds of it that lie since the first count."""

    window_s: float
    good: int
    valid: int
    seen_s: float

    @property
    def bad(self) -> int:
        """Return how many were not good."""
        return self.valid - self.good

    @property
    def ratio(self) -> float:
        """Return the share of good requests (1 when there were none)."""
        return self.good / self.valid if self.valid else 1.0

    def burn(self, target: float) -> float:
        """Return how many times too fast the budget of `target` burns in this window (0 without requests).

        >>> Tally(3600.0, 98, 100, 3600.0).burn(0.99)
        2.0
        """
        if not self.valid or not self.bad:
            return 0.0
        seen = min(1.0, self.seen_s / self.window_s)
        return round(self.bad / self.valid / (1 - target) * seen, 9)


@dataclass(frozen=True, slots=True)
class Burning:
    """One burn alert looked at: the rates over its two windows, and whether it holds."""

    rule: BurnRule
    long: float
    short: float
    bad: int

    @property
    def holds(self) -> bool:
        """Tell whether both windows burn too fast, on more than a handful of requests."""
        return self.bad >= LEAST_BAD and min(self.long, self.short) >= self.rule.factor


@dataclass(frozen=True, slots=True)
class Standing:
    """How an objective stands. `remaining` is the share of its budget left: below 0 when it is overspent.

    `burn` is the rate over the longest window that a page looks at (else the whole window).
    """

    tally: Tally
    remaining: float
    burn: float
    burning: tuple[Burning, ...] = ()

    @property
    def level(self) -> Burn:
        """Return the most urgent alert that holds."""
        return max((b.rule.level for b in self.burning if b.holds), key=lambda each: each.rank, default=Burn.NONE)

    @property
    def spent(self) -> bool:
        """Tell whether nothing of the budget is left."""
        return self.remaining <= 0


def windows(objective: Objective) -> tuple[float, ...]:
    """Return the windows to be counted for `judge`: its own first, then long and short of each rule."""
    return (objective.window_s, *(w for rule in objective.rules for w in (rule.long_s, rule.short_s)))


def judge(objective: Objective, tallies: Sequence[Tally]) -> Standing:
    """Return how an objective stands, from the tallies of its `windows` in their order."""
    whole, *rest = tallies
    target = objective.target
    pairs = zip(objective.rules, rest[::2], rest[1::2], strict=True)
    burning = tuple(Burning(rule, long.burn(target), short.burn(target), long.bad) for rule, long, short in pairs)
    used = whole.burn(target)
    return Standing(whole, round(1 - used, 9), burning[0].long if burning else used, burning)


@dataclass(frozen=True, slots=True)
class ErrorBudget:
    """What is left of a service's error budget (0–1, of its objective that stands worst), and how many times too fast it burns.

    `objectives`: what is left per objective, by name.
    """

    remaining: float
    burn: float = 0.0
    objectives: Mapping[str, float] = field(default_factory=dict)


def budgets(objectives: Iterable[Objective], standings: Mapping[str, Standing]) -> Mapping[str, ErrorBudget]:
    """Return the error budget by service; `standings` by objective's name."""
    found: dict[str, ErrorBudget] = {}
    for objective in sorted(objectives, key=lambda each: each.name):
        standing = standings[objective.name]
        left = min(1.0, max(0.0, standing.remaining))
        before = found.get(objective.service, ErrorBudget(1.0))
        found[objective.service] = ErrorBudget(
            min(before.remaining, left), max(before.burn, standing.burn), {**before.objectives, objective.name: left}
        )
    return found
