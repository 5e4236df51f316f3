"""The measurements of detection, in seconds instead of minutes."""

from __future__ import annotations

from xml.etree import ElementTree as ET

import numpy as np
import pytest

from simulations.judgement.alarms import LOOSE, measure, run
from simulations.judgement.costs import BYTES, ours
from simulations.judgement.costs import measure as costs
from simulations.judgement.delays import CASES, bound, delay, histogram, picture, table
from simulations.judgement.quiet import KINDS, Quiet


def test_the_false_alarm_budget_is_held_in_every_kind_of_quiet_traffic() -> None:
    """A hundred thousand tests of each kind, at a loose and at a strict budget, make no more alarms than stated, give or take chance."""
    text, found = measure(4e5, rows=200)
    assert {held.kind for held in found} == set(KINDS)
    assert sum(held.tests for held in found) >= 4e5
    for held in found:
        assert held.events <= held.most, held
    assert "alarms" in text.text()


def test_the_measurement_sees_a_broken_budget() -> None:
    """A budget of one alarm per test is one that quiet traffic does break into: the count is not blind."""
    assert (
        run("over-dispersed", 2e4, 1.0, with_latency=False, rows=200).events
        > run("over-dispersed", 2e4, LOOSE, with_latency=False, rows=200).events
    )


@pytest.mark.parametrize("kind", KINDS)
def test_quiet_traffic_is_sound(kind: str) -> None:
    """Errors never exceed requests, histograms hold every request, and one seed gives the same ticks."""
    one, two = (Quiet(kind, 50, np.random.default_rng(7)) for _ in range(2))
    for _ in range(50):
        tick, twin = one.tick(), two.tick()
        assert (tick.errors <= tick.requests).all()
        assert np.array_equal(np.bincount(tick.latency.row, tick.latency.count, minlength=50), tick.requests)
        for part in ("row", "bucket", "count"):
            assert np.array_equal(getattr(tick.latency, part), getattr(twin.latency, part))


def test_delays_stay_near_the_least_possible() -> None:
    """Errors from 1 to 20 %, and latency three times as long, are seen within twice Lorden's bound; the picture is well formed."""
    found = tuple(delay(case, runs=4) for case in CASES if case.name in {"errors 1 → 20 %", "latency × 3"})
    assert len(found) == 2
    for one in found:
        assert 0.5 < one.ratio < 2.0, one
        assert one.p95 < 4 * one.mean
    assert ET.fromstring(picture(found)).tag.endswith("svg")
    assert "Lorden" in table(found).text()


def test_lordens_bound_is_what_the_textbook_says() -> None:
    """Ln A over the Kullback–Leibler divergence per tick, for a fair coin that turns out to show heads nine times in ten."""
    case = CASES[0].__class__("coin", rate=2.0, before=0.5, after=0.9)
    divergence = 0.9 * np.log(0.9 / 0.5) + 0.1 * np.log(0.1 / 0.5)
    assert bound(case, 10.0) == pytest.approx(10.0 / (2.0 * divergence))
    assert histogram(2.0).sum() == pytest.approx(1.0)


def test_a_series_takes_less_than_a_kilobyte() -> None:
    """State per series stays below 1 kB, and the table says what each size costs."""
    assert ours(64, ticks=2).size <= BYTES
    assert len(costs((64, 128)).rows) == 2
