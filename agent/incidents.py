"""One incident as a value: what was seen, what is thought, what is done, and when each of it happened.

An `Incident` is frozen; every step of its life makes a new one through `moved`, which knows the allowed transitions.
So a stored copy, a copy in an API answer and the copy the loop works on can never disagree half-way.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Final

from models.incident import TERMINAL, Anomaly, Cause, Signal, Stage, admit
from models.overlay import Change

Datum = str | float | int | bool | None

OPEN: Final = frozenset(Stage) - TERMINAL


class Verb(StrEnum):
    """The orders about one incident."""

    APPROVE = "approve"
    DENY = "deny"
    ABORT = "abort"
    PAUSE = "pause"
    RESUME = "resume"


@dataclass(frozen=True, slots=True)
class Moment:
    """One line of an incident's story. `at` is Unix time, `data` the figures in the message."""

    at: float
    stage: Stage
    message: str
    data: Mapping[str, Datum] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Step:
    """One planned step and what became of it. Times are Unix seconds, 0 when it has not happened.

    `overlay` is the id under which the change is laid; it follows from incident and step, so laying it twice
    is the same as laying it once. `verify_signal` of requests to any of `verify_services` must come back. `traffic_share` and `capacity_share` are its blast radius, 0–1.
    `hold_out` is the same change with some left out, in force for at most `hold_out_s` seconds after it, and `effect`
    what the comparison with them says ("" without one).
    """

    name: str
    change: Change
    overlay: str
    hold_down_s: float
    verify_deadline_s: float
    verify_services: tuple[str, ...] = ()
    verify_signal: Signal | None = None
    traffic_share: float = 0.0
    capacity_share: float = 0.0
    reason: str = ""
    acted_at: float = 0.0
    acked_at: float = 0.0
    propagation: str = ""
    ended_at: float = 0.0
    verdict: str = ""
    numbers: Mapping[str, float] = field(default_factory=dict)
    hold_out: Change | None = None
    hold_out_s: float = 0.0
    effect: str = ""


@dataclass(frozen=True, slots=True)
class Weighed:
    """A playbook that was looked at, and why it was or was not taken."""

    playbook: str
    accepted: bool
    reason: str


class Users(StrEnum):
    """How users are because of an incident: nobody can tell, it will show in a moment, they feel nothing, they are hurt."""

    UNKNOWN = "unknown"
    PENDING = "pending"
    WELL = "well"
    HURT = "hurt"


@dataclass(frozen=True, slots=True)
class Incident:
    """The whole story of one incident.

    `onset` is when the fault began by the detectors' estimate, `opened_at` when the first detector alarmed.
    `step` indexes `steps` (-1 before the first). `waiting` says in one sentence why an untreated incident
    does not move ("" when it does). `withdrawn` is why its action is taken back for another reason
    than that it did not help. `approved_by`, `paused` and `aborted` are a person's name and reason ("" without such an
    order). `merged_into` is the incident about the same cause that took this one over, `merged` are those it
    took over itself, `split_from` is the incident whose cause did not explain these symptoms. `decision` is the audit record of its plan (0: none). `held` tells that the incident still keeps its overlay alive.
    `about` is the key of the cause that the plan is for, `planned_at` when the step that waits was planned (Unix s), `refuted` are the keys of causes whose plan did not help.
    `users` tells whether they feel it (looked at while it waits).
    `times` are the first times of: onset, detected, correlated, planned, acted, acked, recovered, verified, closed.
    """

    id: str
    opened_at: float
    onset: float
    stage: Stage = Stage.DETECTED
    anomalies: tuple[Anomaly, ...] = ()
    causes: tuple[Cause, ...] = ()
    playbook: str = ""
    mode: str = ""
    considered: tuple[Weighed, ...] = ()
    refusals: tuple[str, ...] = ()
    steps: tuple[Step, ...] = ()
    step: int = -1
    waiting: str = ""
    held: bool = False
    resumed: bool = False
    withdrawn: str = ""
    approved_by: str = ""
    paused: str = ""
    aborted: str = ""
    merged_into: str = ""
    merged: tuple[str, ...] = ()
    split_from: str = ""
    decision: int = 0
    about: str = ""
    planned_at: float = 0.0
    refuted: tuple[str, ...] = ()
    users: Users = Users.UNKNOWN
    times: Mapping[str, float] = field(default_factory=dict)
    history: tuple[Moment, ...] = ()

    @property
    def cause(self) -> Cause | None:
        """Return the best suspect, None while there is none."""
        return self.causes[0] if self.causes else None

    @property
    def is_open(self) -> bool:
        """Tell whether the incident still moves."""
        return self.stage not in TERMINAL

    @property
    def current(self) -> Step | None:
        """Return the step being taken, None before the first."""
        return self.steps[self.step] if 0 <= self.step < len(self.steps) else None

    @property
    def title(self) -> str:
        """Return what it is about, in a few words."""
        if self.cause is not None:
            return str(self.cause)
        worst = max(self.anomalies, key=lambda a: a.score, default=None)
        return f"{worst.signal} of {worst.series.callee}" if worst else "no anomaly"


def noted(incident: Incident, at: float, message: str, **data: Datum) -> Incident:
    """Add a line to the story without changing the stage."""
    return replace(incident, history=(*incident.history, Moment(at, incident.stage, message, data)))


def moved(incident: Incident, stage: Stage, at: float, message: str, **data: Datum) -> Incident:
    """Take the incident to another stage.

    Raises:
        Conflict: the life cycle has no such transition (somebody else moved the incident meanwhile).
    """
    admit(incident.id, incident.stage, stage)
    after = replace(incident, stage=stage, waiting="")
    if stage in TERMINAL:
        after = timed(after, "closed", at)
    return noted(after, at, message, **data)


def timed(incident: Incident, name: str, at: float) -> Incident:
    """Record the first time something happened; later times do not replace it."""
    if name in incident.times:
        return incident
    return replace(incident, times={**incident.times, name: at})


def with_step(incident: Incident, step: Step) -> Incident:
    """Replace the step being taken."""
    steps = list(incident.steps)
    steps[incident.step] = step
    return replace(incident, steps=tuple(steps))
