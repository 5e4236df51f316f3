"""One attack per safety interlock, and the proof by mutation: with the interlock switched off the attack succeeds.

The table of docs/interlocks.md names these attacks. Each attack raises AssertionError when the harm it tries to do was done.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from agent.audit import AuditLog, verify
from agent.audit import proof as proof_module
from agent.audit.anchors import Head
from agent.audit.chain import Record
from agent.audit.keys import new_signer
from agent.caretaker import Caretaker
from agent.chronicle import Chronicle
from agent.deciding import Deciding
from agent.gates import check
from agent.planner import PlaybookPlanner
from agent.store import Store
from agent.switch import KillSwitch
from agent.treatment import Treatment
from control.fencing import Fences
from models.domain import Edge, Topology
from models.errors import Conflict
from models.incident import Cause, CauseKind, Signal
from models.overlay import Overlay, Owner, ShiftTraffic
from playbooks import load, planning
from playbooks.guards import Context, GuardName, Limits
from playbooks.ledger import Entry, Ledger, Outcome
from playbooks.planning import plan
from playbooks.schema import Freeze, Mode, Playbook

from . import attacks, attacks_between
from .attacks import Attack, Interlock, Mutation, patched
from .conftest import World, bad_version
from .shop import EDGES, INSTANCES

DOCS = Path(__file__).resolve().parents[3] / "docs" / "interlocks.md"

PLAYBOOK = """
apiVersion: fibrin.dev/v1
kind: Playbook
metadata: {name: careful}
spec:
  when: {cause: [instance], services: {all: true}}
  mode: auto
  guard: {headroom: 20%, maxLoadFactor: 2.5, cooldown: 60s, strikes: 2, concurrency: 1}
  steps:
  - {name: eject it, action: {ejectInstance: {}}, verify: {deadline: 5s}, undo: automatic}
"""
CAUSE = Cause(CauseKind.INSTANCE, "checkout", "checkout-v1-1", Signal.ERRORS, 0.9, edge=Edge("front", "checkout"))
TOPOLOGY = Topology(INSTANCES, frozenset(Edge(a, b) for a, b in EDGES))
FROZEN = Freeze.model_validate({"from": "1970-01-01", "to": "1970-01-02"})
CALM = Context(TOPOLOGY, now=1000.0, saturation={"checkout": 0.2})


@dataclass
class ManualClock:
    """The control plane's two clocks, moved by hand."""

    now: float = 1000.0

    def wall(self) -> float:
        """Return Unix time."""
        return self.now

    def monotonic(self) -> float:
        """Return seconds that never go back."""
        return self.now


def playbooks() -> tuple[Playbook, ...]:
    """Return one careful playbook."""
    return load({"careful.yaml": PLAYBOOK})


def refused(**context: Any) -> Attack:
    """Return an attack: a plan in circumstances that a guard must refuse."""

    async def attack(_: Path) -> None:
        assert plan(CAUSE, CALM, playbooks()).plan is not None
        decision = plan(CAUSE, replace(CALM, **context), playbooks())
        assert decision.plan is None, decision.plan

    return attack


def without(guard: GuardName) -> Mutation:
    """Return the mutation that lets a guard always say yes."""

    def off(patch: pytest.MonkeyPatch) -> None:
        for name in ("mesh_checks", "step_checks"):
            asked = getattr(planning, name)

            def lenient(*args: Any, asked: Any = asked) -> Any:
                return tuple(replace(check, ok=True) if check.guard is guard else check for check in asked(*args))

            patch.setattr(planning, name, lenient)

    return off


def gate(**neutral: Any) -> Mutation:
    """Return the mutation that blinds the gates in front of every act to something."""

    def off(patch: pytest.MonkeyPatch) -> None:
        patch.setattr("agent.lookout.check", lambda at: check(replace(at, **neutral)))

    return off


def entries(outcome: Outcome, *ages: float, service: str = "checkout", playbook: str = "careful") -> Ledger:
    """Return a ledger of earlier actions."""
    ledger = Ledger()
    for number, age in enumerate(ages):
        ledger = ledger.record(Entry(f"e{number}", 1000.0 - age, service, 0.1, playbook, outcome))
    return ledger


async def broken_world(directory: Path, prepare: Callable[[World], None], **settings: Any) -> World:
    """Let a version fail in a world where acting is forbidden; return it after two seconds."""
    world = World(directory)
    await world.begin(**settings)
    await world.step(1.0)
    prepare(world)
    world.break_(bad_version(world, cured_by=[]))
    await world.step(2.0)
    await world.store.close()
    return world


def unharmed(prepare: Callable[[World], None], **settings: Any) -> Attack:
    """Return an attack: make the loop act where it must not."""

    async def attack(directory: Path) -> None:
        world = await broken_world(directory, prepare, **settings)
        assert world.acts() == []

    return attack


def _storm(world: World) -> None:
    world.loop._lookout.storm = lambda cause: 0.9 if cause else 0.0  # type: ignore[method-assign]


def _blind(world: World) -> None:
    world.sight.blinded = frozenset({"front-1"})


def _person(world: World) -> None:
    now = world.clock.now
    mine = ShiftTraffic("catalog", {"v1": 50, "v2": 50})
    world.actuator.put(Overlay("hand", mine, Owner.PERSON, "ada", "trying", now, now + 600, 600))


def _full_disk(world: World) -> None:
    world.audit.broken = True


def _control_away(world: World) -> None:
    world.mesh.control_up = False


def _thrown(world: World) -> None:
    (world.directory / "stop-acting").touch()


def _shadow(world: World) -> None:
    world.planner.mode = Mode.SHADOW


async def _ledger_survives(directory: Path) -> None:
    """A killed agent forgets its cool-down."""
    store, limits = Store(directory / "agent.db"), Limits()
    await store.open()
    planner = PlaybookPlanner(playbooks(), limits)
    planner.restore(entries(Outcome.HELPED, 5.0).dumps().encode())
    await store.remember("ledger", planner.save(), shared=True)
    await store.close()
    store = Store(directory / "agent.db")
    await store.open()
    after = PlaybookPlanner(playbooks(), limits)
    after.restore(await store.recall("ledger", shared=True) or b"[]")
    await store.close()
    assert plan(CAUSE, replace(CALM, ledger=after._ledger), playbooks()).plan is None


async def _late_write(_: Path) -> None:
    """A paused ex-leader writes with its old token."""
    clock = ManualClock()
    fences = Fences(clock)
    first, _writes = fences.acquire("one", 5.0)
    clock.now += 6.0
    second, _writes = fences.acquire("two", 5.0)
    assert second.fence > first.fence
    try:
        fences.check(first.fence)
    except Conflict:
        return
    raise AssertionError("the stale token was taken")


async def _useless_step(directory: Path) -> None:
    """A step that does not help stays in force."""
    world = World(directory)
    await world.begin()
    await world.step(1.0)
    world.break_(bad_version(world, cured_by=[]))
    await world.step(25.0)
    await world.store.close()
    assert await world.actuator.overlays() == ()
    assert world.pager.pages


async def _held_down(directory: Path) -> None:
    """An act that should wait whether the fault passes is done at once."""
    world = World(directory)
    await world.begin()
    await world.step(1.0)
    fault = world.break_(bad_version(world))
    world.planner.steps["catalog"] = tuple(replace(s, hold_down_s=3.0) for s in world.planner.steps["catalog"])
    await world.step(2.0)
    fault.over = True
    await world.step(4.0)
    await world.store.close()
    assert world.acts() == []


async def _taken_over(directory: Path) -> None:
    """The agent acts again where a person took its overlay away."""
    world = World(directory)
    await world.begin(mute_s=0.5)
    await world.step(1.0)
    world.break_(bad_version(world, cured_by=[]))
    await world.step(0.4)
    world.actuator.drop(f"{world.incident.id}-1")
    await world.step(10.0)
    await world.store.close()
    assert len(world.acts()) == 1


async def _forged_record(directory: Path) -> None:
    """A record of the log is replaced by another one, with a chain that fits."""
    path = directory / "audit.log"
    async with AuditLog(path) as log:
        await log.append("act", {"n": 1})
    for companion in (".head", ".anchors"):
        path.with_suffix(companion).unlink()
    forged = Record.following(1, "0" * 64, 1.0, "act", {"n": 2}, signer=new_signer())
    path.write_bytes(forged.line())
    path.with_suffix(".head").write_bytes(Head(1, forged.hash).sealed(1.0, new_signer()).dumps())
    assert not verify(path).ok


def _unsigned(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(proof_module, "_unsigned", lambda _walk, _record: "")
    patch.setattr(Head, "genuine", lambda _self, _trust: True)


def _never_stopped(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(KillSwitch, "stopped", property(lambda _self: ""))


def _forgetful(patch: pytest.MonkeyPatch) -> None:
    async def lost(*_: Any, **__: Any) -> None:
        return None

    patch.setattr(Store, "remember", lost)


def _no_undo(patch: pytest.MonkeyPatch) -> None:
    async def kept(self: Treatment, track: Any, *_: Any) -> None:
        await self.escalate(track, "left as it is")

    patch.setattr(Treatment, "undo", kept)


def _impatient(patch: pytest.MonkeyPatch) -> None:
    async def at_once(_self: Deciding, _track: Any) -> bool:
        return True

    patch.setattr(Deciding, "_held_down", at_once)


def _bold(patch: pytest.MonkeyPatch) -> None:
    async def always(*_: Any) -> bool:
        return True

    patch.setattr(Deciding, "may", always)


def _stubborn(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Caretaker, "person", lambda _self, _step, _now: "")


INTERLOCKS = (
    Interlock("2 blast radius", without(GuardName.MESH), refused(limits=Limits(mesh_capacity=0.01))),
    Interlock("3 storm stop", gate(storm_share=0.0), unharmed(_storm)),
    Interlock("3 storm stop, planner", without(GuardName.STORM), refused(anomalous_share=0.9)),
    Interlock("4 memory over kill -9", _forgetful, _ledger_survives),
    Interlock("4 cool-down", without(GuardName.COOLDOWN), refused(ledger=entries(Outcome.HELPED, 5.0))),
    Interlock("4 strikes", without(GuardName.STRIKES), refused(ledger=entries(Outcome.UNDONE, 300.0, 600.0))),
    Interlock(
        "4 rate",
        without(GuardName.BUSY),
        refused(ledger=entries(Outcome.HELPED, *range(70, 190, 10), service="x", playbook="y")),
    ),
    Interlock("5 fencing", patched(Fences, "check", lambda _self, _fence: None), _late_write),
    Interlock("6 capacity floor", without(GuardName.FLOOR), refused(limits=Limits(floor=0.99))),
    Interlock("7 telemetry trust", gate(blind=frozenset()), unharmed(_blind)),
    Interlock(
        "7 telemetry trust, planner",
        without(GuardName.BLIND),
        refused(blind=frozenset(i.id for i in INSTANCES if i.service == "front")),
    ),
    Interlock("8 hold-down", _impatient, _held_down),
    Interlock("10 verify, undo, page", _no_undo, _useless_step),
    Interlock("12 kill switch", _never_stopped, unharmed(_thrown)),
    Interlock("13 modes", _bold, unharmed(_shadow)),
    Interlock("15 headroom", without(GuardName.HEADROOM), refused(saturation={"checkout": 0.7})),
    Interlock("15 no capacity away in a surge", without(GuardName.LOAD), refused(load={"checkout": 2.0})),
    Interlock("17 control plane away", gate(control_up=True), unharmed(_control_away)),
    Interlock("19 freeze", without(GuardName.FREEZE), refused(limits=Limits(freeze=(FROZEN,)))),
    Interlock("18 people first", gate(person=""), unharmed(_person)),
    Interlock("18 yield", _stubborn, _taken_over),
    Interlock("20 audit first", patched(Chronicle, "may_go_on", lambda _self, _number: True), unharmed(_full_disk)),
    Interlock("20 tamper-evident", _unsigned, _forged_record),
    *attacks.INTERLOCKS,
    *attacks_between.INTERLOCKS,
)


@pytest.mark.parametrize("interlock", INTERLOCKS, ids=lambda i: i.name)
async def test_the_attack_fails_while_the_interlock_stands_and_succeeds_without_it(
    interlock: Interlock, tmp_path: Path
) -> None:
    """Each interlock is what stops its attack: switched off, the harm is done and the attack's test dies."""
    for name in ("with", "without"):
        (tmp_path / name).mkdir()
    await interlock.attack(tmp_path / "with")
    with pytest.MonkeyPatch.context() as patch:
        interlock.off(patch)
        with pytest.raises(AssertionError):
            await interlock.attack(tmp_path / "without")


def test_the_page_names_every_attack_there_is() -> None:
    """docs/interlocks.md and this table say the same."""
    text = DOCS.read_text(encoding="utf-8")
    for row in re.findall(r"^\| \d+ \|.*$", text, re.MULTILINE):
        assert "attack `" in row, f"no attack is named for this interlock: {row}"
    named = set(re.findall(r"attack `([^`]+)`", text))
    assert named == {interlock.name for interlock in INTERLOCKS}
    assert [int(n) for n in re.findall(r"^\| (\d+) \|", text, re.MULTILINE)] == list(range(1, 23))
