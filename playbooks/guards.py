"""The interlocks of a decision: how much is too much, how soon too soon, and when not to act at all.

Every guard is a small function that returns a `Check`: what it looked at, the limit, and whether it holds. The planner
runs all of them, so that the audit record shows every number consulted, not only the first that failed.

`mesh_checks` ask about the mesh as a whole, before any playbook: is this a storm, can telemetry be trusted.
`step_checks` ask about one step of one playbook.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property
from typing import Final

from models.domain import Health, Instance, Topology
from models.incident import Anomaly, Cause
from models.objective import ErrorBudget
from models.overlay import (
    Change,
    InjectFault,
    Overlay,
    Owner,
    RunHook,
    ShiftTraffic,
    ShiftZones,
    in_force,
    slot,
    target,
)
from playbooks.deeds import Reversibility
from playbooks.effects import Effect
from playbooks.ledger import Entry, Ledger
from playbooks.schema import Freeze, Playbook, Severity
from playbooks.units import percent, span
from playbooks.view import View, missing

_ROUNDING: Final = 1e-9
"""Slack for shares that went through floating point."""

_SETTING: Final = "agent.mesh_capacity"
"""What a person changes who wants the limit of the whole mesh elsewhere."""


class GuardName(StrEnum):
    """The closed set of guards."""

    STORM = "storm-stop"
    BLIND = "telemetry-trust"
    BUSY = "mesh-rate"
    FREEZE = "freeze"
    BUDGET = "error-budget"
    TRAFFIC = "max-traffic-share"
    CAPACITY = "max-capacity-share"
    FLOOR = "capacity-floor"
    ENDPOINTS = "never-zero"
    MESH = "mesh-blast-radius"
    HEADROOM = "headroom"
    LOAD = "max-load-factor"
    PERSON = "people-first"
    SLOT = "one-change-per-place"
    COOLDOWN = "cooldown"
    RATE = "rate"
    STRIKES = "strikes"
    CONCURRENCY = "concurrency"


@dataclass(frozen=True, slots=True)
class Limits:
    """What holds for the whole mesh, whatever a playbook allows. Shares are 0–1, times seconds.

    `storm_share`: from so much of the mesh anomalous on nothing is done. `blind_share`: from so many witnesses without
    trustworthy telemetry on, likewise. `mesh_capacity`: most of the mesh's healthy instances that may be out of
    service by the agent's doing at once. `floor`: least share of a service's healthy instances that stays in service.
    `actions` in any `window_s`: most actions over all playbooks. `strikes_s`: how long a failure is held against a
    playbook. `undo_rate` over at least `undo_least` settled actions within `undo_s`: from there on a person approves.
    `freeze`: times in which nothing is done.
    """

    storm_share: float = 0.6
    blind_share: float = 0.5
    mesh_capacity: float = 0.34
    floor: float = 0.5
    actions: int = 12
    window_s: float = 600.0
    strikes_s: float = 3600.0
    undo_rate: float = 0.5
    undo_least: int = 4
    undo_s: float = 3600.0
    freeze: tuple[Freeze, ...] = ()


@dataclass(frozen=True)
class Context:
    """All that a decision depends on beside the cause; equal contexts give equal decisions.

    `overlays` are all that are in force, people's too. `anomalous_share` is the share (0–1) of the mesh's services that
    are anomalous and that the cause does not explain. `blind` names the sidecars (instance ids) or services whose
    telemetry cannot be trusted. `saturation` is each service's load as a share of its limit (services without a
    known limit are absent), `load` its present requests over those before the incident (absent: not known). `incident` is the incident asked about: its own earlier steps do not count as cool-down.
    `anomalies` are its symptoms; `budgets` the error budgets of the services that have an objective. `uncertified`:
    playbook → why it may not act alone (see `playbooks.certificates`).
    """

    topology: Topology
    overlays: tuple[Overlay, ...] = ()
    ledger: Ledger = field(default_factory=Ledger)
    now: float = 0.0
    anomalous_share: float = 0.0
    blind: frozenset[str] = frozenset()
    severity: Severity = Severity.WARNING
    incident: str = ""
    saturation: Mapping[str, float] = field(default_factory=dict)
    load: Mapping[str, float] = field(default_factory=dict)
    limits: Limits = Limits()
    anomalies: tuple[Anomaly, ...] = ()
    budgets: Mapping[str, ErrorBudget] = field(default_factory=dict)
    uncertified: Mapping[str, str] = field(default_factory=dict)

    @cached_property
    def view(self) -> View:
        """Return the mesh with the overlays applied."""
        return View(self.topology, self.overlays)


@dataclass(frozen=True, slots=True)
class Check:
    """One guard consulted: `observed` against `limit`, both in the guard's unit, and the sentence for people."""

    guard: GuardName
    ok: bool
    observed: float
    limit: float
    message: str


def mesh_checks(cause: Cause, context: Context) -> tuple[Check, ...]:
    """Return the checks that hold for any action at all."""
    limits = context.limits
    share = context.anomalous_share
    recent = sum(not each.of_canary for each in context.ledger.since(context.now - limits.window_s))
    storm = f"{percent(share)} of the mesh is anomalous beyond this cause, {percent(limits.storm_share)} stops all acts"
    busy = f"{recent} actions in the last {span(limits.window_s)}, at most {limits.actions}"
    return (
        Check(GuardName.STORM, share < limits.storm_share, share, limits.storm_share, storm),
        _blind(cause, context),
        _frozen(limits.freeze, context.now),
        Check(GuardName.BUSY, recent < limits.actions, recent, limits.actions, busy),
    )


def canary_checks(context: Context) -> tuple[Check, ...]:
    """Return the checks before a canary goes a step further: with every act of the agent counted, its own steps too.

    The other way round a canary's step takes no rate and no cool-down from healing, only what capacity it holds.
    """
    limits = context.limits
    recent = len(context.ledger.since(context.now - limits.window_s))
    busy = f"{recent} actions in the last {span(limits.window_s)}, at most {limits.actions}"
    total = sum(i.health is Health.HEALTHY for i in context.topology.instances)
    taken = sum(context.view.taken().values()) + sum(_unseen(context).values())
    share = taken / total if total else 1.0
    full = f"{percent(share)} of the mesh's healthy instances are out of service, at most {percent(limits.mesh_capacity)} ({_SETTING})"
    return (
        _frozen(limits.freeze, context.now),
        Check(GuardName.BUSY, recent < limits.actions, recent, limits.actions, busy),
        _most(GuardName.MESH, share, limits.mesh_capacity, full),
    )


def witnesses(cause: Cause, topology: Topology) -> tuple[Instance, ...]:
    """Return the instances whose sidecars saw the cause: its callers', or its own when nobody in the mesh calls it.

    The callee's own silence is no reason to distrust what callers see: it may be the very fault.
    """
    callers = set(topology.callers(cause.service))
    if cause.edge is not None:
        callers.add(cause.edge.caller)
    seen = tuple(i for i in topology.instances if i.service in callers)
    return seen or topology.of(cause.service) or topology.instances


def _frozen(windows: tuple[Freeze, ...], now: float) -> Check:
    holding = [window for window in windows if window.holds(now)]
    message = f"a freeze holds: {holding[0]}" if holding else "no freeze holds"
    return Check(GuardName.FREEZE, not holding, len(holding), 0, message)


def _blind(cause: Cause, context: Context) -> Check:
    def unseen(instances: tuple[Instance, ...]) -> float:
        blind = sum(i.id in context.blind or i.service in context.blind for i in instances)
        return blind / len(instances) if instances else 1.0

    limit = context.limits.blind_share
    of_witnesses, of_mesh = unseen(witnesses(cause, context.topology)), unseen(context.topology.instances)
    worst = max(of_witnesses, of_mesh)
    what = "of the sidecars that saw it" if of_witnesses >= of_mesh else "of all sidecars"
    message = f"{percent(worst)} {what} send no telemetry to trust, from {percent(limit)} on nothing is done"
    return Check(GuardName.BLIND, worst < limit, worst, limit, message)


def step_checks(playbook: Playbook, effect: Effect, context: Context) -> tuple[Check, ...]:
    """Return the checks of one step of one playbook, all of them, whether they hold or not."""
    return (
        _frozen(playbook.spec.guard.freeze, context.now),
        _budget(playbook, effect, context),
        *_size_checks(playbook, effect, context),
        *_place_checks(effect.change, context),
        *_memory_checks(playbook, target(effect.change), context),
    )


def _size_checks(playbook: Playbook, effect: Effect, context: Context) -> Iterator[Check]:
    guard, radius = playbook.spec.guard, effect.blast_radius
    message = f"touches {percent(radius.traffic)} of the traffic, at most {percent(guard.max_traffic_share)}"
    yield _most(GuardName.TRAFFIC, radius.traffic, guard.max_traffic_share, message)
    message = f"takes {percent(radius.capacity)} of the healthy instances, at most {percent(guard.max_capacity_share)}"
    yield _most(GuardName.CAPACITY, radius.capacity, guard.max_capacity_share, message)
    yield from _floor_checks(playbook, effect, context)
    yield _headroom(playbook, effect, context)
    yield _load(playbook, effect, context)


def _load(playbook: Playbook, effect: Effect, context: Context) -> Check:
    """Check that nobody who stays gets many times the load that is usual: under a surge no capacity is taken away."""
    service, most = target(effect.change), playbook.spec.guard.max_load_factor
    surge = max(1.0, context.load.get(service, 1.0))
    factor = effect.load_factor * surge
    message = f"load per remaining instance grows to {factor:.2f}× the usual, at most {most:.2f}×"
    if surge > 1:
        message += f"; {service} gets {surge:.2f}× the requests it got before"
    holds = not most or effect.load_factor <= 1 or factor <= most + _ROUNDING
    return Check(GuardName.LOAD, holds, factor, most, message)


def _headroom(playbook: Playbook, effect: Effect, context: Context) -> Check:
    """Check that whoever takes over the load has room for it; asked for and not known is a no."""
    service, headroom = target(effect.change), playbook.spec.guard.headroom
    limit, known = 1 - headroom, context.saturation.get(service)
    load = (known or 0.0) * effect.load_factor
    message = f"each remaining instance would be {percent(load)} busy, at most {percent(limit)}"
    if known is None:
        growth = f"load per remaining instance grows to {effect.load_factor:.2f}×"
        message = f"{growth}; {service} has no known limit to compare it with (`connectionPool` declares one)"
    holds = not headroom or effect.load_factor <= 1 or (known is not None and load <= limit + _ROUNDING)
    return Check(GuardName.HEADROOM, holds, load, limit, message)


def _budget(playbook: Playbook, effect: Effect, context: Context) -> Check:
    """Check that the error budget allows a risk; without an objective there is none to spend.

    What cannot be taken back is a risk by itself: it wants something left, whatever the playbook says.
    """
    service = target(effect.change)
    wanted, budget = playbook.spec.guard.error_budget, context.budgets.get(service)
    if budget is None:
        return Check(GuardName.BUDGET, ok=True, observed=1, limit=0, message=f"{service} has no objective")
    if effect.reversibility is Reversibility.NONE and budget.remaining <= 0:
        message = f"{service}'s error budget is spent, and this cannot be taken back"
        return Check(GuardName.BUDGET, ok=False, observed=budget.remaining, limit=0, message=message)
    left = budget.remaining >= wanted.min_remaining
    slow = not wanted.max_burn or budget.burn <= wanted.max_burn
    message = (
        f"{percent(budget.remaining)} of {service}'s error budget is left, at least {percent(wanted.min_remaining)}"
    )
    if left and wanted.max_burn:
        message = f"{service}'s error budget burns {budget.burn:.1f}× too fast, at most {wanted.max_burn:.1f}×"
        return Check(GuardName.BUDGET, slow, budget.burn, wanted.max_burn, message)
    return Check(GuardName.BUDGET, left, budget.remaining, wanted.min_remaining, message)


def _floor_checks(playbook: Playbook, effect: Effect, context: Context) -> Iterator[Check]:
    """Check what stays in service, with everything counted that is away or about to go."""
    change, view = effect.change, context.view
    service = target(change)
    if not _takes(change, view):
        return
    healthy = len(view.healthy(service))
    unseen = _unseen(context)
    left = len(serving_after(change, view)) - math.ceil(unseen.get(service, 0.0) - _ROUNDING)
    floor = max(playbook.spec.guard.min_healthy_share, context.limits.floor)
    least = max(1, math.ceil(floor * healthy - _ROUNDING))
    message = f"leaves {left} of {healthy} healthy instances of {service} in service, at least {least}"
    yield Check(GuardName.FLOOR, left >= least, left, least, message)
    empty = [v for v, share in _shares_after(change, view).items() if share > 0 and not _any(change, view, v)]
    message = f"{service} keeps an endpoint for every share of its traffic"
    if empty or left < 1:
        message = f"{service} would send traffic to nowhere: {', '.join(empty) or 'no endpoint is left'}"
    yield Check(GuardName.ENDPOINTS, not empty and left >= 1, left, 1, message)
    total = sum(i.health is Health.HEALTHY for i in context.topology.instances)
    now = {name: float(count) for name, count in view.taken().items()}
    before = sum(now.values()) + sum(unseen.values())
    taken = before + max(0, len(view.serving(service)) - len(serving_after(change, view)))
    share = taken / total if total else 1.0
    limit = context.limits.mesh_capacity
    message = f"{percent(share)} of the mesh's healthy instances would be out of service, at most {percent(limit)} ({_SETTING})"
    yield _most(GuardName.MESH, share, limit, message)


def serving_after(change: Change, view: View) -> tuple[Instance, ...]:
    """Return the instances of the changed service that take traffic once `change` is in force."""
    service = target(change)
    match change:
        case ShiftTraffic(weights=weights):
            return tuple(i for i in view.available(service) if weights.get(i.version, 0) > 0)
        case ShiftZones():  # replaces the zones that an earlier shift closed
            before = tuple(o for o in view.overlays if slot(o.change) != slot(change))
            return tuple(i for i in View(view.topology, before).serving(service) if not missing(change, i))
        case RunHook(parameters=parameters) if (wanted := parameters.get("replicas", "")).isdigit():
            fewer = max(0, len(view.of(service)) - int(wanted))
            serving = view.serving(service)
            return serving[: max(0, len(serving) - fewer)]
        case _:
            return tuple(i for i in view.serving(service) if not missing(change, i))


def _takes(change: Change, view: View) -> bool:
    """Tell whether a change decides who serves (others leave capacity alone)."""
    moves = isinstance(change, ShiftTraffic | ShiftZones)
    return moves or len(serving_after(change, view)) < len(view.serving(target(change)))


def _shares_after(change: Change, view: View) -> Mapping[str, float]:
    if isinstance(change, ShiftTraffic):
        return dict(change.weights)
    service = target(change)
    return view.shares(service) if view.weighted(service) else {}


def _any(change: Change, view: View, version: str) -> bool:
    return any(i.version == version for i in serving_after(change, view))


def _unseen(context: Context) -> Mapping[str, float]:
    """Return capacity (instances per service) that pending actions took whose overlays are not visible yet."""
    visible = {overlay.id for overlay in context.overlays}
    taken: dict[str, float] = {}
    for entry in context.ledger.pending(context.now):
        if entry.id not in visible and entry.share > 0 and not _own(entry, context):
            count = entry.share * len(context.view.healthy(entry.service))
            taken[entry.service] = taken.get(entry.service, 0.0) + count
    return taken


def _own(entry: Entry, context: Context) -> bool:
    """Tell whether the incident asked about did this itself: its steps follow each other, they do not add up."""
    return bool(context.incident) and entry.incident == context.incident


def _place_checks(change: Change, context: Context) -> Iterator[Check]:
    """Check that nobody else has a hand there: people first, then one change per place."""
    service = target(change)
    hands = [
        overlay
        for overlay in in_force(context.overlays)
        if overlay.owner is Owner.PERSON
        and target(overlay.change) == service
        and not isinstance(overlay.change, InjectFault)  # a drill breaks things so that the agent may mend them
    ]
    message = f"nobody changed {service} by hand"
    if hands:
        message = f"{hands[0].actor or 'a person'} changed {service} by hand ({hands[0].change.kind}, {hands[0].id})"
    yield Check(GuardName.PERSON, not hands, len(hands), 0, message)
    same = [o for o in in_force(context.overlays) if o.owner is Owner.AGENT and slot(o.change) == slot(change)]
    message = "no other change is in force in this place"
    if same:
        message = f"overlay {same[0].id} is in force in this place already (incident {same[0].incident or 'unknown'})"
    yield Check(GuardName.SLOT, not same, len(same), 0, message)


def _memory_checks(playbook: Playbook, service: str, context: Context) -> Iterator[Check]:
    """Check what the ledger remembers of this playbook and this service."""
    guard, ledger, now = playbook.spec.guard, context.ledger, context.now
    others = [
        entry for entry in ledger.since(-math.inf, service=service) if not (entry.of_canary or _own(entry, context))
    ]
    pause = now - others[-1].at if others else math.inf
    message = f"{service} was not touched before"
    if others:
        message = f"{service} was touched {span(max(0.0, pause))} ago, at least {span(guard.cooldown)} must pass"
    yield Check(GuardName.COOLDOWN, pause >= guard.cooldown, min(pause, 1e9), guard.cooldown, message)
    count = len(ledger.since(now - guard.rate.per, playbook=playbook.name))
    message = f"{count} actions in the last {span(guard.rate.per)}, at most {guard.rate.count}"
    yield Check(GuardName.RATE, count < guard.rate.count, count, guard.rate.count, message)
    kept = Ledger(tuple(entry for entry in ledger.entries if not _own(entry, context)))
    strikes = kept.strikes(now - context.limits.strikes_s, playbook=playbook.name, service=service)
    message = f"{strikes} failures on {service} in the last {span(context.limits.strikes_s)}, out at {guard.strikes}"
    yield Check(GuardName.STRIKES, strikes < guard.strikes, strikes, guard.strikes, message)
    pending = [entry for entry in ledger.pending(now, playbook=playbook.name) if not _own(entry, context)]
    message = f"{len(pending)} of its actions are not verified yet, at most {guard.concurrency} at once"
    yield Check(GuardName.CONCURRENCY, len(pending) < guard.concurrency, len(pending), guard.concurrency, message)


def _most(guard: GuardName, observed: float, limit: float, message: str) -> Check:
    return Check(guard, observed <= limit + _ROUNDING, observed, limit, message)
