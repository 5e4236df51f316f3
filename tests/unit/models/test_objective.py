"""Error budgets: the arithmetic, the windows' edges, restarts, and clocks that are set back."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.budget import WIDTHS, Counts, Slot
from models.objective import RULES, Burn, Objective, Tally, judge, windows
from models.signals import BOUNDS_S

HOUR = 3600.0
DAY = 86_400.0
T0 = 1_800_000_000.0
MONTHLY = Objective("answers", "catalog", "availability", 0.999, 30 * DAY)
NAME = MONTHLY.counted


def counts(*names: str) -> Counts:
    """Return empty counts of these."""
    made = Counts()
    made.track(names or (NAME,))
    return made


def tally(made: Counts, now: float, window_s: float, name: str = NAME) -> Tally:
    """Return what one window holds."""
    return made.tallies(now, {name: (window_s,)})[name][0]


def standing(made: Counts, now: float, what: Objective = MONTHLY) -> tuple[float, Burn]:
    """Return what is left of the budget, and the alert."""
    found = judge(what, made.tallies(now, {what.counted: windows(what)})[what.counted])
    return found.remaining, found.level


@given(st.integers(0, 10**9), st.integers(0, 10**9), st.floats(0.5, 0.99999), st.floats(1.0, 1e7), st.floats(0, 1e7))
def test_a_budget_never_grows_by_failures(good: int, bad: int, target: float, window_s: float, seen_s: float) -> None:
    """Burn is at least 0, 0 without failures, grows with them, and equals the used share where the whole window was seen."""
    seen_s = min(seen_s, window_s)
    now = Tally(window_s, good, good + bad, seen_s).burn(target)
    assert now >= 0
    assert bad or now == 0
    assert Tally(window_s, good, good + bad + 1, seen_s).burn(target) >= now
    whole = Tally(window_s, good, good + bad, window_s)
    assert math.isclose(whole.burn(target) * (1 - target), 1 - whole.ratio, abs_tol=1e-8)


def test_the_budget_of_a_month_is_what_the_workbook_says() -> None:
    """0.1 % of the month's requests may fail: half of that leaves half; burn 1 over the whole window leaves nothing."""
    made = counts()
    for day in range(30):
        made.add(T0 + day * DAY, {NAME: (999_500, 1_000_000)})
    remaining, level = standing(made, T0 + 30 * DAY - HOUR)
    assert remaining == pytest.approx(0.5, abs=0.01)
    assert level is Burn.NONE


def test_the_first_failures_of_a_new_mesh_do_not_spend_a_month() -> None:
    """After five minutes of nothing but failures 11 % of a month's 43 minutes are gone, not everything."""
    made = counts()
    for tick in range(300):
        made.add(T0 + tick, {NAME: (0, 100)})
    remaining, _ = standing(made, T0 + 300)
    assert remaining == pytest.approx(1 - 300 / (0.001 * 30 * DAY), abs=0.01)


@pytest.mark.parametrize("offset", [0.0, 0.5, 9.99, 3599.0])
def test_no_window_holds_anything_older_than_itself(offset: float) -> None:
    """What was counted just outside is never in a window; what was counted a slot's width inside always is."""
    for window_s, width in ((300.0, 10), (3600.0, 10), (21_600.0, 300), (259_200.0, 300), (30 * DAY, 3600)):
        now = T0 + offset + window_s
        outside, inside = counts(), counts()
        outside.add(now - window_s - 0.001, {NAME: (1, 1)})
        inside.add(now - window_s + width, {NAME: (1, 1)})
        outside.add(now, {})
        inside.add(now, {})
        assert tally(outside, now, window_s).valid == 0, window_s
        assert tally(inside, now, window_s).valid == 1, window_s


@given(st.lists(st.tuples(st.floats(0, 5 * HOUR), st.integers(0, 50), st.integers(0, 50)), max_size=40))
def test_nothing_is_lost_while_the_clock_jumps_about(steps: list[tuple[float, int, int]]) -> None:
    """Forwards or backwards within a day, the day holds every request exactly once."""
    made, total = counts(), 0
    for after, good, bad in steps:
        made.add(T0 + after, {NAME: (good, good + bad)})
        total += good + bad
    assert tally(made, T0 + 6 * HOUR, DAY).valid == total


def test_a_clock_a_year_ahead_does_not_stop_the_counting() -> None:
    """What was counted in the wrong future is counted as of now once the clock is right again, and the windows move on."""
    made = counts()
    made.add(T0, {NAME: (10, 10)})
    made.add(T0 + 365 * DAY, {NAME: (0, 7)})
    made.add(T0 + 20, {NAME: (5, 5)})
    assert tally(made, T0 + 20, 300.0) == Tally(300.0, 15, 22, 20.0)
    assert tally(made, T0 + 20 + 600, 300.0).valid == 0


@given(st.integers(-(10**6), 10**6), st.integers(-(10**6), 10**6))
def test_counters_that_make_no_sense_are_clipped(good: int, valid: int) -> None:
    """A reset counter or an impossible pair never makes good exceed valid, nor either of them negative."""
    made = counts()
    made.add(T0, {NAME: (good, valid)})
    found = tally(made, T0, 300.0)
    assert 0 <= found.good <= found.valid
    assert found.valid == max(0, valid)


@given(
    st.lists(st.tuples(st.floats(0, 20 * DAY), st.integers(0, 9), st.integers(0, 9)), max_size=30), st.integers(0, 29)
)
def test_a_restart_changes_nothing(steps: list[tuple[float, int, int]], cut: int) -> None:
    """Kept slots taken back at any moment give the same tallies in every window as the uninterrupted run."""
    steps = sorted(steps)
    whole, before, after = counts(), counts(), counts()
    kept: dict[tuple[int, int], Slot] = {}
    for n, (at, good, bad) in enumerate(steps):
        whole.add(T0 + at, {NAME: (good, good + bad)})
        if n == cut:
            after.restore(kept.values())
        (before if n < cut else after).add(T0 + at, {NAME: (good, good + bad)})
        if n < cut:
            kept |= {(slot.width_s, slot.index): slot for slot in before.changed()}
            before.kept()
    if cut >= len(steps):
        after.restore(kept.values())
    now = T0 + 20 * DAY
    for window_s in windows(MONTHLY):
        assert tally(after, now, window_s) == tally(whole, now, window_s)


def test_objectives_come_and_go_without_touching_each_other() -> None:
    """A new objective begins at nothing, one that goes is forgotten, one that stays keeps what it has."""
    made = counts("a", "b")
    made.add(T0, {"a": (1, 1), "b": (2, 2), "unknown": (9, 9)})
    made.track(["b", "c"])
    made.add(T0, {"c": (3, 3)})
    found = made.tallies(T0, {"b": (300.0,), "c": (300.0,)})
    assert (found["b"][0].valid, found["c"][0].valid) == (2, 3)
    assert made.known == {"b", "c"}
    assert {slot.counted for slot in made.changed()} == {"b", "c"}
    made.kept()
    assert list(made.changed()) == []


def burning(ratio: float, lasting_s: float, target: float = 0.999) -> Burn:
    """Return the alert after a quiet month and `lasting_s` of failures at `ratio`, at 100 requests a second."""
    what = Objective("x", "catalog", "availability", target, 30 * DAY)
    made = counts(what.counted)
    now = T0 + 30 * DAY
    for hour in range(24 * 30 - 6):
        made.add(T0 + hour * HOUR, {what.counted: (360_000, 360_000)})
    for tick in range(6 * 3600, 0, -10):
        made.add(now - tick, {what.counted: (1000, 1000)})
    for tick in range(0, int(lasting_s), 10):
        made.add(now + tick, {what.counted: (round(1000 * (1 - ratio)), 1000)})
    return standing(made, now + lasting_s, what)[1]


def test_burn_alerts_come_when_the_workbook_says() -> None:
    """A total outage pages within a minute; 14.4 times pages within the hour and not at once; a slow burn warns; noise does not."""
    assert burning(1.0, 60.0) is Burn.PAGE
    assert burning(0.02, 300.0) is Burn.NONE
    assert burning(0.02, 3600.0) is Burn.PAGE
    assert burning(0.0035, 2 * HOUR) is Burn.NONE
    assert burning(0.0035, 25 * HOUR) is Burn.WARNING
    assert burning(0.0005, 25 * HOUR) is Burn.NONE


def test_an_alert_ends_soon_after_the_burning_does() -> None:
    """The short window clears it: five minutes after an outage nobody is called any more, though the hour is still spoiled."""
    made = counts()
    for tick in range(0, 3600, 10):
        made.add(T0 + tick, {NAME: (500, 1000)})
    assert standing(made, T0 + 3600)[1] is Burn.PAGE
    for tick in range(3600, 3600 + 1801, 10):
        made.add(T0 + tick, {NAME: (1000, 1000)})
    found = judge(MONTHLY, made.tallies(T0 + 5401, {NAME: windows(MONTHLY)})[NAME])
    assert not found.burning[0].holds
    assert found.burning[0].long > 14.4


def test_a_handful_of_requests_raises_no_alert() -> None:
    """Four failures of four requests in a night are no burn: of so few nothing can be told."""
    made = counts()
    for n in range(4):
        made.add(T0 + 7 * n, {NAME: (0, 1)})
    assert standing(made, T0 + 40 * DAY)[1] is Burn.NONE


def test_alerts_scale_with_the_window_and_drop_out_where_they_would_be_noise() -> None:
    """Each alert stands for the same share of the budget; those shorter than telemetry can tell are left out."""
    assert MONTHLY.rules == RULES
    week = Objective("w", "catalog", "availability", 0.99, 7 * DAY)
    assert [round(r.long_s / week.window_s * r.factor, 3) for r in week.rules] == [0.02, 0.05, 0.1, 0.1]
    hour = Objective("h", "catalog", "availability", 0.99, HOUR)
    assert hour.rules == ()
    assert judge(hour, (Tally(HOUR, 97, 100, HOUR),)).remaining == pytest.approx(-2.0)


@given(st.floats(float(BOUNDS_S[0]), float(BOUNDS_S[-1])))
def test_a_threshold_is_counted_with_whole_buckets(threshold_s: float) -> None:
    """What is counted as fast was never slower than declared, and a declared bound is counted exactly."""
    what = Objective("l", "catalog", "latency", 0.99, DAY, threshold_s=threshold_s)
    assert what.effective_s <= threshold_s * (1 + 1e-6)
    exact = Objective("l", "catalog", "latency", 0.99, DAY, threshold_s=what.effective_s)
    assert exact.buckets == what.buckets
    assert exact.counted == what.counted


def test_the_rings_reach_every_window_there_may_be() -> None:
    """The longest window an objective may have is counted, in whole slots."""
    made = counts()
    made.add(T0, {NAME: (1, 1)})
    assert tally(made, T0 + 89 * DAY, 90 * DAY).valid == 1
    assert WIDTHS[-1][1] == 90 * DAY
