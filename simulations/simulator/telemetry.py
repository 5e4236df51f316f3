"""What the sidecars of the simulated mesh report: the same `Series` and `Outcomes` as real ones send.

One sidecar speaks for all instances of a calling service (`<service>-v1-1`, users' `users-1`): detectors and
localiser sum over callers anyway. The called side reports per instance. Error and flag rules are those of
`models.telemetry`, as the decoder of the real channel applies them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from models.frame import EMPTY, Cells, Frame, Odd, Register, added
from models.signals import BOUNDS_S, BUCKETS, Fills, Outcomes, Series, Side
from models.telemetry import BREAKER_FAILED_FLAG, BREAKER_FLAG
from simulations.simulator.condition import Condition
from simulations.simulator.layout import Bools, Floats, Ints, Layout
from simulations.simulator.plant import Ended
from simulations.simulator.requests import BAD, UNANSWERED, Fate

FLAGS: Final[dict[Fate, tuple[str, ...]]] = {
    Fate.REFUSED: ("UF",),
    Fate.OVERFLOW: (),
    Fate.NOBODY: ("UH",),
    Fate.TIMEOUT: ("UT",),
    Fate.ABORTED: ("FI",),
    Fate.BROKEN: (BREAKER_FLAG, BREAKER_FAILED_FLAG),
    Fate.RESCUED: (BREAKER_FLAG,),
}
CODES: Final = {
    Fate.OK: 200,
    Fate.FAILED: 500,
    Fate.REFUSED: 503,
    Fate.OVERFLOW: 503,
    Fate.NOBODY: 503,
    Fate.TIMEOUT: 504,
    Fate.ABORTED: 503,
    Fate.BROKEN: 503,
    Fate.RESCUED: 200,
}
_FATES: Final = len(Fate)
_BAD: Final = BAD.astype(np.int64)
_SERVED: Final = np.asarray([fate in {Fate.OK, Fate.FAILED, Fate.OVERFLOW} for fate in Fate])


@dataclass(frozen=True, slots=True)
class _Seen:
    """What sidecars saw, one entry per request: which series, how it ended, how long it took, whether that counts."""

    key: Ints
    fate: Ints
    seconds: Floats
    timed: Bools

    def only(self, chosen: Bools) -> _Seen:
        return _Seen(self.key[chosen], self.fate[chosen], self.seconds[chosen], self.timed[chosen])


class Telemetry:
    """Turns what ended into reports.

    Series have keys: calls as callers see them, then attempts by call and instance (0: none reached), then instances.
    """

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._wide = int(np.max(np.diff(layout.first))) + 1
        self._attempts = len(layout.caller)  # first key of these
        self._served = self._attempts + len(layout.caller) * self._wide
        self._register = Register()
        self._numbers = np.full(self._served + len(layout.instances), -1, dtype=np.int64)  # in the register, by key

    def reporters(self) -> frozenset[str]:
        """Return every sidecar that reports when it has something to say."""
        layout = self._layout
        return frozenset({*layout.instances, *(reporter(layout, c) for c in range(len(layout.caller)))})

    def report(self, ended: Ended, *, without: frozenset[str] = frozenset()) -> Frame:
        """Return the outcomes of one tick by series, in an order that depends on nothing but them; `without` some reporters'."""
        layout, attempts, requests = self._layout, ended.attempts, ended.requests
        reached = attempts.instance >= 0
        local = np.where(reached, attempts.instance - layout.first[layout.callee[attempts.call]] + 1, 0)
        answered = ~UNANSWERED[attempts.fate]
        tried = _Seen(self._attempts + attempts.call * self._wide + local, attempts.fate, attempts.seconds, answered)
        served = _Seen(self._served + attempts.instance, attempts.fate, attempts.seconds, answered)
        sides = (
            _Seen(requests.call, requests.fate, requests.seconds, np.ones(len(requests.call), dtype=bool)),
            tried.only(attempts.fate != Fate.NOBODY),  # with nobody there Envoy tries nothing
            served.only(reached & _SERVED[attempts.fate]),
        )
        return self._columns(
            _Seen(
                np.concatenate([side.key for side in sides]),
                np.concatenate([side.fate for side in sides]),
                np.concatenate([side.seconds for side in sides]),
                np.concatenate([side.timed for side in sides]),
            ),
            without,
        )

    def saturation(self, now: Condition) -> Fills:
        """Return how full each instance is: requests it holds or lets wait, of its workers and its queue."""
        held = now.load * now.busy_s + now.backlog
        return Fills(self._layout.instances, held, now.workers)

    def _columns(self, seen: _Seen, without: frozenset[str]) -> Frame:
        """Count what was seen."""
        if not len(seen.key):
            return EMPTY
        known = self._numbers
        place_of = np.bincount(seen.key, minlength=len(known))
        keys = np.flatnonzero(place_of)
        requests = place_of[keys]
        place_of[keys] = np.arange(len(keys))
        rows = place_of[seen.key]
        for new in keys[known[keys] < 0].tolist():
            known[new] = self._register.enter(self._name(new))
        series = self._register.names(known[keys])
        if without:
            heard = np.asarray([one.reporter not in without for one in series])
            if not heard.all():
                return self._columns(seen.only(heard[rows]), frozenset())
        buckets = np.searchsorted(BOUNDS_S, seen.seconds[seen.timed])
        cells, counts = added(rows[seen.timed] * BUCKETS + buckets, np.ones(len(buckets), dtype=np.int64))
        latencies = Cells(cells // BUCKETS, cells % BUCKETS, counts)
        strange = np.flatnonzero(seen.fate)
        odd, fates = np.unique(rows[strange], return_inverse=True)  # where not all was well
        told = np.bincount(fates * _FATES + seen.fate[strange], minlength=len(odd) * _FATES).reshape(-1, _FATES)
        told[:, Fate.OK] = requests[odd] - told.sum(axis=1)
        errors = np.zeros(len(keys), dtype=np.int64)
        errors[odd] = told @ _BAD
        tells = {
            row: _odd(told[k].tolist(), attempt=self._attempts <= keys[row] < self._served)
            for k, row in enumerate(odd.tolist())
        }
        return Frame(series, requests, errors, latencies, tells, register=self._register, numbers=known[keys])

    def _name(self, key: int) -> Series:
        layout = self._layout
        if key >= self._served:
            instance = key - self._served
            callee, version = layout.services[layout.service_of[instance]], layout.version_of[instance]
            name = layout.instances[instance]
            return Series(Side.SERVER, "", callee, version, name, name)
        client = key < self._attempts
        call, local = (key, 0) if client else divmod(key - self._attempts, self._wide)
        callee = layout.services[layout.callee[call]]
        instance = int(layout.first[layout.callee[call]]) + local - 1
        version, name = (layout.version_of[instance], layout.instances[instance]) if local else ("", "")
        side = Side.CLIENT if client else Side.ATTEMPT
        return Series(side, layout.caller_name(call), callee, version, name, reporter(layout, call))


def reporter(layout: Layout, call: int) -> str:
    """Return the sidecar that reports a call."""
    caller = int(layout.caller[call])
    return "users-1" if caller == len(layout.services) else layout.instances[layout.first[caller]]


def _odd(fates: Sequence[int], *, attempt: bool) -> Odd:
    """Return flags and codes of so many fates of each kind."""
    flags: dict[str, int] = {}
    codes: dict[int, int] = {}
    for fate, count in zip(Fate, fates, strict=True):
        if not count:
            continue
        for flag in FLAGS.get(fate, ()):
            flags[flag] = flags.get(flag, 0) + count
        code = 0 if attempt and fate in {Fate.REFUSED, Fate.TIMEOUT} else CODES[fate]
        codes[code] = codes.get(code, 0) + count
    return flags, codes


def total(reported: Mapping[Series, Outcomes], side: Side) -> Outcomes:
    """Return the sum over all series of one side (for tests and reports)."""
    whole = Outcomes()
    for series, outcomes in reported.items():
        if series.side is side:
            whole += outcomes
    return whole
