"""Since when things are wrong."""

from __future__ import annotations

from agent.thinking import beginning
from models.incident import Anomaly, Signal
from models.signals import Series, Side


def alarm(onset: float, score: float) -> Anomaly:
    """Return an anomaly that began at `onset`."""
    series = Series(Side.CLIENT, "shop", "cart", "", "", "")
    return Anomaly(
        series, Signal.ERRORS, at=onset + 1, onset=onset, observed=0.5, expected=0.0, score=score, requests=50
    )


def test_one_stray_error_before_the_fault_is_not_its_beginning() -> None:
    """What was well until most of the evidence begins must not count as health."""
    assert beginning([alarm(75.0, 11.0), alarm(100.0, 40.0), alarm(100.4, 30.0)]) == 100.0
    assert beginning([alarm(100.0, 12.0)]) == 100.0
    assert beginning([alarm(99.0, 0.0), alarm(100.0, 0.0)]) == 99.0, "without any weight the earliest"
