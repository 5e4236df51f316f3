"""What people and programs see of an objective."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from pydantic import TypeAdapter

from models.objective import Burn, Objective, Standing


@dataclass(frozen=True, slots=True)
class BurnView:
    """One burn alert: rates over its long and short window (seconds), the rate that raises it, and whether it holds."""

    long_s: float
    short_s: float
    factor: float
    long: float
    short: float
    level: str
    holds: bool


@dataclass(frozen=True, slots=True)
class ObjectiveView:
    """An objective and how it stands. Ratios 0–1; `remaining` is below 0 when the budget is overspent.

    `state`: `met`, `burning` (an alert holds), `spent`, or `no-data`. `blind` are sidecars whose telemetry is not
    counted now. `threshold_s` is what is counted with (0 for availability). `alert` is the level last told to people.
    """

    name: str
    service: str
    route: str
    signal: str
    target: float
    threshold_s: float
    window_s: float
    state: str
    good: int
    valid: int
    ratio: float
    remaining: float
    burn: float
    seen_s: float
    alert: str = "none"
    alert_since: float = 0.0
    burns: tuple[BurnView, ...] = ()
    blind: tuple[str, ...] = ()
    generation: int = 1
    created_at: float = 0.0


OBJECTIVE: Final = TypeAdapter(ObjectiveView)


def view(
    objective: Objective,
    standing: Standing,
    *,
    blind: frozenset[str],
    alert: Burn = Burn.NONE,
    alert_since: float = 0.0,
) -> ObjectiveView:
    """Return what is seen of an objective."""
    tally = standing.tally
    return ObjectiveView(
        name=objective.name,
        service=objective.service,
        route=objective.route,
        signal=objective.signal,
        target=objective.target,
        threshold_s=objective.effective_s,
        window_s=objective.window_s,
        state=state(standing),
        good=tally.good,
        valid=tally.valid,
        ratio=tally.ratio,
        remaining=standing.remaining,
        burn=standing.burn,
        seen_s=tally.seen_s,
        alert=str(alert),
        alert_since=alert_since,
        burns=tuple(
            BurnView(b.rule.long_s, b.rule.short_s, b.rule.factor, b.long, b.short, str(b.rule.level), b.holds)
            for b in standing.burning
        ),
        blind=tuple(sorted(blind)),
        generation=objective.generation,
        created_at=objective.created_at,
    )


def state(standing: Standing) -> str:
    """Return in one word how an objective stands."""
    if not standing.tally.valid:
        return "no-data"
    if standing.spent:
        return "spent"
    return "met" if standing.level is Burn.NONE else "burning"
