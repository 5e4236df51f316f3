"""Random incidents on random meshes, with the truth: evidence as the agent would hand it to the localiser."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from models.detect.baseline import Baseline, quantile
from models.detect.views import views
from models.domain import ChangeEvent, ChangeKind
from models.incident import Anomaly, Cause, CauseKind, Signal
from models.localise import Evidence
from models.signals import BOUNDS_S, BUCKETS, Outcomes, Series, Side
from simulations.judgement.meshes import Behaviour, Floats, Mesh, Service, Sick, behave, grown

NOW: Final = 1_000_000.0
ALARM_LOG10: Final = 4.0
HEALTHY: Final = 4000.0
"""Requests behind a baseline's histogram."""

Truth = frozenset[tuple[str, str]]
"""(service, subject) of every fault; the subject is "" where the whole service is meant."""

CERTAIN_KINDS: Final = frozenset({CauseKind.INSTANCE, CauseKind.VERSION, CauseKind.ZONE})


@dataclass(frozen=True, slots=True)
class Incident:
    """One case: what was seen, what was wrong, and the name of the sort of fault."""

    sort: str
    evidence: Evidence
    truth: Truth

    def right(self, cause: Cause) -> bool:
        """Tell whether a cause is a true one, in place and in part."""
        part = cause.subject if cause.kind in CERTAIN_KINDS else ""
        if cause.kind is CauseKind.GLOBAL:
            return ("", "") in self.truth
        return (cause.service, part) in self.truth


Maker = Callable[[np.random.Generator, Mesh], tuple[Sick, Truth, tuple[ChangeEvent, ...]]]


def incident(seed: int, sort: str | None = None) -> Incident | None:
    """Return the case of a seed, None when nothing of it can be noticed (the fault gets too little traffic)."""
    rng = np.random.default_rng(seed)
    mesh = grown(rng, int(rng.integers(5, 30)), rps=float(np.exp(rng.uniform(np.log(15), np.log(200)))))
    name = sort or str(rng.choice(sorted(SORTS)))
    sick, truth, changes = SORTS[name](rng, mesh)
    span = float(rng.uniform(1.0, 6.0))
    blind = frozenset(s.name for s in mesh.services if rng.random() < 0.1)  # noqa: PLR2004
    evidence = observed(rng, mesh, sick, span, blind=blind, changes=changes)
    return Incident(name, evidence, truth) if evidence.anomalies else None


def observed(
    rng: np.random.Generator,
    mesh: Mesh,
    sick: Sick,
    span: float,
    *,
    blind: frozenset[str] = frozenset(),
    changes: tuple[ChangeEvent, ...] = (),
) -> Evidence:
    """Return what `span` seconds of the sick mesh look like; the sidecars of `blind` services report nothing."""
    well, ill = behave(rng, mesh, Sick()), behave(rng, mesh, sick)
    sidecars = _Sidecars(rng, mesh, sick, ill, blind, {})
    for service in mesh.services:
        for caller in (("users",) if service is mesh.services[0] else ()) + mesh.callers[service.name]:
            sidecars.play(caller, service, span)
    baselines = _Baselines(mesh, {key: _shares(times) for key, times in well.seconds.items()}, well)
    found = tuple(_anomalies(sidecars.since, baselines, NOW - span))
    return Evidence(found, sidecars.since, baselines, mesh.topology, changes, NOW)


@dataclass(frozen=True, slots=True)
class _Sidecars:
    """Draws the requests of one edge after the other and notes them as both ends would report them."""

    rng: np.random.Generator
    mesh: Mesh
    sick: Sick
    ill: Behaviour
    blind: frozenset[str]
    since: dict[Series, Outcomes]

    def play(self, caller: str, service: Service, span: float) -> None:
        """Play `span` seconds of one edge, retries included."""
        users = caller == "users"
        times = 1.0 if users else self.mesh.of(caller).calls[service.name]
        rate = (self.mesh.rps if users else self.ill.rates[caller]) * times * span
        askers = (
            [("users-1", "")] if users else [(i.id, i.version) for i in self.mesh.of(caller).instances] or [("", "")]
        )
        tries = 1 if users else 1 + self.mesh.of(caller).retries
        for reporter, version in askers:
            client, left = Outcomes(), int(self.rng.poisson(rate / len(askers)))
            made = left
            for attempt in range(tries):
                seen = self._attempt(caller, version, reporter, service, left)
                client += replace(seen, errors=seen.errors if attempt == tries - 1 else 0)
                left = seen.errors
            client.requests = made
            self._note(Series(Side.CLIENT, caller, service.name, "", "", reporter), client, caller)

    def _attempt(self, caller: str, version: str, reporter: str, service: Service, count: int) -> Outcomes:
        """Spread `count` attempts over the instances, note them, and return their sum."""
        total = Outcomes()
        hosts = [(i.id, i.version) for i in service.instances] or [("", "")]
        gone = service.name in self.sick.down
        for (host, theirs), n in zip(
            hosts, self.rng.multinomial(count, [1 / len(hosts)] * len(hosts)).tolist(), strict=True
        ):
            seen = self._drawn(service.name, host, n, self.ill.failing[caller, version, service.name, host])
            place = ("", "") if gone else (theirs, host)
            self._note(Series(Side.ATTEMPT, caller, service.name, *place, reporter), seen, caller)
            if host and not gone:
                served = replace(seen, flags={}, errors=seen.errors - seen.flags.get("UO", 0))
                self._note(Series(Side.SERVER, caller, service.name, theirs, host, host), served, service.name)
            total += seen
        return total

    def _drawn(self, service: str, host: str, count: int, failing: float) -> Outcomes:
        bad = int(self.rng.binomial(count, failing)) if count else 0
        gone, turned = service in self.sick.down, self.sick.full.get(service, 0.0)
        flags = {"UF": bad} if gone and bad else {}
        if turned and bad:
            flags["UO"] = int(bad * min(1.0, turned / failing))
        times = np.full(count, 0.001) if gone else self.rng.choice(self.ill.seconds[service, host], count)
        latency = np.bincount(np.searchsorted(BOUNDS_S, times), minlength=BUCKETS).astype(np.int64)
        return Outcomes(requests=count, errors=bad, flags=flags, latency=latency)

    def _note(self, series: Series, seen: Outcomes, reporter: str) -> None:
        if seen.requests and reporter not in self.blind:
            total = self.since.setdefault(series, Outcomes())
            total += seen


def _shares(times: Floats) -> Floats:
    counts = np.bincount(np.searchsorted(BOUNDS_S, times), minlength=BUCKETS).astype(np.float64)
    shares: Floats = counts / counts.sum() * HEALTHY
    return shares


class _Baselines:
    """What every series looks like on the healthy mesh."""

    def __init__(self, mesh: Mesh, shares: dict[tuple[str, str], Floats], well: Behaviour) -> None:
        self._well = well
        self._whole: dict[str, Floats] = {}
        self._errors: dict[tuple[str, str], float] = {}
        self._shares = shares
        self._known: dict[tuple[str, str, str], Baseline] = {}
        for service in mesh.services:
            hosts = [i.id for i in service.instances] or [""]
            self._whole[service.name] = np.mean([shares[service.name, h] for h in hosts], axis=0)
            for (caller, _, name, _), p in well.failing.items():
                if name == service.name:
                    self._errors[caller, name] = p
                    self._errors["", name] = max(p, self._errors.get(("", name), 0.0))

    def __call__(self, series: Series, signal: Signal) -> Baseline | None:
        if series.callee not in self._whole:
            return None
        key = (series.caller, series.callee, series.instance)
        if key in self._known:
            return self._known[key]
        counts = self._shares.get((series.callee, series.instance), self._whole[series.callee])
        chance = self._errors.get((series.caller, series.callee), 0.001)
        self._known[key] = found = Baseline(
            signal, max(chance, 2e-4), counts, quantile(counts, 0.5), quantile(counts, 0.99), 1.0, HEALTHY
        )
        return found


def _anomalies(since: dict[Series, Outcomes], baselines: _Baselines, onset: float) -> list[Anomaly]:
    """Alarm where a watched view is worse than its baseline beyond doubt (log10 of a likelihood ratio)."""
    sums: dict[Series, Outcomes] = {}
    for series, seen in since.items():
        for key in views(series):
            total = sums.setdefault(key, Outcomes())
            total += seen
    found = []
    for series, seen in sorted(sums.items()):
        base = baselines(series, Signal.LATENCY)
        if base is None or not seen.requests:
            continue
        cut = int(np.searchsorted(np.cumsum(base.latency) / base.latency.sum(), 0.95)) + 1
        slow, timed = int(seen.latency[cut + 1 :].sum()), int(seen.latency.sum())
        for signal, bad, count, usual in (
            (Signal.ERRORS, seen.errors, seen.requests, base.error_ratio),
            (Signal.LATENCY, slow, timed, 0.05),
        ):
            score = _excess(bad, count, usual)
            if score > ALARM_LOG10:
                found.append(Anomaly(series, signal, NOW, onset, bad / count, usual, score, count))
    return found


def _excess(bad: int, total: int, usual: float) -> float:
    """Return log10 of the likelihood ratio between the share seen and the usual one; 0 when it is not worse."""
    if not total or bad / total <= usual:
        return 0.0
    share = min(bad / total, 1 - 1e-9)
    nats = bad * math.log(share / usual) + (total - bad) * math.log((1 - share) / (1 - usual))
    return nats / math.log(10)


def _some(rng: np.random.Generator, mesh: Mesh, least: int = 1, *, versions: bool = False) -> Service:
    """Return a random service with at least `least` instances (and two versions); the entry only for want of others."""
    fit = [
        s
        for s in mesh.services[1:]
        if len(s.instances) >= least and (not versions or len({i.version for i in s.instances}) > 1)
    ]
    if not fit:
        fit = [max(mesh.services, key=lambda s: len(s.instances))]
    return fit[int(rng.integers(len(fit)))]


def _hurt(rng: np.random.Generator, ids: list[str]) -> Sick:
    """Make these instances fail or slow, mildly or badly."""
    if rng.random() < 0.5:  # noqa: PLR2004
        return Sick(errors=dict.fromkeys(ids, float(rng.choice([0.1, 0.3, 0.7, 1.0]))))
    return Sick(slower=dict.fromkeys(ids, float(rng.choice([4.0, 10.0, 30.0]))))


def _service(rng: np.random.Generator, mesh: Mesh) -> tuple[Sick, Truth, tuple[ChangeEvent, ...]]:
    sick = _some(rng, mesh)
    return _hurt(rng, [i.id for i in sick.instances]), _whole(sick), ()


def _whole(service: Service) -> Truth:
    """A service of one instance or version is as well named by that part."""
    parts = {""} | ({service.instances[0].id} if len(service.instances) == 1 else set())
    return frozenset((service.name, part) for part in parts)


def _instance(rng: np.random.Generator, mesh: Mesh) -> tuple[Sick, Truth, tuple[ChangeEvent, ...]]:
    sick = _some(rng, mesh, 2)
    host = sick.instances[int(rng.integers(len(sick.instances)))]
    twins = {i.id for i in sick.instances if i.version == host.version} == {host.id}
    truth = {(sick.name, host.id)} | ({(sick.name, host.version)} if twins else set())
    return _hurt(rng, [host.id]), frozenset(truth), ()


def _version(rng: np.random.Generator, mesh: Mesh) -> tuple[Sick, Truth, tuple[ChangeEvent, ...]]:
    sick = _some(rng, mesh, 2, versions=True)
    version = max({i.version for i in sick.instances})
    ids = [i.id for i in sick.instances if i.version == version]
    deploy = ChangeEvent(
        1, NOW - 20, ChangeKind.WEIGHT, f"VirtualService/{sick.name}", sick.name, version, message="10→20 %"
    )
    truth = {(sick.name, version)} | ({(sick.name, ids[0])} if len(ids) == 1 else set())
    if len(ids) == len(sick.instances):
        truth |= set(_whole(sick))
    return _hurt(rng, ids), frozenset(truth), (deploy,) if rng.random() < 0.5 else ()  # noqa: PLR2004


def _zone(rng: np.random.Generator, mesh: Mesh) -> tuple[Sick, Truth, tuple[ChangeEvent, ...]]:
    sick = _some(rng, mesh, 4)
    zone = sick.instances[0].zone
    ids = [i.id for i in sick.instances if i.zone == zone]
    truth = {(sick.name, zone)} | ({(sick.name, ids[0])} if len(ids) == 1 else set())
    return _hurt(rng, ids), frozenset(truth if len(ids) < len(sick.instances) else _whole(sick)), ()


def _down(rng: np.random.Generator, mesh: Mesh) -> tuple[Sick, Truth, tuple[ChangeEvent, ...]]:
    sick = _some(rng, mesh)
    return Sick(down=frozenset({sick.name})), _whole(sick), ()


def _external(rng: np.random.Generator, mesh: Mesh) -> tuple[Sick, Truth, tuple[ChangeEvent, ...]]:
    outside = [s for s in mesh.services if not s.instances]
    if not outside:
        return _down(rng, mesh)
    sick = outside[int(rng.integers(len(outside)))]
    return _hurt(rng, [sick.name]), frozenset({(sick.name, "")}), ()


def _caller(rng: np.random.Generator, mesh: Mesh) -> tuple[Sick, Truth, tuple[ChangeEvent, ...]]:
    shared = [s for s in mesh.services if len(mesh.callers[s.name]) > 1]
    if not shared:
        return _service(rng, mesh)
    callee = shared[int(rng.integers(len(shared)))]
    guilty = mesh.of(str(rng.choice(mesh.callers[callee.name])))
    versions = sorted({i.version for i in guilty.instances}) or [""]
    refused = frozenset((guilty.name, v, callee.name) for v in versions)
    return (
        Sick(refused=refused),
        frozenset({(guilty.name, "")} | ({(guilty.name, versions[0])} if len(versions) == 1 else set())),
        (),
    )


def _overload(rng: np.random.Generator, mesh: Mesh) -> tuple[Sick, Truth, tuple[ChangeEvent, ...]]:
    sick = _some(rng, mesh)
    ids = dict.fromkeys((i.id for i in sick.instances), float(rng.uniform(2, 8)))
    return Sick(slower=ids, full={sick.name: float(rng.uniform(0.2, 0.7))}), _whole(sick), ()


def _two(rng: np.random.Generator, mesh: Mesh) -> tuple[Sick, Truth, tuple[ChangeEvent, ...]]:
    first, second = _some(rng, mesh), _some(rng, mesh)
    one, two = _hurt(rng, [i.id for i in first.instances]), _hurt(rng, [i.id for i in second.instances])
    both = Sick(errors={**one.errors, **two.errors}, slower={**one.slower, **two.slower})
    return both, _whole(first) | _whole(second), ()


def _stall(rng: np.random.Generator, mesh: Mesh) -> tuple[Sick, Truth, tuple[ChangeEvent, ...]]:
    """A starved host: everything gets slower at once, a little unevenly."""
    factor = float(rng.uniform(2.5, 12))
    names = [i.id for s in mesh.services for i in s.instances] + [s.name for s in mesh.services if not s.instances]
    return Sick(slower={n: factor * float(rng.uniform(0.7, 1.4)) for n in names}), frozenset({("", "")}), ()


SORTS: Final[dict[str, Maker]] = {
    "caller": _caller,
    "down": _down,
    "external": _external,
    "instance": _instance,
    "overload": _overload,
    "service": _service,
    "stall": _stall,
    "two": _two,
    "version": _version,
    "zone": _zone,
}
