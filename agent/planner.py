"""The planner port over `playbooks.planning`: same decisions, in the loop's records, with a ledger that is kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from agent.incidents import Incident, Step, Weighed
from agent.ports import Circumstances, Consulted, Draft, Objection
from models.domain import Topology
from models.incident import Cause, Signal
from models.overlay import Overlay, target
from playbooks.actions import BlastRadius
from playbooks.guards import Check, Context, GuardName, Limits, canary_checks
from playbooks.ledger import CANARY, Entry, Ledger, Outcome
from playbooks.memory import Memory
from playbooks.planning import Plan, PlannedStep, VerifyTarget, mode, plan, recheck
from playbooks.schema import Mode, Playbook, Severity

DEFAULT_DEADLINE_S: Final = 10.0
PASSING: Final = frozenset(
    {
        GuardName.BLIND,
        GuardName.BUSY,
        GuardName.HEADROOM,
        GuardName.LOAD,
        GuardName.MESH,
        GuardName.SLOT,
        GuardName.COOLDOWN,
        GuardName.RATE,
        GuardName.CONCURRENCY,
    }
)
"""Guards whose refusal time may lift: worth waiting for, with a page if it takes long."""

CRITICAL_ERRORS: Final = 0.2
CRITICAL_SLOWDOWN: Final = 5.0


class PlaybookPlanner:
    """Decides with `playbooks`; remembers actions in a ledger. `limits` hold for the whole mesh."""

    def __init__(self, playbooks: Sequence[Playbook], limits: Limits) -> None:
        self._playbooks = tuple(playbooks)
        self._limits = limits
        self._ledger = Ledger()

    @property
    def playbooks(self) -> tuple[Playbook, ...]:
        """Return the playbooks in use."""
        return self._playbooks

    def draft(self, cause: Cause, circumstances: Circumstances) -> Draft:
        """Return what to do about `cause`. Pure but for the ledger it reads."""
        decision = plan(cause, self._context(circumstances), self._playbooks)
        weighed = tuple(Weighed(c.playbook, c.accepted, c.reason) for c in decision.considered)
        refusals = tuple(r.message for r in decision.refusals)
        page = decision.escalation.summary if decision.escalation else ""
        chosen: Plan | None = decision.plan
        if chosen is None and decision.shadows:
            chosen = decision.shadows[0]
        asked = (*(_consulted(c) for c in decision.checks), *_step_guards(chosen))
        if chosen is None:
            passing = any(r.guard in PASSING for r in decision.refusals)
            storm = any(r.guard is GuardName.STORM for r in decision.refusals)
            return Draft("", Mode.AUTO, (), weighed, refusals, passing, storm, page, asked)
        steps = tuple(_step(planned) for planned in chosen.steps)
        page = page or chosen.escalation.summary
        return Draft(chosen.playbook, chosen.mode, steps, weighed, refusals, page=page, guards=asked)

    def forbids(self, incident: Incident, step: Step, circumstances: Circumstances) -> Objection | None:
        """Return what forbids a planned step by now, None when nothing does."""
        cause, playbook = incident.cause, self._of(incident)
        if cause is None or playbook is None:
            return Objection(f"playbook {incident.playbook} is not loaded any more")
        planned = PlannedStep(
            name=step.name,
            change=step.change,
            hold_down_s=step.hold_down_s,
            verify_deadline_s=step.verify_deadline_s,
            verify_target=VerifyTarget(step.verify_services, step.verify_signal or cause.signal),
            blast_radius=BlastRadius(step.traffic_share, step.capacity_share, 0.0),
            reason=step.reason,
        )
        context = self._context(circumstances)
        found = recheck(planned, playbook, cause, replace(context, ledger=context.ledger.without(step.overlay)))
        if not found:
            return None
        return Objection("; ".join(each.message for each in found), all(each.guard in PASSING for each in found))

    def boldness(self, incident: Incident, circumstances: Circumstances) -> tuple[Mode, str]:
        """Return how boldly the incident's playbook may act by now, and why; one that is gone is refused by `forbids`."""
        playbook = self._of(incident)
        return (Mode.AUTO, "") if playbook is None else mode(playbook, self._context(circumstances))

    def acted(self, incident: Incident, step: Step, at: float) -> None:
        """Enter a step into the ledger: when it is about to be laid, and again when it was."""
        self._ledger = self._ledger.record(
            Entry(
                id=step.overlay,
                at=at,
                service=target(step.change),
                share=step.capacity_share,
                playbook=incident.playbook,
                incident=incident.id,
                step=step.name,
                cause_kind=str(incident.cause.kind) if incident.cause else "",
                cause_service=incident.cause.service if incident.cause else "",
            )
        )

    def not_acted(self, step: Step) -> None:
        """Take a step that was not laid after all out of the ledger."""
        self._ledger = self._ledger.without(step.overlay)

    def ended(self, step: Step, *, helped: bool, learn: bool = True) -> None:
        """Enter a step's outcome into the ledger; `learn`: it says something about the step."""
        outcome = Outcome.HELPED if helped else Outcome.UNDONE
        self._ledger = self._ledger.settle(step.overlay, outcome, learn=learn)

    @property
    def memory(self) -> Memory:
        """Return how often each step has worked."""
        return self._ledger.memory

    def crowded(self, topology: Topology, overlays: tuple[Overlay, ...], now: float) -> str:
        """Return why no canary may go a step further now, "" when it may."""
        context = Context(topology, overlays, self._ledger, now, limits=self._limits)
        return "; ".join(check.message for check in canary_checks(context) if not check.ok)

    def stepped(self, overlay: str, canary: str, service: str, step: str, at: float) -> None:
        """Enter a canary's step into the ledger."""
        entry = Entry(overlay, at, service, 0.0, f"{CANARY}{canary}", incident=f"{CANARY}{canary}", step=step)
        self._ledger = self._ledger.record(entry)

    def save(self) -> bytes:
        """Return the ledger."""
        return self._ledger.dumps().encode()

    def restore(self, state: bytes) -> None:
        """Continue with the ledger that `save` returned; raises InvalidInput when it cannot be read."""
        self._ledger = Ledger.loads(state.decode("utf-8", "replace"))

    def _of(self, incident: Incident) -> Playbook | None:
        return next((p for p in self._playbooks if p.name == incident.playbook), None)

    def _context(self, around: Circumstances) -> Context:
        return Context(
            topology=around.topology,
            overlays=around.overlays,
            ledger=self._ledger,
            now=around.now,
            anomalous_share=around.storm_share,
            blind=around.blind,
            severity=_severity(around),
            incident=around.incident,
            limits=self._limits,
            anomalies=around.anomalies,
            saturation=around.saturation,
            load=around.load,
            uncertified=around.uncertified,
            budgets=around.budgets,
        )


def _severity(around: Circumstances) -> Severity:
    """Return how much it hurts: a fifth of requests failing or five times slower is critical."""
    for anomaly in around.anomalies:
        if anomaly.signal is Signal.ERRORS and anomaly.observed >= CRITICAL_ERRORS:
            return Severity.CRITICAL
        if anomaly.signal is Signal.LATENCY and anomaly.observed >= CRITICAL_SLOWDOWN * max(anomaly.expected, 1e-6):
            return Severity.CRITICAL
    return Severity.WARNING


def _step_guards(chosen: Plan | None) -> tuple[Consulted, ...]:
    steps = chosen.steps if chosen is not None else ()
    return tuple(_consulted(check, step.name) for step in steps for check in step.checks)


def _consulted(check: Check, step: str = "") -> Consulted:
    return Consulted(str(check.guard), check.ok, check.observed, check.limit, check.message, step)


def _step(planned: PlannedStep) -> Step:
    return Step(
        name=planned.name,
        change=planned.change,
        overlay="",
        hold_down_s=planned.hold_down_s,
        verify_deadline_s=planned.verify_deadline_s or DEFAULT_DEADLINE_S,
        verify_services=planned.verify_target.services,
        verify_signal=planned.verify_target.signal,
        traffic_share=planned.blast_radius.traffic,
        capacity_share=planned.blast_radius.capacity,
        reason=planned.reason,
        hold_out=planned.hold_out.change if planned.hold_out else None,
        hold_out_s=planned.hold_out.span_s if planned.hold_out else 0.0,
    )
