"""The account of one breakage: what users lost, when it was seen, when it was over, and whether the right thing was done.

All times are seconds from the onset: the moment just before the fault was put in force. Definitions:

* a request belongs to the breakage when its user saw the outcome at or after the onset and it was sent before the window's end
* *lost*: it missed its objective, for whatever reason (also those that would have missed it anyway)
* *mitigated*: when the last user saw a request miss its objective *because of the fault* (the shop itself says so,
  `simulations.shop.trouble`); 0 when none did
* *detected*: when the agent's first detector alarmed, by the agent's clock (this machine's)
* *healed*: the agent verified its action, and no user missed anything because of the fault in the window's last seconds
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from agent.incidents import Incident
from agent.story import deed
from models.incident import Stage
from models.overlay import Overlay, Owner
from simulations.faults import Fault, blames, explains, hits_innocent
from simulations.journal import Record

CALM_S: Final = 2.0
"""A breakage counts as over only when this much of the window passed without a miss because of it."""


@dataclass(frozen=True, slots=True)
class Window:
    """What users saw of one breakage. `onset` is Unix time, the rest seconds or counts."""

    onset: float
    seconds: float
    requests: int
    lost: int
    lost_to_fault: int
    mitigated_s: float

    @property
    def over(self) -> bool:
        """Whether users stopped missing anything because of the fault."""
        return self.mitigated_s <= self.seconds - CALM_S


def window(records: Iterable[Record], fault: Fault, onset: float, seconds: float) -> Window:
    """Count what users saw of `fault` in the `seconds` from `onset` (Unix s)."""
    inside = [r for r in records if r.seen >= onset and r.sent < onset + seconds]
    missed = [r for r in inside if r.missed]
    guilty = [r for r in missed if blames(fault, r.trouble)]
    return Window(
        onset=onset,
        seconds=seconds,
        requests=len(inside),
        lost=len(missed),
        lost_to_fault=len(guilty),
        mitigated_s=max((r.seen - onset for r in guilty), default=0.0),
    )


@dataclass(frozen=True, slots=True)
class Result:
    """One row of the demo's result. `None` means it did not happen."""

    name: str
    cause: str
    cause_right: bool
    healed: bool
    innocent_hit: bool
    detected_s: float | None
    mitigated_s: float | None
    verified_s: float | None
    lost_with: int
    lost_without: int | None
    requests: int
    playbook: str
    actions: tuple[str, ...]


def main_incident(fault: Fault, incidents: Sequence[Incident], onset: float) -> Incident | None:
    """Return the incident of this breakage: the first since `onset` that names the right cause, else the first."""
    since = sorted((i for i in incidents if i.opened_at >= onset), key=lambda i: i.opened_at)
    right = [i for i in since if i.cause is not None and explains(fault, i.cause)]
    return next(iter(right or since), None)


def result(name: str, fault: Fault, seen: Window, incidents: Sequence[Incident], overlays: Sequence[Overlay]) -> Result:
    """Close the account of one breakage.

    `incidents` and `overlays` are those since the breakage before; overlays of people do not count. What would have been
    lost without the agent is filled in by the second run.
    """
    incident = main_incident(fault, incidents, seen.onset)
    laid = [o for o in overlays if o.owner is Owner.AGENT]
    innocent = any(o.created_at < seen.onset or hits_innocent(fault, o.change) for o in laid)
    cause = incident.cause if incident else None
    verified = incident.times.get("verified") if incident else None
    resolved = incident is not None and incident.stage is Stage.RESOLVED
    return Result(
        name=name,
        cause=str(cause) if cause else "",
        cause_right=cause is not None and explains(fault, cause),
        healed=resolved and seen.over,
        innocent_hit=innocent,
        detected_s=incident.opened_at - seen.onset if incident else None,
        mitigated_s=seen.mitigated_s if seen.over else None,
        verified_s=verified - seen.onset if verified else None,
        lost_with=seen.lost,
        lost_without=None,
        requests=seen.requests,
        playbook=incident.playbook if incident else "",
        actions=tuple(deed(o.change) for o in laid),
    )
