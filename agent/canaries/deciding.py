"""What to do with a canary now: a pure function of its declaration, its record, the verdict and the circumstances."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from agent.canaries.record import FINAL, Record, State
from models.canary import Judgement, Verdict
from models.rollout import Rollout


@dataclass(frozen=True, slots=True)
class Stay:
    """Leave everything as it is. `holding`: why it may not go on, "" when it just waits for evidence or time."""

    holding: str = ""


@dataclass(frozen=True, slots=True)
class Advance:
    """Go to step `step` (from 0)."""

    step: int
    reason: str


@dataclass(frozen=True, slots=True)
class Promote:
    """Give the canary everything."""

    reason: str


@dataclass(frozen=True, slots=True)
class RollBack:
    """Give the stable version everything."""

    reason: str


Move: TypeAlias = Stay | Advance | Promote | RollBack


@dataclass(frozen=True, slots=True)
class Around:
    """What a decision depends on besides the numbers; each text says why not, "" when nothing is in the way.

    `person`: somebody's hand is on the weights. `blind`: telemetry is not to be trusted. `incident`: something that the service
    depends on, or the service itself, is being treated. `taken`: an incident took the canary's traffic away. `missing`: a
    version has no healthy instance. `hold`: a freeze of the whole mesh, or the service's error budget is spent.
    """

    now: float
    person: str = ""
    blind: str = ""
    incident: str = ""
    taken: str = ""
    missing: str = ""
    hold: str = ""


def decide(rollout: Rollout, record: Record, judgement: Judgement, around: Around) -> Move:  # noqa: PLR0911 - one return per reason
    """Return the move. Rolling back needs proof and nothing else; going on needs proof, time, and every gate open."""
    if record.state in FINAL:
        return Stay()
    if around.person or record.yielded:
        return Stay(around.person or record.paused)
    if around.taken and record.state is State.PROGRESSING:
        return RollBack(around.taken)
    if around.blind:
        return Stay(around.blind)
    if record.state is State.WAITING:
        gate = around.missing or around.incident or _gates(rollout, record, around)
        return Stay(gate) if gate else Advance(0, f"{rollout.steps[0]} to begin with")
    if judgement.verdict is Verdict.ROLL_BACK:
        return RollBack(judgement.reason)
    return _forward(rollout, record, judgement, around)


def _forward(  # noqa: PLR0911 - one return per reason
    rollout: Rollout, record: Record, judgement: Judgement, around: Around
) -> Move:
    step, waited = rollout.steps[record.step], around.now - record.since
    if hold := around.missing or around.incident or (judgement.reason if judgement.shared_trouble else ""):
        return Stay(hold)
    reason = judgement.reason
    if judgement.verdict is not Verdict.PROMOTE:
        if waited < rollout.inconclusive_after_s:
            return Stay()
        late = f"nothing proven after {waited:.0f} s"
        if rollout.inconclusive == "hold" or not judgement.requests:
            return Stay(f"{late} ({judgement.reason})")
        if rollout.inconclusive == "rollback":
            return RollBack(f"{late}, declared to end so")
        reason = f"{late}, declared to go on then"
    if waited < step.least_s:
        return Stay()
    if gate := _gates(rollout, record, around):
        return Stay(gate)
    last = record.step + 1 >= len(rollout.steps)
    if (step.approval or (last and not rollout.automatic)) and record.approved < record.step:
        return Stay(f"proven; waits for a person: fibrin canary promote {rollout.name}")
    return Promote(reason) if last else Advance(record.step + 1, reason)


def _gates(rollout: Rollout, record: Record, around: Around) -> str:
    if record.paused:
        return f"paused by {record.paused}"
    return "a freeze window holds" if rollout.frozen(around.now) else around.hold
