"""What people run today, as observers: each notices what its documentation says, when it says."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from simulations.simulator.compare import ALERTS, ALONE, ANALYSED, OURS, OUTLIERS, Case, compare, table
from simulations.simulator.faults import VersionErrors
from simulations.simulator.mesh import CANARY, draw
from simulations.simulator.meshfaults import Spoiling, TelemetrySpoiled
from simulations.simulator.peers import AlertRule, Analysis, Crowd, Nobody, OutlierDetection, Peer, Reaction, Unseen
from simulations.simulator.plant import Ended, Plant
from simulations.simulator.requests import NO_ATTEMPTS, Attempts, Fate, Requests
from simulations.simulator.scenario import Part, Scenario, Wanted, single

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


def test_of_several_services_at_fault_all_have_to_be_healed(plant: Plant) -> None:
    """The first who notices has noticed; the last who heals has healed."""
    one, two = Analysis(plant, SERVICE, CANARY, 30.0), Analysis(plant, SERVICE, CANARY, 40.0)
    both, half = Crowd([one, two]), Crowd([one, Analysis(plant, SERVICE, CANARY, 40.0, rolls_back=False)])
    for crowd in (both, half):
        watch(crowd, lambda second: tick(plant, [Fate.FAILED if second >= 0 else Fate.OK] * 10))
    assert (both.reaction.detected_s, both.reaction.mitigated_s) == (30.0, 280.0)
    assert half.reaction.mitigated_s is None


def test_with_nobody_acting_users_are_well_when_what_ails_them_has_passed(plant: Plant) -> None:
    """Failed and far slower requests count; after the last of them users are well, if that lasts."""
    layout = plant.layout
    call = np.flatnonzero(layout.of_users(np.arange(len(layout.caller))))[:1]

    def users(fate: Fate) -> Ended:
        calls = np.repeat(call, 10)
        made = Requests(calls, np.full(10, fate), np.full(10, 0.01), np.zeros(10, dtype=bool))
        return Ended(made, NO_ATTEMPTS)

    passing, lasting = Nobody(plant, 3.0), Nobody(plant, 3.0)
    watch(passing, lambda second: users(Fate.FAILED if 0 <= second <= 7 else Fate.OK))
    watch(lasting, lambda second: users(Fate.FAILED if second >= 0 else Fate.OK))
    assert (passing.reaction.mitigated_s, lasting.reaction.mitigated_s) == (7.0, None)


def test_what_no_scrape_brings_is_seen_by_nobody(plant: Plant) -> None:
    """While telemetry of a caller is lost, its requests and attempts are in no metric; before and after they are."""
    made = tick(plant, [Fate.FAILED] * 3)
    hidden = np.zeros(len(plant.layout.caller), dtype=bool)
    hidden[made.requests.call[0]] = True
    unseen = Unseen(((2.0, 5.0, hidden),))
    seen = [len(unseen.of(made, at).requests.call) for at in (1.0, 2.0, 4.9, 5.0)]
    assert seen == [3, 0, 0, 3]
    assert len(unseen.of(made, 3.0).attempts.call) == 0


def test_every_system_is_asked_about_the_same_incident() -> None:
    """A killed instance is healed by health checks too, so that users are well again even when nobody acts."""
    (killed,) = compare(15, 3, 1, ["instance-killed"])
    assert set(killed.reactions) == {OURS, OUTLIERS, ALERTS, ALONE}
    assert killed.reactions[ALONE].mitigated_s is not None
    assert len(table([killed]).splitlines()) == 3


def test_where_nothing_is_at_fault_it_is_told_who_acted_nevertheless() -> None:
    """Left alone is what is wanted; an alarm is one, and so is an act."""
    spared = Scenario("telemetry-dropped", (Part(TelemetrySpoiled(Spoiling.DROPPED)),), Wanted.SPARED)
    calm = Case(spared, {OURS: Reaction(), OUTLIERS: Reaction(3.0, None)})
    rash = Case(spared, {OURS: Reaction(2.0, 2.0), OUTLIERS: Reaction()}, touched=True)
    assert "| left alone | false alarm (1 of 1) |" in table([calm])
    assert "| false alarm (1 of 1), acted (1) | left alone |" in table([rash])
