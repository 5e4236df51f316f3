"""The general form: which service is to blame, given any mesh's metrics and call graph? For meshes that only have Prometheus.

Every service is scored in nats, the logarithm of how much better "the fault is here" explains what its metrics did than
"it is elsewhere". Evidence of several kinds adds up:

* **its own harm** in time and in failed requests: what is left after its callees' harm is taken off
  (`models.localise.general_accounts`);
* **calls it stopped making** while its own traffic went on;
* **the wire**: time lost between the caller's and the callee's sight of the same calls, over all its edges;
* **its resources** (processor, memory, disk, anything unknown): these show where the fault is, corrected for traffic;
* **silence**: it stopped reporting altogether.

Each strength z (excess over what is usual, `models.localise.general_contrast`) turns into ln(1 + (z/z₀)²) − c: usual moves
have Student-like tails, faults come in all sizes, and a kind that was measured and stayed well speaks mildly for
innocence; what is not measured speaks neither way. Where the alarm names a signal (latency, availability) that signal's
account counts full and the other half. Among equals the service through which more of the alarmed traffic runs is
likelier.

Assumptions: latencies in one unit over all services, traffic too; a mean or low percentile among the latencies;
at least `LEAST` samples before `inject_time`. Cf. MicroRCA (Wu et al. 2020) and BARO (Pham et al. 2024), which rank by
anomaly strength alone; CIRCA (Li et al. 2022), which takes off what the parents explain, by regression in metric units.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from models.detect.baseline import FloatArray
from models.errors import InvalidInput
from models.localise.general_accounts import Mesh, Rates, full, missing_calls, on_the_wire, own_harm, rates
from models.localise.general_contrast import TINY, Move, move
from models.localise.general_names import RESOURCES, Kind, Name, home, read

Samples = tuple[FloatArray, FloatArray]


@dataclass(frozen=True, slots=True)
class Tuning:
    """What the general localiser assumes. All have a meaning of their own; none is fitted.

    `reference`: samples before the failure that tell the present level. `tail`: quantile of a series' earlier moves
    taken as 1.96 σ. `level`: resource moves below this share of the usual level are noise. `material`: harm below this
    share of the greatest harm cannot explain the alarm. `strong`: strength z₀ at which a move starts to speak.
    `innocence`: nats c against a service per kind that stayed well. `alarmed`: weight of the traffic prior. `aside`:
    weight of the accounts the alarm does not name. `slack`: how much more than its harm a callee may explain where
    only percentiles are known. `most`: strength beyond which more is not more certain, for edges.
    """

    reference: int = 7
    tail: float = 0.975
    level: float = 0.05
    material: float = 0.05
    strong: float = 3.0
    innocence: float = 0.3
    alarmed: float = 0.3
    aside: float = 0.5
    slack: float = 2.0
    most: float = 20.0


@dataclass(frozen=True, slots=True)
class Blame:
    """How much speaks for one service: `nats`, and the `strengths` by kind they come from (1 = a usual move)."""

    service: str
    nats: float
    strengths: Mapping[str, float] = field(default_factory=dict)


def blame(
    metrics: Mapping[str, Samples],
    inject_time: float,
    edges: Iterable[tuple[str, str]],
    target: tuple[str, str | None] | None = None,
    tuning: Tuning | None = None,
) -> tuple[Blame, ...]:
    """Return every service that has metrics, most to blame first (ties by name).

    `metrics` maps `service|metric` to (times in s, values), NaN where nothing was reported; `inject_time` is when the
    failure was noticed, in the same clock; `edges` are (caller, callee); `target` is the alarm's (service, metric).
    Samples whose time is not finite are left out. Raises `InvalidInput` when times and values of a series differ in length, or
    `inject_time` is no finite number.

    >>> import numpy as np
    >>> t = np.arange(60.0)
    >>> quiet = np.tile([0.10, 0.11], 30)
    >>> slow = np.where(t < 50, quiet, 0.5)
    >>> found = blame({"a|latency": (t, slow), "b|latency": (t, slow), "c|latency": (t, quiet)}, 50, [("a", "b")])
    >>> found[0].service
    'b'
    """
    tuning = tuning or Tuning()
    if not math.isfinite(inject_time):
        raise InvalidInput(f"inject_time is {inject_time}", hint="give the seconds at which the failure was noticed")
    mesh = _mesh(metrics, inject_time, edges)
    rate = rates(mesh)
    found: dict[str, dict[str, float]] = {service: {} for service in mesh.services}
    for kind in (Kind.LATENCY, Kind.ERRORS):
        for service, strength in _harmed(mesh, rate, kind, tuning).items():
            found[service][kind] = strength
    _calls(mesh, rate, tuning, found)
    _wire(mesh, tuning, found)
    for kind in RESOURCES:
        for service, strength in _resources(mesh, rate, kind, tuning).items():
            found[service][kind] = strength
    named = _named(target)
    priors = _priors(mesh, rate, target, tuning)
    scored = []
    for service, strengths in found.items():
        nats = priors[service] + sum(_weight(kind, named, tuning) * _nats(z, tuning) for kind, z in strengths.items())
        silent = _silence(mesh, service)
        if silent:
            nats += _nats(silent, tuning)
            strengths["silence"] = silent
        scored.append(Blame(service, nats, strengths))
    return tuple(sorted(scored, key=lambda b: (-b.nats, b.service)))


def _nats(strength: float, tuning: Tuning) -> float:
    return math.log1p((strength / tuning.strong) ** 2) - tuning.innocence


def _named(target: tuple[str, str | None] | None) -> str:
    """Return the account the alarm asks for, "" for none."""
    if target is None or not target[1]:
        return ""
    match read(f"|{target[1]}").kind:
        case Kind.LATENCY:
            return Kind.LATENCY
        case Kind.ERRORS | Kind.AVAILABILITY:
            return Kind.ERRORS
        case _:
            return ""


def _weight(kind: str, named: str, tuning: Tuning) -> float:
    return 1.0 if not named or kind == named or kind in RESOURCES else tuning.aside


def _move(values: FloatArray, mesh: Mesh, tuning: Tuning, *, upwards: bool = True, floor: float = 0.0) -> Move | None:
    return move(values, mesh.split, upwards=upwards, reference=tuning.reference, tail=tuning.tail, floor=floor)


def _harmed(mesh: Mesh, rate: Rates, kind: Kind, tuning: Tuning) -> dict[str, float]:
    def strength(values: FloatArray) -> float:
        seen = _move(values, mesh, tuning)
        return seen.strength if seen else -1.0

    harm = own_harm(mesh, rate, kind, strength, tuning.slack)
    strengths = _material({service: _move(values, mesh, tuning) for service, values in harm.items()}, tuning)
    if any(mesh.calls.values()):
        return strengths
    folds = {service: _fold(mesh, service, kind, tuning) for service in strengths}
    most = max(folds.values(), default=0.0)
    return {s: z * math.sqrt(folds[s] / most) if most > 0 else z for s, z in strengths.items()}


def _fold(mesh: Mesh, service: str, kind: Kind, tuning: Tuning) -> float:
    """Return by how much more than its usual level (latency), or by what share (errors), a service got worse.

    Without a graph nobody's harm can be taken off. But whoever waits was slower than its callee already and mixes sick
    calls with others, so the relative change shrinks on the way outwards.
    """
    found = [0.0]
    for _, values in mesh.of(service, kind):
        seen, usual = _move(values, mesh, tuning), _level(values[: mesh.split])
        if seen is not None:
            found.append(seen.excess / usual if kind is Kind.LATENCY and usual > 0 else seen.excess)
    for _, values in mesh.of(service, Kind.AVAILABILITY) if kind is Kind.ERRORS else ():
        seen = _move(values, mesh, tuning, upwards=False)
        found.append(seen.excess / full(values) if seen is not None else 0.0)
    return max(found)


def _material(moves: Mapping[str, Move | None], tuning: Tuning) -> dict[str, float]:
    """Return strengths with the scale floored at a share of the greatest excess among the services."""
    known = {service: m for service, m in moves.items() if m is not None}
    least = tuning.material * max((m.excess for m in known.values()), default=0.0)
    return {service: m.excess / max(m.scale, least, TINY) for service, m in known.items()}


def _calls(mesh: Mesh, rate: Rates, tuning: Tuning, found: dict[str, dict[str, float]]) -> None:
    missing: dict[str, list[float]] = {}
    for (caller, callee), (rest, share) in missing_calls(mesh, rate).items():
        seen = _move(rest, mesh, tuning, upwards=False)
        if seen is None:
            continue
        usual = float(np.nanmedian(rate.seen[callee][: mesh.split])) if mesh.split else 0.0
        strength = seen.excess / max(seen.scale, tuning.level * usual, TINY)
        missing.setdefault(caller, []).append(share * min(tuning.most, strength))
    for caller, strengths in missing.items():
        found[caller]["calls"] = float(np.mean(strengths))


def _wire(mesh: Mesh, tuning: Tuning, found: dict[str, dict[str, float]]) -> None:
    ends: dict[str, list[float]] = {}
    for pair, values in on_the_wire(mesh).items():
        seen = _move(values, mesh, tuning, floor=tuning.level)
        for service in pair if seen is not None else ():
            if service in found:
                ends.setdefault(service, []).append(min(tuning.most, seen.strength if seen else 0.0))
    for service, strengths in ends.items():
        found[service]["wire"] = float(np.mean(strengths))


def _resources(mesh: Mesh, rate: Rates, kind: Kind, tuning: Tuning) -> dict[str, float]:
    moves: dict[str, Move | None] = {}
    for service in mesh.services:
        busier = _busier(rate.seen.get(service), mesh, tuning) if kind is Kind.CPU else 1.0
        seen = []
        for _, values in mesh.of(service, kind):
            shown = np.concatenate([values[: mesh.split], values[mesh.split :] / busier])
            seen.append(_move(shown, mesh, tuning, floor=tuning.level))
        moves[service] = max((m for m in seen if m is not None), key=lambda m: m.strength, default=None)
    return _material(moves, tuning)


def _busier(traffic: FloatArray | None, mesh: Mesh, tuning: Tuning) -> float:
    """Return by what factor (at least 1) more traffic accounts for more work; 1 unless the traffic clearly rose."""
    risen = _move(traffic, mesh, tuning) if traffic is not None else None
    if traffic is None or risen is None or risen.strength < tuning.strong:
        return 1.0
    before, after = float(np.nanmedian(traffic[: mesh.split])), float(np.nanmedian(traffic[mesh.split :]))
    return max(1.0, after / before) if before > 0 else 1.0


def _silence(mesh: Mesh, service: str) -> float:
    """Return the strength of "it stopped reporting": the share of missing steps beyond the usual, in binomial σ."""
    rows = mesh.rows[service]
    heard = np.any([np.isfinite(values) for _, values in rows], axis=0)
    before, after = heard[: mesh.split], heard[mesh.split :]
    if not len(before) or not len(after) or heard[mesh.split :].all():
        return 0.0
    usual = 1.0 - float(before.mean())
    sigma = math.sqrt(max(usual * (1 - usual), 1.0 / len(before)) / len(after))
    return max(0.0, (1.0 - float(after.mean()) - usual) / sigma)


def _priors(mesh: Mesh, rate: Rates, target: tuple[str, str | None] | None, tuning: Tuning) -> dict[str, float]:
    usual = {}
    for service in mesh.services:
        usual[service] = _level(rate.assumed[service][: mesh.split])
    alarmed = usual.get(target[0], 0.0) if target else 0.0
    alarmed = alarmed or max(usual.values(), default=0.0)
    if alarmed <= 0:
        return dict.fromkeys(usual, 0.0)
    return {s: tuning.alarmed * math.log(min(1.0, value / alarmed) + 0.01) for s, value in usual.items()}


def _level(values: FloatArray) -> float:
    known = values[np.isfinite(values)]
    return float(np.median(known)) if len(known) else 0.0


def _mesh(metrics: Mapping[str, Samples], inject_time: float, edges: Iterable[tuple[str, str]]) -> Mesh:
    series = {}
    for name, (times, values) in metrics.items():
        t, v = np.asarray(times, dtype=np.float64), np.asarray(values, dtype=np.float64)
        if t.shape != v.shape or t.ndim != 1:
            message = f"metrics[{name!r}]: {t.shape} times but {v.shape} values"
            raise InvalidInput(message, hint="give two arrays of the same length per series")
        dated = np.isfinite(t)  # a sample without a time says nothing
        series[name] = (t[dated], v[dated])
    columns, split, where = _grid([t for t, _ in series.values()], inject_time)
    rows: dict[str, list[tuple[Name, FloatArray]]] = {}
    for name in sorted(series):
        read_name = read(name)
        values = _resampled(*series[name], where, columns)
        rows.setdefault(read_name.service, []).append((read_name, values))
    services = tuple(sorted(rows))
    calls, callers = _graph(services, edges)
    return Mesh(services, {s: tuple(rows[s]) for s in services}, split, calls, callers)


@dataclass(frozen=True, slots=True)
class _Bins:
    """Time steps of one width that begin and end at the failure; only the occupied ones are kept."""

    start: float
    width: float
    kept: FloatArray

    def of(self, times: FloatArray) -> FloatArray:
        return np.floor((times - self.start) / self.width)


def _grid(times: Sequence[FloatArray], inject_time: float) -> tuple[int, int, _Bins]:
    """Return number of steps, how many lie before the failure, and the steps: as wide as the usual sampling period."""
    gaps = [float(np.median(np.diff(np.unique(t)))) for t in times if len(np.unique(t)) > 1]
    width = float(np.median(gaps)) if gaps else 1.0
    every = np.concatenate(times) if times else np.zeros(0)
    bins = _Bins(inject_time, width, np.zeros(0))
    kept = np.unique(bins.of(every))
    return len(kept), int(np.searchsorted(kept, 0.0)), _Bins(inject_time, width, kept)


def _resampled(times: FloatArray, values: FloatArray, bins: _Bins, columns: int) -> FloatArray:
    known = np.isfinite(values)
    at = np.searchsorted(bins.kept, bins.of(times[known]))
    count = np.bincount(at, minlength=columns)
    total = np.bincount(at, weights=values[known], minlength=columns)
    mean: FloatArray = np.divide(total, count, out=np.full(columns, np.nan), where=count > 0)
    return mean


def _graph(
    services: tuple[str, ...], edges: Iterable[tuple[str, str]]
) -> tuple[dict[str, tuple[str, ...]], dict[str, tuple[str, ...]]]:
    """Return callees and callers by the names the metrics use; an edge between services holds for all their pods."""
    members: dict[str, list[str]] = {}
    for name in services:
        for key in {name, home(name)}:
            members.setdefault(key, []).append(name)
    pairs = {
        (a, b) for caller, callee in edges for a in members.get(caller, ()) for b in members.get(callee, ()) if a != b
    }
    calls: dict[str, list[str]] = {name: [] for name in services}
    callers: dict[str, list[str]] = {name: [] for name in services}
    for a, b in sorted(pairs):
        calls[a].append(b)
        callers[b].append(a)
    return {s: tuple(v) for s, v in calls.items()}, {s: tuple(v) for s, v in callers.items()}
