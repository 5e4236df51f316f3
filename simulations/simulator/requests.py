"""What becomes of requests: routing, attempts, retries, time-outs, for many requests at once.

One function serves twice: with a few hundred requests per call it tells what a caller has to expect of a callee (the
pools), with the requests of a tick it makes the telemetry.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Final

import numpy as np

from simulations.simulator.condition import Condition
from simulations.simulator.layout import Bools, Floats, Ints, Layout
from simulations.simulator.routing import Routing

NETWORK_S: Final = 0.0004
LOCAL_S: Final = 0.0002
REFUSED_S: Final = 0.001
BACK_OFF_S: Final = 0.025
MAX_RETRIES: Final = 2
STUCK_S: Final = 3600.0


class Fate(IntEnum):
    """How an attempt or a request ended."""

    OK = 0
    FAILED = 1  # the application answered with an error
    REFUSED = 2  # no connection
    OVERFLOW = 3  # turned away: too many already
    NOBODY = 4  # no instance to send to
    TIMEOUT = 5
    ABORTED = 6  # an injected fault answered
    BROKEN = 7  # an open breaker failed fast
    RESCUED = 8  # an open breaker served the fallback


BAD: Final = np.asarray([fate not in {Fate.OK, Fate.RESCUED} for fate in Fate])
UNANSWERED: Final = np.asarray([fate in {Fate.REFUSED, Fate.NOBODY, Fate.TIMEOUT} for fate in Fate])


@dataclass(frozen=True, slots=True)
class Pools:
    """What each instance answers at present: `seconds` (I, K) equally likely durations, `errors` (I,) the share 0–1
    of requests it fails (for itself or because a callee failed it).
    """

    seconds: Floats
    errors: Floats


@dataclass(frozen=True, slots=True)
class Moment:
    """Everything that decides a request's fate right now."""

    layout: Layout
    routing: Routing
    now: Condition
    pools: Pools


@dataclass(frozen=True, slots=True)
class Attempts:
    """Attempts in the order they were made; all arrays have one entry per attempt.

    `request` indexes the requests, `instance` is -1 where none was reached, `seconds` is how long it took.
    """

    request: Ints
    call: Ints
    instance: Ints
    fate: Ints
    seconds: Floats


@dataclass(frozen=True, slots=True)
class Requests:
    """What callers got: one entry per request."""

    call: Ints
    fate: Ints
    seconds: Floats


def send(calls: Ints, moment: Moment, random: np.random.Generator) -> tuple[Requests, tuple[Attempts, ...]]:
    """Send one request for each entry of `calls` (numbers of calls)."""
    count, routing = len(calls), moment.routing
    fate, seconds = _meddled(calls, routing, random)
    every = np.arange(count)
    open_ = every if not fate.any() else np.flatnonzero(fate == Fate.OK)
    made: list[Attempts] = []
    before = np.full(count, -1, dtype=np.int64)
    for turn in range(MAX_RETRIES + 1):
        here = slice(None) if open_ is every else open_  # mostly all of them: then nothing is copied
        attempt = _attempt(open_, calls[here], before[here], moment, random)
        limit = routing.timeout_s[calls[here]]
        late = seconds[here] + attempt.seconds > limit
        if late.any():
            cut = np.where(late, np.maximum(limit - seconds[here], 0.0), attempt.seconds)
            ended = np.where(late, Fate.TIMEOUT, attempt.fate)
            attempt = Attempts(attempt.request, attempt.call, attempt.instance, ended, cut)
        made.append(attempt)
        seconds[here] += attempt.seconds
        fate[here] = attempt.fate
        before[here] = attempt.instance
        again = _again(attempt, routing, turn, random)
        if not again.any():
            break
        open_ = open_[again]
        seconds[open_] += random.exponential(BACK_OFF_S * 2**turn / 2, len(open_))
    return Requests(calls, fate, seconds), tuple(made)


def _meddled(calls: Ints, routing: Routing, random: np.random.Generator) -> tuple[Ints, Floats]:
    """Return what the callers' sidecars decide by themselves: each request's fate (OK: it is sent) and its seconds so far."""
    fate = np.zeros(len(calls), dtype=np.int64)
    seconds = np.full(len(calls), LOCAL_S)
    broken = np.zeros(len(calls), dtype=bool)
    if routing.broken.any():
        broken = random.random(len(calls)) < routing.broken[calls]
        fate[broken] = np.where(routing.rescued[calls[broken]], Fate.RESCUED, Fate.BROKEN)
    if routing.abort.any():
        fate[~broken & (random.random(len(calls)) < routing.abort[calls])] = Fate.ABORTED
    if routing.delayed.any():
        hit = random.random(len(calls)) < routing.delayed[calls]
        seconds += np.where(hit, routing.delay_s[calls], 0.0) * ~broken
    return fate, seconds


def _attempt(request: Ints, calls: Ints, before: Ints, moment: Moment, random: np.random.Generator) -> Attempts:
    routing, now, pools = moment.routing, moment.now, moment.pools
    callee = moment.layout.callee[calls]
    draw = random.random((3, len(calls)))  # further numbers are drawn only where they decide something
    instance = routing.pick(callee, draw[0])
    twice = instance == before  # a retry goes to another host if there is one
    if twice.any():
        instance[twice] = routing.pick(callee[twice], random.random(int(twice.sum())))
    column = (draw[1] * pools.seconds.shape[1]).astype(np.int64)
    seconds = pools.seconds.ravel().take(instance * pools.seconds.shape[1] + column) + NETWORK_S
    if now.lag_s.any():
        seconds += now.lag_s[calls]
    fate = np.zeros(len(calls), dtype=np.int64)
    fate[draw[2] < pools.errors[instance]] = Fate.FAILED
    if now.rejects.any():
        rejected = random.random(len(calls)) < now.rejects[instance]
        fate[rejected], seconds[rejected] = Fate.OVERFLOW, REFUSED_S
    unreached = np.zeros(len(calls), dtype=bool)
    if now.dead.any() or now.cut.any():
        unreached = now.dead[instance] | (random.random(len(calls)) < now.cut[calls])
        fate[unreached], seconds[unreached] = Fate.REFUSED, REFUSED_S
    if routing.lost.any():
        nobody = routing.lost[callee]
        fate[nobody], seconds[nobody], instance[nobody] = Fate.NOBODY, 0.0, -1
        unreached |= nobody
    if now.stuck.any():
        stuck = ~unreached & (random.random(len(calls)) < now.stuck[instance])
        seconds[stuck] = STUCK_S
    return Attempts(request, calls, instance, fate, seconds)


def _again(attempt: Attempts, routing: Routing, turn: int, random: np.random.Generator) -> Bools:
    """Return which attempts are followed by another: failed in a way the policy retries, within the budget."""
    granted = np.zeros(len(attempt.call), dtype=bool)
    failed = np.flatnonzero(attempt.fate)  # mostly few
    calls, fate = attempt.call[failed], attempt.fate[failed]
    answered = (fate == Fate.OVERFLOW) | (fate == Fate.FAILED)
    retried = (fate == Fate.REFUSED) | (answered & routing.retry_5xx[calls])
    wanted: Bools = retried & (routing.retries[calls] > turn)
    if not wanted.any():
        return granted
    size = len(routing.timeout_s)
    sent = np.bincount(attempt.call, minlength=size)
    again = np.bincount(calls, weights=wanted, minlength=size)
    share = again / np.maximum(sent, 1)
    # Envoy lets three retries run at once whatever the budget says
    allowed = np.where(again <= 3, 1.0, np.minimum(1.0, routing.budget / np.maximum(share, 1e-9)))  # noqa: PLR2004
    granted[failed[wanted & (random.random(len(calls)) < allowed[calls])]] = True
    return granted
