"""What every detector of the mesh promises, whatever its signal: one suite, played with traffic that only its signal tells apart."""

from __future__ import annotations

import doctest
import importlib
import math
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest

import models.detect
from models.detect import DetectorBank, FalseAlarmBudget
from models.incident import Anomaly, Signal
from models.signals import BUCKETS, Outcomes, Saturation, Series, Side

from .conftest import START, TICK_S, outcomes

SERVICES = 7
QUIET_TICKS = 330
Found = tuple[Anomaly, ...]


@dataclass(frozen=True, slots=True)
class Telemetry:
    """One tick."""

    outcomes: dict[Series, Outcomes]
    saturation: tuple[Saturation, ...] = ()


def tick(
    rng: np.random.Generator,
    *,
    errors: float = 0.0,
    slower: float = 1.0,
    share: float = 1.0,
    full: float = 0.1,
    scale: float = 1.0,
) -> Telemetry:
    """Draw a tick of a mesh of seven services, of which the first may be sick; `scale` slows all of them alike."""
    found = {}
    for s in range(SERVICES):
        sick = s == 0
        requests = int(rng.poisson(5 * (share if sick else 1.0)))
        one = outcomes(
            rng, requests, errors=errors if sick else 0.0, median_s=0.02 * scale, slower=slower if sick else 1.0
        )
        found[Series(Side.SERVER, "web", f"s{s}", "v1", f"s{s}-1", f"s{s}-1")] = one
    return Telemetry(found, (Saturation("s0-1", 100 * full, 100),))


Play = Callable[[np.random.Generator, bool], Telemetry]
SICK: dict[Signal, Play] = {
    Signal.ERRORS: lambda rng, sick: tick(rng, errors=0.5 if sick else 0.0),
    Signal.LATENCY: lambda rng, sick: tick(rng, slower=10.0 if sick else 1.0),
    Signal.TRAFFIC: lambda rng, sick: tick(rng, share=0.02 if sick else 1.0),
    Signal.SATURATION: lambda rng, sick: tick(rng, full=1.0 if sick else 0.1),
}
every_signal = pytest.mark.parametrize("signal", list(Signal))


def ticks(signal: Signal, seed: int, sick_from: int = QUIET_TICKS, length: int = QUIET_TICKS + 90) -> list[Telemetry]:
    """Return seeded ticks that turn sick."""
    rng = np.random.default_rng(seed)
    return [SICK[signal](rng, k >= sick_from) for k in range(length)]


def play(bank: DetectorBank, seen: list[Telemetry], first: int = 0) -> list[Found]:
    """Feed ticks from number `first` on; return what alarmed in each."""
    return [bank.update(START + TICK_S * (first + k), one.outcomes, one.saturation) for k, one in enumerate(seen)]


@every_signal
def test_it_alarms_after_the_onset_and_about_the_sick_one_only(signal: Signal) -> None:
    """Nothing before the fault, then the sick service by the right signal, with finite numbers in their units."""
    found = play(DetectorBank(), ticks(signal, 1))
    assert not any(found[:QUIET_TICKS])
    alarms = [a for one in found[QUIET_TICKS:] for a in one]
    assert {(a.series.callee or a.series.instance.partition("-")[0], a.signal) for a in alarms} == {("s0", signal)}
    for anomaly in alarms:
        assert all(math.isfinite(n) for n in (anomaly.score, anomaly.observed, anomaly.expected, anomaly.onset))
        assert START + TICK_S * (QUIET_TICKS - 3) <= anomaly.onset <= anomaly.at


@every_signal
def test_it_is_causal(signal: Signal) -> None:
    """What it says up to a tick, and all that it knows then, does not depend on what comes later."""
    one, other = DetectorBank(), DetectorBank()
    seen, until = ticks(signal, 2), QUIET_TICKS + 20
    changed = seen[:until] + ticks(signal, 99, sick_from=0)[until:]
    first, second = play(one, seen[:until]), play(other, changed[:until])
    assert first == second
    assert one.save() == other.save()
    play(other, changed[until:], until)
    assert one.save() != other.save()


@every_signal
def test_it_is_deterministic_and_its_state_survives_bit_by_bit(signal: Signal) -> None:
    """Saved and restored at any moment (before, within and after an episode) it goes on as if nothing had happened."""
    seen = ticks(signal, 3)
    whole = DetectorBank()
    expected = play(whole, seen)
    parted, done = DetectorBank(), []
    for first, last in (
        (0, 100),
        (100, QUIET_TICKS + 2),
        (QUIET_TICKS + 2, QUIET_TICKS + 80),
        (QUIET_TICKS + 80, len(seen)),
    ):
        done += play(parted, seen[first:last], first)
        restored = DetectorBank()
        restored.restore(parted.save())
        assert restored.save() == parted.save()
        parted = restored
    assert done == expected
    assert parted.active == whole.active


@every_signal
def test_missing_data_is_no_evidence(signal: Signal) -> None:
    """Ticks without telemetry, empty outcomes and lost histograms raise no alarm, and the fault is found afterwards."""
    bank, seen = DetectorBank(), ticks(signal, 4)
    alarms = play(bank, seen[:QUIET_TICKS])
    gap = [Telemetry({}), Telemetry({s: Outcomes() for s in seen[0].outcomes})] * 20
    alarms += play(bank, gap, QUIET_TICKS)
    bare = [Telemetry({s: Outcomes(o.requests, o.errors) for s, o in one.outcomes.items()}) for one in seen[:20]]
    alarms += play(bank, bare, QUIET_TICKS + 40)
    assert not any(alarms)
    assert any(play(bank, seen[QUIET_TICKS:], QUIET_TICKS + 60))


def test_latency_is_judged_by_ratio() -> None:
    """A mesh ten times as slow, down to its fault, gets the very same alarms: only ratios count above the absolute floor."""
    found = []
    for scale in (1.0, 10.0):
        rng = np.random.default_rng(5)
        seen = [tick(rng, slower=5.0 if k >= QUIET_TICKS else 1.0, scale=scale) for k in range(QUIET_TICKS + 20)]
        found.append([[(a.series, a.signal) for a in one] for one in play(DetectorBank(), seen)])
    assert any(found[0])
    assert found[0] == found[1]


def _steady(changes: Callable[[int, np.random.Generator], Telemetry], length: int, seed: int = 6) -> list[Found]:
    """Feed ticks whose numbers `changes` decides; return what alarmed."""
    rng = np.random.default_rng(seed)
    return play(DetectorBank(), [changes(k, rng) for k in range(length)])


def _service(rng: np.random.Generator, s: int, rate: float, **how: float) -> tuple[Series, Outcomes]:
    return Series(Side.SERVER, "web", f"s{s}", "v1", f"s{s}-1", f"s{s}-1"), outcomes(rng, int(rng.poisson(rate)), **how)


@pytest.mark.parametrize("factor", [10.0, 0.1])
def test_a_change_of_load_alone_is_no_anomaly(factor: float) -> None:
    """Ten times the load, or a tenth of it, from one tick on, errors and latencies as before: no alarm."""

    def changes(k: int, rng: np.random.Generator) -> Telemetry:
        rate = 6.0 * (factor if k >= 300 else 1.0)
        return Telemetry(dict(_service(rng, s, rate, errors=0.002) for s in range(SERVICES)))

    assert not any(_steady(changes, 420))


def test_slow_drift_is_learnt() -> None:
    """Latency that doubles within four minutes, in one service alone, raises no alarm."""

    def changes(k: int, rng: np.random.Generator) -> Telemetry:
        drift = 2 ** (max(0, k - 300) / 1200)
        return Telemetry(dict(_service(rng, s, 5.0, slower=drift if s == 0 else 1.0) for s in range(4)))

    assert not any(_steady(changes, 1500))


def test_daily_waves_are_no_anomaly() -> None:
    """Traffic that swings between a tenth and nearly twice its mean, each service at its own time, raises no alarm."""

    def changes(k: int, rng: np.random.Generator) -> Telemetry:
        wave = [1 + 0.9 * math.sin(2 * math.pi * (k / 1000 + s / SERVICES)) for s in range(SERVICES)]
        return Telemetry(dict(_service(rng, s, 6.0 * wave[s]) for s in range(SERVICES)))

    assert not any(_steady(changes, 1500))


def test_what_is_usual_at_this_hour_is_no_anomaly() -> None:
    """A batch job that ends at the same time every day is told on the first day and on no later one."""
    names = [Series(Side.SERVER, "web", f"s{s}", "v1", f"s{s}-1", f"s{s}-1") for s in range(SERVICES)]
    bank, told = DetectorBank(FalseAlarmBudget(ticks_per_s=1)), []
    for day in range(3):
        rng = np.random.default_rng(day)
        for k in range(900):
            job = 0.2 if k >= 150 else 20.0
            found = {name: Outcomes(int(rng.poisson(job if s == 0 else 20.0))) for s, name in enumerate(names)}
            told += [(day, a.series.callee) for a in bank.update(START + 86_400 * day + k, found)]
    assert told == [(0, "s0")]


def test_a_rollout_is_no_anomaly() -> None:
    """New instances start cold (their first requests ten times slower), old ones vanish: no alarm about either."""

    def changes(k: int, rng: np.random.Generator) -> Telemetry:
        found = dict(_service(rng, s, 5.0) for s in range(1, SERVICES))
        version, age = ("v1", k) if k < 300 else ("v2", k - 300)
        name = f"s0-{version}-1"
        cold = 10.0 if version == "v2" and age < 5 else 1.0
        found[Series(Side.ATTEMPT, "web", "s0", version, name, "web-1")] = outcomes(
            rng, int(rng.poisson(5)), slower=cold
        )
        return Telemetry(found)

    assert not any(_steady(changes, 400))


def test_a_backlog_of_telemetry_is_no_anomaly() -> None:
    """Five seconds of reports that arrive in one tick, at the usual error ratio and latencies, raise no alarm."""

    def changes(k: int, rng: np.random.Generator) -> Telemetry:
        held = 300 <= k % 350 < 325
        rate = 0.0 if held else 150.0 if k % 350 == 325 else 6.0
        return Telemetry({} if held else dict(_service(rng, s, rate, errors=0.005) for s in range(SERVICES)))

    assert not any(_steady(changes, 800))


def test_clocks_that_jump_are_no_anomaly() -> None:
    """An hour forwards, an hour back, the same moment twice: no alarm, and detection goes on."""
    bank, rng, at = DetectorBank(), np.random.default_rng(8), START
    for k in range(500):
        at += {200: 3600.0, 300: -3600.0, 400: 0.0}.get(k, TICK_S)
        one = tick(rng)
        assert bank.update(at, one.outcomes, one.saturation) == ()
    for _ in range(10):
        at += TICK_S
        if any(a.signal is Signal.ERRORS for a in bank.update(at, tick(rng, errors=0.5).outcomes)):
            return
    raise AssertionError("the fault after the jumps was not seen")


def test_a_young_series_is_believed_little() -> None:
    """The same failures speak less about a series of a few dozen requests than about one known for a minute."""
    scores = []
    for known in (5, 300):
        bank, rng = DetectorBank(), np.random.default_rng(9)
        series = Series(Side.SERVER, "web", "s0", "v1", "s0-1", "s0-1")
        for k in range(known):
            bank.update(START + TICK_S * k, {series: outcomes(rng, 6)})
        found: Found = ()
        for k in range(known, known + 20):
            found = found or bank.update(
                START + TICK_S * k, {series: Outcomes(6, 1, latency=np.zeros(BUCKETS, dtype=np.int64))}
            )
            if found:
                scores.append(k - known)
                break
    assert scores[0] > scores[1]


def test_every_example_in_a_docstring_is_true() -> None:
    """The examples of all modules of the package run as written."""
    tried = 0
    for info in pkgutil.iter_modules(models.detect.__path__, "models.detect."):
        result = doctest.testmod(importlib.import_module(info.name))
        assert result.failed == 0, info.name
        tried += result.attempted
    assert tried >= 10
