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

from models.frame import EMPTY, Cells, Frame, Odd, Register
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
    """What one side saw, one entry per request: which series, how it ended, how long it took, whether that counts."""

    key: Ints
    fate: Ints
    seconds: Floats
    timed: Bools

    def only(self, chosen: Bools) -> _Seen:
        return _Seen(self.key[chosen], self.fate[chosen], self.seconds[chosen], self.timed[chosen])


class Telemetry:
    """Turns what ended into reports. `silent` are reporters whose telemetry is lost on the way."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._wide = int(np.max(np.diff(layout.first))) + 1
        calls, instances = len(layout.caller), len(layout.instances)
        self._register = Register()
        sizes = {Side.CLIENT: calls, Side.ATTEMPT: calls * self._wide, Side.SERVER: instances}
        self._numbers = {side: np.full(size, -1, dtype=np.int64) for side, size in sizes.items()}  # by key
        self.silent: frozenset[str] = frozenset()

    def reporters(self) -> frozenset[str]:
        """Return every sidecar that reports when it has something to say."""
        layout = self._layout
        return frozenset({*layout.instances, *(reporter(layout, c) for c in range(len(layout.caller)))})

    def report(self, ended: Ended) -> Frame:
        """Return the outcomes of one tick by series, in an order that depends on nothing but them."""
        layout, attempts, requests = self._layout, ended.attempts, ended.requests
        every = np.ones(len(requests.call), dtype=bool)
        local = np.where(
            attempts.instance >= 0,
            attempts.instance - layout.first[layout.callee[attempts.call]] + 1,
            0,
        )
        answered = ~UNANSWERED[attempts.fate]
        tried = _Seen(attempts.call * self._wide + local, attempts.fate, attempts.seconds, answered)
        served = _Seen(attempts.instance, attempts.fate, attempts.seconds, answered)
        return _joined(
            [
                self._columns(Side.CLIENT, _Seen(requests.call, requests.fate, requests.seconds, every)),
                # with nobody there Envoy tries nothing
                self._columns(Side.ATTEMPT, tried.only(attempts.fate != Fate.NOBODY)),
                self._columns(Side.SERVER, served.only((attempts.instance >= 0) & _SERVED[attempts.fate])),
            ]
        )

    def saturation(self, now: Condition) -> Fills:
        """Return how full each instance is: requests it holds or lets wait, of its workers and its queue."""
        held = now.load * now.busy_s + now.backlog
        return Fills(self._layout.instances, held, now.workers)

    def _columns(self, side: Side, seen: _Seen) -> Frame:
        """Count what one side saw."""
        if not len(seen.key):
            return EMPTY
        known = self._numbers[side]
        place_of = np.bincount(seen.key, minlength=len(known))
        keys = np.flatnonzero(place_of)
        place_of[keys] = np.arange(len(keys))
        rows = place_of[seen.key]
        for new in keys[known[keys] < 0].tolist():
            known[new] = self._register.enter(self._name(side, new))
        series = self._register.names(known[keys])
        if self.silent:
            heard = np.asarray([one.reporter not in self.silent for one in series])
            if not heard.all():
                return self._columns(side, seen.only(heard[rows]))
        fate = seen.fate
        fates = np.bincount(rows * _FATES + fate, minlength=len(keys) * _FATES).reshape(-1, _FATES)
        buckets = np.searchsorted(BOUNDS_S, seen.seconds[seen.timed])
        cells, counts = np.unique(rows[seen.timed] * BUCKETS + buckets, return_counts=True)
        requests = fates.sum(axis=1)
        odd = {
            row: _odd(fates[row].tolist(), attempt=side is Side.ATTEMPT)
            for row in np.flatnonzero(fates[:, Fate.OK] != requests).tolist()
        }
        latencies = Cells(cells // BUCKETS, cells % BUCKETS, counts)
        return Frame(series, requests, fates @ _BAD, latencies, odd, register=self._register, numbers=known[keys])

    def _name(self, side: Side, key: int) -> Series:
        layout = self._layout
        if side is Side.SERVER:
            callee, version = layout.services[layout.service_of[key]], layout.version_of[key]
            return Series(side, "", callee, version, layout.instances[key], layout.instances[key])
        call, local = (key, 0) if side is Side.CLIENT else divmod(key, self._wide)
        callee = layout.services[layout.callee[call]]
        instance = int(layout.first[layout.callee[call]]) + local - 1
        version, name = (layout.version_of[instance], layout.instances[instance]) if local else ("", "")
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


def _joined(frames: Sequence[Frame]) -> Frame:
    """Return frames of different series as one."""
    starts = [sum(len(frame) for frame in frames[:k]) for k in range(len(frames))]
    parts = list(zip(frames, starts, strict=True))
    return Frame(
        [name for frame in frames for name in frame.names],
        np.concatenate([frame.requests for frame in frames]),
        np.concatenate([frame.errors for frame in frames]),
        Cells(
            np.concatenate([frame.cells.row + start for frame, start in parts]),
            np.concatenate([frame.cells.bucket for frame in frames]),
            np.concatenate([frame.cells.count for frame in frames]),
        ),
        {start + k: odd for frame, start in parts for k, odd in frame.odd.items()},
        register=next((frame.register for frame in frames if len(frame)), None),
        numbers=np.concatenate([frame.numbers for frame in frames]),
    )


def total(reported: Mapping[Series, Outcomes], side: Side) -> Outcomes:
    """Return the sum over all series of one side (for tests and reports)."""
    whole = Outcomes()
    for series, outcomes in reported.items():
        if series.side is side:
            whole += outcomes
    return whole
