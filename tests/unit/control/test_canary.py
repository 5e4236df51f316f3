"""Reading `kind: Canary`: every field, and what is wrong is told with its place."""

from __future__ import annotations

import re

import pytest

from control.resources.canary import SAFE, Canary, rollout
from control.resources.loading import load
from control.resources.validation import check
from models.errors import InvalidInput
from models.overlay import HeaderIs
from models.rollout import Freeze, RolloutStep

HEAD = "apiVersion: fibrin.dev/v1\nkind: Canary\nmetadata: {name: catalog}\nspec:\n"
BASE = HEAD + "  service: catalog\n  canary: v2\n  stable: v1\n"
FULL = (
    BASE
    + """\
  steps:
  - {weight: 5, for: 30s}
  - {weight: 50, for: 2m, approval: true}
  promotion: manual
  analysis:
    margins: {errors: 1%, latency: 1.5, latencyFloor: 5ms, saturation: 20%}
    falseRollback: 0.01%
    falsePromotion: 1%
    minRequests: 200
    inconclusive: {after: 2h, then: rollback}
  freeze:
  - {days: [fri, sat], from: "18:00", until: "06:30"}
"""
)


def test_every_field_reaches_the_rollout() -> None:
    """Each field of the schema lands where the controller reads it, in seconds and shares."""
    (item,), warnings = load([("c.yaml", FULL)])
    assert warnings == ()
    assert isinstance(item.model, Canary)
    found = rollout(item.name, "catalog", item.model.spec, generation=3, created_at=5.0)
    assert (found.name, found.generation, found.service, found.canary, found.stable) == (
        "catalog",
        3,
        "catalog",
        "v2",
        "v1",
    )
    assert found.steps == (RolloutStep(5, 30.0), RolloutStep(50, 120.0, approval=True))
    assert not found.automatic
    assert (found.margins.errors, found.margins.latency, found.margins.latency_floor_s) == (0.01, 1.5, 0.005)
    assert (found.margins.saturation, found.risk.false_rollback, found.risk.false_promotion) == (0.2, 0.0001, 0.01)
    assert (found.least_requests, found.inconclusive_after_s, found.inconclusive) == (200, 7200.0, "rollback")
    assert found.freezes == (Freeze((4, 5), 64800, 23400),)


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        (BASE, 4, "steps"),
        (BASE + "  steps: [{weight: 0}]\n", 8, "greater than or equal to 1"),
        (BASE + "  steps: [{weight: 100}]\n", 8, "less than or equal to 99"),
        (BASE + "  steps: [{weight: 50}, {weight: 10}]\n", 8, "must rise"),
        (BASE + "  steps: [{weight: 5}, {mirror: 10}]\n", 8, "copies first"),
        (BASE + "  steps: [{for: 3s}]\n", 8, "one of weight and mirror"),
        (BASE + "  steps: [{weight: 5, mirror: 10}]\n", 8, "one of weight and mirror"),
        (BASE + "  steps: [{weight: 5, match: {}}]\n", 8, "match everything"),
        (BASE + "  steps: [{weight: 5, match: {cookies: {'a=b': {exact: c}}}}]\n", 8, "not the name of"),
        (BASE + "  steps: [{weight: 5, match: {methods: [FETCH]}}]\n", 8, "'GET'"),
        (BASE.replace("stable: v1", "stable: v2") + "  steps: [{weight: 5}]\n", 4, "nothing to compare"),
        (BASE + "  steps: [{weight: 5, for: 3}]\n", 8, "duration"),
        (BASE + "  steps: [{weight: 5}]\n  step: 3\n", 9, "unknown field"),
        (BASE + "  steps: [{weight: 5}]\n  match: [{headers: {x: {exact: y}}}]\n", 9, "belongs to a step"),
        (BASE + "  steps: [{weight: 5}]\n  mirror: {percent: 5}\n", 9, "belongs to a step"),
        (BASE + "  steps: [{weight: 5}]\n  analysis: {falseRollback: 90%}\n", 9, "wanted"),
        (BASE + "  steps: [{weight: 5}]\n  analysis: {margins: {errors: 0.01}}\n", 9, "percentage"),
        (BASE + '  steps: [{weight: 5}]\n  freeze: [{days: [fri], from: "25:00", until: "06:00"}]\n', 9, "time of day"),
        (BASE.replace("service: catalog", "service: '*'") + "  steps: [{weight: 5}]\n", 5, "wildcard"),
        (FULL.replace("fibrin.dev/v1", "fibrin.dev/v2"), 1, "not an apiVersion"),
    ],
)
def test_what_is_wrong_is_told_with_its_place(text: str, line: int, says: str) -> None:
    """File, line and what was wanted, for every sort of mistake."""
    with pytest.raises(InvalidInput) as caught:
        load([("c.yaml", text)])
    (problem, *_) = caught.value.problems
    assert problem.source == "c.yaml"
    assert problem.line == line, str(problem)
    assert says in str(problem)


def test_two_canaries_of_one_service_are_refused() -> None:
    """Two hands on the same weights would fight."""
    text = BASE + "  steps: [{weight: 5}]\n"
    items, _ = load([("a.yaml", text), ("b.yaml", text.replace("name: catalog", "name: other"))])
    (problem,) = check({item.key: item for item in items})
    assert "already has the canary of catalog" in str(problem)


def test_steps_may_copy_or_choose_requests() -> None:
    """Copies are of what may be done twice unless said otherwise; headers and cookies become conditions on headers."""
    steps = (
        "  steps:\n  - {mirror: 20}\n  - {mirror: 30, match: {methods: [GET, POST]}}\n"
        "  - {weight: 50, match: {headers: {X-Beta: {}}, cookies: {group: {exact: b.1}}}}\n"
        "  - {weight: 100, match: {headers: {x-beta: {prefix: y}}}}\n  - {weight: 10}\n"
    )
    (item,), _ = load([("c.yaml", BASE + steps)])
    assert isinstance(item.model, Canary)
    copies, writes, few, beta, all_ = rollout("c", "catalog", item.model.spec, generation=1, created_at=0.0).steps
    assert (copies.mirror, copies.weight, copies.conditions) == (True, 20, (SAFE,))
    assert writes.conditions == (HeaderIs(":method", "regex", "GET|POST"),)
    header, cookie = few.conditions
    assert header == HeaderIs("x-beta", "present")
    assert beta.conditions == (HeaderIs("x-beta", "prefix", "y"),)
    assert (all_.mirror, all_.conditions) == (False, ())
    for text, found in {
        "group=b.1": True,
        "a=1; group=b.1; c=2": True,
        "group=bx1": False,
        "xgroup=b.1": False,
    }.items():
        assert bool(re.fullmatch(cookie.value, text)) is found, text
