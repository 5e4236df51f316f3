"""The few likelihoods that the comparison of causes is made of. All are natural logs of marginal probabilities.

Counts of one fault are correlated (retries, bursts, one user's journey), so likelihoods are taken of at most
`EFFECTIVE` requests: more of the same is not more certainty. That keeps the posterior honest rather than 0 or 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from scipy import special

from models.localise.tallies import Tally

EFFECTIVE: Final = 600.0
"""Requests that count at most, over all groups of one comparison."""

STRENGTH: Final = 200.0
"""How firmly a healthy group is expected at its baseline, in requests: rates differ a little for many reasons."""

CONCENTRATION: Final = 100.0
"""How firmly a group follows what its callees did to it, in requests."""

PASS_ON: Final = np.linspace(0.0, 1.0, 21)
"""Grid of the unknown share of callee failures that a caller passes on to its own callers."""


def shrink(total: float) -> float:
    """Return the factor that brings `total` requests down to `EFFECTIVE`."""
    return min(1.0, EFFECTIVE / total) if total > 0 else 1.0


def faulty(groups: Sequence[Tally], scale: float) -> float:
    """Return the marginal of groups that share one unknown bad ratio, uniform a priori."""
    bad = scale * sum(g.bad for g in groups)
    total = scale * sum(g.total for g in groups)
    return float(special.betaln(1 + bad, 1 + max(0.0, total - bad)))


def healthy(groups: Sequence[Tally], scale: float) -> float:
    """Return the marginal of groups that each stay near their own baseline."""
    result = 0.0
    for g in groups:
        normal = min(0.9, max(1e-4, g.normal))
        a, b = normal * STRENGTH, (1 - normal) * STRENGTH
        bad, good = scale * g.bad, scale * max(0.0, g.total - g.bad)
        result += float(special.betaln(a + bad, b + good) - special.betaln(a, b))
    return result


def explained(groups: Sequence[Tally], passed: float, scale: float) -> float:
    """Return the marginal of groups of which a share `passed` of the requests met a failing callee.

    Their bad ratio is then the normal one plus `g · passed`, for one unknown `g` between 0 and 1 (uniform). With
    `passed = 0` this is the plain healthy hypothesis.
    """
    if passed <= 0 or not groups:
        return healthy(groups, scale)
    normal = np.clip([g.normal for g in groups], 1e-3, 0.9)[:, None]
    rates = np.clip(normal + (1 - normal) * PASS_ON * min(1.0, passed), 1e-4, 1 - 1e-4)
    bad = scale * np.asarray([g.bad for g in groups])[:, None]
    good = scale * np.asarray([max(0.0, g.total - g.bad) for g in groups])[:, None]
    a, b = rates * CONCENTRATION, (1 - rates) * CONCENTRATION
    logs = (special.betaln(a + bad, b + good) - special.betaln(a, b)).sum(axis=0)
    return float(special.logsumexp(logs) - np.log(len(PASS_ON)))
