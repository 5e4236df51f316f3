"""Incidents, events and whatever else leaves the process, as JSON and back."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter

from agent.incidents import Datum, Incident
from models.incident import Cause
from models.overlay import Change

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True)
class Event:
    """One line of the agent's timeline. `sequence` increases by one over the agent's whole life, restarts included."""

    sequence: int
    at: float
    incident: str
    stage: str
    message: str
    data: dict[str, Datum] = field(default_factory=dict)


INCIDENT: TypeAdapter[Incident] = TypeAdapter(Incident)
INCIDENTS: TypeAdapter[tuple[Incident, ...]] = TypeAdapter(tuple[Incident, ...])
EVENT: TypeAdapter[Event] = TypeAdapter(Event)
CHANGE: TypeAdapter[Change] = TypeAdapter(Change)
CAUSE: TypeAdapter[Cause] = TypeAdapter(Cause)


def summary(incident: Incident) -> dict[str, Any]:
    """Return the row of a list of incidents."""
    return {
        "id": incident.id,
        "stage": str(incident.stage),
        "title": incident.title,
        "cause": None if incident.cause is None else CAUSE.dump_python(incident.cause, mode="json"),
        "playbook": incident.playbook,
        "mode": incident.mode,
        "onset": incident.onset,
        "opened_at": incident.opened_at,
        "waiting": incident.waiting,
        "users": str(incident.users),
        "approved_by": incident.approved_by,
        "paused": incident.paused,
        "held": incident.held,
        "times": dict(incident.times),
        "overlays": [step.overlay for step in incident.steps if step.acted_at],
    }


def full(incident: Incident) -> dict[str, Any]:
    """Return the whole story."""
    story: dict[str, Any] = INCIDENT.dump_python(incident, mode="json")
    return {**story, "title": incident.title, "overlays": summary(incident)["overlays"]}


def change_json(change: Change) -> Mapping[str, Any]:
    """Return a change as the control API takes it."""
    plain: dict[str, Any] = CHANGE.dump_python(change, mode="json")
    if not plain.get("keep_percent", True):  # said only where it means something: older records stay comparable
        del plain["keep_percent"]
    return plain
