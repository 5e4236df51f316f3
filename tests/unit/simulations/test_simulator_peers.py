"""What people run today, as observers: each notices what its documentation says, when it says."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from simulations.simulator.compare import ALERTS, ANALYSED, OURS, OUTLIERS, Case, table
from simulations.simulator.faults import VersionErrors
from simulations.simulator.mesh import CANARY, draw
from simulations.simulator.peers import AlertRule, Analysis, OutlierDetection, Peer, Reaction
from simulations.simulator.plant import Ended, Plant
from simulations.simulator.requests import Attempts, Fate, Requests
from simulations.simulator.scenario import single

MESH = draw(30, 5)
SERVICE = next(i.service for i in MESH.instances if i.version == CANARY)


def tick(plant: Plant, fates: list[Fate], *, version: str = CANARY, seconds: float = 0.01) -> Ended:
    """Return requests to one instance of a version of `SERVICE` with these fates."""
    layout = plant.layout
    host = next(k for k in layout.members(SERVICE).tolist() if layout.version_of[k] == version)
    call = int(np.flatnonzero(layout.callee == layout.number[SERVICE])[0])
    count = len(fates)
    calls, took = np.full(count, call), np.full(count, seconds)
    fate = np.asarray(fates, dtype=np.int64)
    none = np.zeros(count, dtype=np.int64)
    return Ended(Requests(calls, fate, took, none > 0), Attempts(calls, np.full(count, host), fate, took, none))


def watch(peer: Peer, made: Callable[[float], Ended], until_s: float = 400.0) -> None:
    """Let a peer see a tick every second, from a minute before the onset on."""
    for second in range(-60, int(until_s)):
        peer.see(made(float(second)), float(second))


@pytest.fixture
def plant() -> Plant:
    """A mesh with a canary."""
    return Plant(MESH, seed=1)


def test_outlier_detection_counts_in_a_row_and_spares_small_clusters(plant: Plant) -> None:
    """Five 5xx in a row are noticed at once, one answer between them starts anew; 10 % of a few hosts is nobody."""
    guilty = frozenset(i.id for i in MESH.instances if i.service == SERVICE and i.version == CANARY)
    bad, mixed = [Fate.FAILED] * 5, [Fate.FAILED] * 4 + [Fate.OK]
    peer = OutlierDetection(plant, SERVICE, guilty)
    watch(peer, lambda second: tick(plant, bad if second >= 0 else [Fate.OK]))
    assert (peer.reaction.detected_s, peer.reaction.mitigated_s) == (0.0, None)
    never = OutlierDetection(plant, SERVICE, guilty)
    watch(never, lambda _: tick(plant, mixed))
    assert never.reaction.detected_s is None


def test_an_analysis_strikes_every_minute_and_rolls_back_at_the_fifth(plant: Plant) -> None:
    """The first minute with more than 1 % of errors or a 99th percentile beyond 500 ms is noticed, the fifth ends it."""
    fails = [Fate.FAILED] + [Fate.OK] * 9
    for made in (
        lambda second: tick(plant, fails if second >= 0 else [Fate.OK] * 10),
        lambda second: tick(plant, [Fate.OK], seconds=0.8 if second >= 0 else 0.01),
    ):
        peer = Analysis(plant, SERVICE, CANARY, 30.0)
        watch(peer, made)
        assert (peer.reaction.detected_s, peer.reaction.mitigated_s) == (30.0, 270.0)
    well = Analysis(plant, SERVICE, CANARY, 30.0)
    watch(well, lambda _: tick(plant, [Fate.OK] * 10))
    assert well.reaction == Reaction()


def test_an_alert_fires_after_a_minute_and_heals_nothing(plant: Plant) -> None:
    """More than 5 % of errors, or a 99th percentile that trebled, for four scrapes of 15 s; less is never told."""
    for made in (
        lambda second: tick(plant, [Fate.FAILED] if second >= 0 else [Fate.OK]),
        lambda second: tick(plant, [Fate.OK], seconds=0.05 if second >= 0 else 0.01),
    ):
        peer = AlertRule(plant, SERVICE, 5.0)
        watch(peer, made)
        assert peer.reaction.detected_s is not None
        assert 60.0 <= peer.reaction.detected_s <= 90.0
        assert peer.reaction.mitigated_s is None
    quiet = AlertRule(plant, SERVICE, 5.0)
    watch(quiet, lambda _: tick(plant, [Fate.FAILED] + [Fate.OK] * 29))
    assert quiet.reaction.detected_s is None


def test_the_table_tells_medians_and_what_never_happened() -> None:
    """A system that does not apply is told apart from one that never reacts."""
    fault = single("version-errors", VersionErrors(SERVICE, CANARY, 0.5))
    cases = [
        Case(fault, {OURS: Reaction(1.0, 2.0), OUTLIERS: Reaction(), ANALYSED: Reaction(40.0, 280.0)}),
        Case(fault, {OURS: Reaction(3.0, None), OUTLIERS: Reaction(), ANALYSED: Reaction(60.0, 300.0)}),
    ]
    assert table(cases).splitlines()[2:] == [
        "| version-errors | 2 | 2.0 s / 2.0 s (1 of 2) | never / never | 50.0 s / 290.0 s | not for this | not for this |"
    ]
    assert ALERTS in table(cases)
