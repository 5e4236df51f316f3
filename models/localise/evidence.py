"""What the localiser is given, and the counts it draws from it.

Counts of the callee's side of the story come from attempts (what callers saw of each
instance); the caller's side from client series (what was left after retries). Where one side is missing, the other
fills in.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from models.detect.baseline import Baseline
from models.domain import ChangeEvent, Topology
from models.incident import Anomaly, Signal
from models.localise.tallies import Row, Tally, tallies, unmet
from models.signals import Outcomes, Series, Side
from models.telemetry import KEPT

K = TypeVar("K", str, tuple[str, str])


@dataclass(frozen=True, slots=True)
class Evidence:
    """All that is known when an incident opens.

    `since_onset` holds the reported (fine) series' outcomes since the earliest onset. `baselines` gives what a series
    normally looks like (None: not known). `changes` are recent change events. `now` is Unix s.
    """

    anomalies: tuple[Anomaly, ...]
    since_onset: Mapping[Series, Outcomes]
    baselines: Callable[[Series, Signal], Baseline | None]
    topology: Topology
    changes: tuple[ChangeEvent, ...] = ()
    now: float = 0.0

    @property
    def onset(self) -> float:
        """Earliest onset of the anomalies, Unix s (`now` without any)."""
        return min((a.onset for a in self.anomalies), default=self.now)


def read(evidence: Evidence, services: frozenset[str] | None = None) -> tuple[Row, ...]:
    """Return the evidence's series about `services` (all unless given) with their baselines, in sorted order."""
    wanted = {s: o for s, o in evidence.since_onset.items() if s.callee and (services is None or s.callee in services)}
    return tuple((s, wanted[s], evidence.baselines(s, Signal.LATENCY)) for s in sorted(wanted))


@dataclass(slots=True)
class Member:
    """One instance of a service as its callers see it ("" instance: what reached no host, or found none to try)."""

    instance: str
    version: str
    zone: str
    counts: Tally = field(default_factory=Tally)


@dataclass(slots=True)
class Sight:
    """Everything about one service and one signal.

    `members` by (version, instance); `own` sums them; `by_caller` is what each caller got from it after retries;
    `asked` is what this service got from its callees, by callee; `caller_versions` splits `by_caller` by the caller's
    version.
    """

    service: str
    members: dict[tuple[str, str], Member] = field(default_factory=dict)
    served: Tally = field(default_factory=Tally)
    by_caller: dict[str, Tally] = field(default_factory=dict)
    attempts_by_caller: dict[str, Tally] = field(default_factory=dict)
    served_by_caller: dict[str, Tally] = field(default_factory=dict)
    asked: dict[str, Tally] = field(default_factory=dict)
    by_caller_version: dict[tuple[str, str], Tally] = field(default_factory=dict)

    @property
    def attempts(self) -> Tally:
        """Sum over the members."""
        return sum((m.counts for m in self.members.values()), Tally())

    @property
    def clients(self) -> Tally:
        """Sum over the callers."""
        return sum(self.by_caller.values(), Tally())

    @property
    def asked_by(self) -> dict[str, Tally]:
        """What each caller got from this service: as it says itself, else by its attempts, else as this service saw it."""
        return {**self.served_by_caller, **self.attempts_by_caller, **self.by_caller}

    @property
    def attempts_of(self) -> dict[str, Tally]:
        """How each caller's attempts went: as it says itself, else as this service saw them, else after retries."""
        return {**self.by_caller, **self.served_by_caller, **self.attempts_by_caller}

    @property
    def own(self) -> Tally:
        """The best view of how this service answers: attempts, else its own sidecars, else its callers."""
        for view in (self.attempts, self.served, self.clients):
            if view.total:
                return view
        return Tally()


def sights(evidence: Evidence, signal: Signal, rows: tuple[Row, ...] | None = None) -> dict[str, Sight]:
    """Return what is seen of each service for `signal`, by service name in sorted order.

    `rows` are the series to look at (all of the evidence unless given), see `models.localise.neighbourhood`.
    """
    seen: dict[str, Sight] = {}
    rows = read(evidence) if rows is None else rows
    hosts = {name for series, _, _ in rows for name in (series.instance, series.reporter)}
    places = {i.id: (i.version, i.zone) for i in evidence.topology.instances if i.id in hosts}
    servers: dict[str, dict[tuple[str, str], Member]] = {}
    lost: dict[str, dict[tuple[str, str], Member]] = {}
    for (series, outcomes, _), counts in zip(rows, tallies(signal, rows), strict=True):
        if not counts.total:
            continue
        sight = seen.setdefault(series.callee, Sight(series.callee))
        match series.side:
            case Side.ATTEMPT:
                _add_member(sight.members, series.instance, series.version, places, counts)
                _add(sight.attempts_by_caller, series.caller, counts)
                caller_version, _ = places.get(series.reporter, ("", ""))
                if caller_version:
                    _add(sight.by_caller_version, (series.caller, caller_version), counts)
            case Side.CLIENT:
                _add(sight.by_caller, series.caller, counts)
                nobody = unmet(signal, outcomes, counts)
                version = "" if series.version == KEPT else series.version  # a hold-out slice is no version
                _add_member(lost.setdefault(series.callee, {}), "", version, places, nobody)
            case Side.SERVER:
                sight.served += counts
                _add(sight.served_by_caller, series.caller, counts)
                instance = series.instance or series.reporter
                _add_member(servers.setdefault(series.callee, {}), instance, series.version, places, counts)
    for name, sight in seen.items():
        sight.members = sight.members or servers.get(name, {})
        # what found nobody is no instance's doing; alone it tells nothing of parts
        if sight.members:
            for (version, _), member in lost.get(name, {}).items():
                _add_member(sight.members, "", version, places, member.counts)
    _link(seen)
    _assume(seen, evidence.topology, reporting(rows))
    return dict(sorted(seen.items()))


def reporting(rows: Iterable[Row]) -> set[str]:
    """Return the services whose own sidecars are heard in these series."""
    return {s.callee if s.side is Side.SERVER else s.caller for s, _, _ in rows}


def _assume(seen: dict[str, Sight], topology: Topology, heard: set[str]) -> None:
    """Let a blind caller meet each of its callees as the other callers do, once per request."""
    for edge in topology.edges:
        caller, callee = seen.get(edge.caller), seen.get(edge.callee)
        if caller is None or callee is None or edge.caller in heard or edge.callee in caller.asked:
            continue
        theirs = callee.own
        if theirs.total and caller is not callee:
            caller.asked[edge.callee] = theirs.scaled(caller.own.total / theirs.total)


def _link(seen: dict[str, Sight]) -> None:
    """Tell each caller what it got from each of its callees."""
    for name, sight in seen.items():
        for caller, counts in sight.asked_by.items():
            if caller in seen and caller != name:
                seen[caller].asked[name] = counts


def _add(table: dict[K, Tally], key: K, counts: Tally) -> None:
    table[key] = table.get(key, Tally()) + counts


def _add_member(
    members: dict[tuple[str, str], Member],
    instance: str,
    version: str,
    places: Mapping[str, tuple[str, str]],
    counts: Tally,
) -> None:
    if not counts.total:
        return
    known_version, zone = places.get(instance, ("", ""))
    version = version or known_version
    member = members.setdefault((version, instance), Member(instance, version, zone))
    member.counts += counts
