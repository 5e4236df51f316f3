"""The arithmetic of the measurements, and what they say of their targets."""

import json
import math

import pytest

from agent.telemetry.schema import ExportRequest
from simulations.bench.__main__ import encoded, verdict
from simulations.bench.agent_cost import Cost, export, table
from simulations.bench.figures import Table, Target, quantile, ratio
from simulations.bench.overhead import FIBRIN, PAIR, Sample
from simulations.bench.overhead import table as overhead_table


@pytest.mark.parametrize(("q", "expected"), [(0.0, 1.0), (0.5, 50.0), (0.99, 99.0), (1.0, 100.0)])
def test_quantile_is_a_value_seen(q: float, expected: float) -> None:
    """A quantile is the smallest value that covers its share."""
    assert quantile([float(k) for k in range(100, 0, -1)], q) == expected


def test_quantile_of_nothing() -> None:
    """Nothing measured is not a number, never zero, and holds no target."""
    assert math.isnan(quantile([], 0.99))
    assert not Target("p99", quantile([], 0.99), 30).held


def test_ratio_pairs_neighbouring_rounds() -> None:
    """A slow moment that hits both of a pair leaves the ratio alone."""
    found = ratio([2.0, 20.0, 3.3], [2.0, 10.0, 3.0])
    assert (found.median, found.low, found.high) == pytest.approx((1.1, 1.0, 2.0))


MISSED = Table("t", ("a",), (("1",),), targets=(Target("p50", 1, 2, " ms"), Target("p99", 31, 30, " ms")))


def test_a_missed_target_is_said_and_ends_with_1(capsys: pytest.CaptureFixture[str]) -> None:
    """A missed target stands under the table, on stderr with the measurement's name, and in the exit code."""
    assert "p50 ≤ 2 ms: held (1 ms)" in MISSED.text()
    assert "p99 ≤ 30 ms: MISSED (31 ms)" in MISSED.text()
    assert verdict({"fine": Table("t", ("a",), ()), "slow": MISSED}) == 1
    assert capsys.readouterr().err == "bench slow: p99 ≤ 30 ms: MISSED (31 ms)\n"


def test_too_few_samples_judge_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    """A quick run neither holds nor misses a target, and says so."""
    quick = Table(MISSED.title, MISSED.columns, MISSED.rows, "", MISSED.targets, judged=False)
    assert "held" not in quick.text()
    assert "MISSED" not in quick.text()
    assert "too few samples" in quick.text()
    assert verdict({"quick": quick}) == 0
    assert not capsys.readouterr().err
    assert json.loads(json.dumps(encoded(quick)))["targets"][1]["held"] is None


def test_overhead_compares_within_a_round() -> None:
    """The ratio is that of neighbours in one round, not of medians over rounds."""
    rounds = [
        {name: Sample(slow * factor, slow * factor, slow * factor, 1.0, 1500.0) for name, factor in ways.items()}
        for slow, ways in (
            (1.0, {"direct": 0.1, PAIR: 1.0, FIBRIN: 1.02}),
            (9.0, {"direct": 0.1, PAIR: 1.0, FIBRIN: 1.04}),
            (2.0, {"direct": 0.1, PAIR: 1.0, FIBRIN: 1.06}),
        )
    ]
    found = overhead_table(rounds, {PAIR: 0.0, FIBRIN: 0.0}, 1500, judged=True)
    assert [target.figure for target in found.targets] == pytest.approx([1.04] * 3)
    assert not found.missed


def test_agent_cost_is_split() -> None:
    """What neither rests nor decodes nor observes is left to the channel and the detectors."""
    found = table([Cost(0, 0.01, 0, 0), Cost(1000, 0.21, 0.05, 0.04)], judged=True)
    assert found.rows[1] == ("1000", "50", "0.210", "0.050", "0.040", "0.110", "0.210")


def test_export_has_its_series() -> None:
    """A synthetic report holds a histogram of plain answers for each of its twenty series."""
    request = ExportRequest.FromString(export(3, 1000.0))
    metrics = request.resource_metrics[0].scope_metrics[0].metrics
    assert sum(len(m.sum.data_points) + len(m.histogram.data_points) for m in metrics) == 20
