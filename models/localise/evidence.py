"""What the localiser is given, and the counts it draws from it.

Both signals are brought to one form, *bad out of all*: failed requests for errors, requests slower than nearly all of
the baseline's for latency. Counts of the callee's side of the story come from attempts (what callers saw of each
instance); the caller's side from client series (what was left after retries). Where one side is missing, the other
fills in.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Final, TypeVar

import numpy as np

from models.detect.baseline import Baseline, mean_s
from models.detect.views import answered, counted
from models.domain import ChangeEvent, Topology
from models.incident import Anomaly, Signal
from models.signals import BUCKETS, Outcomes, Series, Side

ERRORS_WHEN_UNKNOWN: Final = 0.001
SLOW_QUANTILE: Final = 0.98
SLOW_MARGIN_BUCKETS: Final = 1
SLOW_EXPECTED: Final = 0.01
UNREACHABLE: Final = frozenset({"UH", "UF", "UC", "UR", "LR", "NC", "URX"})
"""Envoy response flags of a callee that cannot be reached: no healthy host, connection failure, reset, none left."""

TIMEOUTS: Final = frozenset({"UT", "SI", "DT"})
OVERFLOW: Final = "UO"

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


@dataclass(frozen=True, slots=True)
class Tally:
    """`bad` of `total` requests, of which `expected` bad ones would be normal; `delay_s` is summed extra time.

    `unreachable`, `timeouts` and `overflow` count Envoy's flags. Adds with `+`.
    """

    total: float = 0.0
    bad: float = 0.0
    expected: float = 0.0
    delay_s: float = 0.0
    unreachable: float = 0.0
    timeouts: float = 0.0
    overflow: float = 0.0

    def __add__(self, other: Tally) -> Tally:
        return Tally(
            self.total + other.total,
            self.bad + other.bad,
            self.expected + other.expected,
            self.delay_s + other.delay_s,
            self.unreachable + other.unreachable,
            self.timeouts + other.timeouts,
            self.overflow + other.overflow,
        )

    @property
    def ratio(self) -> float:
        """Share of bad requests, 0–1."""
        return self.bad / self.total if self.total else 0.0

    @property
    def normal(self) -> float:
        """Share of bad requests that would be normal, 0–1."""
        return self.expected / self.total if self.total else 0.0

    @property
    def excess(self) -> float:
        """Bad requests beyond the normal ones, at least 0."""
        return max(0.0, self.bad - self.expected)


def tally(signal: Signal, outcomes: Outcomes, baseline: Baseline | None) -> Tally:
    """Return the counts of one series for `signal` (errors or latency)."""
    if signal is Signal.LATENCY:
        return _slow(outcomes, baseline)
    requests, errors = counted(outcomes)
    normal = baseline.error_ratio if baseline is not None else ERRORS_WHEN_UNKNOWN
    return Tally(
        total=requests,
        bad=errors,
        expected=requests * min(1.0, max(0.0, normal)),
        unreachable=sum(count for flag, count in outcomes.flags.items() if flag in UNREACHABLE),
        timeouts=sum(count for flag, count in outcomes.flags.items() if flag in TIMEOUTS),
        overflow=outcomes.flags.get(OVERFLOW, 0),
    )


def _slow(outcomes: Outcomes, baseline: Baseline | None) -> Tally:
    seen = answered(outcomes)
    total = float(seen.sum())
    if baseline is None or baseline.latency.shape != (BUCKETS,) or not baseline.latency.sum() > 0:
        return Tally(total=total, bad=0.0, expected=0.0)
    shares = baseline.latency / baseline.latency.sum()
    edge = int(np.searchsorted(np.cumsum(shares), SLOW_QUANTILE)) + SLOW_MARGIN_BUCKETS
    bad = float(seen[edge + 1 :].sum())
    expected = max(SLOW_EXPECTED, float(shares[edge + 1 :].sum()))
    delay = max(0.0, mean_s(seen) - mean_s(baseline.latency)) * total
    return Tally(total=total, bad=bad, expected=expected * total, delay_s=delay)


@dataclass(slots=True)
class Member:
    """One instance of a service as its callers see it ("" instance: attempts that reached no host)."""

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
    def own(self) -> Tally:
        """The best view of how this service answers: attempts, else its own sidecars, else its callers."""
        for view in (self.attempts, self.served, self.clients):
            if view.total:
                return view
        return Tally()


def sights(evidence: Evidence, signal: Signal) -> dict[str, Sight]:
    """Return what is seen of each service for `signal`, by service name in sorted order."""
    seen: dict[str, Sight] = {}
    places = {i.id: (i.version, i.zone) for i in evidence.topology.instances}
    servers: dict[str, dict[tuple[str, str], Member]] = {}
    for series, outcomes in sorted(evidence.since_onset.items()):
        if not series.callee:
            continue
        counts = tally(signal, outcomes, evidence.baselines(series, signal))
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
            case Side.SERVER:
                sight.served += counts
                instance = series.instance or series.reporter
                _add_member(servers.setdefault(series.callee, {}), instance, series.version, places, counts)
    for name, sight in seen.items():
        sight.members = sight.members or servers.get(name, {})
    _link(seen)
    return dict(sorted(seen.items()))


def _link(seen: dict[str, Sight]) -> None:
    """Tell each caller what it got from each of its callees."""
    for name, sight in seen.items():
        for caller, counts in (sight.by_caller or sight.attempts_by_caller).items():
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
    known_version, zone = places.get(instance, ("", ""))
    version = version or known_version
    member = members.setdefault((version, instance), Member(instance, version, zone))
    members[(version, instance)] = replace(member, counts=member.counts + counts)
