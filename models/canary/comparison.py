"""The comparison of one canary with its stable version: telemetry in, verdict out.

Strata are callers (the series of attempts carry no route): a caller's requests to the canary are compared only with the same
caller's to the stable version, so that another mix of traffic is no difference. What counts is each *attempt* at the caller's
sidecar: an error hidden by a retry counts, a request that an open breaker answered does not. Where no caller has a sidecar
(the entrance of the mesh), the callee's own sidecar speaks; so it does of copies (`shadow`), which no caller waits for.

Signals share one budget of false rollbacks: each stakes `STAKES` of it, and their capitals add up (an average of test
martingales is one).

Example:
    >>> comparison = Comparison("catalog", "v2", "v1")
    >>> def seen(version: str, requests: int, errors: int) -> dict[Series, Outcomes]:
    ...     return {Series(Side.ATTEMPT, "gateway", "catalog", version, f"{version}-1", "gateway-1"): Outcomes(requests, errors)}
    >>> for tick in range(6):  # 1.2 s: 50 and 450 requests, 10 of the canary's fail
    ...     comparison.add(0.2, seen("v2", 10, 2) | seen("v1", 90, 0))
    >>> judgement = comparison.judgement()
    >>> judgement.verdict, judgement.reason
    (<Verdict.ROLL_BACK: 'roll-back'>, 'v2 fails 20.0 % of attempts, v1 at the same time 0.0 %')
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from scipy import special

from models.canary import state
from models.canary.clusters import retry_chain
from models.canary.events import PairedEvents
from models.canary.judgement import Judgement, SignalEvidence, Verdict
from models.canary.latency import PairedLatency
from models.canary.levels import PairedLevels
from models.canary.margins import Margins, Risk
from models.detect.baseline import FloatArray, quantile
from models.errors import InvalidInput
from models.signals import BUCKETS, Outcomes, Saturation, Series, Side

STAKES: Final = {"errors": 0.5, "latency": 0.35, "ejections": 0.1, "saturation": 0.05}

RECENT_S: Final = 5.0
USUAL_S: Final = 600.0
TROUBLE_RATIO: Final = 0.05
TROUBLE_ERRORS: Final = 3.0
SUSPICION: Final = 0.5
"""Share of the evidence for rolling back at which a canary is not promoted, whatever else is proven."""

NO_HOST: Final = ("UH",)
"""Envoy's flags of a request that found no instance: no attempt was made, so no attempt tells of it."""


@dataclass(frozen=True, slots=True)
class Fleet:
    """The instances of one version: how many there are, and the ids of those taken out of load balancing."""

    instances: int = 0
    out: frozenset[str] = frozenset()


@dataclass(slots=True)
class _Tick:
    """One tick as arrays of one lane."""

    canary: FloatArray  # (strata, 2) attempts, errors
    stable: FloatArray  # (strata, instances, 2)
    canary_latency: FloatArray  # (strata, BUCKETS)
    stable_latency: FloatArray  # (strata, instances, BUCKETS)
    client: FloatArray  # (strata,) requests of the caller, both versions


class Comparison:
    """Compares version `canary` of `service` with version `stable`. `least_requests` of a step come before a promotion.

    Raises:
        InvalidInput: a canary cannot be compared with itself.
    """

    def __init__(
        self,
        service: str,
        canary: str,
        stable: str,
        margins: Margins | None = None,
        risk: Risk | None = None,
        *,
        least_requests: int = 50,
    ) -> None:
        if canary == stable:
            raise InvalidInput(f"canary of {service}: version {canary} cannot be compared with itself")
        self.service, self.canary, self.stable = service, canary, stable
        self.margins, self.risk = margins or Margins(), risk or Risk()
        self.least_requests = least_requests
        self.shadow = False  # whether the canary sees copies: both versions are judged by what their own sidecars say
        self.parts = Parts(1, 1, self.margins)
        self.sums = Sums()
        self._strata: dict[str, int] = {}
        self._instances: dict[str, int] = {}
        self._fleets: tuple[Fleet, Fleet] | None = None

    def add(
        self,
        elapsed_s: float,
        outcomes: Mapping[Series, Outcomes],
        *,
        saturation: tuple[Saturation, ...] = (),
        fleets: tuple[Fleet, Fleet] | None = None,
    ) -> None:
        """Take what arrived in the last `elapsed_s` seconds.

        `saturation` by instance; without a limit it says nothing. `fleets` are the canary's and the stable version's instances.
        """
        tick = self._tick(outcomes, fleets)
        stable = tick.stable.sum(axis=1)
        chain = self.sums.take(tick, elapsed_s)
        parts = self.parts
        parts.errors.add(
            (tick.canary[None, :, 0], tick.canary[None, :, 1]),
            (stable[None, :, 0], stable[None, :, 1]),
            elapsed_s,
            instances=(tick.stable[None, :, :, 0], tick.stable[None, :, :, 1]),
            chain=chain[None, :],
        )
        parts.latency.add(tick.canary_latency[None], tick.stable_latency[None], elapsed_s)
        self._eject(fleets, elapsed_s)
        if saturation:
            canary, other = (self._level(version, saturation, outcomes) for version in (self.canary, self.stable))
            parts.saturation.add(np.asarray([canary]), np.asarray([other]), elapsed_s)

    def step(self) -> None:
        """Begin a step: the shares of traffic were changed, and the canary has to prove itself at the new ones."""
        self.parts.step()
        self.sums.step_requests[:] = 0

    def judgement(self) -> Judgement:
        """Return the verdict on everything seen so far; may be asked at every tick."""
        parts, sums = self.parts, self.sums
        errors, slow = float(parts.errors.in_favour()[0]), float(parts.latency.in_favour()[0])
        against = float(parts.against()[0])
        ejected = sums.ejected
        signals = (
            SignalEvidence("errors", *sums.ratios(), float(parts.errors.against()[0]), errors),
            SignalEvidence("latency", *sums.medians(), float(parts.latency.against()[0]), slow),
            SignalEvidence(
                "ejections", float(ejected[0]), float(ejected[1]), float(parts.ejections.against()[0]), math.nan
            ),
            SignalEvidence("saturation", *sums.levels, float(parts.saturation.against()[0]), math.nan),
        )
        verdict, reason = self._decide(signals, against, min(errors, slow))
        requests, others = (int(x) for x in sums.step_requests)
        return Judgement(verdict, reason, signals, requests, others, against, sums.trouble)

    def saved(self) -> bytes:
        """Return the whole state, to go on after a restart."""
        names = {"strata": list(self._strata), "instances": list(self._instances)}
        return state.pack({"parts": self.parts, "sums": self.sums}, names)

    def restore(self, data: bytes) -> None:
        """Go on from `saved`; evidence is kept, what happened meanwhile counts neither way.

        Raises:
            InvalidInput: the bytes are not of this version of the code.
        """
        names = state.unpack(data, {"parts": self.parts, "sums": self.sums})
        self._strata = {name: k for k, name in enumerate(names["strata"])}
        self._instances = {name: k for k, name in enumerate(names["instances"])}
        self.parts.errors.pairing.forget()

    def _decide(self, signals: tuple[SignalEvidence, ...], against: float, in_favour: float) -> tuple[Verdict, str]:
        requests, others = (int(x) for x in self.sums.step_requests)
        if against >= self.risk.rollback_nats:
            worst = max(signals, key=lambda one: one.against + math.log(STAKES[one.signal]))
            return Verdict.ROLL_BACK, self._accuse(worst)
        if not requests or not others:
            silent = self.canary if not requests else self.stable
            wait = f"{silent} has had no traffic in this step: nothing to compare"
        elif self.sums.trouble:
            wait = f"{self.stable} fails as well right now: a shared cause, not the canary"
        elif requests < self.least_requests:
            wait = f"{requests} of at least {self.least_requests} requests to {self.canary} seen"
        elif against >= SUSPICION * self.risk.rollback_nats:
            wait = f"{self.canary} is under suspicion ({against:.1f} nats), not proven to be worse"
        elif in_favour >= self.risk.promotion_nats:
            return Verdict.PROMOTE, f"{self.canary} is proven to be within its margins ({requests} requests)"
        else:
            share = max(0.0, in_favour) / self.risk.promotion_nats
            wait = f"within its margins so far, {share:.0%} of the proof after {requests} requests"
        return Verdict.KEEP_LOOKING, wait

    def _accuse(self, worst: SignalEvidence) -> str:
        canary, stable = worst.canary, worst.stable
        match worst.signal:
            case "errors":
                return f"{self.canary} fails {canary:.1%} of attempts, {self.stable} at the same time {stable:.1%}".replace(
                    "%", " %"
                )
            case "latency":
                return f"{self.canary} is slower: median {canary * 1000:.3g} ms, {self.stable} at the same time {stable * 1000:.3g} ms"
            case "ejections":
                return f"instances of {self.canary} drop out: {canary:.0f} times, of {self.stable} {stable:.0f} times"
            case _:
                return f"{self.canary} is {canary:.0%} full, {self.stable} at the same time {stable:.0%}".replace(
                    "%", " %"
                )

    def _tick(self, outcomes: Mapping[Series, Outcomes], fleets: tuple[Fleet, Fleet] | None) -> _Tick:
        mine = [(s, o) for s, o in outcomes.items() if s.callee == self.service]
        called = {s.caller for s, _ in mine if s.side is not Side.SERVER}
        judged = [
            (s, o)
            for s, o in mine
            if s.version in {self.canary, self.stable}
            and (
                s.side is Side.SERVER
                if self.shadow
                else s.side is Side.ATTEMPT or (s.side is Side.SERVER and not s.caller and "" not in called)
            )
        ]
        self._make_room(judged)
        strata, instances = max(1, len(self._strata)), max(1, len(self._instances))
        tick = _Tick(
            np.zeros((strata, 2)),
            np.zeros((strata, instances, 2)),
            np.zeros((strata, BUCKETS)),
            np.zeros((strata, instances, BUCKETS)),
            np.zeros(strata),
        )
        for series, found in judged:
            row = self._strata[series.caller]
            if series.version == self.canary:
                tick.canary[row] += (found.requests, found.errors)
                tick.canary_latency[row] += found.latency
            else:
                column = self._instances[series.instance]
                tick.stable[row, column] += (found.requests, found.errors)
                tick.stable_latency[row, column] += found.latency
            if series.side is Side.SERVER:
                tick.client[row] += found.requests
        if not self.shadow:
            self._unserved(mine, tick, fleets)
        return tick

    def _unserved(self, mine: list[tuple[Series, Outcomes]], tick: _Tick, fleets: tuple[Fleet, Fleet] | None) -> None:
        """Count requests, and those that found no instance: they failed because of the version that has none left."""
        empty = [bool(fleet.instances) and len(fleet.out) >= fleet.instances for fleet in fleets] if fleets else []
        for series, found in mine:
            if series.side is not Side.CLIENT or series.caller not in self._strata:
                continue
            row = self._strata[series.caller]
            tick.client[row] += found.requests
            lost = sum(found.flags.get(flag, 0) for flag in NO_HOST)
            if lost and empty == [True, False]:
                tick.canary[row] += lost
            elif lost and empty == [False, True]:
                tick.stable[row, 0] += lost

    def _make_room(self, judged: list[tuple[Series, Outcomes]]) -> None:
        for series in sorted(series for series, _ in judged):
            self._strata.setdefault(series.caller, len(self._strata))
            if series.version == self.stable:
                self._instances.setdefault(series.instance, len(self._instances))
        self.parts.grow(len(self._strata))
        self.sums.grow(len(self._strata))

    def _eject(self, fleets: tuple[Fleet, Fleet] | None, elapsed_s: float) -> None:
        """Take instances that dropped out since the last tick as bad events among all instances."""
        if fleets is None:
            return
        before, self._fleets = self._fleets, fleets
        if before is None:
            return
        dropped = np.asarray([len(now.out - then.out) for now, then in zip(fleets, before, strict=True)], dtype=float)
        self.sums.ejected += dropped
        size = np.asarray([float(fleet.instances) for fleet in fleets])
        if dropped.any():
            arms = [(size[k].reshape(1, 1), dropped[k].reshape(1, 1)) for k in range(2)]
            self.parts.ejections.pairing.forget()
            self.parts.ejections.add(arms[0], arms[1], elapsed_s)

    def _level(self, version: str, saturation: tuple[Saturation, ...], outcomes: Mapping[Series, Outcomes]) -> float:
        ids = {s.instance for s in outcomes if s.callee == self.service and s.version == version and s.instance}
        levels = [min(1.0, one.active / one.limit) for one in saturation if one.instance in ids and one.limit > 0]
        level = sum(levels) / len(levels) if levels else math.nan
        self.sums.note_level(version == self.canary, level)
        return level


class Parts:
    """The tests of all signals for `lanes` canaries beside each other, and the evidence of all of them together."""

    def __init__(self, lanes: int, strata: int, margins: Margins) -> None:
        self.errors = PairedEvents((lanes, strata), margins.errors)
        self.latency = PairedLatency((lanes, strata), margins)
        self.ejections = PairedEvents((lanes, 1), margins.errors, prior_size=1.0, moment_s=0.0)
        self.saturation = PairedLevels(lanes, margins.saturation)

    def against(self) -> FloatArray:
        """Return the log evidence that the canary is beyond a margin in any signal, shape (lanes,)."""
        logs = (self.errors.against(), self.latency.against(), self.ejections.against(), self.saturation.against())
        shares = np.log(np.asarray(tuple(STAKES.values())))
        total: FloatArray = special.logsumexp(np.stack(logs, axis=-1) + shares, axis=-1)
        return total

    def step(self) -> None:
        """Begin a new step."""
        self.errors.step()
        self.latency.step()

    def grow(self, strata: int) -> None:
        """Make room for more strata."""
        self.errors.grow(strata)
        self.latency.grow(strata)


@dataclass(slots=True)
class Sums:
    """What people read, and what is recent. Arrays of two: canary, stable."""

    requests: FloatArray = field(default_factory=lambda: np.zeros(2))
    errors: FloatArray = field(default_factory=lambda: np.zeros(2))
    latency: FloatArray = field(default_factory=lambda: np.zeros((2, BUCKETS)))
    step_requests: FloatArray = field(default_factory=lambda: np.zeros(2))
    ejected: FloatArray = field(default_factory=lambda: np.zeros(2))
    level: FloatArray = field(default_factory=lambda: np.full(2, np.nan))
    recent: FloatArray = field(default_factory=lambda: np.zeros(2))  # stable: requests, errors
    usual: float = 0.0  # the stable version's error ratio over a quarter of an hour, from 0
    retries: FloatArray = field(default_factory=lambda: np.zeros((1, 3)))  # by stratum: requests, attempts, errors

    def take(self, tick: _Tick, elapsed_s: float) -> FloatArray:
        """Add a tick; return the length of retry chains by stratum."""
        stable = tick.stable.sum(axis=1)
        both = np.stack([tick.canary.sum(axis=0), stable.sum(axis=0)])
        self.requests += both[:, 0]
        self.step_requests += both[:, 0]
        self.errors += both[:, 1]
        self.latency += np.stack([tick.canary_latency.sum(axis=0), tick.stable_latency.sum(axis=(0, 1))])
        keep = 0.5 ** (elapsed_s / RECENT_S)
        self.recent = self.recent * keep + both[1]
        if self.recent[0] > 0:
            now = float(self.recent[1] / self.recent[0])
            self.usual += (1 - 0.5 ** (elapsed_s / USUAL_S)) * (now - self.usual)
        seen = np.stack([tick.client, tick.canary[:, 0] + stable[:, 0], tick.canary[:, 1] + stable[:, 1]], axis=1)
        self.retries = self.retries * keep + seen
        known = self.retries[:, 0] > 0
        chain = retry_chain(self.retries[:, 0], self.retries[:, 1], self.retries[:, 2])
        return np.where(known, chain, 1.0)

    def ratios(self) -> tuple[float, float]:
        """Return the error ratios of both, NaN without requests."""
        ratios = [float(e / n) if n else math.nan for e, n in zip(self.errors, self.requests, strict=True)]
        return ratios[0], ratios[1]

    def medians(self) -> tuple[float, float]:
        """Return the median latencies of both, seconds."""
        return quantile(self.latency[0], 0.5), quantile(self.latency[1], 0.5)

    @property
    def levels(self) -> tuple[float, float]:
        """Saturation of both, 0–1, NaN when not known."""
        return float(self.level[0]), float(self.level[1])

    @property
    def trouble(self) -> bool:
        """Whether the stable version fails a lot right now, and more than usual."""
        requests, errors = self.recent
        return bool(errors >= TROUBLE_ERRORS and errors / requests >= max(TROUBLE_RATIO, 1.5 * self.usual))

    def note_level(self, canary: bool, level: float) -> None:
        """Keep the latest level."""
        self.level[0 if canary else 1] = level

    def grow(self, strata: int) -> None:
        """Make room for more strata."""
        self.retries = np.pad(self.retries, ((0, max(0, strata - len(self.retries))), (0, 0)))
