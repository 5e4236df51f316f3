"""The mesh at work: requests flow through it tick by tick, queues fill and drain, outcomes come out.

Rates run from the users down the call graph; within a tick each call's requests are Poisson. Their outcomes leave the plant when they
*end*, as a sidecar reports them: a request that takes three seconds is unknown for three seconds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np

from models.policy import ServicePolicy
from models.telemetry import FLUSH_S
from simulations.simulator.condition import Condition, healthy, queue
from simulations.simulator.layout import Bools, Floats, Layout, lay_out
from simulations.simulator.mesh import Mesh
from simulations.simulator.pools import PoolMaker
from simulations.simulator.requests import BAD, Attempts, Fate, Moment, Requests, send
from simulations.simulator.routing import Routing, route

STEADY_S: Final = 2.0
"""While nothing changes, pools are worked out anew this often."""

RESTLESS_S: Final = 8.0
"""After a change they are worked out at every tick for this long."""

LEAST_WORKERS: Final = 4.0
LONGEST_S: Final = 60.0
PROBE_S: Final = 1.0
"""A dead instance leaves load balancing after two failed probes of half a second, a live one returns as quickly."""

Load = Callable[[float], float]
"""Factor on the users' rate at a time (seconds since the plant began)."""


@dataclass(frozen=True, slots=True)
class Ended:
    """What ended in one tick: requests as callers saw them, and attempts."""

    requests: Requests
    attempts: Attempts


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
        self._makers = PoolMaker(mesh, self.layout, self._random)
        self._rates: Floats = np.zeros(len(self.layout.caller))
        self._accepted: Floats = np.ones(len(self.layout.services))
        self._open: list[tuple[int, Requests, tuple[Attempts, ...]]] = []
        self._due: dict[int, list[tuple[Requests, Attempts]]] = {}
        self._tick = 0
        self._fresh_at = -1.0
        self._restless_until = 0.0
        self._size_workers()

    @property
    def in_balance(self) -> Bools:
        """Instances that health checking leaves in load balancing, shape (I,)."""
        return self._in_balance

    @property
    def rates(self) -> Floats:
        """How many requests per second run over each call at present, shape (E,)."""
        return self._rates

    def steer(self, policies: Mapping[str, ServicePolicy]) -> None:
        """Put effective policies in force."""
        self.policies = policies
        self.routing = route(self.layout, policies, self._in_balance)
        self.disturbed()

    def disturbed(self) -> None:
        """Say that something changed: answers are worked out closely for a while."""
        self._restless_until = self.seconds + RESTLESS_S
        self._fresh_at = -1.0

    def step(self) -> Ended:
        """Let one tick pass; return what ended in it."""
        self.seconds += self.tick_s
        self._tick += 1
        self._probe()
        restless = self.seconds < self._restless_until or bool((self.now.backlog > 0).any())
        if restless or self.seconds - self._fresh_at >= STEADY_S:
            self._makers.refresh(self.routing, self.now)
            self._fresh_at = self.seconds
        self._flow()
        sent = np.repeat(np.arange(len(self._rates)), self._random.poisson(self._rates * self.tick_s))
        requests, attempts = send(sent, Moment(self.layout, self.routing, self.now, self._makers.pools), self._random)
        self._account(attempts)
        self._schedule(requests, attempts)
        return self._ended()

    # --- load ---------------------------------------------------------------------------------------------------

    def _flow(self) -> None:
        """Work out how many requests per second run over each call."""
        layout, factor = self.layout, self.mesh.rps * self.load(self.seconds)
        rates = np.where(layout.caller == len(layout.services), factor, 0.0) * self.now.surge
        backward = layout.backward
        for level in reversed(layout.levels):
            calls = level.calls
            into = np.bincount(
                layout.callee, weights=np.where(backward, self._rates, rates), minlength=len(self._accepted)
            )
            served = into * self._accepted
            rates[calls] = served[layout.caller[calls]] * layout.mean[calls] * self.now.surge[calls]
        self._rates = rates

    def _account(self, attempts: tuple[Attempts, ...]) -> None:
        """Queue what arrived, and note which share of requests each service took on."""
        arrived = np.zeros(len(self.layout.instances))
        refused = np.zeros(len(self.layout.instances))
        for made in attempts:
            there = made.instance >= 0
            inside = there & (made.fate != Fate.REFUSED)
            arrived += np.bincount(made.instance[inside], minlength=len(arrived))
            refused += np.bincount(made.instance[there & ~inside], minlength=len(arrived))
        queue(self.now, arrived, self.tick_s)
        first = self.layout.first[:-1]
        all_, bad = (
            np.add.reduceat(arrived + refused, first),
            np.add.reduceat(refused + arrived * self.now.rejects, first),
        )
        share = np.where(all_ > 0, 1 - bad / np.maximum(all_, 1e-9), 1.0)
        self._accepted = np.where(self.routing.lost, 0.0, np.clip(0.5 * self._accepted + 0.5 * share, 0.0, 1.0))

    def _size_workers(self) -> None:
        """Give every instance the workers that make it as busy as its nature says on an average day."""
        for _ in range(3):
            self._makers.refresh(self.routing, self.now)
            self._flow()
        layout = self.layout
        into = np.bincount(layout.callee, weights=self._rates, minlength=len(layout.services))
        load = into[layout.service_of] * self.routing.share
        use = np.asarray([n.utilisation for n in self.mesh.natures])[layout.service_of]
        self.now.workers = np.maximum(LEAST_WORKERS, np.ceil(load * self.now.busy_s / use))
        self.now.load = load

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

    # --- ends ---------------------------------------------------------------------------------------------------

    def _schedule(self, requests: Requests, attempts: tuple[Attempts, ...]) -> None:
        """Put every outcome to the tick in which it is known."""
        began = self._random.random(len(requests.call)) * self.tick_s
        self._put(requests, _none(), began + requests.seconds)
        for made in attempts:
            self._put(None, made, began[made.request] + made.seconds)

    def _put(self, requests: Requests | None, attempts: Attempts, at: Floats) -> None:
        ticks = (np.minimum(at, LONGEST_S) / self.tick_s).astype(np.int64)
        for offset in np.flatnonzero(np.bincount(ticks)).tolist():
            chosen = ticks == offset
            slot = self._due.setdefault(self._tick + offset, [])
            if requests is not None:
                slot.append((Requests(requests.call[chosen], requests.fate[chosen], requests.seconds[chosen]), _none()))
            else:
                slot.append((_nothing(), _some(attempts, chosen)))

    def _ended(self) -> Ended:
        due = self._due.pop(self._tick, [])
        requests = [r for r, _ in due] or [_nothing()]
        attempts = [a for _, a in due] or [_none()]
        return Ended(
            Requests(*(np.concatenate([getattr(r, f) for r in requests]) for f in ("call", "fate", "seconds"))),
            Attempts(
                *(
                    np.concatenate([getattr(a, f) for a in attempts])
                    for f in ("request", "call", "instance", "fate", "seconds")
                )
            ),
        )


def failed(requests: Requests) -> Bools:
    """Return which requests failed for their caller."""
    bad: Bools = BAD[requests.fate]
    return bad


def _some(attempts: Attempts, chosen: Bools) -> Attempts:
    return Attempts(
        attempts.request[chosen],
        attempts.call[chosen],
        attempts.instance[chosen],
        attempts.fate[chosen],
        attempts.seconds[chosen],
    )


def _nothing() -> Requests:
    return Requests(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0))


def _none() -> Attempts:
    empty = np.zeros(0, np.int64)
    return Attempts(empty, empty, empty, empty, np.zeros(0))
