"""Conditions in CEL and freeze windows: what they mean, and where the finger points when they are wrong."""

from datetime import datetime
from typing import Protocol
from zoneinfo import ZoneInfo

import pytest

import playbooks
from agent.decision import limits_json, limits_of
from models.domain import Topology
from models.errors import InvalidInput
from models.incident import Anomaly, Cause, CauseKind, Signal
from models.objective import ErrorBudget
from models.signals import Series, Side
from playbooks.conditions import VARIABLES, facts, slips, unmet
from playbooks.guards import Context, GuardName, Limits
from playbooks.planning import plan
from playbooks.schema import Freeze, Playbook

HEAD = "apiVersion: fibrin.dev/v1\nkind: Playbook\nmetadata: {name: mine}\nspec:\n  description: d\n  mode: auto\n"
WHEN = "  when:\n    cause: [version]\n    services: {all: true}\n"
STEPS = """\
  steps:
  - {name: shift, action: {shiftTraffic: {}}, verify: {deadline: 5s}, undo: automatic}
"""


class Shop(Protocol):
    """What the fixture `mesh` gives."""

    topology: Topology

    def cause(self, *args: object, **kwargs: object) -> Cause: ...
    def context(self, **changes: object) -> Context: ...


def mine(when: str = "", guard: str = "") -> Playbook:
    """Return a playbook with more lines under `when` and under `guard`."""
    (found,) = playbooks.load({"t.yaml": f"{HEAD}{WHEN}{when}{guard}{STEPS}"})
    return found


@pytest.mark.parametrize(
    ("written", "line", "column"),
    [
        ("    expression: cause.knd == 'x'\n", 10, 22),
        ("    expression: \"cause.knd == 'x'\"\n", 10, 23),
        ("    expression: |\n      severity == 'critical' &&\n        cause.knd == 'x'\n", 12, 14),
        ("    expression: >-\n      severity == 'critical' &&\n      cause.knd == 'x'\n", 12, 12),
    ],
)
def test_a_slip_in_an_expression_is_pointed_at(written: str, line: int, column: int) -> None:
    """However the text is written in YAML, the finding names line and column of the file, and a near name."""
    with pytest.raises(InvalidInput, match=r"did you mean `cause\.kind`") as caught:
        mine(written)
    (problem,) = caught.value.problems
    assert (problem.line, problem.column) == (line, column)


@pytest.mark.parametrize(
    ("expression", "message", "hint"),
    [
        ("cause.probability > 1", "`>` cannot take double, int", "`2` is whole"),
        ("cause.probability +", "not an expression", "for example"),
        ("cause.service", "gives a text", "compare it"),
        ("bogus(1)", "no variable or function `bogus`", "known here"),
        ("cause.kind == 3", "`==` cannot take string, int", ""),
    ],
)
def test_what_is_wrong_is_said_in_words(expression: str, message: str, hint: str) -> None:
    """Type errors, syntax errors and unknown names each have a sentence and, where there is one, a way out."""
    (slip,) = slips(expression)
    assert message in slip.message
    assert hint in slip.hint


def test_every_variable_has_a_value_of_its_type(mesh: Shop) -> None:
    """Each variable can be compared for equality with its own value: none is missing, none has another type."""
    cause, context = mesh.cause(), mesh.context()
    assert set(facts(cause, context)) == set(VARIABLES)
    for name in VARIABLES:
        assert unmet(f"{name} == {name}", cause, context) == ""


def test_conditions_read_the_incident(mesh: Shop) -> None:
    """An expression selects by evidence: observed against expected, labels, size of the service, budget."""
    series = Series(Side.CLIENT, "storefront", "catalog", "v2", "", "")
    anomaly = Anomaly(series, Signal.ERRORS, 1000.0, 999.0, 0.4, 0.01, 9.0, 50)
    budget = {"catalog": ErrorBudget(0.3, 6.0)}
    context = mesh.context(anomalies=(anomaly,), budgets=budget)
    holds = (
        "signal.observed > 10.0 * signal.expected && signal.requests >= 50 && service.healthy == 4 "
        "&& service.labels['team'] == 'shop' && 'storefront' in service.callers && budget.burn > 5.0"
    )
    assert unmet(holds, mesh.cause(), context) == ""
    assert "does not hold" in unmet("service.instances > 4", mesh.cause(), context)


def test_an_answerless_condition_does_not_match(mesh: Shop) -> None:
    """A label nobody carries makes the playbook not apply, and the reason says which key is missing."""
    book = mine("    expression: service.labels['tier'] == 'gold'\n")
    decision = plan(mesh.cause(), mesh.context(), (book,))
    assert decision.plan is None
    assert 'Key not found in map : "tier"' in decision.considered[0].reason


def test_an_expression_makes_a_playbook_more_specific(mesh: Shop) -> None:
    """Among equals the one with a condition that holds comes first."""
    narrow = mine("    expression: service.versions == 2\n")
    wide = narrow.model_copy(update={"metadata": narrow.metadata.model_copy(update={"name": "a-wide-one"})})
    spec = wide.spec.model_copy(update={"when": wide.spec.when.model_copy(update={"expression": ""})})
    decision = plan(mesh.cause(), mesh.context(), (wide.model_copy(update={"spec": spec}), narrow))
    assert [each.playbook for each in decision.considered] == ["mine", "a-wide-one"]


def berlin(text: str) -> float:
    """Return Unix time of a moment in Berlin."""
    return datetime.fromisoformat(text).replace(tzinfo=ZoneInfo("Europe/Berlin")).timestamp()


@pytest.mark.parametrize(
    ("at", "frozen"),
    [
        ("2026-11-24T21:59", False),
        ("2026-11-24T22:00", True),
        ("2026-11-25T05:59", True),
        ("2026-11-25T06:00", False),
        ("2026-11-28T23:00", False),  # a Saturday
        ("2026-03-29T05:30", False),  # the night in which clocks go forward: Saturday's night is free
        ("2026-03-31T05:30", True),
    ],
)
def test_a_weekly_freeze_follows_the_clock_of_its_zone(at: str, frozen: bool) -> None:
    """Ten to six on weekdays, in Berlin's time, summer and winter."""
    window = Freeze.model_validate({"cron": "0 22 * * 1-5", "lasts": "8h", "zone": "Europe/Berlin"})
    assert window.holds(berlin(at)) is frozen


def test_a_freeze_of_dates_holds_from_its_first_to_its_last_moment() -> None:
    """The end is not part of it."""
    window = Freeze.model_validate({"from": "2026-12-24", "to": "2026-12-27T06:00", "zone": "Europe/Berlin"})
    assert [window.holds(berlin(at)) for at in ("2026-12-23T23:59", "2026-12-24", "2026-12-27T05:59")] == [
        False,
        True,
        True,
    ]
    assert not window.holds(berlin("2026-12-27T06:00"))


@pytest.mark.parametrize(
    ("freeze", "message"),
    [
        ("{from: 2026-12-24}", "give `from` and `to`"),
        ("{from: 2026-12-24, to: 2026-12-23}", "before it begins"),
        ("{from: soon, to: 2026-12-23}", "`soon` is not a date"),
        ("{cron: 0 25 * * *, lasts: 1h}", "not a cron schedule"),
        ("{cron: 0 22 * * *, lasts: 1h, zone: Europe/Berlinn}", "not a time zone"),
    ],
)
def test_a_freeze_that_tells_no_time_is_refused(freeze: str, message: str) -> None:
    """Half a window, a reversed one, a bad cron line and an unknown zone are explained."""
    with pytest.raises(InvalidInput, match=message):
        mine(guard=f"  guard: {{freeze: [{freeze}]}}\n")


def test_a_freeze_stops_the_playbook_or_the_mesh(mesh: Shop) -> None:
    """Within a window nothing is done: of the playbook if it is the playbook's, of all if it is the mesh's."""
    now = berlin("2026-12-25")
    window = {"from": "2026-12-24", "to": "2026-12-27", "zone": "Europe/Berlin", "reason": "Christmas"}
    own = mine(guard="  guard: {freeze: [{from: 2026-12-24, to: 2026-12-27}]}\n")
    assert [r.guard for r in plan(mesh.cause(), mesh.context(now=now), (own,)).refusals] == [GuardName.FREEZE]
    limits = Limits(freeze=(Freeze.model_validate(window),))
    decision = plan(mesh.cause(), mesh.context(now=now, limits=limits), (mine(),))
    assert [r.message for r in decision.refusals] == [
        "a freeze holds: Christmas, 2026-12-24 to 2026-12-27 (Europe/Berlin)"
    ]
    assert plan(mesh.cause(), mesh.context(now=now - 3 * 86400), (own,)).plan is not None


@pytest.mark.parametrize(
    ("budget", "acts"),
    [(None, True), (ErrorBudget(0.5, 1.0), True), (ErrorBudget(0.05, 1.0), False), (ErrorBudget(0.5, 20.0), False)],
)
def test_a_spent_budget_forbids_a_risk(mesh: Shop, budget: ErrorBudget | None, acts: bool) -> None:
    """With too little of the error budget left, or burning too fast, the playbook does nothing; no objective, no limit."""
    book = mine(guard="  guard: {errorBudget: {minRemaining: 10%, maxBurn: 14}}\n")
    decision = plan(mesh.cause(), mesh.context(budgets={"catalog": budget} if budget else {}), (book,))
    assert (decision.plan is not None) is acts
    assert {r.guard for r in decision.refusals} <= {GuardName.BUDGET}


def test_what_cannot_be_taken_back_wants_budget_left(mesh: Shop) -> None:
    """With nothing left of the budget a restart is refused whatever the playbook says; what an overlay's end undoes is not."""
    text = f"{HEAD}  when: {{cause: [instance], services: {{all: true}}}}\n  steps:\n"
    text += "  - {name: b, action: {restartInstance: {}}, verify: {deadline: 5s}, undo: nothing, holdDown: 10s}\n"
    cause, spent = mesh.cause(CauseKind.INSTANCE, "catalog", "catalog-v1-1"), {"catalog": ErrorBudget(0.0)}
    book = playbooks.load({"t.yaml": text})
    assert plan(cause, mesh.context(budgets={"catalog": ErrorBudget(0.1)}), book).plan is not None
    decision = plan(cause, mesh.context(budgets=spent), book)
    assert [(r.guard, r.message) for r in decision.refusals] == [
        (GuardName.BUDGET, "catalog's error budget is spent, and this cannot be taken back")
    ]
    assert plan(mesh.cause(), mesh.context(budgets=spent), (mine(),)).plan is not None


def test_conditions_tell_objectives_apart(mesh: Shop) -> None:
    """`budget.objectives` gives what is left of each by name; one that is not there has no answer."""
    context = mesh.context(budgets={"catalog": ErrorBudget(0.2, 3.0, {"answers": 0.9, "fast": 0.2})})
    assert unmet("budget.objectives['answers'] > 0.5 && budget.objectives['fast'] < 0.5", mesh.cause(), context) == ""
    assert "has no answer" in unmet("budget.objectives['other'] > 0.5", mesh.cause(), context)


@pytest.mark.parametrize(
    "window",
    [
        {"from": "2026-12-24", "to": "2026-12-27", "zone": "Europe/Berlin", "reason": "Christmas"},
        {"cron": "0 22 * * 1-5", "lasts": "1h30m"},
    ],
)
def test_a_freeze_can_be_written_and_read_again(window: dict[str, str]) -> None:
    """What the audit log keeps of a freeze of the mesh is the same freeze."""
    freeze = Freeze.model_validate(window)
    assert Freeze.model_validate(freeze.written) == freeze
    limits = Limits(freeze=(freeze,), storm_share=0.4)
    assert limits_of(limits_json(limits)) == limits


def test_load_may_be_bounded_without_a_known_limit(mesh: Shop) -> None:
    """`maxLoadFactor` compares load after with load before: leaving one of two instances doubles it."""
    text = f"{HEAD}  when: {{cause: [instance], services: {{all: true}}}}\n  guard: {{maxLoadFactor: 1.5}}\n"
    text += "  steps:\n  - {name: eject, action: {ejectInstance: {}}, verify: {deadline: 5s}, undo: automatic}\n"
    book = playbooks.load({"t.yaml": text})
    decision = plan(mesh.cause(CauseKind.INSTANCE, "cart", "cart-v1-0"), mesh.context(), book)
    assert [(r.guard, r.observed) for r in decision.refusals] == [(GuardName.LOAD, 2.0)]


@pytest.mark.parametrize(("load", "acts"), [(0.4, True), (1.2, True), (1.3, False), (3.0, False)])
def test_a_surge_counts_as_load_of_those_who_stay(mesh: Shop, load: float, acts: bool) -> None:
    """The shipped `bad-instance` leaves one of two instances while its service is asked for as usual, not in a surge; less is no room."""
    decision = plan(
        mesh.cause(CauseKind.INSTANCE, "cart", "cart-v1-0"), mesh.context(load={"cart": load}), playbooks.library()
    )
    assert decision.plan is not None
    assert decision.plan.playbook == ("bad-instance" if acts else "unknown")
    assert acts or GuardName.LOAD in [r.guard for r in decision.refusals]
