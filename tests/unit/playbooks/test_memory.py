"""What has worked is remembered, and orders equal alternatives and nothing else."""

from __future__ import annotations

from typing import Protocol

import pytest
from hypothesis import given
from hypothesis import strategies as st

import playbooks
from models.domain import Topology
from models.incident import Cause
from playbooks.guards import Context
from playbooks.ledger import Entry, Ledger, Outcome
from playbooks.memory import MOST, Memory, Result
from playbooks.planning import plan
from playbooks.schema import Playbook

SHAPE = """\
apiVersion: fibrin.dev/v1
kind: Playbook
metadata: {{name: {name}}}
spec:
  description: d
  mode: auto
  priority: {priority}
  when: {{cause: [version], services: {{all: true}}}}
  steps:
  - {{name: first of {name}, action: {{shiftTraffic: {{}}}}, verify: {{deadline: 5s}}, undo: automatic}}
"""


class Shop(Protocol):
    """What the fixture `mesh` gives."""

    topology: Topology

    def cause(self) -> Cause:
        """Return a bad version of catalog."""
        ...

    def context(self, **more: object) -> Context:
        """Return quiet circumstances."""
        ...


def book(name: str, priority: int = 5) -> Playbook:
    """Return a playbook that differs from others in name and priority only."""
    (made,) = playbooks.load({"t.yaml": SHAPE.format(name=name, priority=priority)})
    return made


def tried(name: str, helped: int, failed: int, service: str = "catalog", memory: Memory | None = None) -> Memory:
    """Return a memory of the first step of a playbook."""
    made = memory or Memory()
    for n in range(helped + failed):
        made = made.learn(Result("version", service, name, f"first of {name}", at=float(n)), helped=n < helped)
    return made


@given(st.integers(0, 50), st.integers(0, 50), st.integers(0, 50), st.integers(0, 50))
def test_an_estimate_is_a_probability_and_moves_with_what_is_seen(
    good: int, bad: int, there: int, not_there: int
) -> None:
    """Strictly between 0 and 1; one more success never lowers it, one more failure never raises it; unknown is one half."""
    memory = tried("a", there, not_there, "cart", tried("a", good, bad))
    now = memory.estimate("version", "catalog", "a", "first of a")
    assert 0 < now.probability < 1
    more = memory.learn(Result("version", "catalog", "a", "first of a"), helped=True)
    less = memory.learn(Result("version", "catalog", "a", "first of a"), helped=False)
    assert more.estimate("version", "catalog", "a", "first of a").probability >= now.probability
    assert less.estimate("version", "catalog", "a", "first of a").probability <= now.probability
    assert memory.estimate("zone", "catalog", "a", "first of a").probability == 0.5


def test_a_service_without_a_history_borrows_that_of_the_others() -> None:
    """Nine of ten on another service say 10/12 here; one failure here weighs as the posterior says."""
    memory = tried("a", 9, 1, "cart")
    assert memory.estimate("version", "catalog", "a", "first of a").probability == pytest.approx(10 / 12)
    memory = tried("a", 0, 1, "catalog", memory)
    found = memory.estimate("version", "catalog", "a", "first of a")
    assert found.probability == pytest.approx((2 * 10 / 12) / 3)
    assert str(found) == "helped 0 of 1 times here and 9 of 10 elsewhere (estimated 56%)"


def test_the_memory_is_bounded_and_forgets_what_was_used_longest_ago() -> None:
    """However many services there are, it holds the last ones."""
    memory = Memory()
    for n in range(MOST + 20):
        memory = memory.learn(Result("version", f"s{n}", "a", "x", at=float(n)), helped=True)
    assert len(memory.results) == MOST
    assert {r.service for r in memory.results} == {f"s{n}" for n in range(20, MOST + 20)}


def test_of_equals_the_one_that_worked_is_tried_and_the_reason_says_why(mesh: Shop) -> None:
    """Without a memory the name decides; with one what helped more often; never over priority; in any order of the playbooks."""
    first, second = book("a-first"), book("b-second")
    assert _chosen(mesh, Memory(), first, second) == "a-first"
    memory = tried("b-second", 3, 0, memory=tried("a-first", 0, 2))
    assert _chosen(mesh, memory, first, second) == _chosen(mesh, memory, second, first) == "b-second"
    assert _chosen(mesh, memory, book("a-first", 6), second) == "a-first"
    decision = plan(mesh.cause(), mesh.context(ledger=Ledger(memory=memory)), (first, second))
    told = {each.playbook: each.reason for each in decision.considered}
    assert "its first step helped 3 of 3 times here" in told["b-second"]
    assert "b-second comes first of two equals" in told["a-first"]
    assert "this one's helped 0 of 2 times here" in told["a-first"]


def _chosen(mesh: Shop, memory: Memory, *books: Playbook) -> str:
    made = plan(mesh.cause(), mesh.context(ledger=Ledger(memory=memory)), books).plan
    assert made is not None
    return made.playbook


def test_an_end_is_learnt_once_and_kept_with_the_ledger() -> None:
    """Settling twice (after a restart) counts once; canary steps and what a person ordered are not learnt from; old ledgers are read."""
    entry = Entry("o1", 1.0, "catalog", 0.1, "a", step="x", cause_kind="version", cause_service="catalog")
    ledger = Ledger().record(entry).settle("o1", Outcome.HELPED)
    again = Ledger.loads(ledger.dumps()).settle("o1", Outcome.HELPED).settle("o1", Outcome.UNDONE)
    assert again.memory.results == (Result("version", "catalog", "a", "x", helped=1, at=1.0),)
    assert Ledger().record(entry).settle("o1", Outcome.UNDONE, learn=False).memory == Memory()
    assert Ledger().record(Entry("o2", 1.0, "catalog", 0.0, "canary/c")).settle("o2", Outcome.HELPED).memory == Memory()
    assert len(again.record(Entry("late", 1e6, "cart", 0.0, "b")).memory.results) == 1
    old = '[{"id":"o1","at":1.0,"service":"catalog","share":0.1,"playbook":"a","outcome":"helped","incident":"","step":""}]'
    assert Ledger.loads(old).entries[0].outcome is Outcome.HELPED
