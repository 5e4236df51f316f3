"""A campaign as a picture: what share came out right, how long it took, and which classes of faults are the hard ones."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Final

from simulations.plot import Axis, Line, Panel, drawing, shares
from simulations.simulator.campaign import Played
from simulations.simulator.scenario import Wanted
from simulations.simulator.score import Score, Share, as_it_should, mitigated

FASTEST_S: Final = 0.1
SLOWEST_S: Final = 100.0


def picture(score: Score, played: Sequence[Played]) -> str:
    """Return four panels as the text of an SVG file."""
    classes = sorted({p.scenario.kind for p in played}, reverse=True)
    groups = {name: [p for p in played if p.scenario.kind == name] for name in classes}
    whole = {
        "the rest: a person, right cause": score.escalated_rightly,
        "healed, of those with a remedy": score.cured,
        "right cause in the first three": score.cause_top3,
        "right cause first": score.cause_top1,
        "detected": score.detected,
    }
    return drawing(
        (
            _shares(f"{score.incidents} incidents", whole),
            _times([p for p in played if p.scenario.wanted is Wanted.HEALED]),
            _shares("went as it should, by class", _each(groups, as_it_should)),
            _shares("healed, of those with a remedy", _each(groups, mitigated, lambda p: p.curable)),
        )
    )


def _each(
    groups: dict[str, list[Played]], holds: Callable[[Played], bool], among: Callable[[Played], bool] = lambda _: True
) -> dict[str, Share]:
    """Return the share of each group in which something holds, `among` those that it is asked of."""
    asked = {name: [p for p in group if among(p)] for name, group in groups.items()}
    return {name: Share(sum(map(holds, some)), len(some)) for name, some in asked.items()}


def _shares(title: str, each: dict[str, Share]) -> Panel:
    """Return shares, each said with how many it is of."""
    return shares(title, "share (bars: 95 %)", {f"{name} ({share.total})": share for name, share in each.items()})


def _times(played: Sequence[Played]) -> Panel:
    """Return what share was detected, acted on and healed within how many seconds."""
    lines = (
        _within("detected", 0, (p.detected_s for p in played), len(played)),
        _within("acted", 1, (p.acted_s for p in played), len(played)),
        _within("users well", 2, (p.mitigated_s if mitigated(p) else None for p in played), len(played)),
    )
    return Panel(
        "within how many seconds from the onset",
        Axis("seconds", FASTEST_S, SLOWEST_S, log=True),
        Axis("share of all incidents", 0.0, 1.0),
        lines=lines,
    )


def _within(name: str, colour: int, seconds: Iterable[float | None], total: int) -> Line:
    known = sorted(s for s in seconds if s is not None)
    at = [FASTEST_S, *(max(FASTEST_S, s) for s in known), SLOWEST_S]
    share = [0.0, *((k + 1) / max(1, total) for k in range(len(known))), len(known) / max(1, total)]
    return Line(at, share, name, colour, steps=True)
