"""What was seen of one drill: everything the verdict and the report are made from, and nothing else. Times are Unix seconds."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from agent.client import AgentClient
from agent.incidents import Incident
from agent.telemetry.views import SIGNALS, Golden
from models.overlay import Overlay
from simulations.drills.schema import Drill
from simulations.faults import Guilt
from simulations.journal import Record

WINDOW_S: Final = 2.0
"""How long a time a sample adds up, seconds."""


class Phase(StrEnum):
    """How far a drill came."""

    REFUSED = "refused"  # it was not safe to begin
    UNSTEADY = "unsteady"  # the steady state did not hold before: nothing was broken
    ABORTED = "aborted"  # a blocking alarm, the stop file or a person ended it early
    PLAYED = "played"  # it went to its end


@dataclass(frozen=True, slots=True)
class Sample:
    """Golden signals of one moment, by service; `blind` are the sidecars whose telemetry the agent does not trust."""

    at: float
    services: dict[str, Golden]
    blind: tuple[str, ...] = ()


async def look(agent: AgentClient) -> Sample:
    """Ask the agent for a sample over the last `WINDOW_S` seconds. Raises errors of our tree while it is away."""
    view = SIGNALS.validate_python(await agent.signals(WINDOW_S))
    status = await agent.status()
    return Sample(view.at, {each.service: each.golden for each in view.services}, tuple(status["blind"]))


@dataclass(frozen=True, slots=True)
class Mark:
    """Something that happened: when, what sort (`onset`, `fault`, `undone`, `detected` …), in a few words."""

    at: float
    kind: str
    text: str


@dataclass(frozen=True, slots=True)
class Seen:
    """One drill as it went. `onset` and `ended` are 0 when nothing was broken.

    `why` says why it did not go to its end ("" when it did). `records` are the users' requests from a little before the
    onset on, `overlays` those that an agent laid since the onset. `recovered_at` is when the steady state held again (0:
    it did not in time). `undo_errors` are what could not be taken back.
    """

    drill: Drill
    phase: Phase
    began: float
    why: str = ""
    onset: float = 0.0
    ended: float = 0.0
    recovered_at: float = 0.0
    records: tuple[Record, ...] = ()
    incidents: tuple[Incident, ...] = ()
    overlays: tuple[Overlay, ...] = ()
    samples: tuple[Sample, ...] = ()
    marks: tuple[Mark, ...] = ()
    guilt: tuple[Guilt, ...] = ()
    undo_errors: tuple[str, ...] = ()
    recording: str = ""
    logs: tuple[str, ...] = field(default=())
