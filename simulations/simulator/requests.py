"""What becomes of requests on their way: routing, attempts, retries, time-outs, for many requests at once.

What happens inside an instance is asked of a function: `traces` lets the requests of a tick cause further ones, `pools` gives
typical durations for the reckoning of capacity.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from enum import IntEnum
from typing import Final, TypeVar

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
class Moment:
    """Everything that decides a request's fate right now, and which of it can strike anybody at all (mostly nothing does)."""

    layout: Layout
    routing: Routing
    now: Condition
    meddled: bool
    lagging: bool
    rejecting: bool
    unreachable: bool
    losing: bool
    hanging: bool
    slowed: bool
    surging: bool


def moment(layout: Layout, routing: Routing, now: Condition) -> Moment:
    """Look once what may go wrong at present."""
    return Moment(
        layout,
        routing,
        now,
        meddled=bool(routing.broken.any() or routing.abort.any() or routing.delayed.any()),
        lagging=bool(now.lag_s.any()),
        rejecting=bool(now.rejects.any()),
        unreachable=bool(now.dead.any() or now.cut.any()),
        losing=bool(routing.lost.any()),
        hanging=bool(now.stuck.any()),
        slowed=bool((now.slow != 1.0).any() or now.delay_s.any()),
        surging=bool((now.surge > 1.0).any()),
    )


@dataclass(frozen=True, slots=True)
class Answers:
    """What instances made of the requests that reached them, one entry per visit.

    `seconds` from arrival to answer, `failed` whether that was an error, `felt` how many failed calls fell into it. The visits
    have the numbers `first`, `first + 1`, …
    """

    seconds: Floats
    failed: Bools
    felt: Ints
    first: int


Serve = Callable[[Ints], Answers]
"""Lets requests visit these instances."""


@dataclass(frozen=True, slots=True)
class _Open:
    """Requests that try (again): their numbers, calls, seconds since they began, and the instance tried before (-1: none)."""

    request: Ints
    call: Ints
    after: Floats
    before: Ints


@dataclass(frozen=True, slots=True)
class Turn:
    """Attempts that are their requests' first, second or third; all arrays have one entry per attempt.

    `request` indexes the requests, `instance` is -1 where none was reached, `after` says when in the request it began and `seconds`
    how long it took. `inside` are the positions of those that visited an instance; `first` is the number of the first visit.
    """

    request: Ints
    call: Ints
    instance: Ints
    fate: Ints
    after: Floats
    seconds: Floats
    felt: Ints
    inside: Ints
    first: int


@dataclass(frozen=True, slots=True)
class Requests:
    """What callers got, one entry per request. `needed`: a request of the caller's failed because of it, if it failed."""

    call: Ints
    fate: Ints
    seconds: Floats
    needed: Bools


@dataclass(frozen=True, slots=True)
class Attempts:
    """What became of single attempts, one entry per attempt.

    `instance` is -1 where none was reached, `felt` how many failed calls fell into the visit.
    """

    call: Ints
    instance: Ints
    fate: Ints
    seconds: Floats
    felt: Ints


_NONE: Final[Ints] = np.zeros(0, dtype=np.int64)
NO_REQUESTS: Final = Requests(_NONE, _NONE, np.zeros(0), np.zeros(0, dtype=bool))
NO_ATTEMPTS: Final = Attempts(_NONE, _NONE, _NONE, np.zeros(0), _NONE)
Ends = TypeVar("Ends", Requests, Attempts)


def only(ends: Ends, which: Ints | slice) -> Ends:
    """Return the entries at these positions."""
    return type(ends)(*(getattr(ends, each.name)[which] for each in fields(ends)))


def joined(parts: Sequence[Ends]) -> Ends:
    """Return the entries of all parts (one or more), in their order."""
    return type(parts[0])(*(np.concatenate([getattr(p, each.name) for p in parts]) for each in fields(parts[0])))


def send(calls: Ints, here: Moment, serve: Serve, random: np.random.Generator) -> tuple[Ints, Floats, tuple[Turn, ...]]:
    """Send one request for each entry of `calls` (numbers of calls); return their fates, how long they took, and the attempts."""
    count, routing = len(calls), here.routing
    fate, seconds = _meddled(calls, here, random)
    left = np.flatnonzero(fate == Fate.OK) if here.meddled else np.arange(count)
    made: list[Turn] = []
    before = np.full(count, -1, dtype=np.int64)
    for turn in range(MAX_RETRIES + 1):
        if not len(left):
            break
        some = slice(None) if len(left) == count else left  # mostly all of them: then nothing is copied
        tried = _attempt(_Open(left, calls[some], seconds[some].copy(), before[some]), here, serve, random)
        made.append(tried)
        seconds[some] += tried.seconds
        fate[some] = tried.fate
        again = _again(tried, routing, turn, random)
        if not again.any():
            break
        before[some] = tried.instance
        left = left[again]
        seconds[left] += random.exponential(BACK_OFF_S * 2**turn / 2, len(left))
    return fate, seconds, tuple(made)


def _meddled(calls: Ints, here: Moment, random: np.random.Generator) -> tuple[Ints, Floats]:
    """Return what the callers' sidecars decide by themselves: each request's fate (OK: it is sent) and its seconds so far."""
    routing = here.routing
    fate = np.zeros(len(calls), dtype=np.int64)
    seconds = np.full(len(calls), LOCAL_S)
    if not here.meddled:
        return fate, seconds
    broken = random.random(len(calls)) < routing.broken[calls]
    fate[broken] = np.where(routing.rescued[calls[broken]], Fate.RESCUED, Fate.BROKEN)
    fate[~broken & (random.random(len(calls)) < routing.abort[calls])] = Fate.ABORTED
    hit = random.random(len(calls)) < routing.delayed[calls]
    seconds += np.where(hit, routing.delay_s[calls], 0.0) * ~broken
    return fate, seconds


def _attempt(open_: _Open, here: Moment, serve: Serve, random: np.random.Generator) -> Turn:
    instance, fate, seconds = _reach(open_, here, random)
    inside = np.flatnonzero((fate == Fate.OK) & (seconds < STUCK_S))
    felt = np.zeros(len(fate), dtype=np.int64)
    answers = serve(instance[inside])
    seconds[inside] += answers.seconds
    felt[inside] = answers.felt
    fate[inside[answers.failed]] = Fate.FAILED
    limit = here.routing.timeout_s[open_.call] - open_.after
    late = seconds > limit
    if late.any():
        seconds = np.where(late, np.maximum(limit, 0.0), seconds)
        fate[late] = Fate.TIMEOUT
    return Turn(open_.request, open_.call, instance, fate, open_.after, seconds, felt, inside, answers.first)


def _reach(open_: _Open, here: Moment, random: np.random.Generator) -> tuple[Ints, Ints, Floats]:
    """Pick an instance for each request; return it, the fate so far (OK: it got there) and the seconds of the way (`STUCK_S`: never answered)."""
    calls, routing, now, count = open_.call, here.routing, here.now, len(open_.call)
    callee = here.layout.callee[calls]
    instance = routing.pick(callee, random.random(count))
    twice = instance == open_.before  # a retry goes to another host if there is one
    if twice.any():
        instance[twice] = routing.pick(callee[twice], random.random(int(twice.sum())))
    fate = np.zeros(count, dtype=np.int64)
    seconds = np.full(count, NETWORK_S)
    if here.lagging:
        seconds += now.lag_s[calls]
    if here.hanging:
        seconds[random.random(count) < now.stuck[instance]] = STUCK_S
    if here.rejecting:
        rejected = random.random(count) < now.rejects[instance]
        fate[rejected], seconds[rejected] = Fate.OVERFLOW, REFUSED_S
    if here.unreachable:
        refused = now.dead[instance] | (random.random(count) < now.cut[calls])
        fate[refused], seconds[refused] = Fate.REFUSED, REFUSED_S
    if here.losing:
        nobody = routing.lost[callee]
        fate[nobody], seconds[nobody], instance[nobody] = Fate.NOBODY, 0.0, -1
    return instance, fate, seconds


def _again(attempt: Turn, routing: Routing, turn: int, random: np.random.Generator) -> Bools:
    """Return which attempts are followed by another: failed in a way the policy retries, within the budget."""
    granted = np.zeros(len(attempt.call), dtype=bool)
    failed = np.flatnonzero(attempt.fate)  # mostly none
    if not len(failed):
        return granted
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
