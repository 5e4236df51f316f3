"""The arithmetic of the measurements."""

import math

import pytest

from agent.telemetry.schema import ExportRequest
from simulations.bench.agent_cost import export
from simulations.bench.figures import Table, quantile, ratio


@pytest.mark.parametrize(("q", "expected"), [(0.0, 1.0), (0.5, 50.0), (0.99, 99.0), (1.0, 100.0)])
def test_quantile_is_a_value_seen(q: float, expected: float) -> None:
    """A quantile is the smallest value that covers its share."""
    assert quantile([float(k) for k in range(100, 0, -1)], q) == expected


def test_quantile_of_nothing() -> None:
    """Nothing measured is not a number, never zero."""
    assert math.isnan(quantile([], 0.99))


def test_ratio_pairs_neighbouring_rounds() -> None:
    """A slow moment that hits both of a pair leaves the ratio alone."""
    found = ratio([2.0, 20.0, 3.3], [2.0, 10.0, 3.0])
    assert (found.median, found.low, found.high) == pytest.approx((1.1, 1.0, 2.0))


def test_table_says_when_a_target_is_missed() -> None:
    """A missed target is written under the table."""
    assert "TARGET MISSED" in Table("t", ("a",), (("1",),), "target ≤ 0", ok=False).text()


def test_export_has_its_series() -> None:
    """A synthetic report holds ten counters and ten histograms."""
    request = ExportRequest.FromString(export(3, 1000.0))
    metrics = request.resource_metrics[0].scope_metrics[0].metrics
    assert sum(len(m.sum.data_points) + len(m.histogram.data_points) for m in metrics) == 20
