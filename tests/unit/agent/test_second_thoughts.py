"""A step that did not help speaks against the cause it was taken for: the agent thinks again before it calls a person."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from agent.audit import read, verify
from agent.claims import remaining
from agent.ports import Circumstances, Draft
from agent.replay import decisions, replay
from agent.triage import FADING_S
from models.domain import Edge
from models.incident import Anomaly, Cause, CauseKind, Signal
from models.overlay import EjectInstance, OpenBreaker, ShiftTraffic
from models.signals import Series, Side
from playbooks.schema import Mode

from .conftest import Fault, ScriptedPlanner, World, anomaly, bad_version, client, step
from .shop import open_mesh

EJECT = (step("eject", EjectInstance("catalog", "catalog-v2-1")),)
SHIFT = (step("shift", ShiftTraffic("catalog", {"v1": 100, "v2": 0})),)


def bad_instance(probability: float, subject: str = "catalog-v2-1") -> Cause:
    """Return the suspicion that one instance of the canary alone is bad."""
    return Cause(
        CauseKind.INSTANCE, "catalog", subject, Signal.ERRORS, probability, edge=Edge("front", "catalog"), evidence=()
    )


async def mistaken(world: World, probability: float = 0.9) -> Fault:
    """Break the whole canary while everything speaks for one of its instances; return the fault, already acted on."""
    await world.begin()
    await world.step(1.0)
    fault = bad_version(world)
    world.planner.steps["catalog"] = EJECT
    world.break_(replace(fault, cause=bad_instance(probability)))
    await world.step(0.6)
    assert world.stage == "verifying"
    return fault


async def test_the_cause_is_named_anew_after_a_step_that_did_not_help(world: World) -> None:
    """Ejecting the instance did not help and by now the version stands out: one incident, healed, nobody called."""
    fault = await mistaken(world)
    world.faults = [fault]  # from now on the evidence says: the version
    world.planner.steps["catalog"] = SHIFT
    await world.step(8.0)
    assert world.stages() == [
        *("detected", "correlated", "planned", "acting", "verifying", "undoing"),
        *("correlated", "planned", "acting", "verifying", "resolved"),
    ]
    assert [type(o.change) for o in await world.actuator.overlays()] == [ShiftTraffic]
    assert world.acts() == [f"{world.incident.id}-1", f"{world.incident.id}-2"]
    assert [s.name for s in world.incident.steps] == ["eject", "shift"]
    assert world.incident.refuted == ("instance catalog/catalog-v2-1",)
    assert world.pager.pages == []


async def test_requests_that_hung_before_the_act_do_not_speak_against_it(world: World) -> None:
    """Time-outs of two seconds go on coming in after the cure; they are waited for, and the act is kept."""
    await world.begin()
    await world.step(1.0)
    fault = world.break_(replace(bad_version(world), error_ratio=0.5, hangs_s=2.0))
    await world.step(0.6)
    assert world.stage == "verifying"
    await world.step(2.0)
    assert world.clock.now >= fault.comes_in_until
    assert world.stage == "verifying"
    await world.step(3.0)
    assert world.stage == "resolved"
    assert next(s.verdict for s in world.incident.steps) == "recovered"


async def test_a_refuted_cause_yields_to_the_next_suspect(world: World) -> None:
    """The evidence still prefers the instance, but its ejection did not help: the second suspect is treated."""
    fault = await mistaken(world, 0.8)
    world.break_(replace(fault, cause=replace(fault.cause, probability=0.2)))
    world.planner.steps["catalog"] = SHIFT
    await world.step(8.0)
    assert world.stage == "resolved"
    assert world.incident.cause is not None
    assert world.incident.cause.key == "version catalog/v2"
    assert world.incident.cause.probability == 1.0


async def test_after_three_causes_treated_in_vain_a_person_is_called(world: World) -> None:
    """Thinking again has an end: everything is undone and one page says what was tried."""
    fault = await mistaken(world)
    for n in range(2, 6):
        other = bad_instance(0.9 / n, f"catalog-v2-{n}")
        world.break_(replace(fault, cause=other, cured_by=frozenset()))
    world.faults[0].cured_by = frozenset()
    await world.step(20.0)
    assert world.stage == "escalated"
    assert len(world.acts()) == 3
    assert await world.actuator.overlays() == ()
    (page,) = world.pager.pages
    assert "treated as instance catalog/catalog-v2-1, then as instance catalog/catalog-v2-2" in page


async def test_what_goes_away_while_the_agent_thinks_again_is_left_alone(world: World) -> None:
    """The symptoms end with the undo: nothing more is done, nobody is called."""
    await mistaken(world)
    while world.stage == "verifying":
        await world.step(0.2)
    world.faults[0].over = True
    await world.step(6.0)
    assert world.stage == "observed"
    assert len(world.acts()) == 1
    assert world.pager.pages == []


async def test_a_restart_while_the_agent_thinks_again_repeats_nothing(world: World) -> None:
    """Killed between undo and the new plan: the next process knows what was refuted and does not try it again."""
    fault = await mistaken(world)
    while world.stage != "correlated":
        await world.step(0.2)
    await world.process()
    world.break_(replace(fault, cause=replace(fault.cause, probability=0.2)))
    world.planner.steps["catalog"] = SHIFT
    await world.step(8.0)
    assert world.stage == "resolved"
    assert world.acts() == [f"{world.incident.id}-1", f"{world.incident.id}-2"]
    assert [s.name for s in world.incident.steps] == ["eject", "shift"]


async def test_a_decision_after_a_refuted_one_is_replayed_the_same(tmp_path: Path) -> None:
    """The record names what treatment had refuted, so the second decision follows from its record too."""
    mesh = await open_mesh(tmp_path, 1)
    await mesh.run(20.0)
    mesh.shop.obeys = False  # ejections are accepted and do nothing
    mesh.shop.failing = lambda i: 0.5 if i.id == "catalog-v1-1" else 0.0
    await mesh.run(12.0)
    await mesh.close()
    path = tmp_path / "audit.log"
    assert verify(path).ok
    made = decisions(path)
    assert len(made) >= 2
    again = [replay(path, seq) for seq in made]
    assert [each.differences for each in again] == [()] * len(made)
    assert again[0].cause != again[1].cause
    second = next(r for r in read(path) if r.seq == made[1])
    assert second.data["refuted"] == ["instance catalog/catalog-v1-1"]


def test_the_probability_of_refuted_causes_goes_to_the_others() -> None:
    """Shares keep their proportions and their sum; with nothing left there is no cause."""
    causes = (bad_instance(0.6), bad_instance(0.3, "b"), bad_instance(0.1, "c"))
    left = remaining(causes, {"instance catalog/catalog-v2-1"})
    assert [round(c.probability, 6) for c in left] == [0.75, 0.25]
    assert remaining(causes, ()) == causes
    assert remaining(causes, {c.key for c in causes}) == ()


async def asking_about_payment(world: World) -> None:
    """Let payment fail, seen at payment and at checkout, and a plan against it wait for a person."""
    await world.begin()
    await world.step(1.0)
    world.planner.mode = Mode.APPROVE
    world.planner.steps["payment"] = (step("fail fast", OpenBreaker("payment")),)
    cause = Cause(CauseKind.DEPENDENCY, "payment", "", Signal.ERRORS, 0.95, edge=Edge("checkout", "payment"))
    own = anomaly(client("checkout", "payment"), 1.0, world.clock.now)
    world.break_(Fault(cause, (own, *symptoms(world)), "checkout", error_ratio=1.0))
    await world.step(2.0)
    assert world.incident.mode == "approve"


def symptoms(world: World) -> tuple[Anomaly, ...]:
    """Return what checkout's callers see."""
    return (anomaly(client("front", "checkout"), 0.5, world.clock.now),)


def blaming_checkout(world: World, *anomalies: Anomaly) -> Fault:
    """Return what is left once payment is well: what checkout's callers saw, which alone speaks against checkout."""
    cause = Cause(CauseKind.SERVICE, "checkout", "", Signal.ERRORS, 0.95, edge=Edge("front", "checkout"))
    return Fault(cause, (*symptoms(world), *anomalies), "front", error_ratio=0.1)


async def test_what_fades_away_blames_nobody_else(world: World) -> None:
    """The cause is well again and its symptoms elsewhere linger: the plan that a person reads stays, and the incident ends."""
    await asking_about_payment(world)
    world.faults = [blaming_checkout(world)]
    await world.step(6.0)
    assert str(world.incident.cause).startswith("dependency payment")
    assert world.incident.playbook == "test-playbook"
    world.faults = []
    await world.step(4.0)
    assert world.stage == "observed"
    assert str(world.incident.cause).startswith("dependency payment")


async def test_what_does_not_fade_is_thought_about_again(world: World) -> None:
    """Symptoms that stay long after the cause is well name another cause."""
    await asking_about_payment(world)
    world.faults = [blaming_checkout(world)]
    await world.step(FADING_S + 2.0)
    assert str(world.incident.cause).startswith("service checkout")


async def test_a_new_symptom_names_another_cause_at_once(world: World) -> None:
    """A symptom that was not there before is no fading one."""
    await asking_about_payment(world)
    at_one = anomaly(Series(Side.ATTEMPT, "", "checkout", "v1", "checkout-1", ""), 0.5, world.clock.now)
    world.faults = [blaming_checkout(world, at_one)]
    await world.step(2.0)
    assert str(world.incident.cause).startswith("service checkout")


class Doubtful(ScriptedPlanner):
    """Has a playbook for a cause that is only suspected, which asks a person, and one for a sure cause, which acts."""

    def __init__(self) -> None:
        super().__init__()
        self.drafts = 0

    def draft(self, cause: Cause, circumstances: Circumstances) -> Draft:
        del circumstances
        self.drafts += 1
        if cause.probability < 0.6:
            return Draft("suspected", Mode.APPROVE, self.steps.get(cause.service, ())[1:])
        return Draft("sure", Mode.AUTO, self.steps.get(cause.service, ())[:1])


async def test_a_plan_that_waits_for_a_person_gives_way_when_its_cause_is_surer(world: World) -> None:
    """Thin evidence asked a person; as it grows the playbook for the sure cause is taken, without waiting for an answer."""
    planner = world.planner = Doubtful()
    await world.begin()
    await world.step(1.0)
    fault = bad_version(world, probability=0.5)
    world.break_(fault)
    await world.step(3.0)
    assert (world.stage, world.incident.playbook, len(world.pager.pages)) == ("planned", "suspected", 1)
    drafts = planner.drafts
    await world.step(1.0)
    assert planner.drafts == drafts, "nothing is planned anew while the cause is as it was"
    for probability in (0.55, 0.45, 0.7):
        world.faults = [replace(fault, cause=replace(fault.cause, probability=probability))]
        await world.step(0.5)
    await world.step(6.0)
    assert (world.stage, world.incident.playbook, len(world.pager.pages)) == ("resolved", "sure", 1)
    (told,) = [m.message for m in world.incident.history if "the cause is surer now" in m.message]
    assert told.startswith("sure instead of suspected")
