"""The objective keeper in virtual time: real store, real counting; what is declared and what is seen come from the test."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import create_engine, text

from agent.api import AgentApi
from agent.canaries.tap import Tap
from agent.channels import About, Message
from agent.client import AgentClient
from agent.incidents import Incident
from agent.mesh import MeshView
from agent.objectives.alerts import QUIET_S, Alerts, AlertTools
from agent.objectives.api import ObjectiveRoutes
from agent.objectives.counting import count
from agent.objectives.keeper import SAVE_S, KeeperTools, ObjectiveKeeper
from agent.observe import Observer, RuleKey
from agent.schema import MIGRATIONS
from agent.store import Store
from agent.timeline import Timeline
from models.budget import Slot
from models.errors import NotFound, Unavailable
from models.incident import Cause, CauseKind, Signal, Stage
from models.objective import Objective
from models.signals import BOUNDS_S, BUCKETS, Outcomes, Report, Series, Side

from .conftest import TOPOLOGY, Clock, FakeSight, client, outcomes
from .test_api import Backend

ANSWERS = Objective("answers", "catalog", "availability", 0.999, 30 * 86_400.0)
FAST = Objective("fast", "catalog", "latency", 0.9, 30 * 86_400.0, threshold_s=0.1)
OUTSIDE = Series(Side.SERVER, "", "catalog", "v1", "catalog-v1-1", "catalog-v1-1")


class Desk:
    """A keeper with its surroundings; `process` begins another one on the same database, as after `kill -9`."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.clock, self.sight, self.mesh, self.timeline = Clock(), FakeSight(), MeshView(), Timeline()
        self.mesh.set_topology(TOPOLOGY)
        self.declared: tuple[Objective, ...] = (ANSWERS,)
        self.away = False
        self.rules: dict[RuleKey, Outcomes] = {}
        self.incidents: list[Incident] = []
        self.calls: list[tuple[str, str]] = []
        self.remarks: list[str] = []
        self.store: Store
        self.keeper: ObjectiveKeeper
        self.tap: Tap

    async def process(self) -> None:
        """Begin."""
        self.store = Store(self.directory / "agent.db")
        await self.store.open()
        self.tap = Tap(self.sight)
        alerts = Alerts(AlertTools(self, self.timeline, self.store, self.mesh, lambda: self.incidents, self._remark))
        self.keeper = ObjectiveKeeper(
            KeeperTools(self._source, self.tap, self._rules, self.mesh, self.store, self.clock, alerts)
        )

    def alert(self, what: About, page: Message) -> None:
        """Take a page."""
        self.calls.append((what.id, str(page.severity)))

    async def _remark(self, name: str, message: str) -> None:
        self.remarks.append(f"{name}: {message}")

    async def _source(self) -> tuple[Objective, ...]:
        if self.away:
            raise Unavailable("the control plane is away")
        return self.declared

    def _rules(self) -> dict[RuleKey, Outcomes]:
        taken, self.rules = self.rules, {}
        return taken

    async def see(self, requests: int, errors: int = 0, *, seconds: float = 1.0) -> None:
        """Let so many requests to catalog end in each of so many seconds."""
        for _ in range(round(seconds)):
            self.clock.now += 1.0
            self.sight.next = {client("front", "catalog"): outcomes(requests, errors)}
            self.tap.take_tick(self.clock.now)
            await self.keeper.turn()


@asynccontextmanager
async def desk_in(directory: Path) -> AsyncIterator[Desk]:
    """Give a desk whose first process has begun and read what is declared."""
    desk = Desk(directory)
    await desk.process()
    await desk.keeper.turn()
    try:
        yield desk
    finally:
        await desk.store.close()


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    """Give a desk."""
    async with desk_in(tmp_path) as one:
        yield one


def test_a_request_is_counted_once_as_its_user_saw_it() -> None:
    """Callers' requests and those from outside count; attempts, servers' views of the mesh's own and other services do not."""
    seen = {
        client("front", "catalog"): outcomes(100, 3),
        OUTSIDE: outcomes(10, 1),
        replace(OUTSIDE, caller="front"): outcomes(100, 3),
        Series(Side.ATTEMPT, "front", "catalog", "v1", "catalog-v1-1", "front-1"): outcomes(130, 33),
        client("front", "cart"): outcomes(50, 50),
    }
    assert count([ANSWERS], seen, {}, frozenset()) == {ANSWERS.counted: (106, 110)}


def test_what_a_blind_sidecar_says_is_neither_good_nor_bad() -> None:
    """Its requests are left out of good and valid alike, for services and for routes."""
    routed = replace(ANSWERS, name="pay", route="pay")
    seen = {client("front", "catalog"): outcomes(100, 100), OUTSIDE: outcomes(10, 0)}
    rules = {("catalog", "pay", "front-1"): outcomes(40, 40), ("catalog", "pay", "cart-1"): outcomes(5, 1)}
    found = count([ANSWERS, routed], seen, rules, frozenset({"front-1"}))
    assert found == {ANSWERS.counted: (10, 10), routed.counted: (4, 5)}


def test_a_caller_that_went_away_is_no_valid_request() -> None:
    """Nobody's failure and nobody's success."""
    gone = outcomes(10, 2)
    gone.flags["DC"] = 3
    assert count([ANSWERS], {client("front", "catalog"): gone}, {}, frozenset()) == {ANSWERS.counted: (5, 7)}


def test_latency_is_good_up_to_the_threshold_and_not_beyond() -> None:
    """The bucket that ends at the threshold is good, the next one is not."""
    latency = np.zeros(BUCKETS, dtype=np.int64)
    edge = int(np.searchsorted(BOUNDS_S, 0.1))
    latency[edge], latency[edge + 1] = 7, 2
    seen = {client("front", "catalog"): Outcomes(9, latency=latency)}
    assert count([FAST], seen, {}, frozenset()) == {FAST.counted: (7, 9)}


def test_the_observer_hands_out_what_routes_answered_once() -> None:
    """Per rule and reporter, added up until it is taken, like a tick."""
    observer = Observer()
    for second in (1.0, 2.0):
        report = Report(
            "front-1", "front", second, second, second, live=True, rules={("catalog", "pay"): outcomes(4, 1)}
        )
        observer.receive(report)
    taken = observer.take_rules()
    assert [(key, found.requests, found.errors) for key, found in taken.items()] == [
        (("catalog", "pay", "front-1"), 8, 2)
    ]
    assert observer.take_rules() == {}


async def test_a_budget_is_seen_by_the_api_by_the_planner_and_by_canaries(desk: Desk, tmp_path: Path) -> None:
    """Half of the requests failing burns 500 times too fast; the planner gets the same numbers; a spent budget says so."""
    desk.declared = (ANSWERS, replace(FAST, name="other", service="cart"))
    await desk.see(100, 50, seconds=120)
    (tmp_path / "operator.token").write_text("t")
    api = AgentApi(Backend(desk.timeline), tmp_path / "operator.token", ObjectiveRoutes(desk.keeper).routes())
    url = await api.start("127.0.0.1", 0)
    try:
        async with AgentClient(url) as agent:
            seen, other = await agent.objectives()
            assert (seen.name, seen.state, seen.good, seen.valid) == ("answers", "burning", 6000, 12000)
            assert seen.burns[0].long == pytest.approx(500 * 120 / 3600, rel=0.1)
            assert (other.state, other.valid) == ("no-data", 0)
            assert await agent.objective("answers") == seen
            with pytest.raises(NotFound, match="there is no objective answer"):
                await agent.objective("answer")
    finally:
        await api.stop()
    budget = desk.keeper.budgets()["catalog"]
    assert (budget.remaining, budget.objectives) == (seen.remaining, {"answers": seen.remaining})
    assert desk.keeper.spent("catalog") == ""
    desk.declared = (replace(ANSWERS, window_s=3600.0, generation=2),)
    await desk.see(100, 50, seconds=40)
    assert "objective answers is spent" in desk.keeper.spent("catalog")
    assert desk.keeper.spent("cart") == ""
    assert desk.keeper.budgets()["catalog"].remaining == 0.0


async def test_counts_outlive_a_kill_but_for_the_last_seconds(desk: Desk) -> None:
    """What was kept is there in every window; what was lost is lost in good and valid alike; the history of a changed target stays."""
    await desk.see(100, 1, seconds=125)
    before = desk.keeper.view("answers")
    await desk.store.close()
    desk.declared = (replace(ANSWERS, target=0.9999, generation=2),)
    await desk.process()
    await desk.keeper.turn()
    after = desk.keeper.view("answers")
    assert before.valid - 100 * (SAVE_S + 1) <= after.valid < before.valid
    assert after.valid - after.good == after.valid // 100
    assert after.remaining < before.remaining
    await desk.keeper.save()
    await desk.see(100, 1, seconds=20)
    assert desk.keeper.view("answers").valid == after.valid + 2000


async def test_a_control_plane_that_is_away_changes_nothing(desk: Desk) -> None:
    """The objectives of before are counted on; one that is not declared any more is forgotten once it is known."""
    await desk.see(100, seconds=5)
    desk.away = True
    await desk.see(100, seconds=5)
    assert desk.keeper.view("answers").valid == 1000
    desk.away, desk.declared = False, ()
    await desk.keeper.look()
    assert desk.keeper.views() == ()
    assert desk.keeper.budgets() == {}


async def test_a_burning_budget_calls_people_once(desk: Desk) -> None:
    """One page for one burning, over restarts too; a new one after it was over; never an action."""
    await desk.see(1000, 0, seconds=5)
    await desk.see(100, 100, seconds=120)
    assert desk.calls == [("slo-answers", "critical")]
    await desk.store.close()
    await desk.process()
    await desk.see(100, 100, seconds=30)
    assert len(desk.calls) == 1
    await desk.see(1000, 0, seconds=1)
    desk.clock.now += 86_400.0
    await desk.see(1000, 0, seconds=2)
    assert desk.keeper.view("answers").alert == "none"
    assert any("does not burn too fast any more" in event.message for event in desk.timeline.since(0))
    await desk.see(100, 100, seconds=1200)
    assert len(desk.calls) == 2


async def test_a_burning_budget_is_noted_on_the_incident_and_calls_nobody_meanwhile(desk: Desk) -> None:
    """An open incident about the service is told once; if it burns on after the incident people are called."""
    cause = Cause(CauseKind.VERSION, "catalog", "v2", Signal.ERRORS, 0.9)
    incident = Incident("inc-1", desk.clock.now, desk.clock.now, Stage.VERIFYING, causes=(cause,))
    desk.incidents = [Incident("inc-0", 1.0, 1.0, causes=(replace(cause, service="payment"),)), incident]
    await desk.see(100, 100, seconds=120)
    assert desk.calls == []
    (remark,) = desk.remarks
    assert remark.startswith("inc-1: objective answers: the error budget of catalog")
    desk.incidents = [replace(incident, stage=Stage.RESOLVED, times={"closed": desk.clock.now})]
    await desk.see(100, 100, seconds=QUIET_S - 10)
    assert desk.calls == []
    await desk.see(100, 100, seconds=20)
    assert desk.calls == [("slo-answers", "critical")]


async def test_the_store_keeps_counts_bounded_and_forgets_a_wrong_future(tmp_path: Path) -> None:
    """Slots no window reaches, and those ahead of the clock, are gone at the next save; the same slot is kept once."""
    store = Store(tmp_path / "agent.db")
    await store.open()
    now = 1_800_000_000.0
    here = int(now) // 10
    slots = [Slot("a", 10, here, 1, 2), Slot("a", 10, here + 500, 1, 1), Slot("b", 3600, int(now) // 3600, 5, 6)]
    await store.keep_counts(slots, now + 6000)
    await store.keep_counts([Slot("a", 10, here, 3, 4)], now)
    assert await store.counts({"a", "b"}) == (Slot("a", 10, here, 3, 4), Slot("b", 3600, int(now) // 3600, 5, 6))
    assert await store.counts({"b"}) == (Slot("b", 3600, int(now) // 3600, 5, 6),)
    await store.keep_counts([], now + 100 * 86_400)
    assert await store.counts({"a", "b"}) == ()
    await store.close()


async def test_a_database_of_before_gets_room_for_counts(tmp_path: Path) -> None:
    """Opening a database that an earlier build wrote adds the table and keeps everything else."""
    store = Store(tmp_path / "agent.db")
    await store.open()
    await store.remember("normal", b"x")
    await store.close()
    engine = create_engine(f"sqlite:///{tmp_path / 'agent.db'}")
    with engine.begin() as db:
        db.execute(text("DROP TABLE objective_counts"))
        db.execute(text(f"DELETE FROM schema_version WHERE version >= {len(MIGRATIONS)}"))
    engine.dispose()
    await store_has_room(tmp_path)


async def store_has_room(directory: Path) -> None:
    """Open the database and keep a count in it."""
    store = Store(directory / "agent.db")
    await store.open()
    await store.keep_counts([Slot("a", 10, 100, 1, 1)], 1000.0)
    assert await store.counts({"a"}) == (Slot("a", 10, 100, 1, 1),)
    assert await store.recall("normal") == b"x"
    await store.close()
