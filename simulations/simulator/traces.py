"""Requests with everything they cause: each visit to an instance makes the calls that its service makes, and waits for them.

A request that reaches an instance works for its own lognormal time there, then makes its calls, stage after stage, those of one stage
side by side, and answers when the last has ended. It fails when the instance fails it by itself (then it makes no calls) or
when a call that is not optional failed, after retries and fallbacks. So what callers inherit is what their callees'
sidecars report: the same failures, the same slow answers, request by request, whichever tick each is reported in. A retry is a
visit of its own, with calls of its own, and cycles are followed for as many rounds as requests go.

All requests that are equally many calls away from their users are sent at once, which makes about ten rounds of array work of any
number of them. What a request causes is drawn with it, under the same routing and condition, even where it begins in a later tick.

Calls that a surge adds belong to no request: a job in the caller makes them beside its work, and nobody waits for them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from simulations.simulator.layout import Floats, Ints, Layout
from simulations.simulator.mesh import Mesh
from simulations.simulator.requests import BAD, NO_ATTEMPTS, Answers, Attempts, Moment, Requests, Turn, joined, send

VALUES = 128
"""Each instance's own time is one of so many equally likely values."""

NOBODY = -1


@dataclass(frozen=True, slots=True)
class Traffic:
    """Users' requests and everything they caused: when each ended (seconds, on the clock by which users' requests began), and which
    of the users' requests caused it.
    """

    requests: Requests
    request_ends: Floats
    request_roots: Ints
    attempts: Attempts
    attempt_ends: Floats
    attempt_roots: Ints


@dataclass(frozen=True, slots=True)
class _Sent:
    """Requests that were sent at once: each began `offset` seconds after the visit `within` did (users': `NOBODY`, at that second)."""

    requests: Requests
    turns: tuple[Turn, ...]
    within: Ints
    offset: Floats


class Tracer:
    """Knows who calls whom and how long everybody works. `own` has shape (I, VALUES): seconds on a good day."""

    def __init__(self, mesh: Mesh, layout: Layout, random: np.random.Generator) -> None:
        self.layout = layout
        median = np.asarray([n.median_s for n in mesh.natures])[layout.service_of]
        sigma = np.asarray([n.sigma for n in mesh.natures])[layout.service_of]
        shape = (len(layout.instances), VALUES)
        self.own: Floats = np.exp(np.log(median)[:, None] + sigma[:, None] * random.standard_normal(shape))
        inner = np.flatnonzero(layout.caller < len(layout.services))
        self.calls: Ints = inner[np.lexsort((layout.stage[inner], layout.caller[inner]))]
        degree = np.bincount(layout.caller[self.calls], minlength=len(layout.services))
        self.degree: Ints = degree[layout.service_of]
        """How many calls a visit to each instance may make, shape (I,), and where they begin in `calls`: `first`."""
        self.first: Ints = (np.cumsum(degree) - degree)[layout.service_of]
        self.stages = int(layout.stage.max(initial=0)) + 1

    def trace(self, users: Ints, began: Floats, here: Moment, random: np.random.Generator) -> Traffic:
        """Send users' requests over the calls `users`, at the seconds `began`, and everything they cause."""
        return _Trace(self, here, random).run(users, began)


class _Trace:
    """Requests under way. What was caused stands in `_sent` before what caused it."""

    def __init__(self, tracer: Tracer, here: Moment, random: np.random.Generator) -> None:
        self._tracer = tracer
        self._here = here
        self._random = random
        self._sent: list[_Sent] = []
        self._visits = 0

    def run(self, users: Ints, began: Floats) -> Traffic:
        """Send them all, then work out when each began and ended."""
        fate, seconds, turns = send(users, self._here, self._serve, self._random)
        requests = Requests(users, fate, seconds, np.zeros(len(users), dtype=bool))
        self._sent.append(_Sent(requests, turns, np.full(len(users), NOBODY), began))
        return self._traffic()

    def _serve(self, instances: Ints) -> Answers:
        tracer, here, random, count = self._tracer, self._here, self._random, len(instances)
        first = self._visits
        self._visits += count
        draw = random.random((2, count))
        seconds = tracer.own.ravel().take(instances * VALUES + (draw[0] * VALUES).astype(np.int64))
        if here.slowed:
            seconds = seconds * here.now.slow[instances] + here.now.delay_s[instances]
        seconds += here.now.wait_s[instances]
        failed = draw[1] < here.now.errors[instances]
        degree = np.where(failed, 0, tracer.degree[instances])
        spent, felt = self._call(instances, degree, seconds, first)
        return Answers(seconds + spent, failed | (felt > 0), felt, first)

    def _call(self, instances: Ints, degree: Ints, seconds: Floats, first: int) -> tuple[Floats, Ints]:
        """Make the calls of visits; return how long each visit waited for them, and how many of those it needed failed."""
        tracer, layout, count = self._tracer, self._tracer.layout, len(instances)
        none = np.zeros(count), np.zeros(count, dtype=np.int64)
        total = int(degree.sum())
        if not total:
            return none
        visit = np.repeat(np.arange(count), degree)
        begins = tracer.first[instances] - np.cumsum(degree) + degree
        pairs = tracer.calls[np.arange(total) + begins[visit]]  # what each visit may call
        times = (layout.mean[pairs] + self._random.random(total)).astype(np.int64)
        made = np.flatnonzero(times)
        if times.max(initial=0) > 1:
            made = np.repeat(made, times[made])
        extra = self._extra(pairs)
        both = np.concatenate([made, extra]) if len(extra) else made
        if not len(both):
            return none
        calls, visits = pairs[both], visit[both]
        fate, took, turns = send(calls, self._here, self._serve, self._random)
        awaited = slice(len(made))
        needed = ~layout.optional[calls]
        needed[len(made) :] = False
        offset = seconds[visits]
        waited, later = self._wait(made, visit, pairs, took[awaited], count)
        offset[awaited] += later
        self._sent.append(_Sent(Requests(calls, fate, took, needed), turns, first + visits, offset))
        felt = np.bincount(visits[needed & BAD[fate]], minlength=count)
        return waited, felt

    def _extra(self, pairs: Ints) -> Ints:
        """Return the pairs over which a surge sends a call more, each as often as it does."""
        if not self._here.surging:
            return np.zeros(0, dtype=np.int64)
        more = self._tracer.layout.mean[pairs] * np.maximum(0.0, self._here.now.surge[pairs] - 1)
        return np.repeat(np.arange(len(pairs)), self._random.poisson(more))

    def _wait(self, made: Ints, visit: Ints, pairs: Ints, took: Floats, count: int) -> tuple[Floats, Floats]:
        """Return how long each visit waits, and how long after its own work each call begins.

        Equal calls of one visit follow each other; a stage takes as long as the longest of its calls.
        """
        visits, stages = visit[made], self._tracer.stages
        before = np.zeros(len(made))
        begins = np.flatnonzero(made[1:] == made[:-1])
        if len(begins):
            fresh = np.append(True, made[1:] != made[:-1])
            run = np.cumsum(took) - took
            before = run - run[np.flatnonzero(fresh)][np.cumsum(fresh) - 1]
        rows = visits * stages + self._tracer.layout.stage[pairs[made]] if stages > 1 else visits
        longest = np.zeros(count * stages)
        np.maximum.at(longest, rows, before + took)
        if stages == 1:
            return longest, before
        table = longest.reshape(count, stages)
        before += (np.cumsum(table, axis=1) - table).ravel()[rows]
        return table.sum(axis=1), before

    def _traffic(self) -> Traffic:
        visit_began, visit_root = np.zeros(self._visits), np.zeros(self._visits, dtype=np.int64)
        ends, roots = [], []
        turns: list[tuple[Attempts, Floats, Ints]] = []
        for sent in reversed(self._sent):  # whoever caused it comes first
            users = bool((sent.within[:1] == NOBODY).all())
            began = sent.offset if users else visit_began[sent.within] + sent.offset
            root = np.arange(len(began)) if users else visit_root[sent.within]
            ends.append(began + sent.requests.seconds)
            roots.append(root)
            for turn in sent.turns:
                at, of = began[turn.request] + turn.after, root[turn.request]
                visits = slice(turn.first, turn.first + len(turn.inside))
                visit_began[visits], visit_root[visits] = at[turn.inside], of[turn.inside]
                made = Attempts(turn.call, turn.instance, turn.fate, turn.seconds, turn.felt)
                turns.append((made, at + turn.seconds, of))
        return Traffic(
            joined([sent.requests for sent in reversed(self._sent)]),
            np.concatenate(ends),
            np.concatenate(roots),
            joined([NO_ATTEMPTS, *(made for made, _, _ in turns)]),
            np.concatenate([np.zeros(0), *(end for _, end, _ in turns)]),
            np.concatenate([np.zeros(0, dtype=np.int64), *(of for _, _, of in turns)]),
        )
