"""The interlocks in front of every action: pure checks, each with a name that shows up in log, story and metrics.

A gate either waits (the reason may pass: act later if still needed) or is final (a person decides).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from models.domain import Topology
from models.incident import Cause, CauseKind


class Interlock(StrEnum):
    """The closed set of reasons not to act."""

    STOPPED = "stop-acting"
    BLIND = "blind"
    STORM = "storm"
    FENCE = "fence"
    AUDIT = "audit"
    UNKNOWN = "unknown-service"
    WARM_UP = "warm-up"
    CONTROL = "control-plane"
    PERSON = "person"
    GUARD = "playbook-guard"


@dataclass(frozen=True, slots=True)
class Block:
    """Why nothing may be done now. `final`: waiting will not help, call a person."""

    interlock: Interlock
    reason: str
    final: bool = False


@dataclass(frozen=True, slots=True)
class Situation:
    """Everything the gates look at. `blind` are reporter ids, `reporters` how many there are,
    `witnesses` those whose telemetry shows the fault.
    """

    cause: Cause
    witnesses: frozenset[str]
    topology: Topology
    topology_known: bool
    control_up: bool
    fence: int | None
    blind: frozenset[str]
    reporters: int
    storm_share: float
    storm_limit: float
    warm: bool
    audit_broken: str
    person: str
    stopped: str = ""
    stale: str = ""
    """Why what was seen of the fault is no evidence any more ("": it is)."""


def check(at: Situation) -> Block | None:  # noqa: C901, PLR0911  # one return per interlock
    """Return the first interlock that forbids acting, None when all are open."""
    if at.stopped:
        return Block(Interlock.STOPPED, at.stopped)
    if at.person:
        return Block(Interlock.PERSON, at.person, final=True)
    if at.audit_broken:
        return Block(Interlock.AUDIT, f"the audit log cannot be written ({at.audit_broken})", final=True)
    if not at.warm:
        return Block(Interlock.WARM_UP, "the agent has just started and knows no normal yet")
    if not at.topology_known or not at.control_up:
        return Block(Interlock.CONTROL, "the control plane does not answer")
    if at.stale:
        return Block(Interlock.CONTROL, at.stale)
    if at.storm_share >= at.storm_limit or at.cause.kind is CauseKind.GLOBAL:
        text = f"{at.storm_share:.0%} of all services are sick for other reasons: this is no local cause"
        return Block(Interlock.STORM, text, final=True)
    if not at.topology.of(at.cause.service):
        return Block(Interlock.UNKNOWN, f"no instance of {at.cause.service} is registered", final=True)
    if unseen := blindness(at):
        return Block(Interlock.BLIND, unseen)
    if at.fence is None:
        return Block(Interlock.FENCE, "this agent does not hold the fence: another leads or none can")
    return None


def blindness(at: Situation) -> str:
    """Return why the evidence cannot be trusted, "" when it can.

    A silent sidecar of the suspect itself does not count: the callers saw what happened.
    """
    if at.witnesses and at.witnesses <= at.blind:
        return f"all witnesses ({', '.join(sorted(at.witnesses))}) send no telemetry to be trusted"
    if at.reporters and len(at.blind) * 2 > at.reporters:
        return f"{len(at.blind)} of {at.reporters} sidecars send no telemetry to be trusted"
    return ""
