"""Golden signals on the wire: what the sidecars report and what detectors read.

All latencies are seconds inside `models`; the histogram grid is fixed for the whole mesh so that histograms of
any two sidecars add by adding arrays. Grid: 12 buckets per decade from 100 µs to 100 s (relative width about
21 %), 73 finite bounds and one overflow bucket. Every bound has two significant digits, because Envoy keeps
latencies to two significant digits: on this grid no sample is counted on the wrong side of a bound.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final, Self

import numpy as np
import numpy.typing as npt

Counts = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

_DECADE: Final = (10, 12, 15, 18, 22, 26, 32, 38, 46, 56, 68, 83)

BOUNDS_US: Final[tuple[int, ...]] = tuple(_DECADE[k % 12] * 10 ** (k // 12 + 1) for k in range(73))
"""Upper bounds of the finite latency buckets, microseconds, ascending. Shared by Envoy's bootstrap and us."""

BUCKETS: Final = len(BOUNDS_US) + 1
"""Number of buckets in a latency array: one per bound and one for what lies above the last."""

BOUNDS_S: Final[npt.NDArray[np.float64]] = np.asarray(BOUNDS_US, dtype=np.float64) / 1e6


class Side(StrEnum):
    """Where a request was seen."""

    CLIENT = "client"  # at the caller's sidecar, once per request, after retries: what the caller got
    ATTEMPT = "attempt"  # at the caller's sidecar, once per attempt, with the instance that served it
    SERVER = "server"  # at the callee's sidecar: what the application behind it answered


class _Hashed:
    """Room for a hash that is worked out once: series are looked up thousands of times per tick."""

    __slots__ = ("_hash",)
    _hash: int


@dataclass(frozen=True, slots=True, order=True)
class Series(_Hashed):
    """The key of one stream of request outcomes.

    `instance` is an instance id ("" when the attempt never reached a host or the side does not know),
    `version` likewise. `reporter` is the id of the sidecar that saw it.
    """

    side: Side
    caller: str
    callee: str
    version: str
    instance: str
    reporter: str

    def __hash__(self) -> int:
        """Return the hash of all fields (of this process: it is not pickled)."""
        try:
            return self._hash
        except AttributeError:
            made = hash((self.side, self.caller, self.callee, self.version, self.instance, self.reporter))
            object.__setattr__(self, "_hash", made)
            return made


@dataclass(slots=True)
class Outcomes:
    """Request outcomes of one series in one window. Adds with `+=`.

    `requests`: completed requests (or attempts). `errors`: those that failed (HTTP 5xx, gRPC failure, reset,
    no upstream). `flags`: Envoy response flags → count (`UF`, `UH`, `UO`, `UT`, `DC`, `FI` ...).
    `codes`: status code → count. `latency`: shape (BUCKETS,), counts of all completed requests.
    """

    requests: int = 0
    errors: int = 0
    flags: dict[str, int] = field(default_factory=dict)
    codes: dict[int, int] = field(default_factory=dict)
    latency: Counts = field(default_factory=lambda: np.zeros(BUCKETS, dtype=np.int64))

    def __iadd__(self, other: Outcomes) -> Self:
        """Add another window's outcomes to this one."""
        self.requests += other.requests
        self.errors += other.errors
        for flag, count in other.flags.items():
            self.flags[flag] = self.flags.get(flag, 0) + count
        for code, count in other.codes.items():
            self.codes[code] = self.codes.get(code, 0) + count
        self.latency = self.latency + other.latency
        return self

    @property
    def error_ratio(self) -> float:
        """Share of failed requests, 0–1 (0 when there were none)."""
        return self.errors / self.requests if self.requests else 0.0


@dataclass(frozen=True, slots=True)
class Saturation:
    """How full one instance is. `active` requests in flight, `limit` their declared maximum (0: none declared)."""

    instance: str
    active: float
    limit: float = 0.0


class Fills(Iterable[Saturation]):
    """How full instances are, as columns: `active` and `limit` have one entry per name in `instances`, all distinct."""

    __slots__ = ("active", "instances", "limit")

    def __init__(self, instances: tuple[str, ...], active: Floats, limit: Floats) -> None:
        self.instances = instances
        self.active = active
        self.limit = limit

    def __iter__(self) -> Iterator[Saturation]:
        """Go through the instances in the order they were given."""
        return map(Saturation, self.instances, self.active.tolist(), self.limit.tolist())

    def at(self, position: int) -> Saturation:
        """Return how full the instance at `position` is."""
        return Saturation(self.instances[position], float(self.active[position]), float(self.limit[position]))


@dataclass(frozen=True, slots=True)
class Report:
    """One flush of one sidecar, decoded: the unit in which telemetry enters the agent.

    `reporter` is the sidecar's node id, `sent_at` its own clock (Unix s) and `received_at` ours. `uptime_s` is the
    heartbeat: present in every flush, idle or not. `outcomes` may be empty (idle sidecar). `rules` are the same requests as
    callers saw them, by (service, rule of its route table): which rule a request took is no part of a series.
    """

    reporter: str
    service: str
    sent_at: float
    received_at: float
    uptime_s: float
    live: bool
    outcomes: dict[Series, Outcomes] = field(default_factory=dict)
    saturation: tuple[Saturation, ...] = ()
    rules: dict[tuple[str, str], Outcomes] = field(default_factory=dict)


def percentile(latency: Counts, q: float) -> float:
    """Return the `q` quantile (0–1) of a latency array in seconds, log-interpolated inside its bucket; NaN if empty.

    `latency` has shape (BUCKETS,). What lies in the overflow bucket counts as the last bound.
    """
    total = int(latency.sum())
    if total == 0:
        return float("nan")
    rank = q * total
    cumulative = np.cumsum(latency)
    k = int(np.searchsorted(cumulative, rank, side="left"))
    if k >= len(BOUNDS_S):
        return float(BOUNDS_S[-1])
    upper = float(BOUNDS_S[k])
    lower = float(BOUNDS_S[k - 1]) if k else upper / 10 ** (1 / 12)
    before = float(cumulative[k - 1]) if k else 0.0
    inside = float(latency[k])
    share = (rank - before) / inside if inside else 1.0
    return float(lower * (upper / lower) ** share)
