"""The quiet half hour: load that comes and goes."""

from __future__ import annotations

import doctest

import pytest

from simulations.soak import quiet


def test_load_rises_and_falls_with_the_day_and_jumps_now_and_then() -> None:
    """A step lasts half a minute, every seventh is as high as noon, the night is empty, and the time is filled exactly."""
    found = list(quiet.steps(1810.0))
    assert sum(seconds for seconds, _ in found) == pytest.approx(1810.0)
    assert {seconds for seconds, _ in found[:-1]} == {quiet.STEP_S}
    assert {found[k][1] for k in range(6, 60, 7)} == {quiet.HIGHEST_RPS}
    assert found[0][1] == found[40][1] == 0.0
    assert max(rps for _, rps in found) == quiet.HIGHEST_RPS
    assert doctest.testmod(quiet).failed == 0
