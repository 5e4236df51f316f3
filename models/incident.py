"""Anomalies, causes, incidents: what the healing loop hands from stage to stage."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from models.domain import ChangeEvent, Edge
from models.errors import Conflict
from models.signals import Series


class Signal(StrEnum):
    """The four golden signals."""

    LATENCY = "latency"
    TRAFFIC = "traffic"
    ERRORS = "errors"
    SATURATION = "saturation"


@dataclass(frozen=True, slots=True)
class Anomaly:
    """One series whose signal left its baseline.

    `score` is the detector's evidence as log10 of an e-value (≥ its threshold when alarmed). `onset` is the detector's
    estimate of the change point and `at` when it alarmed, Unix s. `observed` and `expected` are in the signal's unit
    (ratio 0–1 for errors, seconds for latency, requests per second for traffic, share of the limit for saturation).
    """

    series: Series
    signal: Signal
    at: float
    onset: float
    observed: float
    expected: float
    score: float
    requests: int


class CauseKind(StrEnum):
    """The closed set of causes."""

    INSTANCE = "instance"
    VERSION = "version"
    ZONE = "zone"
    SERVICE = "service"
    DEPENDENCY = "dependency"  # a service as a whole is down or unreachable for its callers
    OVERLOAD = "overload"
    CHANGE = "change"
    GLOBAL = "global"


@dataclass(frozen=True, slots=True)
class Cause:
    """One suspect. `service` is where the fault lives; `subject` names the instance id, version or zone ("" for
    kinds that need none). `edge` is the edge on which it shows most. `probability` is 0–1 over all suspects of the
    incident. `evidence` are sentences for people; `numbers` the figures in them, for machines.
    """

    kind: CauseKind
    service: str
    subject: str
    signal: Signal
    probability: float
    edge: Edge | None = None
    evidence: tuple[str, ...] = ()
    numbers: Mapping[str, float] = field(default_factory=dict)
    changes: tuple[ChangeEvent, ...] = ()

    def __str__(self) -> str:
        """Render as `version catalog/v2 (errors)`."""
        return f"{self.key} ({self.signal})"

    @property
    def key(self) -> str:
        """Return what tells one cause from another, whatever signal shows it: `version catalog/v2`."""
        return f"{self.kind} {self.service}/{self.subject}" if self.subject else f"{self.kind} {self.service}"


class Stage(StrEnum):
    """Where an incident stands in its life cycle."""

    DETECTED = "detected"
    CORRELATED = "correlated"
    PLANNED = "planned"
    ACTING = "acting"
    VERIFYING = "verifying"
    UNDOING = "undoing"
    RESOLVED = "resolved"
    ESCALATED = "escalated"
    OBSERVED = "observed"  # no action was taken (shadow, no playbook, gone by itself) and the signal is back


TERMINAL = frozenset({Stage.RESOLVED, Stage.ESCALATED, Stage.OBSERVED})

TRANSITIONS: Final[Mapping[Stage, Mapping[Stage, str]]] = {
    Stage.DETECTED: {
        Stage.CORRELATED: "one cause stands out",
        Stage.OBSERVED: "gone by itself, or a symptom of another incident",
        Stage.ESCALATED: "no cause stands out in time, or a person took over",
    },
    Stage.CORRELATED: {
        Stage.PLANNED: "a playbook has a step that no guard forbids",
        Stage.OBSERVED: "gone by itself, or a symptom of another incident",
        Stage.ESCALATED: "no playbook may act, nothing that was tried helped, or a person took over",
    },
    Stage.PLANNED: {
        Stage.ACTING: "every interlock is open (and a person approved, where asked)",
        Stage.CORRELATED: "another cause stands out while the plan waits for a person: it is planned anew",
        Stage.OBSERVED: "gone by itself, or a symptom of another incident",
        Stage.ESCALATED: "an interlock that time does not lift, or a person denied or aborted",
    },
    Stage.ACTING: {
        Stage.VERIFYING: "the overlay is laid",
        Stage.PLANNED: "it was not laid: tried again, or the next step",
        Stage.ESCALATED: "it cannot be recorded, or no step is left",
    },
    Stage.VERIFYING: {
        Stage.RESOLVED: "the signal is back inside its baseline",
        Stage.UNDOING: "it did not help, harmed, a sidecar refused it, its cause was another's, or a person aborted",
        Stage.OBSERVED: "a person took the place over, or the overlay ended while the agent was away",
        Stage.ESCALATED: "the agent itself fails to go on",
    },
    Stage.UNDOING: {
        Stage.CORRELATED: "undone: the cause is thought about anew, then the next step or another plan",
        Stage.OBSERVED: "undone: it was a symptom of another incident",
        Stage.ESCALATED: "undone: too many causes were treated in vain, or a person aborted",
    },
    Stage.RESOLVED: {},
    Stage.ESCALATED: {},
    Stage.OBSERVED: {},
}
"""The life cycle: which stage may follow which, and when."""


def admit(name: str, before: Stage, after: Stage) -> None:
    """Let the incident `name` go from one stage to another.

    Raises:
        Conflict: the life cycle has no such transition.
    """
    if after not in TRANSITIONS[before]:
        can = ", ".join(TRANSITIONS[before]) or "nothing: it is closed"
        text = f"incident {name} is {before} and cannot become {after} (it can become {can})"
        raise Conflict(text, hint="somebody else moved it meanwhile: read it again, then decide")
