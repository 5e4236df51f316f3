"""Over random meshes, overlays, ledgers and causes no plan breaks a promise.

The promises are checked by counting instances and weights anew here, not with the guards' own code.
"""

import math
import random
from dataclasses import replace

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import playbooks
from models.domain import Edge, Health, Instance, Topology
from models.incident import Cause, CauseKind, Signal
from models.overlay import (
    Change,
    DrainInstance,
    EjectInstance,
    OpenBreaker,
    Overlay,
    Owner,
    RunHook,
    ShiftTraffic,
    ShiftZones,
    in_force,
    target,
)
from playbooks.guards import Context, Limits, witnesses
from playbooks.ledger import Entry, Ledger
from playbooks.planning import Decision, plan
from playbooks.view import View

SERVICES = ("a", "b", "c", "d")
VERSIONS = ("v1", "v2", "v3")

RECKLESS = """
apiVersion: fibrin.dev/v1
kind: Playbook
metadata: {name: reckless}
spec:
  description: Allows itself everything; only the limits of the mesh hold it.
  when: {cause: [instance, version, dependency], services: {all: true}, minProbability: 1%}
  mode: auto
  priority: 1000
  guard:
    maxTrafficShare: 100%
    maxCapacityShare: 100%
    minHealthyShare: 0%
    cooldown: 0s
    rate: {count: 1000, per: 10m}
    strikes: 1000
    concurrency: 1000
  steps:
  - {name: breaker, action: {openBreaker: {respond: fallback}}, verify: {deadline: 5s}, undo: automatic}
"""
RECKLESS_VERSION = (
    RECKLESS.replace("name: reckless", "name: reckless-version")
    .replace("[instance, version, dependency]", "[version]")
    .replace("openBreaker: {respond: fallback}", "shiftTraffic: {}")
)
RECKLESS_INSTANCE = (
    RECKLESS.replace("name: reckless", "name: reckless-instance")
    .replace("[instance, version, dependency]", "[instance]")
    .replace("openBreaker: {respond: fallback}", "ejectInstance: {}")
)

RECKLESS_ZONE = (
    RECKLESS.replace("name: reckless", "name: reckless-zone")
    .replace("[instance, version, dependency]", "[zone]")
    .replace("openBreaker: {respond: fallback}", "shiftZones: {}")
)
RECKLESS_RESTART = (
    RECKLESS_INSTANCE.replace("name: reckless-instance", "name: reckless-restart")
    .replace("ejectInstance: {}", "restartInstance: {}")
    .replace("undo: automatic", "undo: nothing, holdDown: 10s")
    .replace("priority: 1000", "priority: 999")
)
WRITTEN = (RECKLESS, RECKLESS_VERSION, RECKLESS_INSTANCE, RECKLESS_ZONE, RECKLESS_RESTART)
BOOKS = (*playbooks.library(), *playbooks.load({str(n): text for n, text in enumerate(WRITTEN)}))
CAPACITY = ShiftTraffic | ShiftZones | EjectInstance | DrainInstance | RunHook
GUARDS = {book.name: book.spec.guard for book in BOOKS}
LIMITS = Limits(actions=1000)
TIGHT = Limits(actions=1000, mesh_capacity=0.12, floor=0.3)


@st.composite
def topologies(draw: st.DrawFn) -> Topology:
    """Draw a mesh of up to four services, up to three versions each, in any state of health."""
    instances: list[Instance] = []
    weights: dict[str, dict[str, float]] = {}
    for service in SERVICES:
        counts = {version: draw(st.integers(0, 4)) for version in VERSIONS}
        for version, count in counts.items():
            for number in range(count):
                health = draw(st.sampled_from([Health.HEALTHY] * 4 + [Health.LOST, Health.UNHEALTHY, Health.DRAINING]))
                name = f"{service}-{version}-{number}"
                instances.append(
                    Instance(name, service, version, f"z{number % 2}", f"127.1.{len(instances)}.1", 15006, health)
                )
        if draw(st.booleans()):
            weights[service] = {version: draw(st.sampled_from([0.0, 0.1, 0.5, 0.9])) for version in VERSIONS}
    edges = frozenset(Edge(x, y) for x in SERVICES for y in SERVICES if x < y and draw(st.booleans()))
    return Topology(tuple(instances), edges, weights, frozenset(draw(st.sets(st.sampled_from(SERVICES)))))


@st.composite
def changes(draw: st.DrawFn, topology: Topology) -> Change:
    """Draw a change that somebody may have laid over this mesh."""
    service = draw(st.sampled_from(SERVICES))
    kind = draw(st.integers(0, 5))
    pool = topology.of(service)
    if kind == 0 and pool:
        return EjectInstance(service, draw(st.sampled_from(pool)).id)
    if kind == 1:
        weights = {version: draw(st.integers(0, 10)) for version in VERSIONS}
        return ShiftTraffic(service, weights if sum(weights.values()) else {"v1": 1})
    if kind == 2 and pool:
        return DrainInstance(service, draw(st.sampled_from(pool)).id)
    if kind == 3:
        return ShiftZones(service, {"z0": draw(st.integers(0, 3)), "z1": 1})
    if kind == 4 and pool:
        return RunHook(service, "restart", {}, draw(st.sampled_from(pool)).id)
    return OpenBreaker(service, draw(st.sampled_from(["", *SERVICES])), 100, "fail-fast")


@st.composite
def overlays(draw: st.DrawFn, topology: Topology) -> tuple[Overlay, ...]:
    """Draw a few overlays of people and agents, some of them in competition."""
    return tuple(
        laid(draw(changes(topology)), f"o{n}", draw(st.sampled_from(Owner)), fence=draw(st.integers(0, 3)))
        for n in range(draw(st.integers(0, 4)))
    )


def laid(change: Change, name: str, owner: Owner = Owner.AGENT, fence: int = 9) -> Overlay:
    """Return an overlay in force."""
    return Overlay(name, change, owner, "x", "why", float(fence), 1e12, 30.0, f"inc-{name}", fence)


@st.composite
def causes(draw: st.DrawFn, topology: Topology) -> Cause:
    """Draw a cause somewhere in the mesh, or somewhere outside of it."""
    kind = draw(
        st.sampled_from([CauseKind.VERSION, CauseKind.INSTANCE, CauseKind.ZONE, CauseKind.DEPENDENCY, *CauseKind])
    )
    service = draw(st.sampled_from((*SERVICES, "elsewhere")))
    pool = [i.id for i in topology.of(service)] or ["nobody"]
    subject = ""
    if kind is CauseKind.VERSION:
        subject = draw(st.sampled_from((*VERSIONS, "v9")))
    elif kind is CauseKind.INSTANCE:
        subject = draw(st.sampled_from(pool))
    elif kind is CauseKind.ZONE:
        subject = draw(st.sampled_from(("z0", "z1", "z9")))
    edge = draw(st.sampled_from([None, Edge("a", service), Edge("user", service)]))
    return Cause(kind, service, subject, draw(st.sampled_from(Signal)), draw(st.floats(0.01, 1.0)), edge)


@st.composite
def contexts(draw: st.DrawFn) -> tuple[Cause, Context]:
    """Draw a question for the planner."""
    topology = draw(topologies())
    blind = draw(st.sets(st.sampled_from([i.id for i in topology.instances] or ["nobody"]), max_size=6))
    book = Ledger()
    for number in range(draw(st.integers(0, 4))):
        service, playbook = draw(st.sampled_from(SERVICES)), draw(st.sampled_from(sorted(GUARDS)))
        share = draw(st.sampled_from([0.0, 0.25, 0.5]))
        book = book.record(Entry(f"e{number}", draw(st.floats(0.0, 1000.0)), service, share, playbook))
    context = Context(
        topology=topology,
        overlays=draw(overlays(topology)),
        ledger=book,
        now=1000.0,
        anomalous_share=draw(st.sampled_from([0.0, 0.2, 0.59, 0.6, 1.0])),
        blind=frozenset(blind),
        limits=LIMITS,
    )
    return draw(causes(topology)), context


QUESTION = settings(
    deadline=None, max_examples=200, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)


def healthy(topology: Topology, service: str) -> int:
    """Count the healthy instances of a service."""
    return sum(i.service == service and i.health is Health.HEALTHY for i in topology.instances)


def reached(topology: Topology, laid_over: tuple[Overlay, ...], service: str) -> dict[str, int]:
    """Count, version by version, the healthy instances that get traffic; a version with a share appears even with 0."""
    held = [o.change for o in in_force(laid_over) if target(o.change) == service]
    out = {c.instance for c in held if isinstance(c, EjectInstance | DrainInstance | RunHook)}
    open_zones = [c.weights for c in held if isinstance(c, ShiftZones)]
    shifts = [
        o.change.weights
        for o in in_force(laid_over)
        if isinstance(o.change, ShiftTraffic)
        if o.change.service == service
    ]
    weights = dict(shifts[0]) if shifts else dict(topology.weights.get(service, {}))
    pool = [i for i in topology.of(service) if i.health is Health.HEALTHY and i.id not in out]
    pool = [i for i in pool if all(zones.get(i.zone, 0) > 0 for zones in open_zones)]
    if sum(weights.values()) > 0:
        return {v: sum(i.version == v for i in pool) for v, weight in weights.items() if weight > 0}
    return {v: sum(i.version == v for i in pool) for v in {i.version for i in pool}}


def keeps_promises(cause: Cause, context: Context, decision: Decision) -> None:
    """Check every promise for every step of a decision."""
    steps = decision.plan.steps if decision.plan else ()
    for step in steps:
        assert decision.plan is not None
        assert context.anomalous_share < LIMITS.storm_share
        seen = witnesses(cause, context.topology)
        assert sum(i.id in context.blind for i in seen) < len(seen) * LIMITS.blind_share
        service = target(step.change)
        guard = GUARDS[decision.plan.playbook]
        assert step.blast_radius.traffic <= guard.max_traffic_share + 1e-9
        assert step.blast_radius.capacity <= guard.max_capacity_share + 1e-9
        assert step.verify_deadline_s > 0
        assert not any(o.owner is Owner.PERSON and target(o.change) == service for o in in_force(context.overlays))
        match step.change:
            case ShiftTraffic(weights=weights) | ShiftZones(weights=weights):
                assert all(weight >= 0 for weight in weights.values())
                assert sum(weights.values()) > 0
            case OpenBreaker(respond="fallback"):
                assert service in context.topology.fallbacks
            case _:
                pass
        before = sum(reached(context.topology, context.overlays, service).values())
        if isinstance(step.change, CAPACITY):
            after = reached(context.topology, (*context.overlays, laid(step.change, "new")), service)
            left = sum(after.values())
            if not isinstance(step.change, ShiftTraffic | ShiftZones) and left == before:
                continue  # restarting what does not serve takes nothing away
            assert left >= max(
                1, math.ceil(max(LIMITS.floor, guard.min_healthy_share) * healthy(context.topology, service))
            )
            assert all(count > 0 for count in after.values())


@QUESTION
@given(contexts())
def test_no_plan_breaks_a_guard(question: tuple[Cause, Context]) -> None:
    """Whatever the mesh, the overlays and the past: size, floor, weights, people, storm and blindness hold."""
    cause, context = question
    decision = plan(cause, context, BOOKS)
    keeps_promises(cause, context, decision)
    assert {each.playbook for each in decision.considered} == set(GUARDS)
    assert decision.plan is not None or decision.escalation is not None


@QUESTION
@given(contexts(), st.integers(0, 1000))
def test_plans_are_deterministic(question: tuple[Cause, Context], seed: int) -> None:
    """The same question, with everything in another order, has the same answer."""
    cause, context = question
    shuffle = random.Random(seed)
    books, instances, laid_over = list(BOOKS), list(context.topology.instances), list(context.overlays)
    for each in (books, instances, laid_over):
        shuffle.shuffle(each)
    other = replace(context, topology=replace(context.topology, instances=tuple(instances)), overlays=tuple(laid_over))
    assert plan(cause, other, tuple(books)) == plan(cause, context, BOOKS)


@QUESTION
@given(st.data())
def test_incidents_in_a_row_never_exceed_the_whole(data: st.DataObject) -> None:
    """Many incidents at once, their overlays visible or not yet: floor and blast radius of the mesh hold in the end."""
    topology = data.draw(topologies())
    book = Ledger()
    laid_over: tuple[Overlay, ...] = ()
    visible: tuple[Overlay, ...] = ()
    before = {service: sum(reached(topology, (), service).values()) for service in SERVICES}
    for number in range(data.draw(st.integers(2, 8))):
        cause = replace(data.draw(causes(topology)), probability=1.0)
        context = Context(topology, visible, book, now=1000.0 + number, limits=TIGHT)
        decision = plan(cause, context, BOOKS)
        if decision.plan is None or not decision.plan.steps:
            continue
        step = decision.plan.steps[0]
        new = laid(step.change, f"n{number}")
        share = step.blast_radius.capacity
        book = book.record(Entry(new.id, context.now, target(step.change), share, decision.plan.playbook))
        laid_over = (*laid_over, new)
        if data.draw(st.booleans()):
            visible = laid_over
    lost = 0
    for service in {target(o.change) for o in laid_over if isinstance(o.change, CAPACITY)}:
        after = sum(reached(topology, laid_over, service).values())
        if after >= before[service]:
            continue  # what was restarted did not serve
        assert after >= max(1, math.ceil(TIGHT.floor * healthy(topology, service)))
        lost += max(0, before[service] - after)
    everyone = sum(healthy(topology, service) for service in SERVICES)
    assert lost <= TIGHT.mesh_capacity * everyone + 1e-9


@QUESTION
@given(contexts(), st.integers(0, 1000))
def test_undo_after_do_is_nothing(question: tuple[Cause, Context], seed: int) -> None:
    """Laying a plan's overlay and removing it again leaves shares, serving instances and overlays as they were."""
    cause, context = question
    decision = plan(cause, context, BOOKS)
    before = View(context.topology, context.overlays)
    for step in decision.plan.steps if decision.plan else ():
        done = [*context.overlays, laid(step.change, "new")]
        random.Random(seed).shuffle(done)
        undone = View(context.topology, tuple(o for o in done if o.id != "new"))
        assert in_force(undone.overlays) == in_force(before.overlays)
        for service in SERVICES:
            assert undone.shares(service) == before.shares(service)
            assert undone.serving(service) == before.serving(service)
