"""What the whole mesh is slower by just now: nothing on a usual day, whatever its services' own spread; much in a stall."""

from __future__ import annotations

import numpy as np

from models.detect.graph import Graph
from models.detect.shift import MeshShift

TICK_S = 0.2
SERVICES = np.arange(60)
TYPICAL_S = np.geomspace(0.002, 0.3, 60)


def tick(shift: MeshShift, random: np.random.Generator, stall_s: float = 0.0) -> None:
    """Enter one tick of two requests per service, lognormal about its typical time, `stall_s` longer."""
    took = TYPICAL_S * np.exp(random.normal(0, 0.5, (2, 60)) - 0.125) + stall_s
    shift.see(SERVICES, np.full(60, 2.0), np.maximum(0.0, (took - TYPICAL_S).sum(axis=0)))


def test_the_spread_of_slow_services_hides_no_slowdown_of_a_fast_one_and_a_stall_still_does() -> None:
    """A fast service is not held to three times what requests of slow ones differ by anyway, but to what a stall adds."""
    random = np.random.default_rng(4)
    shift, graph = MeshShift(TICK_S), Graph()
    for _ in range(600):
        tick(shift, random)
    usual = []
    for _ in range(100):
        tick(shift, random)
        usual.append(float(shift.tolerated(SERVICES[:1], graph)[0]))
    assert np.median(usual) < 0.02, "the slowest services' requests differ by more than a tenth of a second"
    for _ in range(5):
        tick(shift, random, stall_s=0.2)
    assert shift.tolerated(SERVICES[:1], graph)[0] > 0.4


def test_a_service_is_compared_with_those_its_fault_would_not_reach() -> None:
    """What a service may take longer follows from the others' extra time and from that of those it calls, one by one."""
    random = np.random.default_rng(9)
    shift, graph = MeshShift(TICK_S), Graph()
    for service in range(1, 60):
        graph.add(int(random.integers(service)), service)
    for _ in range(300):
        tick(shift, random)
    tick(shift, random, stall_s=0.05)
    asked = np.arange(40)
    together = shift.tolerated(asked, graph)
    assert len(set(together.tolist())) > 20
    alone = [float(shift.tolerated(asked[k : k + 1], graph)[0]) for k in asked.tolist()]
    assert together.tolist() == alone
    for service, mask in zip(asked.tolist(), graph.elsewhere(asked, 60), strict=True):
        assert set(np.flatnonzero(~mask).tolist()) == {service, *graph.upstream(service)}
    kept = graph.elsewhere(asked, 30)
    assert kept.shape == (40, 30)
