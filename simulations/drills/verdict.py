"""What was promised beside what was seen: one line per expectation, and whether the drill passed. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Final

from agent.incidents import Incident
from agent.story import deed
from models.incident import Stage
from models.overlay import Overlay
from playbooks.schema import Mode
from playbooks.units import percent, span
from simulations.drills.guilt import explains, innocent
from simulations.drills.objectives import loosest, services_well_again, well_again
from simulations.drills.schema import Objective, Outcome
from simulations.drills.seen import Phase, Seen
from simulations.journal import Record

_ENOUGH: Final = {
    Outcome.HEALED: {Outcome.HEALED},
    Outcome.ESCALATED: {Outcome.ESCALATED},
    Outcome.ABSORBED: {Outcome.ABSORBED, Outcome.HEALED},
    Outcome.ANSWERED: {Outcome.HEALED, Outcome.ESCALATED},
}
"""What has to come of a drill that promises each outcome."""


@dataclass(frozen=True, slots=True)
class Check:
    """One expectation: its name, what was wanted, what was found."""

    name: str
    wanted: str
    found: str
    ok: bool


@dataclass(frozen=True)
class Verdict:
    """The judgement of one drill. Seconds count from the onset; None: it did not happen."""

    seen: Seen

    @cached_property
    def passed(self) -> bool:
        """Whether everything was as promised."""
        return all(check.ok for check in self.checks)

    @cached_property
    def incident(self) -> Incident | None:
        """The incident of this drill: the first that names the cause wanted and was acted upon or is, else the first."""
        since = sorted(self.seen.incidents, key=lambda i: i.opened_at)
        wanted = self.seen.drill.spec.expect.cause
        right = [i for i in since if i.cause is not None and (wanted is None or explains(wanted, i.cause))]
        taken = [i for i in right if not i.merged_into]
        playbook = [i for i in taken if i.playbook == self.seen.drill.spec.expect.playbook]
        return next(iter(playbook or taken or right or since), None)

    @property
    def detected_s(self) -> float | None:
        """Until the agent's first alarm."""
        opened = [i.opened_at for i in self.seen.incidents]
        return min(opened) - self.seen.onset if opened else None

    @property
    def acted_s(self) -> float | None:
        """Until the agent's first overlay."""
        laid = [self.laid_at(overlay) for overlay in self.seen.overlays]
        return min(laid) - self.seen.onset if laid else None

    def laid_at(self, overlay: Overlay) -> float:
        """Return when an overlay was laid (Unix s), by the agent's clock where it says so: the control plane's may be wrong."""
        steps = (step for incident in self.seen.incidents for step in incident.steps)
        return next((s.acted_at for s in steps if s.overlay == overlay.id and s.acted_at), overlay.created_at)

    @cached_property
    def mitigated_s(self) -> float | None:
        """Until users were well again for good, by the loosest promise about them; services, where users cannot be asked."""
        steady = self.seen.drill.spec.steady_state
        if not self.seen.records:
            return services_well_again(steady, self.seen.samples, self.seen.onset, self.seen.ended)
        return well_again(self.seen.records, self.seen.onset, self.seen.ended, loosest(steady))

    @cached_property
    def during(self) -> tuple[Record, ...]:
        """The users' requests whose end they saw while the drill lasted."""
        return tuple(r for r in self.seen.records if r.seen >= self.seen.onset and r.sent < self.seen.ended)

    @property
    def lost(self) -> int:
        """How many of them missed their objective."""
        return sum(r.missed for r in self.during)

    @cached_property
    def innocent(self) -> tuple[Overlay, ...]:
        """The agent's overlays that touched somebody who is not at fault."""
        may = self.seen.drill.spec.expect.may_touch
        return tuple(o for o in self.seen.overlays if innocent((o.change,), self.seen.guilt, may))

    @property
    def outcome(self) -> Outcome | None:
        """What came of it (healed, escalated or absorbed), None when it is none of these."""
        incident = self.incident
        if incident is not None and self.seen.overlays and "verified" in incident.times:
            return Outcome.HEALED
        if any(i.stage is Stage.ESCALATED or _asked(i) for i in self.seen.incidents):
            return Outcome.ESCALATED
        if self.mitigated_s is not None:
            return Outcome.ABSORBED
        return None

    @cached_property
    def checks(self) -> tuple[Check, ...]:
        """Every expectation, in the order in which things happen."""
        if self.seen.phase is not Phase.PLAYED:
            return (Check("played", "to its end", f"{self.seen.phase}: {self.seen.why}", ok=False),)
        return tuple(self._checks())

    def _checks(self) -> Iterator[Check]:
        expect, outcome = self.seen.drill.spec.expect, self.outcome
        if expect.detected_within:
            yield _within("detected", expect.detected_within, self.detected_s)
        incident = self.incident
        cause = incident.cause if incident else None
        if expect.cause is not None:
            wanted = " or ".join(
                f"{kind} {'/'.join(filter(None, (expect.cause.service, ' or '.join(expect.cause.subject))))}"
                for kind in expect.cause.kind
            )
            ok = cause is not None and explains(expect.cause, cause)
            yield Check("cause", wanted, str(cause) if cause else "none", ok)
        if expect.playbook:
            taken = incident.playbook if incident else ""
            yield Check("playbook", expect.playbook, taken or "none", taken == expect.playbook)
        found = outcome.value if outcome else "neither healed, nor escalated, nor absorbed"
        yield Check("outcome", expect.outcome.value, found, outcome in _ENOUGH[expect.outcome])
        if expect.hands_off or expect.hands_off_until:
            until = self.seen.onset + (expect.hands_off_until or math.inf)
            done = "; ".join(deed(o.change) for o in self.seen.overlays if self.laid_at(o) < until)
            wanted = f"does nothing before {span(expect.hands_off_until)}" if expect.hands_off_until else "does nothing"
            yield Check("agent", wanted, done or "did nothing", not done)
        if expect.mitigated_within:
            yield _within("mitigated", expect.mitigated_within, self.mitigated_s)
        share = self.lost / len(self.during) if self.during else 0.0
        if expect.lost_at_most is not None:
            yield Check("lost", f"at most {expect.lost_at_most}", f"{self.lost}", self.lost <= expect.lost_at_most)
        if expect.lost_share_at_most is not None:
            wanted = f"at most {percent(expect.lost_share_at_most)}"
            text = f"{percent(share)} ({self.lost} of {len(self.during)})"
            yield Check("lost share", wanted, text, share <= expect.lost_share_at_most)
        touched = "; ".join(deed(o.change) for o in self.innocent)
        yield Check("innocents", "untouched", touched or "untouched", not touched)
        again = self.seen.recovered_at - self.seen.ended if self.seen.recovered_at else None
        yield _within("well again", expect.well_again_within, again)
        undone = "; ".join(self.seen.undo_errors)
        yield Check("undone", "everything", undone or "everything", not undone)


def _asked(incident: Incident) -> bool:
    """Tell whether a plan asked a person for approval and was given none."""
    return (
        incident.mode == Mode.APPROVE
        and not incident.merged_into
        and not incident.approved_by
        and "acted" not in incident.times
    )


def _within(name: str, most: float, found: float | None) -> Check:
    text = "never" if found is None else span(round(found, 3))
    return Check(name, f"within {span(most)}", text, found is not None and found <= most)


def standing(objectives: tuple[Objective, ...]) -> str:
    """Return a steady state in one line."""
    return "; ".join(str(objective) for objective in objectives)
