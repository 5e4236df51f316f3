"""Bad out of all: the one form both signals are brought to, for many series at once.

Bad are failed requests for errors, and requests slower than nearly all of the baseline's for latency. All series of one
question are counted in a few array operations: a localiser that runs at every tick cannot loop over buckets.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from models.detect.baseline import MIDS_S, Baseline, BoolArray, FloatArray
from models.detect.views import answered, counted
from models.incident import Signal
from models.signals import BUCKETS, Counts, Outcomes, Series

ERRORS_WHEN_UNKNOWN: Final = 0.001
SLOW_QUANTILE: Final = 0.98
BODY_QUANTILE: Final = 0.75
"""Where no request leaves the tail, what leaves the body counts: a small slowdown stays below the slowest of a good day."""

TELLING: Final = 3.0
"""Standard deviations by which the tail must exceed its normal to tell of a slowdown by itself."""

SLOW_MARGIN_BUCKETS: Final = 1
SLOW_EXPECTED: Final = 0.01
UNREACHABLE: Final = frozenset({"UH", "UF", "UC", "UR", "LR", "NC", "URX"})
"""Envoy response flags of a callee that cannot be reached: no healthy host, connection failure, reset, none left."""

NOBODY: Final = frozenset({"UH", "NC"})
"""Flags of a request for which there was no instance to try: no attempt tells of it."""

TIMEOUTS: Final = frozenset({"UT", "SI", "DT"})
OVERFLOW: Final = "UO"

Row = tuple[Series, Outcomes, Baseline | None]
"""One reported series since the onset, and its normal (None: not known)."""


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

    def scaled(self, factor: float) -> Tally:
        """Return the same shares of `factor` times as many requests."""
        return Tally(self.total * factor, self.bad * factor, self.expected * factor, self.delay_s * factor)

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


def tallies(signal: Signal, rows: Sequence[Row]) -> list[Tally]:
    """Return the counts of every row for `signal` (errors or latency), in the rows' order."""
    if signal is Signal.LATENCY:
        return _slow(rows) if rows else []
    return [_failed(outcomes, baseline) for _, outcomes, baseline in rows]


def unmet(signal: Signal, outcomes: Outcomes, counts: Tally) -> Tally:
    """Return the requests among `counts` that found nobody to send them to: all failed, none was slow."""
    if signal is not Signal.ERRORS or not outcomes.flags:
        return Tally()
    nobody = float(sum(count for flag, count in outcomes.flags.items() if flag in NOBODY))
    return Tally(nobody, nobody, nobody * counts.normal, unreachable=nobody) if nobody else Tally()


def _failed(outcomes: Outcomes, baseline: Baseline | None) -> Tally:
    requests, errors = counted(outcomes)
    normal = baseline.error_ratio if baseline is not None else ERRORS_WHEN_UNKNOWN
    expected = requests * min(1.0, max(0.0, normal))
    if not outcomes.flags:
        return Tally(requests, errors, expected)
    return Tally(
        total=requests,
        bad=errors,
        expected=expected,
        unreachable=sum(count for flag, count in outcomes.flags.items() if flag in UNREACHABLE),
        timeouts=sum(count for flag, count in outcomes.flags.items() if flag in TIMEOUTS),
        overflow=outcomes.flags.get(OVERFLOW, 0),
    )


def _slow(rows: Sequence[Row]) -> list[Tally]:
    seen = np.array([answered(outcomes) for _, outcomes, _ in rows], dtype=np.float64)
    normal = np.array([_normal(baseline) for _, _, baseline in rows])
    total, weight = seen.sum(axis=1), normal.sum(axis=1)
    known = weight > 0
    shares = normal / np.where(known, weight, 1.0)[:, None]
    bad, expected = _beyond(seen, shares, SLOW_QUANTILE)
    names = [series.callee for series, _, _ in rows]
    number = {name: k for k, name in enumerate(dict.fromkeys(names))}
    service = np.array([number[name] for name in names])
    in_body = (_clarity(service, bad, expected, known) < TELLING)[service]
    if in_body.any():
        more, usual = _beyond(seen, shares, BODY_QUANTILE)
        in_body &= (_clarity(service, more, usual, known) >= TELLING)[service]
        bad, expected = np.where(in_body, more, bad), np.where(in_body, usual, expected)
    bad, expected = np.where(known, bad, 0.0), np.where(known, expected, 0.0)
    mean = seen @ MIDS_S / np.maximum(total, 1.0)
    delay = np.where(known, np.maximum(0.0, mean - shares @ MIDS_S) * total, 0.0)
    return [Tally(*values) for values in zip(*(x.tolist() for x in (total, bad, expected, delay)), strict=True)]


def _beyond(seen: FloatArray, shares: FloatArray, quantile: float) -> tuple[FloatArray, FloatArray]:
    """Return per row how many requests were slower than `quantile` of the normal ones, and how many would be."""
    edge = np.argmax(np.cumsum(shares, axis=1) >= quantile, axis=1) + SLOW_MARGIN_BUCKETS
    beyond = np.arange(BUCKETS) > edge[:, None]
    expected = np.maximum(SLOW_EXPECTED, (shares * beyond).sum(axis=1)) * seen.sum(axis=1)
    return (seen * beyond).sum(axis=1), expected


def _clarity(service: Counts, bad: FloatArray, expected: FloatArray, known: BoolArray) -> FloatArray:
    """Return per service by how many standard deviations its clearest row exceeds its normal."""
    found = np.zeros(int(service.max()) + 1)
    np.maximum.at(found, service, np.where(known, (bad - expected) / np.sqrt(expected + 1.0), 0.0))
    return found


def _normal(baseline: Baseline | None) -> FloatArray:
    if baseline is None or baseline.latency.shape != (BUCKETS,):
        return _NOTHING
    return baseline.latency


_NOTHING: Final[FloatArray] = np.zeros(BUCKETS)
