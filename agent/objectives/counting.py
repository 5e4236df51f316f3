"""What of a tick's telemetry is good and valid for an objective.

Counted is what users got: requests as their caller's sidecar saw them end, after retries, and what came in from clients without
a sidecar as the service's own sidecar saw it. Requests whose caller went away first are neither good nor bad; nothing that a
blind sidecar says counts, neither as good nor as bad.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from agent.observe import RuleKey
from models.objective import Objective
from models.signals import Outcomes, Series, Side
from models.telemetry import CANCELLED

Pair = tuple[int, int]


def count(
    objectives: Iterable[Objective],
    outcomes: Mapping[Series, Outcomes],
    rules: Mapping[RuleKey, Outcomes],
    blind: frozenset[str],
) -> Mapping[str, Pair]:
    """Return (good, valid) by what is counted; what had no valid request is left out."""
    wanted = list(objectives)
    services = {o.service for o in wanted if not o.route}
    routed = {(o.service, o.route) for o in wanted if o.route}
    sums: dict[tuple[str, str], Outcomes] = {}
    for series, found in outcomes.items():
        if series.callee in services and _users(series) and series.reporter not in blind:
            _add(sums, (series.callee, ""), found)
    for (service, rule, reporter), found in rules.items():
        if (service, rule) in routed and reporter not in blind:
            _add(sums, (service, rule), found)
    pairs: dict[str, Pair] = {}
    for objective in wanted:
        total = sums.get((objective.service, objective.route))
        if total is not None and (pair := judged(objective, total))[1]:
            pairs[objective.counted] = pair
    return pairs


def judged(objective: Objective, total: Outcomes) -> Pair:
    """Return how many of the requests are good, and how many are valid."""
    if objective.signal == "latency":
        return int(total.latency[: objective.buckets].sum()), int(total.latency.sum())
    away = max((total.flags.get(flag, 0) for flag in CANCELLED), default=0)
    valid = max(0, total.requests - away)
    return max(0, valid - total.errors), valid


def _users(series: Series) -> bool:
    """Tell whether a series is what users of the callee got: each request is in one such series."""
    return series.side is Side.CLIENT or (series.side is Side.SERVER and not series.caller)


def _add(sums: dict[tuple[str, str], Outcomes], key: tuple[str, str], found: Outcomes) -> None:
    total = sums.get(key)
    if total is None:
        total = sums[key] = Outcomes()
    total += found
