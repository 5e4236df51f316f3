"""The decider: a cause, the state of things and the playbooks in; what to do, what not, and why, out.

`plan` is a pure function and deterministic: the audit log can replay it. Selection is explained playbook by playbook:
candidates are tried by priority, then by how narrowly they select, then by how often their first step has helped so far
(`playbooks.memory`), then by name, and the first one with a step that is feasible and that no guard forbids makes the plan. Nothing fits: a person is paged.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from models.incident import Cause, Signal
from models.overlay import Change, target
from playbooks.actions import effect
from playbooks.conditions import unmet
from playbooks.deeds import ActionSpec, Breaker, Reversibility, untreated
from playbooks.effects import BlastRadius, Effect, Infeasible, fill
from playbooks.guards import Check, Context, GuardName, mesh_checks, step_checks
from playbooks.memory import Estimate
from playbooks.schema import HookCall, Mode, Page, Playbook, Services, Severity, Step
from playbooks.units import percent

__all__ = [
    "Considered",
    "Context",
    "Decision",
    "Escalation",
    "Plan",
    "PlannedStep",
    "Refusal",
    "Slice",
    "VerifyTarget",
    "mode",
    "plan",
    "recheck",
]


@dataclass(frozen=True, slots=True)
class VerifyTarget:
    """What must be back inside its baseline: `signal` of requests to any of `services`."""

    services: tuple[str, ...]
    signal: Signal


@dataclass(frozen=True, slots=True)
class Slice:
    """The same act with some left out (`change`), for at most `span_s` seconds."""

    change: Change
    span_s: float


@dataclass(frozen=True, slots=True)
class PlannedStep:
    """One change to try. Undo is the removal of its overlay. `checks` are the guards consulted, with their numbers.

    `reversibility` tells how it is taken back. `hold_out` is the slice to leave untreated for a while (None: nobody).
    """

    name: str
    change: Change
    hold_down_s: float
    verify_deadline_s: float
    verify_target: VerifyTarget
    blast_radius: BlastRadius
    reason: str
    checks: tuple[Check, ...] = ()
    reversibility: Reversibility = Reversibility.INSTANT
    hold_out: Slice | None = None


@dataclass(frozen=True, slots=True)
class Escalation:
    """What to tell a person: one line, more lines, and through which channels (none: all)."""

    severity: Severity
    summary: str
    details: str = ""
    to: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Plan:
    """Steps to try in order, each undone before the next; `escalation` when none of them helped.

    No steps: the playbook says to page at once. `mode` is the playbook's, or `approve` when the agent's record of late
    is bad or the playbook has no fresh certificate (`demoted` says why).
    """

    playbook: str
    mode: Mode
    steps: tuple[PlannedStep, ...]
    escalation: Escalation
    demoted: str = ""


@dataclass(frozen=True, slots=True)
class Considered:
    """One playbook and why it was or was not chosen."""

    playbook: str
    accepted: bool
    reason: str


@dataclass(frozen=True, slots=True)
class Refusal:
    """A guard that said no. `playbook` and `step` are "" for guards of the whole mesh."""

    guard: GuardName
    message: str
    observed: float
    limit: float
    playbook: str = ""
    step: str = ""


@dataclass(frozen=True, slots=True)
class Decision:
    """What to do about one cause.

    `plan` None: do nothing. `escalation` is set when a person must be told now (no plan, or a plan without steps).
    `shadows` are what playbooks in shadow mode would have done. `checks` are the guards of the whole mesh.
    """

    plan: Plan | None
    considered: tuple[Considered, ...] = ()
    refusals: tuple[Refusal, ...] = ()
    escalation: Escalation | None = None
    shadows: tuple[Plan, ...] = ()
    checks: tuple[Check, ...] = ()


def plan(cause: Cause, context: Context, playbooks: Sequence[Playbook]) -> Decision:
    """Decide what to do about `cause`. Pure: equal arguments give equal decisions, in any order of `playbooks`."""
    checks = mesh_checks(cause, context)
    stops = tuple(_refusal(check) for check in checks if not check.ok)
    if stops:
        told = Escalation(Severity.CRITICAL, f"{cause}: not acting. {'; '.join(stop.message for stop in stops)}")
        return Decision(None, _unused(playbooks, stops[0]), stops, told, (), checks)
    considered: list[Considered] = []
    refusals: list[Refusal] = []
    shadows: list[Plan] = []
    chosen: Plan | None = None
    for playbook in _order(playbooks, cause, context):
        mismatch = _mismatch(playbook, cause, context)
        if not mismatch and chosen is not None:
            mismatch = _second(playbook, next(p for p in playbooks if p.name == chosen.playbook), cause, context)
        if mismatch:
            considered.append(Considered(playbook.name, accepted=False, reason=mismatch))
            continue
        made, reasons, refused = _make(playbook, cause, context)
        refusals.extend(refused)
        if made is None:
            considered.append(Considered(playbook.name, accepted=False, reason="; ".join(reasons)))
        elif made.mode is Mode.SHADOW and made.steps:
            shadows.append(made)
            would = "; ".join(step.reason for step in made.steps)
            considered.append(Considered(playbook.name, accepted=False, reason=f"in shadow mode; it would {would}"))
        else:
            chosen = made
            considered.append(
                Considered(
                    playbook.name,
                    accepted=True,
                    reason=_praise(playbook, made, reasons, _worked(playbook, cause, context)),
                )
            )
    page = _escalation(cause, context, chosen, considered)
    return Decision(chosen, tuple(considered), tuple(refusals), page, tuple(shadows), checks)


def recheck(step: PlannedStep, playbook: Playbook, cause: Cause, context: Context) -> tuple[Refusal, ...]:
    """Return what forbids a planned step now. To be asked right before each act: the mesh may have moved on.

    Give `context.incident`: what the incident itself did and laid so far is not held against its next step.
    """
    if context.incident:
        context = replace(context, overlays=tuple(o for o in context.overlays if o.incident != context.incident))
    checks = mesh_checks(cause, context)
    found = next(
        ((each, spec) for each in playbook.spec.steps for name, spec in each.stages if name == step.name), None
    )
    now: Effect | Infeasible = Infeasible(f"no step `{step.name}` any more")
    if found is not None:
        now = effect(found[1], cause, context.view, _way_back(found[0]))
    if isinstance(now, Infeasible):
        gone = Refusal(GuardName.ENDPOINTS, f"no longer feasible: {now.reason}", 0, 1, playbook.name, step.name)
        return (*(_refusal(check) for check in checks if not check.ok), gone)
    planned = Effect(step.change, now.blast_radius, now.load_factor, step.reason, now.reversibility)
    checks += step_checks(playbook, planned, context)
    return tuple(_refusal(check, playbook.name, step.name) for check in checks if not check.ok)


def _make(
    playbook: Playbook, cause: Cause, context: Context
) -> tuple[Plan | None, tuple[str, ...], tuple[Refusal, ...]]:
    """Return the playbook's plan (None: no step can be taken), why steps fell away, and which guards said no."""
    steps: list[PlannedStep] = []
    reasons: list[str] = []
    refusals: list[Refusal] = []
    page = playbook.spec.escalate
    for step in playbook.spec.steps:
        if isinstance(step.action.spec, Page):
            page = step.action.spec
            break
        for name, spec in step.stages:
            made = effect(spec, cause, context.view, _way_back(step))
            if isinstance(made, Infeasible):
                reasons.append(f"step `{name}`: {made.reason}")
                continue
            checks = step_checks(playbook, made, context)
            failed = [check for check in checks if not check.ok]
            if failed:
                reasons.append(f"step `{name}`: {failed[0].guard}: {failed[0].message}")
                refusals.extend(_refusal(check, playbook.name, name) for check in failed)
                continue
            steps.append(replace(_planned(step, (name, spec), made, cause, context), checks=checks))
    pages_only = isinstance(playbook.spec.steps[0].action.spec, Page)
    if not steps and not pages_only:
        return None, tuple(reasons), tuple(refusals)
    boldness, demoted = mode(playbook, context)
    told = _told(page, cause, context)
    return Plan(playbook.name, boldness, tuple(steps), told, demoted), tuple(reasons), tuple(refusals)


def _told(page: Page, cause: Cause, context: Context) -> Escalation:
    summary = fill(page.summary, cause, context.view) or f"{cause}: a person is needed"
    return Escalation(page.severity, summary, fill(page.details, cause, context.view), page.to)


def _way_back(step: Step) -> HookCall | None:
    return step.undo if isinstance(step.undo, HookCall) else None


def _planned(step: Step, stage: tuple[str, ActionSpec], made: Effect, cause: Cause, context: Context) -> PlannedStep:
    name, spec = stage
    services: tuple[str, ...] = (target(made.change),)
    if isinstance(spec, Breaker):  # requests to the callee no longer show whether users are well
        callers = context.topology.callers(services[0])
        services = tuple(sorted(callers | ({cause.edge.caller} if cause.edge else set()))) or services
    verify = step.verify
    if verify is not None and verify.services:
        named = (fill(each, cause, context.view) for each in verify.services)
        services = tuple(sorted({each for each in named if each})) or services
    return PlannedStep(
        name=name,
        change=made.change,
        hold_down_s=step.hold_down,
        verify_deadline_s=verify.deadline if verify else 0.0,
        verify_target=VerifyTarget(services, (verify.signal if verify else None) or cause.signal),
        blast_radius=made.blast_radius,
        reason=made.reason,
        reversibility=made.reversibility,
        hold_out=_hold_out(step, spec, made.change, cause, context),
    )


def _hold_out(step: Step, spec: ActionSpec, whole: Change, cause: Cause, context: Context) -> Slice | None:
    """Return the slice to leave untreated; None unless asked for, possible, and not at users' expense."""
    asked = step.verify.hold_out if step.verify else None
    if asked is None or (context.severity is Severity.CRITICAL and not asked.critical):
        return None
    part = untreated(spec, asked.share)
    made = effect(part, cause, context.view) if part is not None else None
    if not isinstance(made, Effect) or made.change == whole:
        return None
    return Slice(made.change, asked.span)


def mode(playbook: Playbook, context: Context) -> tuple[Mode, str]:
    """Return the mode in effect, and why it is not the playbook's own ("" when it is).

    Too many acts of late that did not help take `auto` away from every playbook; so does a missing certificate from one.
    """
    limits, own = context.limits, playbook.spec.mode
    if own is Mode.AUTO and (why := context.uncertified.get(playbook.name)):
        return Mode.APPROVE, f"{why}: a person approves"
    rate, settled = context.ledger.undo_rate(context.now - limits.undo_s)
    if own is Mode.AUTO and settled >= limits.undo_least and rate >= limits.undo_rate:
        return Mode.APPROVE, f"{percent(rate)} of the last {settled} actions did not help: a person approves"
    return own, ""


def _mismatch(playbook: Playbook, cause: Cause, context: Context) -> str:
    """Return why the playbook does not apply, or ""."""
    when = playbook.spec.when
    if cause.kind not in when.cause:
        return f"is for {_either(when.cause)}, the cause is {cause.kind}"
    if cause.signal not in when.signal:
        return f"is for {_either(when.signal)}, the signal is {cause.signal}"
    if cause.probability < when.min_probability:
        return f"wants {percent(when.min_probability)} certainty, there is {percent(cause.probability)}"
    if context.severity.rank < when.min_severity.rank:
        return f"wants severity {when.min_severity}, this is {context.severity}"
    return _unselected(when.services, cause, context) or unmet(when.expression, cause, context)


def _unselected(services: Services, cause: Cause, context: Context) -> str:
    if cause.service in services.exclude:
        return f"excludes {cause.service}"
    if services.names and cause.service not in services.names:
        return f"is for {_either(services.names)}, the service is {cause.service}"
    if services.labels:
        instances = context.view.of(cause.service)
        wanted = services.labels.items()
        if not instances or not all(wanted <= i.labels.items() for i in instances):
            labels = ", ".join(f"{key}={value}" for key, value in sorted(wanted))
            return f"is for services labelled {labels}, {cause.service} is not"
    return ""


def _either(words: Sequence[str]) -> str:
    return " or ".join(str(word) for word in words)


def _order(playbooks: Sequence[Playbook], cause: Cause, context: Context) -> list[Playbook]:
    """Return playbooks as they are tried: by priority, specificity, what worked best so far, name."""

    def place(playbook: Playbook) -> tuple[int, int, float, str]:
        worked = _worked(playbook, cause, context).probability
        return -playbook.spec.priority, -playbook.specificity, -worked, playbook.name

    return sorted(playbooks, key=place)


def _worked(playbook: Playbook, cause: Cause, context: Context) -> Estimate:
    """Return how probably the first thing that a playbook does helps, by what is remembered."""
    first, _ = playbook.spec.steps[0].stages[0]
    return context.ledger.memory.estimate(str(cause.kind), cause.service, playbook.name, first)


def _second(playbook: Playbook, chosen: Playbook, cause: Cause, context: Context) -> str:
    """Return why a playbook that applies is not tried; of equals also what is remembered."""
    said = f"{chosen.name} comes first"
    mine, other = (_worked(each, cause, context) for each in (playbook, chosen))
    equal = (playbook.spec.priority, playbook.specificity) == (chosen.spec.priority, chosen.specificity)
    if equal and (mine.known or other.known):
        said += f" of two equals: its first step {other}, this one's {mine}"
    return said


def _praise(playbook: Playbook, made: Plan, dropped: tuple[str, ...], worked: Estimate) -> str:
    count = sum(len(step.stages) for step in playbook.spec.steps)
    what = f"{len(made.steps)} of {count} steps possible" if made.steps else "pages at once"
    without = f"; without {'; '.join(dropped)}" if dropped else ""
    without += f"; in mode {made.mode}, {made.demoted}" if made.demoted else ""
    without += f"; its first step {worked}" if worked.known else ""
    return (
        f"first match by priority ({playbook.spec.priority}) and specificity ({playbook.specificity}), {what}{without}"
    )


def _escalation(
    cause: Cause, context: Context, chosen: Plan | None, considered: Sequence[Considered]
) -> Escalation | None:
    """Return what to tell a person now: nothing while a plan with steps goes on."""
    if chosen is not None and chosen.steps:
        return None
    near = [each for each in considered if each.reason.startswith("step")]
    why = "; ".join(f"{each.playbook}: {each.reason}" for each in near)
    if chosen is not None:
        page = chosen.escalation
        return replace(page, summary=f"{page.summary}. {why}" if why else page.summary)
    severity = max(context.severity, Severity.WARNING, key=lambda each: each.rank)
    return Escalation(severity, f"{cause}: not acting. {why or 'no playbook applies'}")


def _unused(playbooks: Sequence[Playbook], stop: Refusal) -> tuple[Considered, ...]:
    names = sorted(playbook.name for playbook in playbooks)
    return tuple(Considered(name, accepted=False, reason=f"{stop.guard}: {stop.message}") for name in names)


def _refusal(check: Check, playbook: str = "", step: str = "") -> Refusal:
    return Refusal(check.guard, check.message, check.observed, check.limit, playbook, step)
