"""Who loses the time, and who loses the requests? Book-keeping over the call graph.

*Harm* of a service is what its callers lose at it per interval: requests × extra seconds, or failed requests beyond the
usual. Harm flows to callers, so in means it is conserved: what a service loses beyond what its callees lost it lost
itself. A service that only waits has no harm of its own however slow it looks, and a slow service that nobody calls
has little harm however far it left its baseline. The same book is kept for calls that are *missing*: a callee whose
traffic falls while its callers' does not is not sick; the caller that stopped calling is.

Accounts are series over time, so `models.localise.general_contrast` measures them like any other metric.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np

from models.detect.baseline import FloatArray
from models.localise.general_names import MEAN, Kind, Name

PERCENT: Final = 1.5
"""An availability that is ever above this is in percent, below it a ratio."""

QUANTILES: Final = 2
"""Of several percentiles the lowest two are used: they add up along the graph best."""

CALLER_SIDE: Final = frozenset({"sou", "source", "src", "client"})
CALLEE_SIDE: Final = frozenset({"des", "dest", "destination", "dst", "server"})


@dataclass(frozen=True, slots=True)
class Mesh:
    """All series on one time grid.

    `rows[service]` lists (name, values of shape (T,)); the first `split` columns lie before the failure was noticed.
    `calls[caller]` are its callees and `callers` the reverse, self-calls left out.
    """

    services: tuple[str, ...]
    rows: Mapping[str, tuple[tuple[Name, FloatArray], ...]]
    split: int
    calls: Mapping[str, tuple[str, ...]]
    callers: Mapping[str, tuple[str, ...]]

    @property
    def columns(self) -> int:
        """Number of time steps."""
        return next((len(values) for rows in self.rows.values() for _, values in rows), 0)

    def of(self, service: str, kind: Kind) -> tuple[tuple[Name, FloatArray], ...]:
        """Return the series of one kind of a service."""
        return tuple(row for row in self.rows[service] if row[0].kind is kind)


@dataclass(frozen=True, slots=True)
class Rates:
    """Requests per interval: `seen` where a service reports them, `assumed` for every service.

    A service without a traffic metric is assumed to get what its callers get; where nobody reports traffic every
    service counts 1.
    """

    seen: Mapping[str, FloatArray]
    assumed: Mapping[str, FloatArray]


def rates(mesh: Mesh) -> Rates:
    """Return the requests of every service."""
    seen = {s: mesh.of(s, Kind.TRAFFIC)[0][1] for s in mesh.services if mesh.of(s, Kind.TRAFFIC)}
    assumed: dict[str, FloatArray] = {}
    for service in mesh.services:
        callers = [seen[c] for c in mesh.callers[service] if c in seen]
        if service in seen:
            assumed[service] = seen[service]
        elif not seen:
            assumed[service] = np.ones(mesh.columns)
        else:
            assumed[service] = np.nansum(callers, axis=0) if callers else np.zeros(mesh.columns)
    return Rates(seen, assumed)


def own_harm(
    mesh: Mesh, rate: Rates, kind: Kind, strength: Callable[[FloatArray], float], slack: float
) -> dict[str, FloatArray]:
    """Return each service's own harm over time: what is left of its harm after its callees' (negative: less than theirs).

    `kind` is LATENCY or ERRORS. Of several sightings the one that moved most by `strength` counts. `slack` (≥ 1) is how
    much more than its harm a callee may explain where only percentiles are known, which do not add up exactly.
    """
    views: dict[str, list[FloatArray]] = {}
    exact = kind is Kind.ERRORS
    for service in mesh.services:
        found, means = _sightings(mesh, rate, service, kind)
        exact |= means
        if found:
            views[service] = found
    harm = {s: max(found, key=strength) for s, found in views.items()}
    losses = {s: np.nan_to_num(np.maximum(0.0, h)) for s, h in harm.items()}
    factor = 1.0 if exact else slack
    return {
        s: h - factor * sum((losses[c] for c in mesh.calls[s] if c in losses), np.zeros(mesh.columns))
        for s, h in harm.items()
    }


def _sightings(mesh: Mesh, rate: Rates, service: str, kind: Kind) -> tuple[list[FloatArray], bool]:
    """Return the harm of a service as each of its metrics sees it, and whether these are means."""
    if kind is Kind.LATENCY:
        return _slowness(mesh, rate, service)
    found = []
    for name, values in (*mesh.of(service, Kind.ERRORS), *mesh.of(service, Kind.AVAILABILITY)):
        top = float(np.nanmax(values)) if np.isfinite(values).any() else 0.0
        if name.kind is Kind.AVAILABILITY:
            found.append(_beyond(1.0 - values / full(values), mesh.split) * rate.assumed[service])
        elif top > 1.0:  # a count of failures, not a share
            found.append(_beyond(values, mesh.split))
        else:
            found.append(_beyond(values, mesh.split) * rate.assumed[service])
    return found, True


def _slowness(mesh: Mesh, rate: Rates, service: str) -> tuple[list[FloatArray], bool]:
    groups: dict[tuple[str, int], list[FloatArray]] = {}
    for name, values in mesh.of(service, Kind.LATENCY):
        groups.setdefault((name.view, name.order), []).append(_beyond(values, mesh.split))
    means = any(order == MEAN for _, order in groups)
    found = []
    for view in sorted({view for view, _ in groups}):
        orders = sorted(order for v, order in groups if v == view)
        used = orders[: 1 if orders[0] == MEAN else QUANTILES]
        found += [_mean(groups[view, order]) * rate.assumed[service] for order in used]
    return found, means


def full(availability: FloatArray) -> float:
    """Return what an availability is when nothing fails: 100 for percent, 1 for ratios."""
    known = availability[np.isfinite(availability)]
    return 100.0 if len(known) and float(known.max()) > PERCENT else 1.0


def missing_calls(mesh: Mesh, rate: Rates) -> dict[tuple[str, str], tuple[FloatArray, float]]:
    """Return for every edge the callee's traffic beyond what its callers' traffic foretells, and the caller's share in it.

    The share (0–1) is the caller's part of the requests that could have become calls: who sends 3 % of the traffic
    cannot take 60 % of it away.
    """
    found = {}
    for callee in mesh.services:
        callers = mesh.callers[callee]
        if callee not in rate.seen or not callers or any(c not in rate.seen for c in callers):
            continue
        asked = np.nansum([rate.seen[c] for c in callers], axis=0)
        total = float(asked[: mesh.split].sum())
        per_request = float(np.nansum(rate.seen[callee][: mesh.split])) / total if total > 0 else 0.0
        rest = rate.seen[callee] - per_request * asked
        for caller in callers:
            share = float(np.nansum(rate.seen[caller][: mesh.split])) / total if total > 0 else 0.0
            found[caller, callee] = (rest, share)
    return found


def on_the_wire(mesh: Mesh) -> dict[tuple[str, str], FloatArray]:
    """Return the time between caller's and callee's sight of the same calls, by (callee, caller): the network's part."""
    found = {}
    for service in mesh.services:
        sides: dict[tuple[str, bool], FloatArray] = {}
        for name, values in mesh.of(service, Kind.LATENCY):
            if name.peer and name.view in CALLER_SIDE | CALLEE_SIDE:
                sides.setdefault((name.peer, name.view in CALLER_SIDE), values)
        for peer in sorted({peer for peer, _ in sides}):
            if (peer, True) in sides and (peer, False) in sides:
                found[service, peer] = sides[peer, True] - sides[peer, False]
    return found


def _beyond(values: FloatArray, split: int) -> FloatArray:
    """Return `values` minus their median before the failure (their own first values where there is none)."""
    before = values[:split]
    before = before[np.isfinite(before)]
    return values - (float(np.median(before)) if len(before) else 0.0)


def _mean(rows: list[FloatArray]) -> FloatArray:
    """Return the mean of several series, NaN only where all are."""
    stack = np.asarray(rows)
    known = np.isfinite(stack)
    count = known.sum(axis=0)
    total = np.where(known, stack, 0.0).sum(axis=0)
    mean: FloatArray = np.divide(total, count, out=np.full(stack.shape[1], np.nan), where=count > 0)
    return mean
