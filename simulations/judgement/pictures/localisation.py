"""Localisation: how often a cause is right of which the localiser was so and so sure, and how often for which sort of fault."""

from __future__ import annotations

from simulations.judgement.causes import answers
from simulations.plot import Axis, Dots, Line, Panel, shares
from simulations.simulator.score import Share


def panels(cases: int) -> tuple[Panel, ...]:
    """Ask about `cases` random incidents of every sort of fault and draw both."""
    found = answers(cases)
    bins = [(float(found.said[i].mean()), Share(round(found.right[i].sum()), int(i.sum()))) for _, _, i in found.bins()]
    share = Axis("said", 0.0, 1.0)
    sure = Panel(
        "What a probability is worth",
        Axis("found right (bars: 95 %)", 0.0, 1.0),
        share,
        lines=(Line((0.0, 1.0), (0.0, 1.0), dashed=True, colour=4),),
        dots=(
            Dots(
                [right.value for _, right in bins],
                [said for said, _ in bins],
                words=[str(right.total) for _, right in bins],
                bars=[(right.low, right.high) for _, right in bins],
            ),
        ),
        note="each dot: so many causes; two right ones that share the odds count half each",
    )
    firsts = {
        name: Share(sum(first for first, _ in found.hits[name]), len(found.hits[name]))
        for name in sorted(found.hits, reverse=True)
    }
    sorts = shares("The right cause in first place, by sort of fault", "share of incidents (bars: 95 %)", firsts)
    return sure, sorts
