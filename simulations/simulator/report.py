"""The result of a campaign as people read it."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import fields

from simulations.simulator.campaign import Played
from simulations.simulator.faults import Fault
from simulations.simulator.meshfaults import MeshFault
from simulations.simulator.scenario import Part, Scenario
from simulations.simulator.score import Score, Share, as_it_should, badness, mitigated


def text(score: Score, played: Sequence[Played], worst: int) -> str:
    """Return the tables: figures, classes of faults, and the `worst` cases with the names to play them again."""
    lines = [f"{score.incidents} incidents"]
    for name, share in (
        ("detected", score.detected),
        ("right cause first", score.cause_top1),
        ("right cause in the first three", score.cause_top3),
        ("healed without a person", score.mitigated),
        ("  of those with a remedy", score.cured),
        ("a person called", score.escalated),
        ("the rest: called, right cause", score.escalated_rightly),
        ("absorbed, if that was wanted", score.absorbed),
        ("nothing at fault, none touched", score.spared),
    ):
        if not share.total and name[:2] in {"ab", "no"}:
            continue
        lines.append(f"  {name:<32}{_share(share)}")
    lines.append(f"  {'actions on innocents':<32}{score.innocent_hits:>7}")
    lines.append(f"  {'actions undone':<32}{score.undone:>7}")
    lines.append("seconds from onset                   p50     p95     max")
    for name, times in (("detected", score.detected_s), ("acted", score.acted_s), ("healed", score.mitigated_s)):
        lines.append(f"  {name:<32}" + "".join(f"{_seconds(value):>8}" for value in times))
    hours = score.quiet.seconds / 3600
    lines.append(
        f"quiet: {hours:.1f} h, {score.quiet.incidents} incidents, {score.quiet.actions} actions"
        f" ({score.false_actions_per_month:.1f} per month, at most {score.false_actions_at_most:.1f})"
    )
    lines.append("by class                          n  detected  cause  healed  innocent  as it should")
    for name in sorted({p.scenario.kind for p in played}):
        group = [p for p in played if p.scenario.kind == name]
        lines.append(
            f"  {name:<28}{len(group):>5}{_part([p.detected_s is not None for p in group]):>10}"
            f"{_part([p.first for p in group]):>7}{_part([mitigated(p) for p in group]):>8}"
            f"{sum(p.innocent for p in group):>10}{_part([as_it_should(p) for p in group]):>14}"
        )
    bad = [p for p in sorted(played, key=badness) if badness(p)[0] < 0][:worst]
    if bad:
        lines.append("worst cases (play one again with --replay NAME)")
        lines += [
            f"  {p.name:<10}{_scenario(p.scenario)} → {p.named or 'nothing named'}; {p.ending or 'not detected'}"
            for p in bad
        ]
    return "\n".join(lines)


def story(played: Played) -> str:
    """Return one incident in full."""
    lines = [
        f"{played.name}: {_scenario(played.scenario)}",
        f"  truth      {played.truth}",
        f"  named      {played.named or 'nothing'}{_judged(played)}",
        f"  detected   {_seconds(played.detected_s)} s, acted {_seconds(played.acted_s)} s, healed {_seconds(played.mitigated_s)} s",
        f"  users      {played.spoiled} of {played.asked} requests spoiled, {played.usual:.0f} would have been anyway",
        f"  innocents  {played.innocent} actions on what was not at fault, {played.undone} undone",
        f"  ending     {played.ending or 'no incident'}",
    ]
    return "\n".join([*lines, *(f"  action     {action}" for action in played.actions)])


def _judged(played: Played) -> str:
    if not played.scenario.services:
        return ""
    return " (right)" if played.first else " (wrong)"


def _scenario(scenario: Scenario) -> str:
    """Render what broke when: `control away (for 6 s); after 2 s: instance errors (…)`."""
    return "; ".join(_part_of(part) for part in scenario.parts)


def _part_of(part: Part) -> str:
    after = f"after {part.at_s:g} s: " if part.at_s else ""
    lasts = f" for {part.lasts_s:g} s" if math.isfinite(part.lasts_s) else ""
    return f"{after}{_fault(part.fault)}{lasts}"


def _fault(fault: Fault | MeshFault) -> str:
    """Render a fault: `instance errors (instance svc-5-v1-2, ratio 0.2)`."""
    name = re.sub(r"(?<!^)([A-Z])", r" \1", type(fault).__name__).lower()
    told = ((each.name, getattr(fault, each.name)) for each in fields(fault))
    details = ", ".join(f"{name} {value}" for name, value in told if value not in ("", False))
    return f"{name} ({details})" if details else name


def _share(share: Share) -> str:
    if not share.total:
        return f"{'–':>7}"
    return f"{share.value:>7.1%}  ({share.low:.1%}–{share.high:.1%})"


def _part(holds: Sequence[bool]) -> str:
    return f"{sum(holds) / len(holds):.0%}" if holds else "–"


def _seconds(value: float | None) -> str:
    return "–" if value is None or math.isnan(value) else f"{value:.1f}"
