"""The canary controller in virtual time: real store, real comparison, an actuator that keeps the control plane's rules."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest

from agent.actuators.memory import MemoryActuator
from agent.api import AgentApi
from agent.canaries.api import CanaryRoutes
from agent.canaries.controller import CanaryController
from agent.canaries.deciding import Advance, Around, Promote, RollBack, Stay, decide
from agent.canaries.record import Command, Record, State
from agent.canaries.tap import Tap
from agent.canaries.ties import Ties
from agent.canaries.tools import CanaryTools
from agent.chronicle import Chronicle
from agent.client import AgentClient
from agent.incidents import Incident
from agent.mesh import MeshView
from agent.planner import PlaybookPlanner
from agent.store import Store
from agent.timeline import Timeline
from models.canary import Judgement, Verdict
from models.domain import Health, Topology
from models.errors import Broken, Conflict, InvalidInput, NotFound, Refused, Unavailable
from models.incident import Cause, CauseKind, Signal
from models.overlay import EjectInstance, HeaderIs, Overlay, Owner, RouteCanary, ShiftTraffic
from models.rollout import Freeze, Rollout, RolloutStep
from models.signals import BOUNDS_S, BUCKETS, Outcomes, Series, Side
from playbooks.guards import Limits
from playbooks.ledger import Ledger

from .conftest import TOPOLOGY, Clock, FakeFence, FakeSight, ListAudit, ListPager
from .test_api import Backend

TICK_S = 0.2
ROLLOUT = Rollout(
    "catalog", 1, "catalog", "v2", "v1", (RolloutStep(10, 5.0), RolloutStep(50, 5.0)), least_requests=20, created_at=7.0
)


@dataclass
class Traffic:
    """What the mesh answers: error ratios by version, 0 requests when `rps` is 0."""

    rps: float = 500.0
    errors: dict[str, float] = field(default_factory=lambda: {"v1": 0.0, "v2": 0.0})


class Play:
    """A mesh with one canary. `kill` forgets the controller as `kill -9` does; `start` begins another one."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.clock, self.sight, self.mesh = Clock(), FakeSight(), MeshView()
        self.mesh.set_topology(TOPOLOGY)
        self.mesh.control_up = True
        self.actuator = MemoryActuator(self.clock)
        self.audit, self.fence, self.timeline = ListAudit(), FakeFence(), Timeline()
        self.rollouts: tuple[Rollout, ...] = (ROLLOUT,)
        self.incidents: list[Incident] = []
        self.traffic = Traffic()
        self.passed_on: set[Series] = set()
        self.rng = np.random.default_rng(1)
        self.control_away = False
        self.stopped = ""
        self.planner, self.pager = PlaybookPlanner((), Limits()), ListPager()
        self.budgets: dict[str, str] = {}
        self.store: Store
        self.tap: Tap
        self.controller: CanaryController

    async def start(self) -> None:
        self.store = Store(self.directory / "agent.db")
        await self.store.open()
        self.tap = Tap(self.sight)
        self.controller = CanaryController(
            CanaryTools(
                source=self._declared,
                tap=self.tap,
                mesh=self.mesh,
                incidents=lambda: self.incidents,
                actuator=self.actuator,
                fence=self.fence,
                chronicle=Chronicle(self.audit, self.clock),
                store=self.store,
                timeline=self.timeline,
                clock=self.clock,
                stopped=lambda: self.stopped,
                lease_s=30.0,
                ties=Ties(self.planner, self.store, self.mesh, self.pager),
                hold=lambda service, _: self.budgets.get(service, ""),
            )
        )

    async def kill(self) -> None:
        await self.store.close()

    async def _declared(self) -> tuple[Rollout, ...]:
        if self.control_away:
            raise Unavailable("the control plane is away")
        return self.rollouts

    @property
    def weights(self) -> dict[str, int]:
        """What is in force, by the newest overlay; what is declared (all to v1) without one."""
        shifts = [o for o in self.mesh.overlays if isinstance(o.change, ShiftTraffic)]
        best = max(shifts, key=lambda o: (o.owner is Owner.PERSON, o.fence, o.created_at), default=None)
        return dict(best.change.weights) if best and isinstance(best.change, ShiftTraffic) else {"v1": 100, "v2": 0}

    @property
    def state(self) -> str:
        return self.controller.view("catalog").state

    async def run(self, seconds: float, until: Callable[[], bool] = lambda: False) -> float:
        """Play; return after how many seconds `until` held."""
        for k in range(round(seconds / TICK_S)):
            self.clock.now += TICK_S
            self.mesh.overlays = await self.actuator.overlays()
            self.mesh.overlays_at = self.clock.now
            self._serve()
            self.passed_on |= set(self.tap.take_tick(self.clock.now))
            await self.controller.tick()
            if until():
                return (k + 1) * TICK_S
        return seconds

    def _serve(self) -> None:
        weights = self.weights
        routed = next((o.change for o in self.mesh.overlays if isinstance(o.change, RouteCanary)), None)
        self.mesh.set_topology(replace(TOPOLOGY, weights={"catalog": {v: w / 100 for v, w in weights.items()}}))
        if routed is not None and routed.mirror:
            self._answered(Side.SERVER, {"v1": 100, "v2": routed.percent})
        elif routed is not None:
            weights = {"v1": 100 - routed.percent // 5, "v2": routed.percent // 5}  # a fifth of the requests match
        self._answered(Side.ATTEMPT, weights)

    def _answered(self, side: Side, weights: dict[str, int]) -> None:
        for version, share in weights.items():
            n = int(self.rng.poisson(self.traffic.rps * TICK_S * share / 100))
            if n:
                bucket = np.searchsorted(BOUNDS_S, 0.02 * np.exp(0.3 * self.rng.standard_normal(n)))
                errors = int(self.rng.binomial(n, self.traffic.errors[version]))
                instance = f"catalog-{version}-1"
                series = Series(
                    side, "front", "catalog", version, instance, instance if side is Side.SERVER else "front-1"
                )
                self.sight.next[series] = Outcomes(n, errors, latency=np.bincount(bucket, minlength=BUCKETS))


@asynccontextmanager
async def playing(directory: Path) -> AsyncIterator[Play]:
    """Run a play."""
    play = Play(directory)
    await play.start()
    try:
        yield play
    finally:
        await play.kill()


@pytest.fixture
async def play(tmp_path: Path) -> AsyncIterator[Play]:
    """A mesh with one canary, controller running."""
    async with playing(tmp_path) as one:
        yield one


async def test_a_good_canary_goes_through_its_steps_and_takes_over(play: Play) -> None:
    """10 %, 50 %, everything; each step lasts its least time, and each move is audited with its numbers."""
    assert await play.run(3, lambda: play.weights == {"v1": 90, "v2": 10}) < 3
    at_first = await play.run(60, lambda: play.weights == {"v1": 50, "v2": 50})
    assert 5 <= at_first < 60
    assert await play.run(60, lambda: play.state == "promoted") < 60
    await play.run(1)
    assert play.weights == {"v1": 0, "v2": 100}
    moves = [data["move"] for kind, data in play.audit.records if kind == "canary"]
    assert moves == ["step 1", "step 2", "promoted"]
    assert play.audit.records[-1][1]["evidence"]["verdict"] == "promote"


async def test_a_bad_canary_is_rolled_back_and_stays_back(play: Play) -> None:
    """20 % errors at 50 requests per second: all traffic is back within 3 s, and no step follows."""
    await play.run(4)
    play.traffic.errors["v2"] = 0.2
    assert await play.run(10, lambda: play.state == "rolled-back") <= 3
    await play.run(60)
    assert play.weights == {"v1": 100, "v2": 0}
    assert "fails" in play.controller.view("catalog").reason


async def test_a_shared_failure_holds_and_never_rolls_back(play: Play) -> None:
    """Both versions fail half: no step, no rollback; afterwards it goes on."""
    await play.run(4)
    play.traffic.errors = {"v1": 0.5, "v2": 0.5}
    await play.run(30)
    assert play.weights == {"v1": 90, "v2": 10}
    assert "shared cause" in play.controller.view("catalog").holding
    play.traffic.errors = {"v1": 0.0, "v2": 0.0}
    assert await play.run(600, lambda: play.weights["v2"] == 50) < 600


async def test_no_traffic_and_blindness_hold(play: Play) -> None:
    """Without requests, or with a caller that cannot be trusted, nothing moves; blind, failures do not count."""
    play.traffic.rps = 0
    await play.run(120)
    assert play.weights == {"v1": 90, "v2": 10}
    play.traffic = Traffic(errors={"v1": 0.0, "v2": 1.0})
    play.sight.blinded = frozenset({"front-1"})
    await play.run(20)
    assert play.weights == {"v1": 90, "v2": 10}
    assert "front-1" in play.controller.view("catalog").holding


@pytest.mark.parametrize("moment", ["stored", "laid", "later"])
async def test_a_killed_controller_goes_on_where_it_was(tmp_path: Path, moment: str) -> None:
    """Killed after the record, after the overlay, or between: one overlay, the same step, and the canary still completes."""
    async with playing(tmp_path) as play:
        await play.run(4)
        if moment == "stored":  # the record says step 2, the overlay of step 1 is laid
            play.actuator.failure = Unavailable("away")
            guide = play.controller._guides["catalog"]
            await play.controller._move(guide, Advance(1, "test"), play.clock.now)
            play.actuator.failure = None
        elif moment == "laid":  # both overlays are there
            guide = play.controller._guides["catalog"]
            await play.controller._move(guide, Advance(1, "test"), play.clock.now)
            play.mesh.overlays = ()
            await play.controller._laying.close(guide, play.clock.now)
        step = play.controller._guides["catalog"].record.step
        await play.kill()
        await play.start()
        await play.run(2)
        assert play.controller._guides["catalog"].record.step == step
        assert len(await play.actuator.overlays()) == 1
        assert play.weights["v2"] == ROLLOUT.steps[step].weight
        assert await play.run(120, lambda: play.state == "promoted") < 120


async def test_a_dead_agent_leaves_what_is_declared_and_returns(play: Play) -> None:
    """After the lease the declared weights hold; a new controller lays the step again and keeps the evidence."""
    await play.run(4)
    await play.kill()
    play.clock.now += 40
    assert await play.actuator.overlays() == ()
    await play.start()
    await play.run(1)
    assert play.weights == {"v1": 90, "v2": 10}


async def test_the_lease_is_renewed(play: Play) -> None:
    """A long step outlives its lease."""
    play.rollouts = (replace(ROLLOUT, steps=(RolloutStep(10, 600.0),)),)
    await play.run(120)
    assert play.weights == {"v1": 90, "v2": 10}


async def test_the_lease_is_renewed_though_the_clock_went_back(play: Play) -> None:
    """Only the agent's clock goes back by an hour: the step is still renewed within a third of its lease."""
    play.rollouts = (replace(ROLLOUT, steps=(RolloutStep(10, 600.0),)),)
    await play.run(4)
    play.clock.now -= 3600.0
    play.actuator.log.clear()
    await play.run(12)
    assert "renew" in {verb for verb, _ in play.actuator.log}


async def test_a_deleted_canary_leaves_nothing(play: Play) -> None:
    """With the declaration gone, so is the overlay; declared again, it begins anew."""
    await play.run(4)
    play.rollouts = ()
    await play.run(2)
    assert await play.actuator.overlays() == ()
    with pytest.raises(NotFound):
        play.controller.view("catalog")
    play.rollouts = (replace(ROLLOUT, created_at=9.0),)
    await play.run(0.2 * 6)
    assert play.controller.view("catalog").step <= 1


async def test_a_changed_declaration_begins_anew(play: Play) -> None:
    """A new generation of an aborted canary starts at its first step."""
    await play.run(4)
    await play.controller.command("catalog", Command.ABORT, "ada")
    await play.run(1)
    assert play.weights == {"v1": 100, "v2": 0}
    play.rollouts = (replace(ROLLOUT, generation=2),)
    assert await play.run(5, lambda: play.weights == {"v1": 90, "v2": 10}) < 5


async def test_people_steer(play: Play) -> None:
    """Pause stops steps but not a rollback, resume goes on, promote takes a step at once, abort ends it; all audited."""
    await play.run(2)
    await play.controller.command("catalog", Command.PAUSE, "ada")
    await play.run(60)
    assert play.weights == {"v1": 90, "v2": 10}
    assert play.controller.view("catalog").holding == "paused by ada"
    await play.controller.command("catalog", Command.RESUME, "ada")
    await play.controller.command("catalog", Command.PROMOTE, "ada")
    assert play.controller.view("catalog").weight == 50
    await play.controller.command("catalog", Command.ABORT, "ada")
    await play.run(1)
    assert play.weights == {"v1": 100, "v2": 0}
    told = [data for kind, data in play.audit.records if kind == "canary" and "command" in data]
    assert [(data["command"], data["who"]["name"]) for data in told] == [
        ("pause", "ada"),
        ("resume", "ada"),
        ("promote", "ada"),
        ("abort", "ada"),
    ]
    with pytest.raises(InvalidInput, match="aborted already"):
        await play.controller.command("catalog", Command.RESUME, "ada")


async def test_a_paused_canary_that_fails_is_rolled_back(play: Play) -> None:
    """A pause is no reason to keep serving errors."""
    await play.run(2)
    await play.controller.command("catalog", Command.PAUSE, "ada")
    play.traffic.errors["v2"] = 0.5
    assert await play.run(10, lambda: play.state == "rolled-back") < 10


async def test_weights_set_by_hand_are_left_alone(play: Play) -> None:
    """A person's overlay on the same weights: the canary yields, and goes on when it is gone."""
    await play.run(2)
    until = play.clock.now + 20
    shift = ShiftTraffic("catalog", {"v1": 100, "v2": 0})
    play.actuator.put(Overlay("mine", shift, Owner.PERSON, "ada", "look", play.clock.now, until, 20))
    play.actuator.log.clear()
    await play.run(10)
    assert play.actuator.log == []
    assert "ada" in play.controller.view("catalog").holding
    await play.run(15)
    assert play.weights["v2"] >= 10


async def test_a_removed_overlay_is_an_order(play: Play) -> None:
    """A person removes the canary's overlay: it is not laid again until resumed."""
    await play.run(2)
    (overlay,) = await play.actuator.overlays()
    play.actuator.drop(overlay.id)
    await play.run(30)
    assert await play.actuator.overlays() == ()
    assert "removed" in play.controller.view("catalog").holding
    await play.controller.command("catalog", Command.RESUME, "ada")
    await play.run(1)
    assert play.weights == {"v1": 90, "v2": 10}


async def test_a_lost_fence_and_a_broken_audit_log_keep_it_from_acting(play: Play) -> None:
    """Without the fence, or without a record, no step and no command."""
    play.fence.token = None
    await play.run(5)
    assert play.actuator.log == []
    play.fence.token = 1
    play.audit.broken = True
    await play.run(5)
    assert play.actuator.log == []
    with pytest.raises(Broken, match="audit"):
        await play.controller.command("catalog", Command.ABORT, "ada")
    play.audit.broken = False
    await play.run(3)
    assert play.weights == {"v1": 90, "v2": 10}


async def test_the_kill_switch_stops_canaries_too(play: Play) -> None:
    """Thrown: no step, no rollback, no command; what is laid stays. Taken back: it goes on."""
    await play.run(2)
    play.stopped = "stopped by ada"
    play.traffic.errors["v2"] = 0.5
    await play.run(40)
    assert play.weights == {"v1": 90, "v2": 10}
    assert play.controller.view("catalog").holding == "stopped by ada"
    with pytest.raises(Conflict, match="stopped by ada"):
        await play.controller.command("catalog", Command.ABORT, "bob")
    play.stopped = ""
    assert await play.run(2, lambda: play.state == "rolled-back") < 2


async def test_an_unreadable_control_plane_changes_nothing(play: Play) -> None:
    """While canaries cannot be read, those that are known go on being held."""
    await play.run(4)
    play.control_away = True
    await play.run(10)
    assert play.controller.view("catalog").state == "progressing"


# Decisions, as a table

PROVEN = Judgement(Verdict.PROMOTE, "proven", (), 1000, 9000, 0.0)
WORSE = Judgement(Verdict.ROLL_BACK, "worse", (), 1000, 9000, 9.0)
OPEN = Judgement(Verdict.KEEP_LOOKING, "so far", (), 1000, 9000, 0.0)
NOW = 1_700_258_400.0  # a Friday, 22:00 UTC
STEP_1 = Record("catalog", 1, State.PROGRESSING, 0, NOW - 100)
STEP_2 = replace(STEP_1, step=1)


@pytest.mark.parametrize(
    ("rollout", "record", "judgement", "around", "wanted"),
    [
        (ROLLOUT, STEP_1, PROVEN, Around(NOW), Advance),
        (ROLLOUT, STEP_2, PROVEN, Around(NOW), Promote),
        (ROLLOUT, STEP_1, OPEN, Around(NOW), Stay),
        (ROLLOUT, STEP_1, WORSE, Around(NOW), RollBack),
        (ROLLOUT, STEP_1, WORSE, Around(NOW, incident="x"), RollBack),
        (ROLLOUT, STEP_1, WORSE, Around(NOW, blind="x"), Stay),
        (ROLLOUT, STEP_1, WORSE, Around(NOW, person="x"), Stay),
        (ROLLOUT, STEP_1, PROVEN, Around(NOW, incident="x"), Stay),
        (ROLLOUT, STEP_1, PROVEN, Around(NOW, missing="x"), Stay),
        (ROLLOUT, STEP_1, PROVEN, Around(NOW, hold="x"), Stay),
        (ROLLOUT, STEP_2, PROVEN, Around(NOW, hold="x"), Stay),
        (ROLLOUT, STEP_1, WORSE, Around(NOW, hold="x"), RollBack),
        (ROLLOUT, Record("catalog", 1), OPEN, Around(NOW, hold="x"), Stay),
        (ROLLOUT, STEP_1, OPEN, Around(NOW, taken="x"), RollBack),
        (ROLLOUT, replace(STEP_1, since=NOW - 1), PROVEN, Around(NOW), Stay),
        (ROLLOUT, replace(STEP_1, paused="ada"), PROVEN, Around(NOW), Stay),
        (ROLLOUT, replace(STEP_1, paused="ada"), WORSE, Around(NOW), RollBack),
        (ROLLOUT, replace(STEP_1, yielded=True), WORSE, Around(NOW), Stay),
        (replace(ROLLOUT, automatic=False), STEP_2, PROVEN, Around(NOW), Stay),
        (replace(ROLLOUT, automatic=False), replace(STEP_2, approved=1), PROVEN, Around(NOW), Promote),
        (replace(ROLLOUT, steps=(RolloutStep(10, 5.0, approval=True),)), STEP_1, PROVEN, Around(NOW), Stay),
        (replace(ROLLOUT, freezes=(Freeze((4,), 64800, 21600),)), STEP_1, PROVEN, Around(NOW), Stay),
        (replace(ROLLOUT, freezes=(Freeze((4,), 64800, 21600),)), STEP_1, PROVEN, Around(NOW + 9 * 3600), Advance),
        (replace(ROLLOUT, freezes=(Freeze((4,), 64800, 21600),)), STEP_1, WORSE, Around(NOW), RollBack),
        (replace(ROLLOUT, inconclusive_after_s=50), STEP_1, OPEN, Around(NOW), Stay),
        (replace(ROLLOUT, inconclusive_after_s=50, inconclusive="promote"), STEP_1, OPEN, Around(NOW), Advance),
        (replace(ROLLOUT, inconclusive_after_s=50, inconclusive="rollback"), STEP_1, OPEN, Around(NOW), RollBack),
        (
            replace(ROLLOUT, inconclusive_after_s=50, inconclusive="rollback"),
            STEP_1,
            replace(OPEN, requests=0),
            Around(NOW),
            Stay,
        ),
        (ROLLOUT, replace(STEP_1, state=State.ABORTED), PROVEN, Around(NOW), Stay),
        (ROLLOUT, Record("catalog", 1), OPEN, Around(NOW), Advance),
        (ROLLOUT, Record("catalog", 1), OPEN, Around(NOW, missing="x"), Stay),
    ],
)
def test_decisions(rollout: Rollout, record: Record, judgement: Judgement, around: Around, wanted: type) -> None:
    """Rolling back needs proof and sight; going on needs proof, time, and every gate open."""
    assert type(decide(rollout, record, judgement, around)) is wanted


async def test_an_incident_near_by_holds(play: Play) -> None:
    """An open incident about the service makes the canary wait, whatever is proven."""
    await play.run(4)
    cause = Cause(CauseKind.DEPENDENCY, "catalog", "db", Signal.ERRORS, 0.9)
    play.incidents = [Incident("inc-9", play.clock.now, play.clock.now, causes=(cause,))]
    await play.run(60)
    assert play.weights == {"v1": 90, "v2": 10}
    assert "inc-9" in play.controller.view("catalog").holding


async def test_it_waits_for_both_versions(play: Play) -> None:
    """No traffic goes to a canary without a healthy instance."""
    sick = tuple(replace(i, health=Health.UNHEALTHY) if i.version == "v2" else i for i in TOPOLOGY.instances)
    play.mesh.set_topology(Topology(sick, TOPOLOGY.edges))
    await play.controller.tick()
    assert play.actuator.log == []
    assert "no healthy instance of catalog v2" in play.controller.view("catalog").holding


def test_overlay_ids_fit() -> None:
    """However long the name, the overlay's id has at most 63 characters and differs between names."""
    ids = {Record("x" * 200 + end, 1000, State.ROLLED_BACK).overlay for end in ("a", "b")}
    assert len(ids) == 2
    assert all(len(one) <= 63 for one in ids)


async def test_commands_over_the_api_need_the_operator(play: Play) -> None:
    """Reads are open; commands need the operator's token, a known word and a known canary."""
    token = play.directory / "operator.token"
    token.write_text("secret\n", encoding="utf-8")
    await play.run(2)
    api = AgentApi(Backend(), token, CanaryRoutes(play.controller, token).routes())
    url = await api.start("127.0.0.1", 0)
    try:
        async with AgentClient(url) as anyone:
            (seen,) = await anyone.canaries()
            assert (seen.name, seen.weight, seen.state) == ("catalog", 10, "progressing")
            with pytest.raises(Refused, match="operator"):
                await anyone.tell_canary("catalog", Command.ABORT)
        async with AgentClient(url, token="secret", actor="ada") as operator:
            with pytest.raises(NotFound):
                await operator.tell_canary("nobody", Command.PAUSE)
            with pytest.raises(InvalidInput, match="no command"):
                await operator._ask("/v1/canaries/catalog/explode", order={})
            assert (await operator.tell_canary("catalog", Command.PAUSE)).paused == "ada"
            assert (await operator.tell_canary("catalog", Command.ABORT)).state == "aborted"
            assert (await operator.canary("catalog")).weight == 0
    finally:
        await api.stop()


def test_the_tap_takes_nothing_away() -> None:
    """The loop gets everything; the copy has only what is watched, added up until it is taken."""
    sight = FakeSight()
    tap = Tap(sight)
    tap.watched = frozenset({"catalog"})
    mine = Series(Side.ATTEMPT, "front", "catalog", "v1", "catalog-v1-1", "front-1")
    other = replace(mine, callee="cart")
    for _ in range(2):
        sight.next = {mine: Outcomes(3, 1), other: Outcomes(5)}
        assert set(tap.take_tick(0.0)) == {mine, other}
    kept = tap.take()
    assert (set(kept), kept[mine].requests) == ({mine}, 6)
    assert tap.take() == {}


BETA = (HeaderIs("x-beta", "present"),)
KINDS = replace(
    ROLLOUT,
    steps=(RolloutStep(50, 5.0, mirror=True), RolloutStep(100, 5.0, conditions=BETA), RolloutStep(50, 5.0)),
)


def routed(play: Play) -> list[RouteCanary]:
    """Return the canary's routes in force."""
    return [o.change for o in play.mesh.overlays if isinstance(o.change, RouteCanary)]


async def test_copies_then_some_users_then_all(play: Play) -> None:
    """A canary proves itself on copies, then on requests that match, then by weight, and takes over."""
    play.rollouts = (KINDS,)
    assert await play.run(10, lambda: bool(routed(play))) < 10
    assert routed(play) == [RouteCanary("catalog", "v2", "v1", 50, mirror=True)]
    view = play.controller.view("catalog")
    assert (view.weight, view.what) == (50, "copies of requests")
    assert await play.run(120, lambda: [r.conditions for r in routed(play)] == [BETA]) < 120
    assert play.controller.view("catalog").what == "matching requests"
    assert await play.run(120, lambda: play.weights["v2"] == 50) < 120
    assert await play.run(120, lambda: play.state == "promoted") < 120
    assert not routed(play)
    assert not play.pager.pages


async def test_a_canary_that_fails_on_copies_goes_back_and_nobody_is_alarmed(play: Play) -> None:
    """Its own sidecar's answers condemn it; the healing loop never sees them; a person is told once."""
    play.rollouts = (KINDS,)
    play.traffic.errors["v2"] = 0.2
    assert await play.run(20, lambda: play.state == "rolled-back") < 20
    await play.run(1)
    assert not routed(play)
    assert play.weights == {"v1": 100, "v2": 0}
    assert not [s for s in play.passed_on if s.version == "v2" and s.side is Side.SERVER]
    (page,) = play.pager.pages
    assert "canary catalog of catalog was rolled back: v2 fails" in page


async def test_a_canary_that_fails_those_who_match_goes_back(play: Play) -> None:
    """Header canaries roll back on what their own users met."""
    play.rollouts = (replace(KINDS, steps=KINDS.steps[1:]),)
    play.traffic.errors["v2"] = 0.2
    assert await play.run(20, lambda: play.state == "rolled-back") < 20
    assert len(play.pager.pages) == 1


async def test_steps_are_in_the_ledger_and_a_full_mesh_holds_them(play: Play) -> None:
    """Each step is entered, over kill -9; while the agent keeps too much of the mesh from serving, no canary goes on."""
    for name in ("catalog-v1-1", "checkout-1", "checkout-2"):
        service = name.partition("-")[0]
        now = play.clock.now
        eject = EjectInstance(service, name)
        play.actuator.put(Overlay(name, eject, Owner.AGENT, "agent", "sick", now, now + 20, 20.0, "inc-1"))
    await play.run(10)
    assert play.state == "waiting"
    assert "healthy instances are out of service" in play.controller.view("catalog").holding
    await play.run(60)
    assert play.weights["v2"] > 0
    kept = Ledger.loads((await play.store.recall("ledger", shared=True) or b"").decode())
    assert {entry.playbook for entry in kept.entries} == {"canary/catalog"}
    assert len(kept.entries) >= 1


async def test_a_canary_waits_while_the_error_budget_is_spent(play: Play) -> None:
    """It does not begin, says why, and goes on by itself once something is left of the budget."""
    play.budgets["catalog"] = "the error budget of objective answers is spent"
    await play.run(20.0)
    seen = play.controller.view("catalog")
    assert (seen.state, seen.holding) == ("waiting", "the error budget of objective answers is spent")
    assert play.weights == {"v1": 100, "v2": 0}
    play.budgets.clear()
    await play.run(2.0)
    assert play.state == "progressing"
