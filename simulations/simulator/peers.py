"""What people run today, on the same simulated faults: Envoy's outlier detection, a Flagger-like analysis, alert rules.

Each is an observer of a mesh on which nobody acts. Settings are the defaults their documentation gives: Envoy ejects a host
after 5 consecutive 5xx, at most 10 % of a cluster's hosts; Flagger asks every minute whether the canary's success rate is at
least 99 % and its 99th percentile at most 500 ms, and rolls back at the fifth "no"; the alert rules see a scrape every 15 s,
fire when more than 5 % of a service's requests of the last minute failed or its 99th percentile trebled, for a minute.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Final, Protocol

import numpy as np

from simulations.simulator.layout import Bools, Floats, Ints
from simulations.simulator.plant import Ended, Plant, spoils
from simulations.simulator.requests import BAD, Ends, Fate

CALM_S: Final = 60.0
"""Users for whom nobody does anything count as well again when that has lasted for so long: a fault that strikes few is seen now and then."""

CONSECUTIVE: Final = 5
MOST_EJECTED: Final = 0.1
ANALYSIS_S: Final = 60.0
STRIKES: Final = 5
LEAST_SUCCESS: Final = 0.99
SLOWEST_S: Final = 0.5
SCRAPE_S: Final = 15.0
RANGE_S: Final = 60.0
FOR_S: Final = 60.0
FIRING_ERRORS: Final = 0.05
FIRING_SLOWER: Final = 3.0
FIVE_XX: Final = np.asarray([fate in {Fate.FAILED, Fate.OVERFLOW, Fate.REFUSED, Fate.TIMEOUT} for fate in Fate])


@dataclass(slots=True)
class Reaction:
    """When a peer noticed and when users were well again by its act, seconds after the onset (None: never in the time watched)."""

    detected_s: float | None = None
    mitigated_s: float | None = None


class Peer(Protocol):
    """Watches what ended in each tick, `since_s` seconds after the onset (negative before)."""

    @property
    def reaction(self) -> Reaction:
        """What it did so far."""

    def see(self, ended: Ended, since_s: float) -> None:
        """Take one tick's outcomes."""


class OutlierDetection:
    """Envoy's, in every caller's sidecar: hosts by consecutive 5xx; no act where 10 % of the hosts are less than one."""

    def __init__(self, plant: Plant, service: str, guilty: frozenset[str]) -> None:
        self.reaction = Reaction()
        self._members = plant.layout.members(service)
        self._guilty = {plant.layout.place[name] for name in guilty}
        self._row: dict[tuple[int, int], int] = {}
        self._ejected: set[int] = set()

    def see(self, ended: Ended, since_s: float) -> None:
        """Count 5xx in a row per caller and host."""
        tried = ended.attempts
        mine = np.isin(tried.instance, self._members)
        bad = FIVE_XX[tried.fate]
        for call, host, failed in zip(
            tried.call[mine].tolist(), tried.instance[mine].tolist(), bad[mine].tolist(), strict=True
        ):
            row = self._row.get((call, host), 0) + 1 if failed else 0
            self._row[(call, host)] = row
            if row >= CONSECUTIVE and since_s >= 0:
                self._found(host, since_s)

    def _found(self, host: int, since_s: float) -> None:
        if self.reaction.detected_s is None:
            self.reaction.detected_s = since_s
        if len(self._ejected | {host}) <= MOST_EJECTED * len(self._members):
            self._ejected.add(host)
        if self._guilty <= self._ejected and self.reaction.mitigated_s is None:
            self.reaction.mitigated_s = since_s


@dataclass(slots=True)
class _Minute:
    """Outcomes of the last minute: (seconds after the onset, failed, all, their durations) per tick."""

    ticks: deque[tuple[float, int, Floats]] = field(default_factory=deque)

    def add(self, at: float, failed: int, seconds: Floats) -> None:
        """Take one tick and forget what is older than the range."""
        self.ticks.append((at, failed, seconds))
        while self.ticks[0][0] <= at - RANGE_S:
            self.ticks.popleft()

    def figures(self) -> tuple[int, float, float]:
        """Return (requests, share failed 0–1, 99th percentile in seconds)."""
        seconds = np.concatenate([each for _, _, each in self.ticks]) if self.ticks else np.zeros(0)
        if not len(seconds):
            return 0, 0.0, 0.0
        return len(seconds), sum(bad for _, bad, _ in self.ticks) / len(seconds), float(np.percentile(seconds, 99))


class Analysis:
    """A canary analysis that asks every minute, from `phase_s` (0 to 60) after the onset on, and rolls back at the fifth strike.

    `rolls_back`: sidecars take what it sends.
    """

    def __init__(self, plant: Plant, service: str, version: str, phase_s: float, *, rolls_back: bool = True) -> None:
        self.reaction = Reaction()
        self._rolls_back = rolls_back
        layout = plant.layout
        self._hosts = np.asarray([k for k in layout.members(service).tolist() if layout.version_of[k] == version])
        self._minute = _Minute()
        self._due = phase_s
        self._strikes = 0

    def see(self, ended: Ended, since_s: float) -> None:
        """Take one tick; ask when it is time."""
        tried = ended.attempts
        mine = np.isin(tried.instance, self._hosts)
        self._minute.add(since_s, int(BAD[tried.fate[mine]].sum()), tried.seconds[mine])
        if since_s < self._due:
            return
        self._due += ANALYSIS_S
        requests, failed, p99 = self._minute.figures()
        if requests and failed <= 1 - LEAST_SUCCESS and p99 <= SLOWEST_S:  # no traffic is a strike too
            return
        self._strikes += 1
        if self._strikes == 1:
            self.reaction.detected_s = since_s
        if self._strikes == STRIKES and self._rolls_back:
            self.reaction.mitigated_s = since_s


class AlertRule:
    """A rule over a service's requests as its callers see them; it calls a person and heals nothing. `phase_s` is of its scrapes."""

    def __init__(self, plant: Plant, service: str, phase_s: float) -> None:
        self.reaction = Reaction()
        self._calls: Ints = np.flatnonzero(plant.layout.callee == plant.layout.number[service])
        self._minute = _Minute()
        self._usual_s = 0.0
        self._due = phase_s
        self._pending: float | None = None

    def see(self, ended: Ended, since_s: float) -> None:
        """Take one tick; evaluate the rule at a scrape."""
        asked = ended.requests
        mine = np.isin(asked.call, self._calls)
        self._minute.add(since_s, int(BAD[asked.fate[mine]].sum()), asked.seconds[mine])
        if since_s < 0:
            self._usual_s = max(self._usual_s, self._minute.figures()[2]) if since_s > -SCRAPE_S else 0.0
            return
        if since_s < self._due:
            return
        self._due += SCRAPE_S
        requests, failed, p99 = self._minute.figures()
        if not requests or (failed <= FIRING_ERRORS and p99 <= FIRING_SLOWER * self._usual_s):
            self._pending = None
            return
        self._pending = since_s if self._pending is None else self._pending
        if since_s - self._pending >= FOR_S and self.reaction.detected_s is None:
            self.reaction.detected_s = since_s


class Crowd:
    """Peers of one kind, one for each service at fault: noticed when the first notices, healed when all are healed."""

    def __init__(self, peers: Sequence[Peer]) -> None:
        self._peers = peers

    @property
    def reaction(self) -> Reaction:
        """What came of it."""
        noticed = [p.reaction.detected_s for p in self._peers if p.reaction.detected_s is not None]
        healed = [p.reaction.mitigated_s for p in self._peers if p.reaction.mitigated_s is not None]
        return Reaction(min(noticed, default=None), max(healed) if len(healed) == len(self._peers) else None)

    def see(self, ended: Ended, since_s: float) -> None:
        """Let all of them see a tick."""
        for peer in self._peers:
            peer.see(ended, since_s)


class Nobody:
    """No system at all: since when users are well again by themselves (health checks, time), by the measure of a campaign.

    `slow`: a request is spoiled when it failed or took so many times the 99th percentile of before.
    """

    def __init__(self, plant: Plant, slow: float) -> None:
        self._layout = plant.layout
        self._slow = slow
        self._seconds: list[Floats] = []
        self._limit_s = np.inf
        self._bad = self._all = 0
        self._spoiled_at = 0.0
        self._now = 0.0

    @property
    def reaction(self) -> Reaction:
        """When users were well again for good."""
        return Reaction(None, self._spoiled_at if self._now - self._spoiled_at >= CALM_S else None)

    def see(self, ended: Ended, since_s: float) -> None:
        """Take one tick."""
        users = self._layout.of_users(ended.requests.call)
        seconds = ended.requests.seconds[users]
        lost = BAD[ended.requests.fate[users]]
        self._now = since_s
        if since_s < 0:
            self._seconds.append(seconds)
            self._bad, self._all = self._bad + int(lost.sum()), self._all + len(lost)
            return
        if np.isinf(self._limit_s):
            self._limit_s = self._slow * float(np.percentile(np.concatenate(self._seconds), 99))
        bad = int((lost | (seconds > self._limit_s)).sum())
        if spoils(bad, len(lost) * self._bad / max(1, self._all)):
            self._spoiled_at = since_s


@dataclass(frozen=True, slots=True)
class Unseen:
    """Calls whose metrics do not arrive from one time to another (seconds since the incident began), shape (E,) each."""

    spans: tuple[tuple[float, float, Bools], ...]

    def of(self, ended: Ended, at_s: float) -> Ended:
        """Return what is seen of a tick."""
        hidden = [calls for start, end, calls in self.spans if start <= at_s < end]
        if not hidden:
            return ended
        seen = ~np.logical_or.reduce(hidden)
        return Ended(_chosen(ended.requests, seen), _chosen(ended.attempts, seen))


def _chosen(made: Ends, seen: Bools) -> Ends:
    """Return those of some requests, or attempts, whose call is seen."""
    kept = seen[made.call]
    return replace(made, **{each.name: getattr(made, each.name)[kept] for each in fields(made)})
