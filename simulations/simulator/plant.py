"""The mesh at work: requests flow through it tick by tick, queues fill and drain, outcomes come out.

Users' requests are Poisson; all others are caused by them, see `traces`. Their outcomes leave the plant when they *end*, as a
sidecar reports them: a request that takes three seconds is unknown for three seconds.

While nothing changes, users' requests of the next few ticks are drawn at once, since that costs little more than one tick's; those that
have not begun when something changes are drawn anew.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Final

import numpy as np

from models.policy import ServicePolicy
from models.telemetry import FLUSH_S
from simulations.simulator.condition import Condition, healthy, queue
from simulations.simulator.layout import Bools, Floats, Ints, Layout, lay_out
from simulations.simulator.mesh import Mesh
from simulations.simulator.pools import Pools
from simulations.simulator.requests import (
    BAD,
    NO_ATTEMPTS,
    NO_REQUESTS,
    Attempts,
    Ends,
    Fate,
    Requests,
    joined,
    moment,
    only,
)
from simulations.simulator.routing import Routing, route
from simulations.simulator.traces import Tracer

STEADY_S: Final = 2.0
"""While nothing changes, it is worked out anew this often how long requests hold a worker."""

RESTLESS_S: Final = 8.0
"""After a change it is worked out at every tick for this long."""

LEAST_WORKERS: Final = 4.0
LONGEST_S: Final = 60.0
AT_ONCE: Final = 20_000
"""About so many requests are drawn at once."""

INT16: Final = 1 << 15
"""Numbers below are sorted in linear time."""

PROBE_S: Final = 1.0
"""A dead instance leaves load balancing after two failed probes of half a second, a live one returns as quickly."""

Load = Callable[[float], float]
"""Factor on the users' rate at a time (seconds since the plant began)."""


@dataclass(frozen=True, slots=True)
class Ended:
    """What ended in one tick: requests as callers saw them, and attempts."""

    requests: Requests
    attempts: Attempts


@dataclass(frozen=True, slots=True)
class _Begun:
    """What users begin in one tick: how many requests arrive at each instance because of it, and by tick what is then known."""

    arrived: Floats
    requests: list[tuple[int, Requests]] = field(default_factory=list)
    attempts: list[tuple[int, Attempts]] = field(default_factory=list)


class Plant:
    """A running mesh. `now` may be changed from outside between ticks (faults do); call `disturbed` after that.

    `seconds` counts since the beginning. Deterministic for equal meshes, seeds and interventions.
    """

    def __init__(self, mesh: Mesh, *, seed: int, tick_s: float = FLUSH_S, load: Load = lambda _: 1.0) -> None:
        self.mesh = mesh
        self.layout: Layout = lay_out(mesh)
        self.now: Condition = healthy(mesh, self.layout)
        self.tick_s = tick_s
        self.seconds = 0.0
        self.load = load
        self.policies: Mapping[str, ServicePolicy] = mesh.policies
        self._random = np.random.default_rng([seed, 7])
        self._in_balance: Bools = np.ones(len(self.layout.instances), dtype=bool)
        self._probed: Floats = np.zeros(len(self.layout.instances))
        self.routing: Routing = route(self.layout, mesh.policies, self._in_balance)
        self._tracer = Tracer(mesh, self.layout, self._random)
        self._pools = Pools(self._tracer.own, self.layout, self._random)
        self._users = np.flatnonzero(self.layout.caller == len(self.layout.services))
        self._rates: Floats = np.zeros(len(self.layout.caller))
        self._due: dict[int, tuple[list[Requests], list[Attempts]]] = {}
        self._ahead: deque[_Begun] = deque()
        self._tick = 0
        self._fresh_at = -1.0
        self._restless_until = 0.0
        self._size_workers()

    @property
    def in_balance(self) -> Bools:
        """Instances that health checking leaves in load balancing, shape (I,)."""
        return self._in_balance

    @property
    def settled(self) -> bool:
        """Whether health checks have seen who is dead and who is not, and nobody waits in a queue."""
        return not ((self.now.dead == self._in_balance).any() or (self.now.backlog > 0).any())

    @property
    def rates(self) -> Floats:
        """How many requests per second run over each call at present load when everybody takes on all of his, shape (E,)."""
        return self._rates

    def steer(self, policies: Mapping[str, ServicePolicy]) -> None:
        """Put effective policies in force."""
        self.policies = policies
        self.routing = route(self.layout, policies, self._in_balance)
        self.disturbed()

    def disturbed(self) -> None:
        """Say that something changed: how busy workers are is followed closely for a while."""
        self._restless_until = self.seconds + RESTLESS_S
        self._fresh_at = -1.0
        self._ahead.clear()

    def step(self) -> Ended:
        """Let one tick pass; return what ended in it."""
        self.seconds += self.tick_s
        self._tick += 1
        self._probe()
        restless = self.seconds < self._restless_until or bool((self.now.backlog > 0).any())
        if restless or self.seconds - self._fresh_at >= STEADY_S:
            self._pools.refresh(moment(self.layout, self.routing, self.now), fresh=restless)
            self._flow()
            self._fresh_at = self.seconds
        if restless:
            self._ahead.clear()
        if not self._ahead:
            self._draw(1 if restless else self._stretch())
        self._begin(self._ahead.popleft())
        return self._ended()

    # --- load ---------------------------------------------------------------------------------------------------

    def _flow(self) -> None:
        """Work out how many requests per second are to be expected over each call."""
        layout, factor = self.layout, self.mesh.rps * self.load(self.seconds)
        rates = np.where(layout.caller == len(layout.services), factor, 0.0) * self.now.surge
        backward = layout.backward
        for level in reversed(layout.levels):
            calls = level.calls
            into = np.bincount(
                layout.callee, weights=np.where(backward, self._rates, rates), minlength=len(layout.services)
            )
            rates[calls] = into[layout.caller[calls]] * layout.mean[calls] * self.now.surge[calls]
        self._rates = rates

    def _size_workers(self) -> None:
        """Give every instance the workers that make it as busy as its nature says on an average day."""
        for _ in range(3):
            self._pools.refresh(moment(self.layout, self.routing, self.now), fresh=True)
            self._flow()
        layout = self.layout
        into = np.bincount(layout.callee, weights=self._rates, minlength=len(layout.services))
        load = into[layout.service_of] * self.routing.share
        use = np.asarray([n.utilisation for n in self.mesh.natures])[layout.service_of]
        self.now.workers = np.maximum(LEAST_WORKERS, np.ceil(load * self.now.busy_s / use))
        self.now.load = load

    def _queue(self, arrived: Floats) -> None:
        """Let requests queue. Envoy picks the less busy of two instances, so by chance all get as many as their shares want."""
        layout, now = self.layout, self.now
        first, of = layout.first[:-1], layout.service_of
        weight = np.where(now.dead, 0.0, self.routing.share)
        asked = np.add.reduceat(arrived, first) / np.maximum(np.add.reduceat(weight, first), 1e-9)
        together = np.add.reduceat(np.where(weight > 0, now.workers, 0.0), first)[of]
        queue(now, weight * asked[of], np.maximum(now.workers, together), self.tick_s)

    # --- health -------------------------------------------------------------------------------------------------

    def _probe(self) -> None:
        """Let active health checks find the dead and the returned."""
        differs = self.now.dead == self._in_balance
        self._probed = np.where(differs, self._probed + self.tick_s, 0.0)
        turned = self._probed >= PROBE_S
        if turned.any():
            self._in_balance = np.where(turned, ~self._in_balance, self._in_balance)
            self._probed[turned] = 0.0
            self.routing = route(self.layout, self.policies, self._in_balance)
            self.disturbed()

    # --- requests -----------------------------------------------------------------------------------------------

    def _stretch(self) -> int:
        """Return for how many ticks to draw requests at once: of a large mesh a tick's are many enough."""
        most = min(STEADY_S / self.tick_s, AT_ONCE / max(1.0, float(self._rates.sum()) * self.tick_s))
        return max(1, int(most))

    def _draw(self, ticks: int) -> None:
        """Draw the users' requests of the next ticks and what they cause, and sort it by the tick in which users begin it."""
        rates = self.mesh.rps * self.load(self.seconds) * self.now.surge[self._users]
        users = np.repeat(self._users, self._random.poisson(rates * self.tick_s * ticks))
        began = self._random.random(len(users)) * self.tick_s * ticks
        here = moment(self.layout, self.routing, self.now)
        traffic = self._tracer.trace(users, began, here, self._random)
        tick = (began / self.tick_s).astype(np.int64)
        attempts, instances = traffic.attempts, len(self.layout.instances)
        inside = (attempts.instance >= 0) & (attempts.fate != Fate.REFUSED)
        row = tick[traffic.attempt_roots[inside]] * instances + attempts.instance[inside]
        arrived = np.bincount(row, minlength=ticks * instances).reshape(ticks, instances)
        self._ahead.extend(_Begun(each.astype(np.float64)) for each in arrived)
        for first, end, requests in self._sorted(traffic.requests, traffic.request_ends, tick[traffic.request_roots]):
            self._ahead[first].requests.append((self._tick + end, requests))
        for first, end, tried in self._sorted(attempts, traffic.attempt_ends, tick[traffic.attempt_roots]):
            self._ahead[first].attempts.append((self._tick + end, tried))

    def _sorted(self, ended: Ends, ends: Floats, began: Ints) -> Iterator[tuple[int, int, Ends]]:
        """Return what begins and ends in the same ticks: (beginning, end, outcomes), ticks from now on."""
        latest = int(LONGEST_S / self.tick_s) + 1
        known = (np.minimum(ends, LONGEST_S) / self.tick_s).astype(np.int64)
        key: Ints = began * latest + known
        order = np.argsort(key.astype(np.int16) if len(self._ahead) * latest < INT16 else key, kind="stable")
        key, ended = key[order], only(ended, order)
        cuts = [0, *(np.flatnonzero(np.diff(key)) + 1).tolist(), len(key)] if len(key) else []
        for start, stop in pairwise(cuts):
            first, end = divmod(int(key[start]), latest)
            yield first, end, only(ended, slice(start, stop))

    def _begin(self, begun: _Begun) -> None:
        """Let a tick's requests begin: they queue now, and are known when they end."""
        self._queue(begun.arrived)
        for end, requests in begun.requests:
            self._due.setdefault(end, ([], []))[0].append(requests)
        for end, attempts in begun.attempts:
            self._due.setdefault(end, ([], []))[1].append(attempts)

    def _ended(self) -> Ended:
        requests, attempts = self._due.pop(self._tick, ([], []))
        return Ended(joined([NO_REQUESTS, *requests]), joined([NO_ATTEMPTS, *attempts]))


def spoils(bad: int, usual: float) -> bool:
    """Tell whether so many of users' requests went badly in one tick that it is no longer a good day, when `usual` are expected to."""
    return bad > max(2.0, 4 * usual)


def failed(requests: Requests) -> Bools:
    """Return which requests failed for their caller."""
    bad: Bools = BAD[requests.fate]
    return bad
