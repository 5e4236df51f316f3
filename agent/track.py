"""An incident in the hands of the running loop: the stored value plus what only matters while the process lives."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field, replace
from typing import Any, Final

from agent.codec import Event
from agent.incidents import Incident, with_step
from models.localise import Evidence
from models.signals import Series


@dataclass(slots=True, eq=False)
class Track:
    """One living incident, equal to itself only. All times Unix seconds, 0 when it has not happened.

    `live_at`: when one of its anomalies was last active. `awake`: its anomalies have been seen by this process (an
    incident read back after a restart is not acted on before). `busy`: a task works on it. `bad_at`: when users last
    saw the fault. `told_at`: when its cause was last
    told. `own_at`: when its cause itself last showed a symptom. `doubt_until`: while set, the cause is to be named anew before anything is planned. `sure`: how probable its cause was at most since the plan was made. `late_s`: how late telemetry came at
    most since the step was taken. `in_flight`: an overlay, and how long requests from before it may still come in (s). `before`: a service, and the requests per second it got
    before the incident (None: not known). `harm_at`: when its neighbours were last looked at; `ill`: an overlay, and who was ill before it was laid. `muted_until`: while set, symptoms of its cause are its
    own (its breaker is half-open). `evidence`: what its causes were named from. `renewed_at`: last proof that its
    overlay lives. `considered_at`: when it was last planned for, or asked about its interlocks. `unsaved`: timeline lines not yet stored.
    """

    incident: Incident
    live_at: float = 0.0
    awake: bool = True
    busy: bool = False
    blocked_at: float = 0.0
    paged: set[str] = field(default_factory=set)
    bad_at: float = 0.0
    renewed_at: float = 0.0
    retry_at: float = 0.0
    told_at: float = 0.0
    own_at: float = 0.0
    late_s: float = 0.0
    in_flight: tuple[str, float] | None = None
    before: tuple[str, float | None] | None = None
    doubt_until: float = 0.0
    sure: float = 0.0
    attempts: int = 0
    recover: bool = False
    unmuted: bool = False
    harm_at: float = 0.0
    ill: tuple[str, frozenset[Series]] | None = None
    considered_at: float = 0.0
    muted_until: float = 0.0
    evidence: Evidence | None = None
    unsaved: list[Event] = field(default_factory=list)

    def rewind(self, now: float) -> None:
        """Let no time lie ahead: the clock went back."""
        for name in _MOMENTS:
            setattr(self, name, min(getattr(self, name), now))
        incident, step = self.incident, self.incident.current
        if step is not None and incident.is_open:
            laid = replace(step, acted_at=min(step.acted_at, now), acked_at=min(step.acked_at, now))
            incident = with_step(incident, laid)
        self.incident = replace(incident, planned_at=min(incident.planned_at, now))

    def closed_at(self) -> float:
        """Return when the incident ended (0 while it is open)."""
        return self.incident.times.get("closed", 0.0)


_MOMENTS: Final = (
    *("live_at", "blocked_at", "bad_at", "renewed_at", "retry_at", "told_at"),
    *("doubt_until", "harm_at", "considered_at", "muted_until"),
)

Start = Callable[[Track, Coroutine[Any, Any, None]], None]
"""Runs one stretch of an incident in a task of its own."""
