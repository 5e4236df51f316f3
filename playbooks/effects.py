"""What an action comes to in the mesh as it is: one change, its size, and why; or why there is none.

Also the placeholders: what a text in braces stands for, and for which causes it has a value.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from models.domain import Health
from models.incident import Cause, CauseKind
from models.overlay import Change
from playbooks.deeds import Reversibility
from playbooks.view import REGION, View

PLACEHOLDER: Final = re.compile(r"\{([^{}]*)\}")

PLACEHOLDERS: Final[Mapping[str, frozenset[CauseKind]]] = {
    "cause": frozenset(CauseKind),
    "cause.kind": frozenset(CauseKind),
    "cause.signal": frozenset(CauseKind),
    "cause.service": frozenset(CauseKind) - {CauseKind.GLOBAL},
    "cause.caller": frozenset(CauseKind) - {CauseKind.GLOBAL},
    "cause.version": frozenset({CauseKind.VERSION, CauseKind.INSTANCE, CauseKind.CHANGE}),
    "cause.instance": frozenset({CauseKind.INSTANCE}),
    "cause.zone": frozenset({CauseKind.ZONE, CauseKind.INSTANCE}),
    "cause.region": frozenset({CauseKind.ZONE, CauseKind.INSTANCE}),
    "cause.evidence": frozenset(CauseKind),
}
"""What may stand in braces, and for which causes it has a value."""

MEANINGS: Final[Mapping[str, str]] = {
    "cause": "the cause in words, like `version catalog/v2 (errors)`",
    "cause.kind": "its kind, like `version`",
    "cause.signal": "the golden signal by which it shows",
    "cause.service": "the service in which it lies",
    "cause.caller": "the calling service on whose edge it shows most",
    "cause.version": "the version in which it lies, or that its instance runs",
    "cause.instance": "the instance in which it lies",
    "cause.zone": "the zone in which it lies, or its instance stands",
    "cause.region": "the region (instance label `region`) of that zone",
    "cause.evidence": "the evidence, sentence by sentence",
}
"""What each placeholder stands for."""


@dataclass(frozen=True, slots=True)
class BlastRadius:
    """How much one step touches, each 0–1.

    `traffic`: share of the service's traffic that is treated differently. `capacity`: share of its healthy instances
    that stop serving. `mesh`: those instances as a share of the whole mesh's healthy instances.
    """

    traffic: float
    capacity: float
    mesh: float


@dataclass(frozen=True, slots=True)
class Effect:
    """One change, its size, and why. `load_factor` is the load of the busiest remaining instance, after over before."""

    change: Change
    blast_radius: BlastRadius
    load_factor: float
    reason: str
    reversibility: Reversibility = Reversibility.INSTANT


@dataclass(frozen=True, slots=True)
class Infeasible:
    """Why an action cannot be done here."""

    reason: str


def radius(traffic: float, lost: int, healthy: int, view: View) -> BlastRadius:
    """Return the size of a change that touches `traffic` (0–1) and takes `lost` of `healthy` instances away."""
    mesh = sum(i.health is Health.HEALTHY for i in view.topology.instances)
    return BlastRadius(traffic, lost / healthy if healthy else 0.0, lost / mesh if mesh else 0.0)


def fill(template: str, cause: Cause, view: View) -> str:
    """Replace the placeholders of a text by what the cause says; one without a value becomes ""."""
    return PLACEHOLDER.sub(lambda match: _value(match.group(1), cause, view), template)


def _value(name: str, cause: Cause, view: View) -> str:
    subject = cause.subject
    members = view.of(cause.service)
    found = next((i for i in members if i.id == subject), None)
    instance = found if cause.kind is CauseKind.INSTANCE else None
    changed = (change.version for change in cause.changes if change.service == cause.service and change.version)
    versions = {
        CauseKind.VERSION: subject,
        CauseKind.CHANGE: next(changed, ""),
        CauseKind.INSTANCE: instance.version if instance else "",
    }
    zones = {CauseKind.ZONE: subject, CauseKind.INSTANCE: instance.zone if instance else ""}
    zone = zones.get(cause.kind, "")
    values = {
        "cause": str(cause),
        "cause.kind": cause.kind.value,
        "cause.signal": cause.signal.value,
        "cause.service": cause.service,
        "cause.caller": cause.edge.caller if cause.edge else "",
        "cause.instance": subject if cause.kind is CauseKind.INSTANCE else "",
        "cause.version": versions.get(cause.kind, ""),
        "cause.zone": zone,
        "cause.region": next((r for i in members if i.zone == zone and (r := i.labels.get(REGION, ""))), ""),
        "cause.evidence": "; ".join(cause.evidence),
    }
    return values.get(name, "")
