"""A large mesh with one sick service, made directly: for measuring cost, where playing every request would take minutes."""

from __future__ import annotations

from typing import Final

import numpy as np

from models.detect.baseline import Baseline
from models.domain import Edge, Instance, Topology
from models.incident import Anomaly, Signal
from models.localise import Evidence
from models.signals import BUCKETS, Outcomes, Series, Side
from simulations.judgement.incidents import NOW, Incident

INSTANCES: Final = 3
CALLEES: Final = 3
REQUESTS: Final = 60
FAILING: Final = 0.5
FAN: Final = 40
"""Services in a row that may call each other: a sick one reaches a few callers, not half the mesh."""


def large_incident(size: int, seed: int = 1) -> Incident:
    """Return a mesh of `size` services, three instances each, whose middle service fails half of its requests.

    Its callers and theirs, three steps up, fail in turn.
    """
    rng = np.random.default_rng(seed)
    names = [f"s{k}" for k in range(size)]
    calls = {
        k: sorted({int(c) for c in rng.integers(k + 1, min(size, k + FAN) + 1, CALLEES) if c < size})
        for k in range(size)
    }
    callers: dict[int, list[int]] = {}
    for caller, callees in calls.items():
        for callee in callees:
            callers.setdefault(callee, []).append(caller)
    sick = size // 2
    failing = _spread(sick, callers)
    since, anomalies = dict[Series, Outcomes](), list[Anomaly]()
    for callee, asking in callers.items():
        share = failing.get(callee, 0.0)
        for caller in asking:
            _edge(since, names[caller], names[callee], share)
        if share:
            view = Series(Side.SERVER, "", names[callee], "", "", "")
            anomalies.append(Anomaly(view, Signal.ERRORS, NOW, NOW - 2, share, 0.001, 30.0, REQUESTS))
    instances = tuple(
        Instance(f"{n}-{i}", n, "v1", "abc"[i], f"10.{k // 250}.{k % 250}.{i + 1}", 15006)
        for k, n in enumerate(names)
        for i in range(INSTANCES)
    )
    edges = frozenset(Edge(names[a], names[b]) for a, callees in calls.items() for b in callees)
    latency = np.zeros(BUCKETS)
    latency[30:36] = 100.0
    normal = Baseline(Signal.ERRORS, 0.001, latency, 0.02, 0.05, 1.0, 600.0)
    evidence = Evidence(tuple(anomalies), since, lambda _series, _signal: normal, Topology(instances, edges), (), NOW)
    return Incident("large", evidence, frozenset({(names[sick], "")}))


def _spread(sick: int, callers: dict[int, list[int]]) -> dict[int, float]:
    """Return the failing share of the sick service and of its callers, halved at each of three steps."""
    failing, edge, share = {sick: FAILING}, [sick], FAILING
    for _ in range(3):
        share /= 2
        edge = [c for callee in edge for c in callers.get(callee, []) if c not in failing]
        failing |= dict.fromkeys(edge, share)
    return failing


def _edge(since: dict[Series, Outcomes], caller: str, callee: str, share: float) -> None:
    latency = np.zeros(BUCKETS, dtype=np.int64)
    latency[32] = REQUESTS
    bad = int(REQUESTS * share)
    for i in range(INSTANCES):
        for side, reporter in ((Side.ATTEMPT, f"{caller}-0"), (Side.SERVER, f"{callee}-{i}")):
            since[Series(side, caller, callee, "v1", f"{callee}-{i}", reporter)] = Outcomes(
                REQUESTS, bad, latency=latency
            )
    whole = Outcomes(INSTANCES * REQUESTS, INSTANCES * bad, latency=INSTANCES * latency)
    since[Series(Side.CLIENT, caller, callee, "", "", f"{caller}-0")] = whole
