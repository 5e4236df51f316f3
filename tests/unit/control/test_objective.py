"""Reading `kind: ServiceLevelObjective`: every field, and what is wrong is told with its place."""

from __future__ import annotations

import pytest

from control.resources.loading import Declared, load
from control.resources.objective import ServiceLevelObjective, objective
from control.resources.validation import check, route_tables, warnings
from models.errors import InvalidInput
from models.objective import Objective

HEAD = "apiVersion: fibrin.dev/v1\nkind: ServiceLevelObjective\nmetadata: {name: pay}\nspec:\n"
BASE = HEAD + "  service: checkout\n  objective: 99.9%\n"
ANSWERS = BASE + "  signal: availability\n"
FAST = BASE + "  signal: latency\n  threshold: 200ms\n"
ROUTED = """\
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: checkout}
spec:
  hosts: [checkout]
  http:
  - {match: [{uri: {prefix: /pay}}], route: [{destination: {host: checkout}}]}
  - {name: rest, route: [{destination: {host: checkout}}]}
"""


def read(*texts: str) -> tuple[Declared, ...]:
    """Return the resources in the texts."""
    items, _ = load([(f"{n}.yaml", text) for n, text in enumerate(texts)])
    return items


def counted(text: str, *others: str) -> Objective:
    """Return the objective that the agent gets."""
    item, *rest = read(text, *others)
    assert isinstance(item.model, ServiceLevelObjective)
    tables = route_tables({each.key: each for each in rest})
    return objective(item.name, "checkout", item.model.spec, tables, generation=2, created_at=5.0)


def test_every_field_reaches_the_objective() -> None:
    """Each field of the schema lands where the agent counts it, in seconds and shares; the window is 30 days unless said."""
    assert counted(ANSWERS) == Objective(
        "pay", "checkout", "availability", 0.999, 2_592_000.0, generation=2, created_at=5.0
    )
    found = counted(FAST + "  window: 6h\n  route: {name: rest}\n", ROUTED)
    assert (found.signal, found.threshold_s, found.window_s, found.route) == ("latency", 0.2, 21_600.0, "rest")
    assert counted(ANSWERS + "  route: {prefix: /pay}\n", ROUTED).route == "route-0"


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        (BASE, 4, "signal"),
        (ANSWERS.replace("99.9%", "100%"), 6, "leaves no budget"),
        (ANSWERS.replace("99.9%", "0.1%"), 6, "below 50%"),
        (ANSWERS.replace("99.9%", "0.999"), 6, "percentage"),
        (ANSWERS + "  window: 30m\n", 8, "30d, 7d or 6h"),
        (ANSWERS + "  window: 91d\n", 8, "not between 1h and 90d"),
        (ANSWERS + "  threshold: 1s\n", 4, "no meaning"),
        (BASE + "  signal: latency\n", 4, "needs a `threshold`"),
        (FAST.replace("200ms", "5m"), 4, "told apart"),
        (ANSWERS + "  windw: 7d\n", 8, "unknown field"),
        (ANSWERS + "  route: {}\n", 8, "give one of"),
        (ANSWERS.replace("service: checkout", "service: '*'"), 5, "wildcard"),
        (ANSWERS.replace("fibrin.dev/v1", "v1"), 1, "not an apiVersion"),
    ],
)
def test_what_is_wrong_is_told_with_its_place(text: str, line: int, says: str) -> None:
    """File, line and what was wanted, for every sort of mistake."""
    with pytest.raises(InvalidInput) as caught:
        load([("o.yaml", text)])
    (problem, *_) = caught.value.problems
    assert (problem.source, problem.line) == ("o.yaml", line), str(problem)
    assert says in str(problem)


def test_a_route_must_be_a_rule_of_the_route_table() -> None:
    """Requests are counted per rule: a prefix that no rule matches is refused with those there are, and so is a missing table."""
    wrong, table = read(ANSWERS + "  route: {prefix: /pai}\n", ROUTED)
    (problem,) = check({wrong.key: wrong, table.key: table})
    assert "no rule of the VirtualService of checkout matches the prefix `/pai`" in str(problem)
    assert "/pay" in problem.hint
    assert problem.line == 8
    (alone,) = check({wrong.key: wrong})
    assert "has no VirtualService" in str(alone)
    right, table = read(ANSWERS + "  route: {prefix: /pay}\n", ROUTED)
    assert check({right.key: right, table.key: table}) == ()


def test_a_threshold_between_two_buckets_is_said_to_be_counted_with_less() -> None:
    """Latencies come in buckets; what is really counted is told at apply."""
    (item,) = read(FAST)
    (warning,) = warnings({item.key: item}, {"checkout"})
    assert "up to 180ms" in str(warning)
    (exact,) = read(FAST.replace("200ms", "180ms"))
    assert warnings({exact.key: exact}, {"checkout"}) == ()
