from __future__ import annotations

import json
import math
import pickle
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.detect.general import GeneralDetector
from models.detect.general_onset import HOLD, INCIDENT, MEMORY, Onset
from models.detect.general_records import HORIZON
from models.detect.general_usual import Usual
from models.detect.general_windows import RING, SCALES, Windows
from models.errors import InvalidInput
from models.evaluation import make

STEP_S = 300.0
ALARM = 0.5


def noise(samples: int, *, seed: int = 1, level: float = 50.0, daily: float = 20.0) -> list[float]:
    """Return a seasonal, noisy metric at one sample per five minutes."""
    random = Random(seed)
    return [level + daily * math.sin(2 * math.pi * k * STEP_S / 86_400) + random.gauss(0, 2) for k in range(samples)]


def scores(values: list[float], *, detector: GeneralDetector | None = None, start: int = 0) -> list[float]:
    """Return the scores of evenly spaced values."""
    detector = detector or make()
    return [detector.update(1.7e9 + STEP_S * (start + k), v) for k, v in enumerate(values)]


def learnt(samples: int = 3000) -> GeneralDetector:
    """Return a detector that saw ten quiet days."""
    detector = make()
    scores(noise(samples), detector=detector)
    return detector


@pytest.mark.parametrize(
    "fault",
    [
        [120.0],
        [-30.0],
        [x + 40 for x in noise(40, seed=2)],
        [Random(k).gauss(50, 25) for k in range(60)],
        [50.0 if k % 2 else 90.0 for k in range(30)],
    ],
    ids=["spike", "dip", "level shift", "noise", "burst"],
)
def test_an_unusual_regime_is_alarmed_while_it_lasts(fault: list[float]) -> None:
    """Every kind of break that operators label scores at least 0.5 before it is over."""
    assert max(scores(fault, detector=learnt(), start=3000)) >= ALARM


def test_a_missing_season_is_alarmed() -> None:
    """A day that stays at its night level is seen, although every value of it is common."""
    values = noise(4000)
    values[3456 + 72 : 3456 + 216] = [50 - 20 + Random(k).gauss(0, 2) for k in range(144)]
    assert max(scores(values)[3456:3700]) >= ALARM


def test_an_incident_has_no_echo() -> None:
    """Neither the return to normal nor the same hours of the next days alarm: what is usual does not learn an incident whole."""
    detector = learnt()
    incident = [x + 60 for x in noise(60, seed=2)]
    assert max(scores(incident, detector=detector, start=3000)) >= ALARM
    after = scores(noise(3060 + 900)[3060:], detector=detector, start=3060)
    assert max(after) < ALARM


def test_quiet_series_stay_quiet() -> None:
    """Twenty healthy seasonal series of two weeks raise at most one false alarm per series on average after the start."""
    alarms = sum(s >= ALARM for seed in range(20) for s in scores(noise(4000, seed=seed))[600:])
    assert alarms <= 20


def test_one_episode_is_one_alarm() -> None:
    """A lasting level shift is told once, not at every sample."""
    found = scores([x + 60 for x in noise(90, seed=3)], detector=learnt(), start=3000)
    assert sum(s >= ALARM for s in found) <= 3


def test_a_later_and_worse_phase_is_told_again() -> None:
    """An episode that returns larger after the hold is a new alarm."""
    detector = learnt()
    first = scores([100.0] * 5 + noise(HOLD + 20, seed=4), detector=detector, start=3000)
    second = scores([300.0], detector=detector, start=3000 + len(first))
    assert max(first) >= ALARM
    assert second[0] >= ALARM


def test_an_episode_is_told_again_only_when_a_decade_worse() -> None:
    """Within the hold a surprise passes only if it is ten times less likely than what was told; after it, any does."""
    onset = Onset()
    assert [onset.passes(decades) for decades in (3.0, 3.9, 4.1, 5.0)] == [True, False, True, False]
    assert not any(onset.passes(0.0) for _ in range(HOLD))
    assert onset.passes(1.0)


def test_a_record_is_forgotten() -> None:
    """What was the largest ever is news again after two horizons."""
    detector = make()
    random = Random(5)
    values = [random.gauss(10, 1) for _ in range(2 * HORIZON + 2000)]
    values[1000] = values[-1] = 40.0
    found = scores(values, detector=detector)
    assert found[1000] >= ALARM
    assert found[-1] >= ALARM


def test_an_incident_does_not_hide_the_next_of_its_size() -> None:
    """Two level shifts of the same size, a thousand samples apart, are both alarmed."""
    values = noise(6000)
    for start in (3000, 4000):
        values[start : start + 30] = [x + 40 for x in values[start : start + 30]]
    found = scores(values)
    assert max(found[3000:3030]) >= ALARM
    assert max(found[4000:4030]) >= ALARM


def test_what_comes_again_and_again_becomes_a_habit() -> None:
    """Of twenty equal spikes within a horizon the first ones are alarmed and the last ones are not."""
    values = noise(1000 + 20 * 200)
    spikes = range(1000, len(values), 200)
    for at in spikes:
        values[at] += 60
    found = scores(values)
    told = [found[at] >= ALARM for at in spikes]
    assert all(told[:2])
    assert not any(told[-8:])


def test_a_small_step_is_judged_by_the_noise_of_its_hour() -> None:
    """The same step is worth more where the series is calm of late than where it is restless, in any unit."""
    calm, restless = Usual(), Usual()
    random = Random(7)
    for k in range(2000):
        calm.ratio(random.gauss(0, 10 if k < 1000 else 1), 1e-12)
        restless.ratio(random.gauss(0, 10), 1e-12)
    assert calm.ratio(20.0, 1e-12) > 2 * restless.ratio(20.0, 1e-12) > 0
    assert calm.ratio(1e-13, 1e-12) == 0


def test_an_incident_is_counted_once_and_forgotten() -> None:
    """Surprises of one episode are one incident, smaller ones are none, and half is forgotten after some thousand samples."""
    onset = Onset()
    for decades in (INCIDENT - 1, INCIDENT + 1, INCIDENT + 3):
        onset.passes(decades)
    assert onset.incidents == pytest.approx(1, abs=0.01)
    for _ in range(int(MEMORY)):
        onset.passes(0.0)
    assert onset.incidents == pytest.approx(math.exp(-1), abs=0.01)


VALUES = st.lists(
    st.one_of(st.floats(allow_nan=True, allow_infinity=True), st.integers(-3, 3).map(float)), min_size=1, max_size=400
)


@settings(max_examples=40, deadline=None)
@given(VALUES, st.integers(0, 399))
def test_any_input_scores_between_0_and_1_and_never_looks_ahead(values: list[float], cut: int) -> None:
    """Whatever arrives, scores are in [0, 1], the same in every run, and those of a prefix are a prefix of the scores."""
    whole = scores(values)
    assert all(0 <= s <= 1 for s in whole)
    assert scores(values[:cut]) == whole[:cut]


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 1000), st.integers(-20, 20), st.integers(-1000, 1000))
def test_unit_and_origin_do_not_matter(seed: int, exponent: int, shift: int) -> None:
    """Another unit leaves every score as it was; another origin too, within rounding."""
    random = Random(seed)
    values = [random.choice([1.0, 1.0, 1.0, 5.0]) * random.gauss(20, 3) for _ in range(700)]
    plain = scores(values)
    assert scores([v * 2.0**exponent for v in values]) == plain
    assert scores([v + shift for v in values]) == pytest.approx(plain, abs=1e-6)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 1000), st.integers(1, 1500))
def test_saved_and_restored_bit_exactly(seed: int, cut: int) -> None:
    """A detector that was saved or pickled half-way continues with the very same scores and state."""
    random = Random(seed)
    values = [random.paretovariate(2) for _ in range(cut + 200)]
    detector = make()
    scores(values[:cut], detector=detector)
    copy = make()
    copy.restore(detector.save())
    twin = pickle.loads(pickle.dumps(detector))
    rest = [scores(values[cut:], detector=d, start=cut) for d in (detector, copy, twin)]
    assert rest[0] == rest[1] == rest[2]
    assert detector.save() == copy.save() == twin.save()


def test_missing_samples_change_nothing() -> None:
    """NaN and infinite values and times score 0 and leave the state as it was."""
    detector = learnt(700)
    before = detector.save()
    assert [detector.update(t, v) for t, v in ((1.7e9, math.nan), (1.7e9, math.inf), (math.nan, 1.0))] == [0, 0, 0]
    assert detector.save() == before


def test_gaps_duplicates_and_steps_back_in_time_are_harmless() -> None:
    """A day lost, a time told twice and a clock set back raise no alarm of their own."""
    detector = make()
    times = [1.7e9 + STEP_S * k for k in range(4000)]
    del times[2000:2288]
    times.insert(2500, times[2499])
    times.insert(3000, times[2990])
    random = Random(6)
    values = [50 + 20 * math.sin(2 * math.pi * at / 86_400) + random.gauss(0, 2) for at in times]
    found = [detector.update(at, value) for at, value in zip(times, values, strict=True)]
    assert sum(s >= ALARM for s in found[1999:]) <= 1


@pytest.mark.parametrize("value", [0.0, 45.0, 1e140, -1e-300, 0.1])
def test_a_constant_series_is_never_alarmed(value: float) -> None:
    """No score above 0, and its first change is an alarm."""
    detector = make()
    assert set(scores([value] * 1500, detector=detector)) == {0.0}
    assert detector.update(1.8e9, value / 2 + 7) >= ALARM


def test_one_absurd_value_does_not_blind_the_windows() -> None:
    """After a value of 1e18 has left the ring, window sums are as exact as before it."""
    windows = Windows(SCALES)
    for x in [0.1] * 50 + [1e18] + [0.1] * (2 * RING):
        sums = windows.push(x)
    assert sums == pytest.approx([0.1 * w for w in SCALES], rel=1e-12)


def test_the_state_is_small() -> None:
    """Whatever it saw, a detector keeps less than 50 kB."""
    assert len(learnt(5000).save()) < 50_000


@pytest.mark.parametrize("damage", ["cut", "format", "ring", "bins", "empty", "lost", "more"])
def test_a_damaged_state_is_refused_whole(damage: str) -> None:
    """An unreadable state raises InvalidInput and the detector stays as it was."""
    detector = learnt(300)
    saved = detector.save()
    state = json.loads(saved)
    if damage == "format":
        state["format"] = 99
    elif damage == "ring":
        state["views"]["values"]["ring"].pop()
    elif damage == "bins":
        state["views"]["profile"]["means"].append(0.0)
    elif damage == "empty":
        state = {}
    elif damage == "lost":
        del state["views"]["profile"]
    elif damage == "more":
        state["views"]["moods"] = 1
    bad = saved[:-5] if damage == "cut" else json.dumps(state).encode()
    with pytest.raises(InvalidInput, match="cannot be read"):
        detector.restore(bad)
    assert detector.save() == saved
