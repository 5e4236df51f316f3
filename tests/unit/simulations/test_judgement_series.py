from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from models.evaluation import make
from simulations.judgement import kpi, series

ALARM = 0.5


def test_generated_series_follow_from_their_seed() -> None:
    """The same seed gives the same series; labels lie inside them, in order, after the quiet start."""
    first, second = kpi.series(3, 8), kpi.series(3, 8)
    for a, b in zip(first, second, strict=True):
        np.testing.assert_array_equal(a.v, b.v)
        assert a.runs == b.runs
        assert all(0.15 * len(a.t) < x <= y < len(a.t) for x, y in a.runs)
        assert list(a.runs) == sorted(a.runs)
        assert np.isfinite(a.v).all()
    assert sum(len(s.runs) for s in first) > 0
    assert first[3].runs == ()


def test_hours_are_generated_as_well_as_minutes() -> None:
    """All three sampling steps occur, and a fault in hourly samples is shorter than the longest in minutes."""
    made = kpi.series(1, 24)
    assert {float(np.median(np.diff(one.t))) for one in made} == set(kpi.STEPS_S)
    hourly = [b - a for one in made if np.median(np.diff(one.t)) == kpi.STEPS_S[-1] for a, b in one.runs]
    assert hourly
    assert max(hourly) <= kpi.HOURLY * max(high for _, high in kpi.LENGTHS.values())


def test_many_injected_faults_are_alarmed_and_quiet_time_is_mostly_quiet() -> None:
    """A third of faults at least are seen at 0.5, though many repeat an earlier one; false alarms stay below one per thousand samples."""
    hit = total = false = samples = 0
    for one in kpi.series(3, 8):
        detector = make()
        alarms = [k for k, (t, v) in enumerate(zip(one.t, one.v, strict=True)) if detector.update(t, v) >= ALARM]
        alarms = [k for k in alarms if k >= 0.15 * len(one.t)]
        inside = [[k for k in alarms if a <= k <= b + 20] for a, b in one.runs]
        hit += sum(map(bool, inside))
        total += len(inside)
        false += len(alarms) - sum(map(len, inside))
        samples += len(one.t)
    assert hit >= total / 3
    assert 1000 * false / samples <= 1


def test_without_the_evaluator_the_script_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An absent corpus is no failure: the message names the missing files and the option."""
    assert series.main(["--data", str(tmp_path / "data" / "nab.npz")]) == 0
    told = capsys.readouterr().out
    assert "detect_eval.py" in told
    assert "--data" in told


def test_the_threshold_rule_waits_its_minute() -> None:
    """The peer in the table fires after 60 s outside the learnt range, not before, and stops when back."""
    rule = series.ThresholdRule()
    assert {rule.update(30.0 * k, float(k % 10)) for k in range(series.LEARN)} == {0.0}
    at = 30.0 * series.LEARN
    assert [rule.update(at + 30 * k, 99.0) for k in range(4)] == [0, 0, 1, 1]
    assert rule.update(at + 120, 5.0) == 0
