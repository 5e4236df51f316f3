"""What a campaign proves: shares with their confidence intervals, times as percentiles, false actions per quiet month."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final, assert_never

from scipy import special

from simulations.simulator.campaign import Played, Quiet
from simulations.simulator.scenario import Wanted

MONTH_S: Final = 30 * 86_400.0
CONFIDENCE: Final = 0.95


@dataclass(frozen=True, slots=True)
class Share:
    """`hits` of `total`, with the bounds of a Clopper–Pearson interval of 95 %."""

    hits: int
    total: int

    @property
    def value(self) -> float:
        """The share, 0–1 (NaN of nothing)."""
        return self.hits / self.total if self.total else math.nan

    @property
    def low(self) -> float:
        """Lower bound."""
        return (
            float(special.betaincinv(self.hits, self.total - self.hits + 1, (1 - CONFIDENCE) / 2)) if self.hits else 0.0
        )

    @property
    def high(self) -> float:
        """Upper bound."""
        if self.hits >= self.total:
            return 1.0
        return float(special.betaincinv(self.hits + 1, self.total - self.hits, (1 + CONFIDENCE) / 2))


@dataclass(frozen=True, slots=True)
class Score:
    """The figures of a campaign. Times in seconds from the onset.

    Shares are of the incidents that have to be found and healed (`Wanted.HEALED`); `absorbed` and `spared` are of those that pass by
    themselves and of those in which nothing is at fault. `mitigated` counts all of the former, `cured` those for which the mesh had a
    remedy; `curable` is how many these are. `escalated_rightly` is
    the share of the incidents that were not mitigated in which a person was called and given the right cause first.
    `innocent_hits` counts actions on what was not at fault. `saved` is the share of spoiled requests that were not
    lost, against letting each incident run for as long as the longest one.
    """

    incidents: int
    detected: Share
    cause_top1: Share
    cause_top3: Share
    kind: Share
    mitigated: Share
    cured: Share
    curable: Share
    escalated: Share
    escalated_rightly: Share
    absorbed: Share
    spared: Share
    innocent_hits: int
    undone: int
    detected_s: tuple[float, float, float]
    acted_s: tuple[float, float, float]
    mitigated_s: tuple[float, float, float]
    quiet: Quiet

    @property
    def false_actions_per_month(self) -> float:
        """Actions of the agent per simulated quiet month of one mesh."""
        return self.quiet.actions * MONTH_S / self.quiet.seconds if self.quiet.seconds else math.nan

    @property
    def false_actions_at_most(self) -> float:
        """Upper bound of `false_actions_per_month`: with 97.5 % confidence it is no more (Poisson, exact)."""
        if not self.quiet.seconds:
            return math.nan
        most = float(special.gammaincinv(self.quiet.actions + 1, (1 + CONFIDENCE) / 2))
        return most * MONTH_S / self.quiet.seconds

    def figures(self) -> dict[str, object]:
        """Return the figures by name, as `-o json` prints them; null where there was nothing to measure."""
        names = ("p50", "p95", "max")
        told: dict[str, object] = {
            "incidents": self.incidents,
            "detected": self.detected.value,
            "cause_top1": self.cause_top1.value,
            "cause_top3": self.cause_top3.value,
            "cause_kind": self.kind.value,
            "mitigated": self.mitigated.value,
            "mitigated_of_curable": self.cured.value,
            "curable": self.curable.value,
            "escalated": self.escalated.value,
            "escalated_rightly": self.escalated_rightly.value,
            "absorbed": self.absorbed.value,
            "spared": self.spared.value,
            "innocent_hits": self.innocent_hits,
            "undone": self.undone,
            "quiet_hours": self.quiet.seconds / 3600,
            "false_incidents": self.quiet.incidents,
            "false_actions": self.quiet.actions,
            "false_actions_per_quiet_month": self.false_actions_per_month,
            "false_actions_per_quiet_month_at_most": self.false_actions_at_most,
            "detected_s": dict(zip(names, self.detected_s, strict=True)),
            "acted_s": dict(zip(names, self.acted_s, strict=True)),
            "mitigated_s": dict(zip(names, self.mitigated_s, strict=True)),
            "intervals": {
                name: [share.low, share.high]
                for name, share in (
                    ("detected", self.detected),
                    ("cause_top1", self.cause_top1),
                    ("cause_top3", self.cause_top3),
                    ("mitigated", self.mitigated),
                    ("mitigated_of_curable", self.cured),
                )
            },
        }
        return {name: _plain(value) for name, value in told.items()}


def score(played: Sequence[Played], quiet: Quiet) -> Score:
    """Judge a campaign.

    An incident is mitigated when users stopped losing requests because of it while the fault still lasted, and no person had to come;
    it is escalated when a person was called, or an action waits for one. What no route and no fallback can heal is a person's.
    """
    sought = [p for p in played if p.scenario.wanted is Wanted.HEALED]
    rest = [p for p in sought if not mitigated(p)]
    return Score(
        incidents=len(played),
        detected=_share(sought, lambda p: p.detected_s is not None),
        cause_top1=_share(sought, lambda p: p.first),
        cause_top3=_share(sought, lambda p: p.first or p.third),
        kind=_share(sought, lambda p: p.kind or p.first),
        mitigated=_share(sought, mitigated),
        cured=_share([p for p in sought if p.curable], mitigated),
        curable=_share(sought, lambda p: p.curable),
        escalated_rightly=_share(rest, lambda p: p.escalated and p.first),
        escalated=_share(sought, lambda p: p.escalated and not mitigated(p)),
        absorbed=_share([p for p in played if p.scenario.wanted is Wanted.ABSORBED], as_it_should),
        spared=_share([p for p in played if p.scenario.wanted is Wanted.SPARED], as_it_should),
        innocent_hits=sum(p.innocent for p in played),
        undone=sum(p.undone for p in played),
        detected_s=_times(p.detected_s for p in sought),
        acted_s=_times(p.acted_s for p in sought),
        mitigated_s=_times(p.mitigated_s for p in sought if mitigated(p)),
        quiet=quiet,
    )


def as_it_should(played: Played) -> bool:
    """Tell whether an incident went as it should, as a drill would judge it.

    A fault is named, and healed or, where nothing heals, left to a person. What passes by itself is over without harm, or a person has
    the right cause. Where nothing is at fault nothing is touched, and what troubles the mesh is told.
    """
    if played.innocent:
        return False
    match played.scenario.wanted:
        case Wanted.HEALED:
            return played.first and (mitigated(played) or (played.escalated and not played.curable))
        case Wanted.ABSORBED:
            return mitigated(played) or played.first
        case Wanted.SPARED:
            return played.told
        case _:
            assert_never(played.scenario.wanted)


def mitigated(played: Played) -> bool:
    """Tell whether the mesh healed by itself: users are well though the fault lasts, and nobody waits for a person."""
    return played.mitigated_s is not None and not (played.escalated and not played.actions)


def badness(played: Played) -> tuple[int, float]:
    """Return how badly an incident went, for sorting the worst first."""
    wrong = 100 * played.innocent + 3 * (not as_it_should(played))
    if played.scenario.wanted is Wanted.HEALED:
        wrong += 10 * (not played.first) + 5 * (played.detected_s is None)
    return (-wrong, -(played.spoiled - played.usual))


def total(parts: Iterable[Quiet]) -> Quiet:
    """Add quiet times up."""
    whole = Quiet()
    for part in parts:
        whole.seconds += part.seconds
        whole.incidents += part.incidents
        whole.actions += part.actions
        whole.causes += part.causes
    return whole


def _share(played: Sequence[Played], holds: Callable[[Played], bool]) -> Share:
    return Share(sum(map(holds, played)), len(played))


def _times(values: Iterable[float | None]) -> tuple[float, float, float]:
    """Return median, 95th percentile and maximum (NaN of nothing)."""
    known = sorted(value for value in values if value is not None)
    if not known:
        return (math.nan, math.nan, math.nan)
    return (known[len(known) // 2], known[min(len(known) - 1, math.ceil(0.95 * len(known)) - 1)], known[-1])


def _plain(value: object) -> object:
    """Return `value` with None for every number that is none (JSON knows no NaN)."""
    match value:
        case dict():
            return {name: _plain(each) for name, each in value.items()}
        case list():
            return [_plain(each) for each in value]
        case float():
            return None if math.isnan(value) else value
        case _:
            return value
