"""The general localiser on meshes whose fault is known because the mesh is written here."""

from __future__ import annotations

import doctest

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.errors import InvalidInput
from models.evaluation import rank
from models.localise import general, general_contrast, general_names
from models.localise.general import Samples, blame
from models.localise.general_names import Kind, home, read

BEFORE, AFTER = 200, 5
T: npt.NDArray[np.float64] = 60.0 * np.arange(BEFORE + AFTER, dtype=np.float64)
INJECT = float(T[BEFORE])
CALLS = {"web": ("shop", "ads"), "shop": ("cart", "pay"), "cart": ("db",), "pay": ("db",), "ads": (), "db": ()}
EDGES = [(a, b) for a, callees in CALLS.items() for b in callees]
RATES = {"web": 100.0, "shop": 60.0, "ads": 40.0, "cart": 50.0, "pay": 10.0, "db": 60.0}
OWN_S = {"web": 0.02, "shop": 0.03, "ads": 0.01, "cart": 0.01, "pay": 0.05, "db": 0.004}
Series = npt.NDArray[np.float64]


def step(size: float) -> Series:
    """A jump of `size` at the failure."""
    return np.where(T >= INJECT, size, 0.0)


def mesh(
    seed: int = 0,
    *,
    slower: dict[str, float] | None = None,
    failing: dict[str, float] | None = None,
    cpu: dict[str, float] | None = None,
    traffic: float = 1.0,
) -> dict[str, Samples]:
    """Metrics of a six-service mesh in which waiting and failures travel to the callers as they do."""
    rng = np.random.default_rng(seed)
    found: dict[str, Samples] = {}
    seconds: dict[str, Series] = {}
    failed: dict[str, Series] = {}
    for name in ("db", "ads", "cart", "pay", "shop", "web"):
        n = len(T)
        rate = RATES[name] * np.where(T >= INJECT, traffic, 1.0) * rng.normal(1, 0.05, n)
        own = OWN_S[name] * np.exp(0.05 * rng.standard_normal(n)) + step((slower or {}).get(name, 0.0))
        share = np.abs(0.001 * rng.standard_normal(n)) + step((failing or {}).get(name, 0.0))
        for callee in CALLS[name]:
            per_request = RATES[callee] / RATES[name] * (0.5 if callee == "db" else 1.0)
            own = own + per_request * seconds[callee]
            share = share + np.minimum(1.0, per_request) * failed[callee]
        seconds[name], failed[name] = own, np.minimum(1.0, share)
        found[f"{name}|latency_Average"] = (T, own)
        found[f"{name}|availability_Average"] = (T, 100 * (1 - failed[name]))
        found[f"{name}|requests_Sum"] = (T, rate)
        busy = 20 * rate / RATES[name] + rng.normal(0, 1, n) + step((cpu or {}).get(name, 0.0))
        found[f"{name}|cpu"] = (T, busy)
    return found


@pytest.mark.parametrize("sick", sorted(CALLS))
def test_whoever_became_slow_is_named_and_not_who_waits(sick: str) -> None:
    """Any service that gets slower by itself is first, wherever it stands in the graph."""
    assert rank(mesh(slower={sick: 0.2}), INJECT, EDGES, ("web", "latency"))[0] == sick


@pytest.mark.parametrize("sick", sorted(CALLS))
def test_whoever_began_to_fail_is_named_and_not_who_passes_it_on(sick: str) -> None:
    """Any service that begins to fail by itself is first, wherever it stands in the graph."""
    assert rank(mesh(failing={sick: 0.3}), INJECT, EDGES, ("web", "availability"))[0] == sick


def test_two_faults_stand_first_and_second() -> None:
    """Two independent slow services both stand before whoever waits for them."""
    found = rank(mesh(slower={"ads": 0.3, "pay": 0.8}), INJECT, EDGES, ("web", "latency"))
    assert set(found[:2]) == {"ads", "pay"}


def test_the_alarms_signal_decides_between_two_faults() -> None:
    """Of a slow and a failing service the one that explains the alarm's signal is first."""
    both = mesh(slower={"ads": 0.3}, failing={"cart": 0.3})
    assert rank(both, INJECT, EDGES, ("web", "latency"))[0] == "ads"
    assert rank(both, INJECT, EDGES, ("web", "availability"))[0] == "cart"


def test_a_busy_processor_without_more_traffic_is_a_cause() -> None:
    """A processor that got busy by itself names its service when latency alone says nothing."""
    assert rank(mesh(cpu={"cart": 60}), INJECT, EDGES)[0] == "cart"


def test_more_traffic_everywhere_blames_nobodys_processor() -> None:
    """Processors that work in proportion to tripled traffic show no strength."""
    found = blame(mesh(traffic=3.0), INJECT, EDGES)
    assert max(b.strengths[Kind.CPU] for b in found) < 3


def test_a_caller_that_stops_calling_is_named_and_not_its_idle_callees() -> None:
    """Callees that lose their traffic while their caller's goes on are not at fault."""
    metrics = mesh()
    for callee in ("cart", "pay"):
        t, v = metrics[f"{callee}|requests_Sum"]
        metrics[f"{callee}|requests_Sum"] = (t, np.where(t >= INJECT, 0.1 * v, v))
    assert rank(metrics, INJECT, EDGES)[0] == "shop"


def test_a_service_that_falls_silent_is_named() -> None:
    """All metrics of one service ending at the failure is evidence against it."""
    metrics = mesh()
    for name, (t, v) in metrics.items():
        if name.startswith("pay|"):
            metrics[name] = (t, np.where(t >= INJECT, np.nan, v))
    found = blame(metrics, INJECT, EDGES)
    assert found[0].service == "pay"
    assert found[0].strengths["silence"] > 3


def test_a_level_that_changed_long_before_is_not_the_failure() -> None:
    """A memory level that jumped an hour before the failure and stayed says nothing."""
    metrics = mesh(slower={"cart": 0.2})
    metrics["ads|mem"] = (T, np.where(T >= INJECT - 3600, 90.0, 30.0))
    found = {b.service: b for b in blame(metrics, INJECT, EDGES)}
    assert found["ads"].strengths[Kind.MEMORY] == 0


def test_a_delay_on_the_wire_names_the_end_that_all_slow_calls_share() -> None:
    """Callers see a service slow that sees itself fast: the network at that service, shared by all its edges."""
    rng = np.random.default_rng(3)
    metrics: dict[str, Samples] = {}
    for caller, callee in EDGES:
        seen = 0.01 * np.exp(0.05 * rng.standard_normal(len(T)))
        metrics[f"{callee}|des_p50<{caller}"] = (T, seen)
        metrics[f"{callee}|sou_p50<{caller}"] = (T, seen + 0.001 + step(0.2 if "shop" in {caller, callee} else 0.0))
    strengths = {b.service: b.strengths["wire"] for b in blame(metrics, INJECT, EDGES)}
    assert max(strengths, key=lambda s: strengths[s]) == "shop"


def test_pods_are_found_by_their_services_edges() -> None:
    """Metrics by pod and edges by service fit together; the sick pod is first."""
    renamed = {f"{n.split('|')[0]}-579b9bff58-t2dbm|{n.split('|')[1]}": s for n, s in mesh(slower={"db": 0.1}).items()}
    assert rank(renamed, INJECT, EDGES, ("web-579b9bff58-t2dbm", "latency"))[0] == "db-579b9bff58-t2dbm"
    assert home("ts-order-service") == "ts-order-service"


@pytest.mark.parametrize("kind", ["latency", "requests", "cpu"])
@pytest.mark.parametrize("factor", [1e-3, 1e6])
def test_units_do_not_matter(kind: str, factor: float) -> None:
    """Milliseconds or seconds, requests per second or per minute: the order is the same."""
    metrics = mesh(slower={"cart": 0.1}, cpu={"cart": 20})
    other = {n: (t, v * factor if n.split("|")[1].startswith(kind) else v) for n, (t, v) in metrics.items()}
    target = ("web", "latency")
    assert rank(other, INJECT, EDGES, target) == rank(metrics, INJECT, EDGES, target)


def test_the_order_of_series_samples_and_edges_does_not_matter() -> None:
    """Shuffled input gives the same scores."""
    metrics = mesh(slower={"pay": 0.1})
    turn = np.random.default_rng(1).permutation(len(T))
    shuffled = {n: (metrics[n][0][turn], metrics[n][1][turn]) for n in reversed(list(metrics))}
    assert blame(shuffled, INJECT, EDGES[::-1]) == blame(metrics, INJECT, EDGES)


@pytest.mark.parametrize("gone", ["requests_Sum", "latency_Average", "availability_Average", "cpu"])
def test_a_kind_of_metric_may_be_missing_at_the_sick_service(gone: str) -> None:
    """Without any one of its metrics a service that is slow, failing and busy is still among the first two."""
    metrics = mesh(slower={"cart": 0.3}, failing={"cart": 0.2}, cpu={"cart": 60})
    del metrics[f"cart|{gone}"]
    assert "cart" in rank(metrics, INJECT, EDGES)[:2]


def test_cycles_and_self_calls_end() -> None:
    """Services that call each other or themselves are ranked like any other."""
    cyclic = [*EDGES, ("db", "web"), ("db", "db"), ("cart", "shop"), ("nobody", "web")]
    assert sorted(rank(mesh(slower={"cart": 0.2}), INJECT, cyclic)) == sorted(CALLS)


@pytest.mark.parametrize("sick", sorted(CALLS))
def test_without_a_graph_the_greatest_relative_change_leads(sick: str) -> None:
    """No edges: waiting dilutes on the way to the callers, so the one that got slow or failing still stands first."""
    assert rank(mesh(slower={sick: 0.2}), INJECT, [])[0] == sick
    assert rank(mesh(failing={sick: 0.3}), INJECT, [])[0] == sick


def test_arrays_of_unequal_length_are_refused_with_the_series_name() -> None:
    """The error names the series and both lengths."""
    with pytest.raises(InvalidInput, match=r"cart\|cpu.*\(3,\).*\(2,\)"):
        rank({"cart|cpu": (np.zeros(3), np.zeros(2))}, 0.0, [])


def test_nothing_in_nothing_out() -> None:
    """No metrics give an empty ranking."""
    assert rank({}, 0.0, EDGES) == []


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("a|latency-90", Kind.LATENCY),
        ("a|server_p90", Kind.LATENCY),
        ("a|client_p90", Kind.ASIDE),
        ("a|availability_Average", Kind.AVAILABILITY),
        ("a|error", Kind.ERRORS),
        ("a|workload", Kind.TRAFFIC),
        ("a|container_cpu_usage", Kind.CPU),
        ("a|node_cpu", Kind.ASIDE),
        ("a|diskio", Kind.DISK),
        ("a|mem", Kind.MEMORY),
        ("a|net_in", Kind.ASIDE),
        ("a|socket", Kind.OTHER),
        ("a", Kind.OTHER),
    ],
)
def test_metric_names_are_read(name: str, kind: Kind) -> None:
    """Well-known spellings of exporters are understood; the rest is `other`."""
    assert read(name).kind is kind


@pytest.mark.parametrize("module", [general, general_contrast, general_names])
def test_the_examples_in_the_docstrings_hold(module: object) -> None:
    """Every example shown is run."""
    result = doctest.testmod(module)  # type: ignore[arg-type]
    assert result.attempted > 0
    assert result.failed == 0


@settings(max_examples=50, deadline=None)
@given(
    values=st.lists(st.floats(allow_nan=True, allow_infinity=False, width=32), min_size=1, max_size=30),
    names=st.lists(
        st.sampled_from(["a|latency", "a|x", "b|requests", "b|p99", "c|error", "c|availability"]), max_size=6
    ),
    inject=st.floats(-5, 40),
    edges=st.lists(st.tuples(st.sampled_from("abcd"), st.sampled_from("abcd")), max_size=6),
)
def test_degenerate_metrics_never_raise(
    values: list[float], names: list[str], inject: float, edges: list[tuple[str, str]]
) -> None:
    """Whatever the numbers, gaps and graph, every service is ranked once."""
    t = np.arange(float(len(values)))
    found = rank({n: (t, np.asarray(values)) for n in names}, inject, edges, ("a", None))
    assert sorted(found) == sorted({n.split("|")[0] for n in names})


@pytest.mark.parametrize("lost", [np.nan, np.inf])
def test_a_sample_without_a_time_changes_nothing_else(lost: float) -> None:
    """One time that is no number takes its sample away and leaves the ranking as it was."""
    t = np.arange(60.0)
    quiet = np.tile([0.10, 0.11], 30)
    slow = np.where(t < 50, quiet, 0.5)
    torn = np.where(t == 3, lost, t)
    metrics = {"a|latency": (torn, slow), "b|latency": (t, slow), "c|latency": (t, quiet)}
    assert [b.service for b in blame(metrics, 50, [("a", "b")])] == ["b", "a", "c"]


@pytest.mark.parametrize("moment", [np.nan, np.inf, -np.inf])
def test_a_failure_at_no_time_is_refused(moment: float) -> None:
    """Without a time of the failure there is no before and after to compare."""
    with pytest.raises(InvalidInput, match="inject_time"):
        blame({"a|latency": (np.arange(9.0), np.ones(9))}, moment, [])
