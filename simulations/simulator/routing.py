"""Where requests go and what the sidecars do with them: the effective policies and the instances' health as arrays."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from models.policy import ServicePolicy
from simulations.simulator.layout import Bools, Floats, Ints, Layout
from simulations.simulator.mesh import TIMEOUT_S

FIVE_XX = frozenset({"5xx", "gateway-error", "retriable-status-codes"})


@dataclass(slots=True)
class Routing:
    """Per instance: `share` of its service's requests (adds up to 1 where anybody is left), shape (I,).

    Per call, shape (E,): `timeout_s`, `retries` (how many), `retry_5xx` (also answers, not only failed connections),
    `budget` (0–1 of load that may be retries), `broken` (share answered by an open breaker), `rescued` (that answer
    is a fallback), `abort` and `delayed` (0–1) with `delay_s` of injected faults. `lost[service]`: nobody to send to.
    """

    share: Floats
    edges: Floats
    timeout_s: Floats
    retries: Ints
    retry_5xx: Bools
    budget: Floats
    broken: Floats
    rescued: Bools
    abort: Floats
    delayed: Floats
    delay_s: Floats
    lost: Bools

    def pick(self, callees: Ints, uniform: Floats) -> Ints:
        """Return an instance for each request, by load balancing (meaningless where `lost`)."""
        found = np.searchsorted(self.edges, callees + np.minimum(uniform, 1 - 1e-12), side="right")
        return np.minimum(found, len(self.edges) - 1)


def route(layout: Layout, policies: Mapping[str, ServicePolicy], in_balance: Bools) -> Routing:
    """Work out the routing. `in_balance` has shape (I,): instances that health checking leaves in load balancing."""
    weight = np.where(in_balance, 1.0, 0.0)
    calls = len(layout.caller)
    routing = Routing(
        share=weight,
        edges=weight,
        timeout_s=np.full(calls, TIMEOUT_S),
        retries=np.ones(calls, dtype=np.int64),
        retry_5xx=np.zeros(calls, dtype=bool),
        budget=np.full(calls, 0.2),
        broken=np.zeros(calls),
        rescued=np.zeros(calls, dtype=bool),
        abort=np.zeros(calls),
        delayed=np.zeros(calls),
        delay_s=np.zeros(calls),
        lost=np.zeros(len(layout.services), dtype=bool),
    )
    to: dict[int, list[int]] = {}
    for call, callee in enumerate(layout.callee.tolist()):
        to.setdefault(callee, []).append(call)
    for name, policy in policies.items():
        number = layout.number.get(name)
        if number is not None:
            _weigh(layout, number, policy, weight)
            _call(layout, policy, np.asarray(to.get(number, []), dtype=np.int64), routing)
    sums = np.add.reduceat(weight, layout.first[:-1])
    routing.lost = sums <= 0
    routing.share = weight / np.where(routing.lost, 1.0, sums)[layout.service_of]
    running = np.cumsum(routing.share)
    before = np.append(0.0, running)[layout.first[:-1]]
    routing.edges = layout.service_of + np.minimum(1.0, running - before[layout.service_of])
    return routing


def _weigh(layout: Layout, number: int, policy: ServicePolicy, weight: Floats) -> None:
    """Apply ejections and versions' weights; a version's share does not depend on how many instances it has."""
    members = range(int(layout.first[number]), int(layout.first[number + 1]))
    for k in members:
        if layout.instances[k] in policy.ejected:
            weight[k] = 0.0
        weight[k] *= policy.thinned.get(layout.instances[k], 100) / 100
    wanted = policy.routes[0].weights
    if not wanted:
        return
    for version in {layout.version_of[k] for k in members}:
        alive = [k for k in members if layout.version_of[k] == version and weight[k] > 0]
        whole = sum(weight[k] for k in alive)
        for k in alive:
            weight[k] *= wanted.get(version, 0) / whole


def _call(layout: Layout, policy: ServicePolicy, calls: Ints, routing: Routing) -> None:
    rule = policy.routes[0]
    routing.timeout_s[calls] = rule.timeout_s or 3600.0
    routing.retries[calls] = rule.retries.attempts
    routing.retry_5xx[calls] = bool(FIVE_XX & set(rule.retries.retry_on))
    routing.budget[calls] = rule.retries.budget
    if rule.fault is not None:
        routing.abort[calls] = rule.fault.abort_percent / 100
        routing.delayed[calls] = rule.fault.delay_percent / 100
        routing.delay_s[calls] = rule.fault.delay_s
    for breaker in policy.breakers:
        hit = [c for c in calls.tolist() if breaker.caller in {"", layout.caller_name(c)}]
        routing.broken[hit] = breaker.percent / 100
        routing.rescued[hit] = breaker.respond == "fallback"
