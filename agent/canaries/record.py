"""What the controller remembers of one canary over a `kill -9`, and what people see of it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Final

from pydantic import TypeAdapter

from models.overlay import RouteCanary, ShiftTraffic
from models.rollout import Rollout

FULL: Final = 100
LONG: Final = 24


class State(StrEnum):
    """Where a canary stands. The last three are final for this generation of its declaration."""

    WAITING = "waiting"  # no traffic yet
    PROGRESSING = "progressing"
    PROMOTED = "promoted"
    ROLLED_BACK = "rolled-back"
    ABORTED = "aborted"


FINAL: Final = frozenset({State.PROMOTED, State.ROLLED_BACK, State.ABORTED})


class Command(StrEnum):
    """What people may tell a canary."""

    PAUSE = "pause"
    RESUME = "resume"
    PROMOTE = "promote"  # let it go on to the next step now
    PROMOTE_FULLY = "promote-fully"
    ABORT = "abort"


@dataclass(frozen=True, slots=True)
class Record:
    """One canary. `step` counts from 0 (−1: before the first); times are Unix seconds.

    `paused` is who or what paused it ("" when nobody did), `approved` the step that a person let go on (−1: none). `yielded`: a
    person removed the overlay, so the weights are theirs until the canary is resumed.
    """

    name: str
    generation: int
    state: State = State.WAITING
    step: int = -1
    since: float = 0.0  # of the state or step
    reason: str = ""
    paused: str = ""
    approved: int = -1
    yielded: bool = False
    created_at: float = 0.0

    def change(self, rollout: Rollout) -> ShiftTraffic | RouteCanary | None:
        """Return what this state asks to be laid, None when what people declared holds."""
        weights = self.weights(rollout)
        if weights is None:
            return None
        if self.state is State.PROGRESSING:
            step = rollout.steps[self.step]
            if step.mirror or step.conditions:
                given = rollout.service, rollout.canary, rollout.stable
                return RouteCanary(*given, step.weight, step.mirror, step.conditions)
        return ShiftTraffic(rollout.service, dict(weights))

    def weights(self, rollout: Rollout) -> Mapping[str, int] | None:
        """Return the percent of each version in what this state is about, None when what people declared holds."""
        match self.state:
            case _ if self.yielded:
                return None
            case State.WAITING:
                return None
            case State.PROGRESSING:
                weight = rollout.steps[self.step].weight
                return {rollout.canary: weight, rollout.stable: FULL - weight}
            case State.PROMOTED:
                return {rollout.canary: FULL, rollout.stable: 0}
            case State.ROLLED_BACK | State.ABORTED:
                return {rollout.canary: 0, rollout.stable: FULL}

    @property
    def overlay(self) -> str:
        """The id of the overlay that carries these weights: the same after a restart, so laying it twice is once."""
        what = f"step{self.step}" if self.state is State.PROGRESSING else str(self.state)
        name = self.name
        if len(name) > LONG:  # an overlay's id has at most 63 characters
            name = f"{name[:LONG]}-{hashlib.sha256(name.encode()).hexdigest()[:6]}"
        return f"canary-{name}-g{self.generation}-{what}"


def ended(record: Record, state: State, now: float, reason: str) -> Record:
    """Return the record of a canary that came to its end."""
    return replace(record, state=state, since=now, reason=reason, paused="", yielded=False)


def stepped(record: Record, step: int, now: float, reason: str) -> Record:
    """Return the record of a canary that takes a step."""
    return replace(record, state=State.PROGRESSING, step=step, since=now, reason=reason, yielded=False)


RECORD: Final = TypeAdapter(Record)


@dataclass(frozen=True, slots=True)
class CanaryView:
    """What people see. `weight` is what the canary is meant to have now, percent of `what`; `holding` is why it does not go on ("" when
    it just waits for evidence); ratios 0–1, medians in seconds (None: not known).
    """

    name: str
    service: str
    canary: str
    stable: str
    state: str
    step: int
    steps: int
    weight: int
    verdict: str
    reason: str
    holding: str
    paused: str
    generation: int
    since: float
    requests: int
    stable_requests: int
    against_nats: float
    rollback_nats: float
    signals: Mapping[str, Mapping[str, float | None]] = field(default_factory=dict)
    overlay: str = ""
    what: str = "requests"


CANARY: Final = TypeAdapter(CanaryView)
