"""What the planner does in a small shop, and what each guard forbids."""

import random
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import pytest

import playbooks
from agent.settings import AgentSettings
from models.domain import ChangeEvent, ChangeKind, Edge, Health, Topology
from models.errors import InvalidInput
from models.incident import Cause, CauseKind, Signal
from models.overlay import (
    AdaptConcurrency,
    Change,
    DisableFault,
    DrainInstance,
    EjectInstance,
    InjectFault,
    LimitConnections,
    LimitRate,
    OpenBreaker,
    Overlay,
    Owner,
    PauseCanary,
    RunHook,
    SetOutlierDetection,
    SetRetries,
    SetTimeout,
    ShedLoad,
    ShiftTraffic,
    ShiftZones,
)
from playbooks.actions import BlastRadius, Effect
from playbooks.certificates import Certificate, digest, standing
from playbooks.guards import GuardName, Limits, step_checks, witnesses
from playbooks.ledger import PENDING_S, Entry, Ledger, Outcome
from playbooks.planning import Context, Decision, plan, recheck
from playbooks.schema import Mode, Playbook, Severity


class Shop(Protocol):
    """What the fixture `mesh` gives."""

    topology: Topology
    library: tuple[Playbook, ...]

    def cause(self, *args: object, **kwargs: object) -> Cause: ...
    def overlay(self, change: Change, *, owner: Owner = ..., name: str = ..., incident: str = ...) -> Overlay: ...
    def context(self, **changes: object) -> Context: ...
    def playbook(self, name: str) -> Playbook: ...


def write(spec: str, name: str = "mine", priority: int = 500) -> Playbook:
    """Return one playbook around the given spec lines (indented by two)."""
    head = f"apiVersion: fibrin.dev/v1\nkind: Playbook\nmetadata: {{name: {name}}}\nspec:\n  description: d\n"
    (playbook,) = playbooks.load({"t.yaml": f"{head}  priority: {priority}\n  mode: auto\n{spec}"})
    return playbook


def refused_by(decision: Decision) -> set[GuardName]:
    """Return the guards that said no."""
    return {refusal.guard for refusal in decision.refusals}


def entry(name: str = "e", at: float = 990.0, service: str = "cart", share: float = 0.0, **rest: object) -> Entry:
    """Return a ledger entry."""
    return Entry(name, at, service, share, **{"playbook": "bad-version", **rest})  # type: ignore[arg-type]


def ledger(*entries: Entry) -> Ledger:
    """Return a ledger with these entries."""
    book = Ledger()
    for each in entries:
        book = book.record(each)
    return book


def test_bad_version_is_shifted_away(mesh: Shop) -> None:
    """A failing canary loses its traffic to the healthy version; size, deadline and target are told."""
    decision = plan(mesh.cause(), mesh.context(), mesh.library)
    assert decision.plan is not None
    (step,) = decision.plan.steps
    assert (decision.plan.playbook, decision.plan.mode) == ("bad-version", Mode.AUTO)
    assert step.change == ShiftTraffic("catalog", {"v1": 100, "v2": 0})
    assert step.blast_radius.traffic == pytest.approx(0.2)
    assert step.blast_radius.capacity == pytest.approx(0.25)
    assert step.blast_radius.mesh == pytest.approx(1 / 16)
    assert (step.hold_down_s, step.verify_deadline_s) == (0.0, 10.0)
    assert (step.verify_target.services, step.verify_target.signal) == (("catalog",), Signal.ERRORS)
    assert step.reason == "move 20% of catalog's traffic from v2 to v1"
    assert decision.escalation is None
    assert all(check.ok for check in (*decision.checks, *step.checks))
    assert "version v2 of catalog is bad" in decision.plan.escalation.summary


def test_every_playbook_is_considered_with_a_reason(mesh: Shop) -> None:
    """The choice is explained playbook by playbook, in the order in which they were tried."""
    decision = plan(mesh.cause(), mesh.context(), mesh.library)
    reasons = {each.playbook: each.reason for each in decision.considered}
    assert set(reasons) == {playbook.name for playbook in mesh.library}
    assert reasons["bad-instance"] == "is for instance, the cause is version"
    assert reasons["unknown"] == "bad-version comes first"
    assert [each.playbook for each in decision.considered if each.accepted] == ["bad-version"]


def test_bad_instance_is_ejected(mesh: Shop) -> None:
    """A slow instance of three leaves load balancing."""
    decision = plan(
        mesh.cause(CauseKind.INSTANCE, "catalog", "catalog-v1-1", Signal.LATENCY), mesh.context(), mesh.library
    )
    assert decision.plan is not None
    (step,) = decision.plan.steps
    assert step.change == EjectInstance("catalog", "catalog-v1-1")
    assert step.blast_radius.traffic == pytest.approx(0.8 / 3)
    assert step.blast_radius.capacity == pytest.approx(0.25)


def test_dependency_down_with_fallback_opens_the_breaker(mesh: Shop) -> None:
    """A dead service with a declared answer is answered for; its callers show whether it helped."""
    decision = plan(mesh.cause(CauseKind.DEPENDENCY, "ads", ""), mesh.context(), mesh.library)
    assert decision.plan is not None
    (step,) = decision.plan.steps
    assert (decision.plan.playbook, decision.plan.mode) == ("dependency-down-fallback", Mode.AUTO)
    assert step.change == OpenBreaker("ads", "", 100, "fallback", 5)
    assert step.verify_target.services == ("storefront",)


def test_dependency_down_without_fallback_asks_a_person(mesh: Shop) -> None:
    """Failing fast is planned for approval, and the reason says that no fallback is declared."""
    decision = plan(mesh.cause(CauseKind.DEPENDENCY, "payment", ""), mesh.context(), mesh.library)
    assert decision.plan is not None
    assert (decision.plan.playbook, decision.plan.mode) == ("dependency-down-fail-fast", Mode.APPROVE)
    assert decision.plan.steps[0].change == OpenBreaker("payment", "", 100, "fail-fast", 5)
    assert decision.plan.steps[0].verify_target.services == ("checkout", "storefront")
    reasons = {each.playbook: each.reason for each in decision.considered}
    assert "payment declares no fallback answer" in reasons["dependency-down-fallback"]


@pytest.mark.parametrize(("kind", "service"), [(CauseKind.SERVICE, "cart"), (CauseKind.GLOBAL, "")])
def test_what_cannot_be_healed_here_pages(mesh: Shop, kind: CauseKind, service: str) -> None:
    """What no playbook knows has no step; a person is told at once."""
    decision = plan(mesh.cause(kind, service, ""), mesh.context(), mesh.library)
    assert decision.plan is not None
    assert (decision.plan.playbook, decision.plan.steps) == ("unknown", ())
    assert decision.escalation is not None
    assert decision.escalation.summary


def test_a_bad_zone_is_left_in_waves(mesh: Shop) -> None:
    """Half of the zone's traffic first, then all; versions keep their shares; a person approves."""
    topology = mesh.topology
    crowd = [replace(i, id=f"{i.id}-more") for i in topology.of("cart")]
    topology = replace(topology, instances=(*topology.instances, *crowd))
    cause = mesh.cause(CauseKind.ZONE, "cart", "zone-1")
    decision = plan(cause, mesh.context(topology=topology), mesh.library)
    assert decision.plan is not None
    assert (decision.plan.playbook, decision.plan.mode) == ("bad-zone", Mode.APPROVE)
    half, whole = decision.plan.steps
    assert (half.name, half.change) == ("leave the zone (50%)", ShiftZones("cart", {"zone-0": 75, "zone-1": 25}))
    assert (half.blast_radius.traffic, half.blast_radius.capacity) == (0.25, 0.0)
    assert whole.change == ShiftZones("cart", {"zone-0": 100, "zone-1": 0})
    assert (whole.blast_radius.traffic, whole.blast_radius.capacity) == (0.5, 0.5)
    assert recheck(whole, mesh.playbook("bad-zone"), cause, mesh.context(topology=topology)) == ()


def test_a_region_is_left_with_all_its_zones(mesh: Shop) -> None:
    """The label `region` of the bad zone's instances names the zones that are left together."""
    regions = {"zone-0": "north", "zone-1": "south", "zone-2": "south"}
    spread = tuple(
        replace(i, zone=f"zone-{n % 3}", labels={"region": regions[f"zone-{n % 3}"]})
        for n, i in enumerate(mesh.topology.of("catalog")[:3])
    )
    spec = """
  when: {cause: [zone], services: {all: true}}
  guard: {maxTrafficShare: 100%, maxCapacityShare: 100%, minHealthyShare: 10%}
  steps:
  - {name: leave, action: {shiftRegions: {}}, verify: {deadline: 5s}, undo: automatic}
"""
    context = mesh.context(topology=Topology(spread, mesh.topology.edges), limits=Limits(floor=0.1, mesh_capacity=1.0))
    decision = plan(mesh.cause(CauseKind.ZONE, "catalog", "zone-1"), context, (write(spec),))
    assert decision.plan is not None
    assert decision.plan.steps[0].change == ShiftZones("catalog", {"zone-0": 100, "zone-1": 0, "zone-2": 0})


def test_overload_is_shed_in_waves_then_measured(mesh: Shop) -> None:
    """Half of the low priority, all of it, then adaptive concurrency: each step tried after the one before was undone."""
    decision = plan(mesh.cause(CauseKind.OVERLOAD, "cart", ""), mesh.context(), mesh.library)
    assert decision.plan is not None
    assert [step.change for step in decision.plan.steps] == [
        ShedLoad("cart", 50, "normal"),
        ShedLoad("cart", 100, "normal"),
        AdaptConcurrency("cart"),
    ]


def test_no_playbook_at_all_tells_a_person(mesh: Shop) -> None:
    """Without playbooks nothing is done and somebody hears of it."""
    decision = plan(mesh.cause(), mesh.context(), ())
    assert decision.plan is None
    assert decision.escalation is not None
    assert "no playbook applies" in decision.escalation.summary


def test_thin_evidence_is_not_acted_on(mesh: Shop) -> None:
    """Below the playbook's certainty nothing is done; the reason has both numbers."""
    decision = plan(mesh.cause(probability=0.4), mesh.context(), mesh.library)
    assert decision.plan is not None
    assert decision.plan.playbook == "canary-suspect"
    assert (decision.plan.mode, decision.plan.steps[0].change) == (Mode.APPROVE, PauseCanary("catalog"))
    assert "wants 60% certainty, there is 40%" in {each.reason for each in decision.considered}
    thinner = plan(mesh.cause(probability=0.3), mesh.context(), mesh.library)
    assert thinner.plan is not None
    assert thinner.plan.playbook == "unknown"


def test_storm_stops_everything(mesh: Shop) -> None:
    """With too much of the mesh anomalous there is no plan, one page, and the same answer for each playbook."""
    decision = plan(mesh.cause(), mesh.context(anomalous_share=0.6), mesh.library)
    assert (decision.plan, refused_by(decision)) == (None, {GuardName.STORM})
    assert decision.escalation is not None
    assert decision.escalation.severity is Severity.CRITICAL
    assert len(decision.considered) == len(mesh.library)
    assert plan(mesh.cause(), mesh.context(anomalous_share=0.59), mesh.library).plan is not None


def test_blind_witnesses_stop_everything(mesh: Shop) -> None:
    """When half of the sidecars that saw the cause are blind nothing is done."""
    blind = frozenset({"storefront-v1-0"})
    decision = plan(mesh.cause(), mesh.context(blind=blind), mesh.library)
    assert (decision.plan, refused_by(decision)) == (None, {GuardName.BLIND})
    assert refused_by(plan(mesh.cause(), mesh.context(blind=frozenset({"storefront"})), mesh.library)) == {
        GuardName.BLIND
    }


def test_blind_victim_does_not_stop_its_rescue(mesh: Shop) -> None:
    """A dead dependency is silent itself; what its callers see is trusted."""
    blind = frozenset({"ads-v1-0", "ads-v1-1"})
    decision = plan(mesh.cause(CauseKind.DEPENDENCY, "ads", ""), mesh.context(blind=blind), mesh.library)
    assert decision.plan is not None
    assert decision.plan.playbook == "dependency-down-fallback"


def test_blind_mesh_stops_everything(mesh: Shop) -> None:
    """With most sidecars blind nothing is done, whoever the witnesses are."""
    blind = frozenset(i.id for i in mesh.topology.instances if i.service != "storefront")
    assert refused_by(plan(mesh.cause(), mesh.context(blind=blind), mesh.library)) == {GuardName.BLIND}


def test_witnesses_of_an_entry_point_are_its_own_sidecars(mesh: Shop) -> None:
    """Nobody in the mesh calls the entry point: its own sidecars are the witnesses."""
    entrance = Cause(CauseKind.SERVICE, "storefront", "", Signal.ERRORS, 0.9)
    assert {i.service for i in witnesses(entrance, mesh.topology)} == {"storefront"}


def test_big_version_is_a_persons_decision(mesh: Shop) -> None:
    """Moving most of a service's traffic is beyond the playbook's share; the page says which guard."""
    decision = plan(mesh.cause(subject="v1"), mesh.context(), mesh.library)
    assert {GuardName.TRAFFIC, GuardName.CAPACITY, GuardName.FLOOR} <= refused_by(decision)
    assert decision.escalation is not None
    assert "bad-version: step" in decision.escalation.summary


@pytest.mark.parametrize(
    ("health", "subject", "reason"),
    [
        (
            {"catalog-v1-0": Health.LOST, "catalog-v1-1": Health.LOST, "catalog-v1-2": Health.UNHEALTHY},
            "v2",
            "no other version",
        ),
        ({}, "v9", "has no traffic to shift"),
    ],
)
def test_impossible_shifts_are_explained(mesh: Shop, health: Mapping[str, Health], subject: str, reason: str) -> None:
    """Without a healthy sibling or without traffic there is nothing to shift."""
    topology = with_health(mesh.topology, health)
    decision = plan(mesh.cause(subject=subject), mesh.context(topology=topology), mesh.library)
    assert any(reason in each.reason for each in decision.considered)
    assert decision.plan is not None
    assert not decision.plan.steps


def with_health(topology: Topology, health: Mapping[str, Health]) -> Topology:
    """Return the topology with some instances in another state."""
    return replace(topology, instances=tuple(replace(i, health=health.get(i.id, i.health)) for i in topology.instances))


@pytest.mark.parametrize(
    ("subject", "reason"),
    [
        ("catalog-v2-0", "last healthy instance of version v2 of catalog"),
        ("catalog-v1-0", "out of load balancing already: lost"),
        ("nobody", "knows no instance `nobody`"),
        ("cart-v1-0", "belongs to cart, not to catalog"),
    ],
)
def test_impossible_ejections_are_explained(mesh: Shop, subject: str, reason: str) -> None:
    """The last of its version, one that is out already, an unknown one, another service's: none is ejected."""
    topology = with_health(mesh.topology, {"catalog-v1-0": Health.LOST})
    decision = plan(mesh.cause(CauseKind.INSTANCE, "catalog", subject), mesh.context(topology=topology), mesh.library)
    assert any(reason in each.reason for each in decision.considered)


def test_ejected_instances_are_no_capacity(mesh: Shop) -> None:
    """What overlays took out already counts: the floor holds over all of them together."""
    out = (
        mesh.overlay(EjectInstance("catalog", "catalog-v1-0"), name="o1"),
        mesh.overlay(EjectInstance("catalog", "catalog-v1-1"), name="o2"),
    )
    decision = plan(mesh.cause(), mesh.context(overlays=out), mesh.library)
    assert GuardName.FLOOR in refused_by(decision)


def test_pending_action_whose_overlay_is_not_seen_yet_counts(mesh: Shop) -> None:
    """Two decisions in a row do not both spend the same capacity."""
    book = ledger(entry("unseen", service="catalog", share=0.5, at=0.0, playbook="bad-instance"))
    decision = plan(mesh.cause(), mesh.context(ledger=book, now=PENDING_S - 1), mesh.library)
    assert GuardName.FLOOR in refused_by(decision)
    assert plan(mesh.cause(), mesh.context(ledger=book, now=PENDING_S + 1), mesh.library).escalation is None


def test_blast_radius_of_the_whole_mesh_is_bounded(mesh: Shop) -> None:
    """Many small actions on many services add up to one limit."""
    services = ("checkout", "payment", "cart", "ads", "shipping")
    out = tuple(mesh.overlay(EjectInstance(s, f"{s}-v1-0"), name=s) for s in services)
    decision = plan(mesh.cause(), mesh.context(overlays=out), mesh.library)
    assert refused_by(decision) == {GuardName.MESH}
    assert "at most 34% (agent.mesh_capacity)" in str(decision)
    more = AgentSettings(state_dir=Path("x"), mesh_capacity=0.5).limits
    assert plan(mesh.cause(), mesh.context(overlays=out, limits=more), mesh.library).escalation is None
    assert plan(mesh.cause(), mesh.context(overlays=out[:4]), mesh.library).escalation is None


def test_people_come_first(mesh: Shop) -> None:
    """Where a person changed something by hand the agent keeps off; a drill's fault is no such hand."""
    hand = mesh.overlay(ShiftTraffic("catalog", {"v1": 50, "v2": 50}), owner=Owner.PERSON)
    decision = plan(mesh.cause(), mesh.context(overlays=(hand,)), mesh.library)
    assert refused_by(decision) == {GuardName.PERSON}
    assert any("alice changed catalog by hand" in refusal.message for refusal in decision.refusals)
    drill = mesh.overlay(InjectFault("catalog", abort_percent=20), owner=Owner.PERSON)
    assert plan(mesh.cause(), mesh.context(overlays=(drill,)), mesh.library).escalation is None


def test_one_change_per_place(mesh: Shop) -> None:
    """A second breaker on the same edge is not laid over the first."""
    there = mesh.overlay(OpenBreaker("ads", "", 50, "fallback"), name="first", incident="inc-7")
    decision = plan(mesh.cause(CauseKind.DEPENDENCY, "ads", ""), mesh.context(overlays=(there,)), mesh.library)
    assert GuardName.SLOT in refused_by(decision)
    assert any("first" in r.message and "inc-7" in r.message for r in decision.refusals)


@pytest.mark.parametrize(
    ("book", "guard"),
    [
        (ledger(entry(service="catalog", outcome=Outcome.HELPED)), GuardName.COOLDOWN),
        (ledger(*(entry(f"e{n}", at=600 + n, outcome=Outcome.HELPED) for n in range(6))), GuardName.RATE),
        (
            ledger(*(entry(f"e{n}", at=n, service="catalog", outcome=Outcome.UNDONE) for n in range(2))),
            GuardName.STRIKES,
        ),
        (ledger(*(entry(f"e{n}", at=900 + n) for n in range(2))), GuardName.CONCURRENCY),
        (
            ledger(*(entry(f"e{n}", at=600 + n, playbook=f"p{n}", outcome=Outcome.HELPED) for n in range(12))),
            GuardName.BUSY,
        ),
    ],
)
def test_the_ledger_holds_back(mesh: Shop, book: Ledger, guard: GuardName) -> None:
    """Cool-down, rate, strikes, concurrency and the rate of the whole mesh each stop an action, after a restart too."""
    decision = plan(mesh.cause(), mesh.context(ledger=Ledger.loads(book.dumps())), mesh.library)
    assert refused_by(decision) == {guard}
    later = plan(mesh.cause(), mesh.context(ledger=book, now=9000.0), mesh.library)
    assert later.plan is not None
    assert later.plan.playbook == "bad-version"


def test_required_headroom_must_be_known_and_free(mesh: Shop) -> None:
    """Load is not moved onto instances that would be fuller than the playbook allows, or of which nobody knows."""
    spec = """
  when: {cause: [version], services: {names: [catalog]}}
  guard: {headroom: 20%}
  steps:
  - {name: shift, action: {shiftTraffic: {}}, verify: {deadline: 5s}, undo: automatic}
"""
    mine = (write(spec),)
    assert plan(mesh.cause(), mesh.context(saturation={"catalog": 0.6}), mine).plan is not None
    assert refused_by(plan(mesh.cause(), mesh.context(saturation={"catalog": 0.75}), mine)) == {GuardName.HEADROOM}
    assert refused_by(plan(mesh.cause(), mesh.context(), mine)) == {GuardName.HEADROOM}


def test_too_many_failures_of_late_take_auto_away(mesh: Shop) -> None:
    """When most recent actions did not help, a person approves the next one."""
    book = ledger(*(entry(f"e{n}", at=n, playbook="other", outcome=Outcome.UNDONE) for n in range(4)))
    decision = plan(mesh.cause(), mesh.context(ledger=book), mesh.library)
    assert decision.plan is not None
    assert decision.plan.mode is Mode.APPROVE
    assert "100% of the last 4 actions did not help" in decision.plan.demoted


def test_shadow_playbooks_do_nothing_and_block_nobody(mesh: Shop) -> None:
    """A playbook in shadow mode tells what it would do; the next one acts."""
    shadow = mesh.playbook("bad-version")
    shadow = shadow.model_copy(update={"spec": shadow.spec.model_copy(update={"mode": Mode.SHADOW, "priority": 900})})
    shadow = shadow.model_copy(update={"metadata": shadow.metadata.model_copy(update={"name": "shadow"})})
    decision = plan(mesh.cause(), mesh.context(), (*mesh.library, shadow))
    assert decision.plan is not None
    assert decision.plan.playbook == "bad-version"
    assert [each.playbook for each in decision.shadows] == ["shadow"]
    assert "it would move 20%" in decision.considered[0].reason


def test_narrower_playbook_wins_among_equal_priorities(mesh: Shop) -> None:
    """Priority first, then how narrowly a playbook selects, then its name."""
    when = "  when: {{cause: [version], services: {}}}\n  steps:\n"
    step = "  - {name: shift, action: {shiftTraffic: {}}, verify: {deadline: 5s}, undo: automatic}\n"
    everyone = write(when.format("{all: true}") + step, "everyone")
    labelled = write(when.format("{labels: {team: shop}}") + step, "labelled")
    named = write(when.format("{names: [catalog]}") + step, "named")
    other = write(when.format("{labels: {team: other}}") + step, "other")
    excluded = write(when.format("{all: true, except: [catalog]}") + step, "excluded")
    books = (everyone, excluded, other, labelled, named)
    decision = plan(mesh.cause(), mesh.context(), books)
    assert [each.playbook for each in decision.considered] == ["named", "labelled", "other", "everyone", "excluded"]
    assert [each.accepted for each in decision.considered] == [True, False, False, False, False]
    reasons = {each.playbook: each.reason for each in decision.considered}
    assert reasons["other"] == "is for services labelled team=other, catalog is not"
    assert reasons["excluded"] == "excludes catalog"


def test_severity_can_be_asked_for(mesh: Shop) -> None:
    """A playbook for critical incidents leaves warnings alone."""
    spec = """
  when: {cause: [version], services: {all: true}, minSeverity: critical}
  steps:
  - {name: shift, action: {shiftTraffic: {}}, verify: {deadline: 5s}, undo: automatic}
"""
    assert plan(mesh.cause(), mesh.context(), (write(spec),)).plan is None
    assert plan(mesh.cause(), mesh.context(severity=Severity.CRITICAL), (write(spec),)).plan is not None


SETTINGS = """
  when: {cause: [dependency], services: {all: true}}
  guard: {maxTrafficShare: 100%}
  steps:
  - {name: a, action: {setTimeout: {timeout: 500ms}}, verify: {deadline: 5s}, undo: automatic, holdDown: 3s}
  - {name: b, action: {setRetries: {attempts: 0}}, verify: {deadline: 5s}, undo: automatic}
  - {name: c, action: {limitConnections: {maxRequests: 10}}, verify: {deadline: 5s}, undo: automatic}
  - {name: d, action: {setOutlierDetection: {consecutiveErrors: 3}}, verify: {deadline: 5s}, undo: automatic}
  - {name: e, action: {openBreaker: {respond: failFast, caller: "{cause.caller}", percent: 50}}, verify: {deadline: 5s}, undo: automatic}
  - {name: f, action: {page: {severity: warning, summary: "{cause.service} seen from {cause.caller}"}}}
"""


def test_every_action_becomes_its_change(mesh: Shop) -> None:
    """Each action of the language turns into the overlay it names, in the order written; the page comes last."""
    decision = plan(mesh.cause(CauseKind.DEPENDENCY, "cart", ""), mesh.context(), (write(SETTINGS),))
    assert decision.plan is not None
    assert [step.change for step in decision.plan.steps] == [
        SetTimeout("cart", 0.5),
        SetRetries("cart", 0, 0.2, 0.0),
        LimitConnections("cart", 10),
        SetOutlierDetection("cart", 3, 1.0, 10.0, 50),
        OpenBreaker("cart", "storefront", 50, "fail-fast", 5),
    ]
    assert decision.plan.steps[0].hold_down_s == 3.0
    assert decision.plan.escalation.summary == "cart seen from storefront"
    assert decision.plan.escalation.severity is Severity.WARNING
    stranger = plan(mesh.cause(CauseKind.DEPENDENCY, "nobody", ""), mesh.context(), (write(SETTINGS),))
    assert stranger.plan is None


def test_partial_shift_keeps_some_traffic(mesh: Shop) -> None:
    """`keep` leaves the bad version a part of its share, so that recovery can be seen."""
    spec = """
  when: {cause: [version], services: {all: true}}
  steps:
  - {name: shift, action: {shiftTraffic: {keep: 10%}}, verify: {deadline: 5s}, undo: automatic}
"""
    decision = plan(mesh.cause(), mesh.context(), (write(spec),))
    assert decision.plan is not None
    assert decision.plan.steps[0].change == ShiftTraffic("catalog", {"v1": 98, "v2": 2})


def test_standby_version_takes_over(mesh: Shop) -> None:
    """With all weight on the bad version, a healthy version without weight takes over when it is big enough."""
    topology = replace(mesh.topology, weights={"catalog": {"v1": 0.0, "v2": 1.0}})
    spec = """
  when: {cause: [version], services: {all: true}}
  guard: {maxTrafficShare: 100%}
  steps:
  - {name: shift, action: {shiftTraffic: {}}, verify: {deadline: 5s}, undo: automatic}
"""
    decision = plan(mesh.cause(), mesh.context(topology=topology), (write(spec),))
    assert decision.plan is not None
    assert decision.plan.steps[0].change == ShiftTraffic("catalog", {"v1": 100, "v2": 0})


def test_change_and_instance_causes_know_their_version(mesh: Shop) -> None:
    """`{cause.version}` is the deployed version for a change and the instance's own for an instance."""
    spec = """
  when: {cause: [change, instance], services: {all: true}}
  steps:
  - {name: shift, action: {shiftTraffic: {}}, verify: {deadline: 5s}, undo: automatic}
"""
    deploy = ChangeEvent(1, 990.0, ChangeKind.DEPLOY, "Instance/catalog-v2-0", "catalog", "v2")
    change = replace(mesh.cause(CauseKind.CHANGE, "catalog", ""), changes=(deploy,))
    for each in (change, mesh.cause(CauseKind.INSTANCE, "catalog", "catalog-v2-0")):
        decision = plan(each, mesh.context(), (write(spec),))
        assert decision.plan is not None
        assert decision.plan.steps[0].change == ShiftTraffic("catalog", {"v1": 100, "v2": 0})


def test_recheck_sees_what_changed_since(mesh: Shop) -> None:
    """Right before the act the guards are asked again, without holding the incident's own record against it."""
    bad = mesh.cause()
    decision = plan(bad, mesh.context(), mesh.library)
    assert decision.plan is not None
    (step,) = decision.plan.steps
    playbook = mesh.playbook("bad-version")
    assert recheck(step, playbook, bad, mesh.context()) == ()
    own = ledger(entry(service="catalog", incident="inc-1"))
    assert recheck(step, playbook, bad, mesh.context(ledger=own, incident="inc-1")) == ()
    assert {r.guard for r in recheck(step, playbook, bad, mesh.context(ledger=own))} == {GuardName.COOLDOWN}
    assert {r.guard for r in recheck(step, playbook, bad, mesh.context(anomalous_share=0.9))} == {GuardName.STORM}
    gone = with_health(mesh.topology, {f"catalog-v1-{n}": Health.LOST for n in range(3)})
    assert any("no longer feasible" in r.message for r in recheck(step, playbook, bad, mesh.context(topology=gone)))


def test_order_of_inputs_does_not_matter(mesh: Shop) -> None:
    """Equal questions get equal answers, whatever the order of playbooks, instances and overlays."""
    first = plan(mesh.cause(), mesh.context(), mesh.library)
    shuffled = list(mesh.library)
    instances = list(mesh.topology.instances)
    for seed in range(5):
        random.Random(seed).shuffle(shuffled)
        random.Random(seed).shuffle(instances)
        topology = replace(mesh.topology, instances=tuple(instances), edges=frozenset(mesh.topology.edges))
        assert plan(mesh.cause(), mesh.context(topology=topology), tuple(shuffled)) == first


def test_ledger_forgets_after_a_day_and_reads_itself() -> None:
    """The ledger keeps a day, replaces by id, settles by id, and refuses what it did not write."""
    book = ledger(entry("old", at=0.0), entry("a", at=86_500.0), entry("a", at=86_600.0))
    assert [(e.id, e.at) for e in book.entries] == [("a", 86_600.0)]
    assert book.settle("a", Outcome.HELPED).undo_rate(0.0) == (0.0, 1)
    assert book.settle("nobody", Outcome.HELPED) == book
    assert Ledger.loads(book.dumps()) == book
    with pytest.raises(InvalidInput, match="ledger cannot be read"):
        Ledger.loads("{}")


def test_limits_of_the_mesh_are_stricter_than_a_playbook(mesh: Shop) -> None:
    """A playbook may not lower the floor of the mesh."""
    spec = """
  when: {cause: [version], services: {all: true}}
  guard: {maxTrafficShare: 100%, maxCapacityShare: 100%, minHealthyShare: 0%}
  steps:
  - {name: shift, action: {shiftTraffic: {}}, verify: {deadline: 5s}, undo: automatic}
"""
    decision = plan(mesh.cause(subject="v1"), mesh.context(), (write(spec),))
    assert refused_by(decision) == {GuardName.FLOOR}
    lower = mesh.context(limits=Limits(floor=0.25))
    assert plan(mesh.cause(subject="v1"), lower, (write(spec),)).plan is not None


def test_empty_mesh_is_not_acted_on(mesh: Shop) -> None:
    """With no instance known nothing is trusted and nothing is done."""
    empty = Topology(edges=frozenset({Edge("a", "b")}))
    assert refused_by(plan(mesh.cause(), mesh.context(topology=empty), mesh.library)) == {GuardName.BLIND}


@pytest.mark.parametrize(
    "change",
    [
        ShiftTraffic("catalog", {"v1": 0, "v2": 0}),
        ShiftTraffic("catalog", {"v1": 90, "v9": 10}),
        EjectInstance("catalog", "catalog-v2-0"),
    ],
)
def test_traffic_to_nowhere_is_refused_even_if_an_action_asked_for_it(mesh: Shop, change: Change) -> None:
    """Zero weights, a version without an instance, the last of a version: the guard stops what no action should make."""
    effect = Effect(change, BlastRadius(0.0, 0.0, 0.0), 1.0, "made by hand")
    checks = step_checks(mesh.playbook("bad-version"), effect, mesh.context())
    assert GuardName.ENDPOINTS in {check.guard for check in checks if not check.ok}


MORE = """
  when: {cause: [instance], services: {all: true}}
  guard: {maxTrafficShare: 100%, cooldown: 0s}
  steps:
  - {name: a, action: {drainInstance: {}}, verify: {deadline: 5s}, undo: automatic}
  - {name: b, action: {restartInstance: {}}, verify: {deadline: 5s}, undo: nothing, holdDown: 10s}
  - {name: c, action: {rollBackCanary: {version: v2}}, verify: {deadline: 5s}, undo: automatic}
  - {name: d, action: {promoteStable: {}}, verify: {deadline: 5s}, undo: automatic}
  - {name: e, action: {limitRate: {requestsPerSecond: 20, burst: 2s}}, verify: {deadline: 5s}, undo: automatic}
  - {name: f, action: {limitRate: {requestsPerSecond: 20, caller: all}}, verify: {deadline: 5s}, undo: automatic}
  - {name: g, action: {disableFault: {}}, verify: {deadline: 5s}, undo: automatic}
  - {name: h, action: {scale: {by: 2}}, verify: {deadline: 5s}, undo: automatic}
  - name: i
    action: {runHook: {hook: flush-cache, parameters: {instance: "{cause.instance}"}}}
    verify: {deadline: 5s}
    undo: {hook: warm-cache}
"""


def test_the_newer_actions_become_their_changes(mesh: Shop) -> None:
    """Drain, restart, canaries, rates, faults, scaling and hooks: each overlay is as the playbook says it."""
    topology = replace(mesh.topology, faults=frozenset({"catalog"}))
    cause = mesh.cause(CauseKind.INSTANCE, "catalog", "catalog-v1-1")
    decision = plan(cause, mesh.context(topology=topology), (write(MORE),))
    assert decision.plan is not None
    told = {"service": "catalog", "instance": "catalog-v1-1"}
    assert {step.name: step.change for step in decision.plan.steps} == {
        "a": DrainInstance("catalog", "catalog-v1-1"),
        "b": RunHook("catalog", "restart", {"service": "catalog", "instance": "catalog-v1-1"}, "catalog-v1-1"),
        "c": ShiftTraffic("catalog", {"v1": 100, "v2": 0}),
        "d": ShiftTraffic("catalog", {"v1": 100, "v2": 0}),
        "e": LimitRate("catalog", 20.0, "storefront", 2.0),
        "f": LimitRate("catalog", 20.0, ""),
        "g": DisableFault("catalog"),
        "h": RunHook(
            "catalog",
            "scale",
            {"service": "catalog", "replicas": "6"},
            undo="scale",
            undo_parameters={"service": "catalog", "replicas": "4"},
        ),
        "i": RunHook("catalog", "flush-cache", told, undo="warm-cache", undo_parameters={"service": "catalog"}),
    }
    ways = {step.name: step.reversibility.value for step in decision.plan.steps}
    assert (ways["a"], ways["b"], ways["h"], ways["i"]) == ("instant", "none", "hook", "hook")
    assert not any(recheck(step, write(MORE), cause, mesh.context(topology=topology)) for step in decision.plan.steps)


def test_a_restart_counts_as_capacity_away(mesh: Shop) -> None:
    """While its overlay stands, the instance is missing from what serves, and the floor knows."""
    hook = mesh.overlay(RunHook("cart", "restart", {}, "cart-v1-0"))
    context = mesh.context(overlays=(hook,))
    assert [i.id for i in context.view.serving("cart")] == ["cart-v1-1"]
    decision = plan(mesh.cause(CauseKind.INSTANCE, "cart", "cart-v1-1"), context, mesh.library)
    assert decision.plan is None or not decision.plan.steps


def test_a_missing_certificate_makes_auto_ask(mesh: Shop) -> None:
    """A playbook that no fresh drill vouches for asks a person, and says why; others act on."""
    context = mesh.context(uncertified={"bad-version": "its drill bad-version never passed"})
    decision = plan(mesh.cause(), context, mesh.library)
    assert decision.plan is not None
    assert (decision.plan.playbook, decision.plan.mode) == ("bad-version", Mode.APPROVE)
    assert (
        "its drill bad-version never passed: a person approves" in decision.considered[0].reason + decision.plan.demoted
    )


TOMORROW = """
  when: {cause: [version], services: {all: true}}
  steps:
  - {name: act, action: {shiftTraffic: {}}, verify: {deadline: 5s}, undo: automatic}
"""


@pytest.mark.parametrize(("passed_at", "certified"), [(-60.0, True), (60.0, True), (3600.0, False)])
def test_a_drill_that_passed_tomorrow_proves_nothing(passed_at: float, *, certified: bool) -> None:
    """A certificate of a few moments ahead is another machine's clock; one of an hour ahead was written by a wrong one."""
    playbook, now = write(TOMORROW), 2e9
    found = standing(playbook, [Certificate(playbook.name, digest(playbook), "mine", now + passed_at, 1.0, 2.0)], now)
    assert found.certified is certified, found.reason


HOLD_OUT = """
  when: {cause: [CAUSE], services: {all: true}}
  guard: {maxTrafficShare: 100%}
  steps:
  - {name: act, action: {ACTION: {}}, verify: {deadline: 5s, holdOut: {share: 5%, for: 8s}}, undo: automatic}
"""


@pytest.mark.parametrize(
    ("kind", "action", "subject", "left_out"),
    [
        (CauseKind.VERSION, "shiftTraffic", "v2", ShiftTraffic("catalog", {"v1": 99, "v2": 1})),
        (CauseKind.INSTANCE, "ejectInstance", "catalog-v1-0", EjectInstance("catalog", "catalog-v1-0", 5)),
        (CauseKind.ZONE, "shiftZones", "zone-1", ShiftZones("catalog", {"zone-0": 99, "zone-1": 1})),
        (CauseKind.SERVICE, "setRetries", "", SetRetries("catalog", 2, keep_percent=5)),
    ],
)
def test_a_hold_out_leaves_a_few_untreated_but_never_at_great_harm(
    mesh: Shop, kind: CauseKind, action: str, subject: str, left_out: Change
) -> None:
    """The slice is planned beside the whole act; at critical severity there is none unless the playbook insists."""
    text = HOLD_OUT.replace("CAUSE", kind.value).replace(
        "ACTION: {}", f"{action}: {{attempts: 2}}" if action == "setRetries" else f"{action}: {{}}"
    )
    cause = mesh.cause(kind, subject=subject)
    decision = plan(cause, mesh.context(severity=Severity.WARNING), [write(text)])
    assert decision.plan is not None
    (step,) = decision.plan.steps
    assert step.hold_out is not None
    assert (step.hold_out.change, step.hold_out.span_s) == (left_out, 8.0)
    assert step.change != left_out
    grave = mesh.context(severity=Severity.CRITICAL)
    for written, kept in ((text, False), (text.replace("for: 8s", "for: 8s, critical: true"), True)):
        found = plan(cause, grave, [write(written)])
        assert found.plan is not None
        assert (found.plan.steps[0].hold_out is not None) is kept
