"""One canary on its way: its declaration, what is remembered of it, and the comparison that judges it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from agent.canaries.record import CanaryView, Record, State
from agent.mesh import MeshView
from models.canary import Comparison, Judgement, Verdict
from models.canary.comparison import Fleet
from models.domain import Health, Topology
from models.overlay import EjectInstance
from models.rollout import Rollout
from models.signals import Outcomes, Saturation, Series

ECHO_S = 5.0
"""How long copies may still be answered and told of after they are no longer made, seconds."""

RETRY_S = 1.0
"""What could not be done about a canary is tried again after so long, seconds."""

OUT = frozenset({Health.UNHEALTHY, Health.LOST})


@dataclass(slots=True)
class Guide:
    """Everything about one canary. `laid` is the id of the overlay known to be laid ("" when none is known)."""

    rollout: Rollout
    record: Record
    comparison: Comparison
    judgement: Judgement
    holding: str = ""
    laid: str = ""
    laid_at: float = 0.0
    renewed_at: float = 0.0
    retry_at: float = 0.0
    saved_at: float = 0.0
    weights: tuple[tuple[str, float], ...] = ()
    told: str = field(default="", repr=False)

    def feed(
        self, elapsed_s: float, outcomes: dict[Series, Outcomes], saturation: tuple[Saturation, ...], mesh: MeshView
    ) -> None:
        """Let the comparison see what arrived; a change of the shares of traffic begins a new step of it."""
        service = self.rollout.service
        weights = tuple(sorted(mesh.topology.weights.get(service, {}).items()))
        if self.weights and weights != self.weights:
            self.comparison.step()
        self.weights = weights
        ejected = {o.change.instance for o in mesh.overlays if isinstance(o.change, EjectInstance)}
        fleets = tuple(
            _fleet(mesh.topology, service, version, ejected) for version in (self.rollout.canary, self.rollout.stable)
        )
        mine = {series: found for series, found in outcomes.items() if series.callee == service}
        self.comparison.shadow = self.mirrored
        self.comparison.add(elapsed_s, mine, saturation=saturation, fleets=(fleets[0], fleets[1]))
        if self.judgement.verdict is not Verdict.ROLL_BACK:  # once proven it stays so, until it is acted upon
            self.judgement = self.comparison.judgement()

    @property
    def mirrored(self) -> bool:
        """Tell whether the canary sees copies only, so that what it answers reaches nobody."""
        return self.record.state is State.PROGRESSING and self.rollout.steps[self.record.step].mirror

    def shadows(self, now: float) -> bool:
        """Tell whether what the canary's own sidecar reports now may be about copies."""
        record, steps = self.record, self.rollout.steps
        if record.step < 0 or self.mirrored:
            return self.mirrored
        before = record.step - 1 if record.state is State.PROGRESSING else record.step
        return before >= 0 and steps[before].mirror and now - record.since < ECHO_S

    def missing(self, topology: Topology) -> str:
        """Return which version has no healthy instance, "" when both have one."""
        there = {i.version for i in topology.of(self.rollout.service) if i.health is Health.HEALTHY}
        gone = [version for version in (self.rollout.canary, self.rollout.stable) if version not in there]
        return f"no healthy instance of {self.rollout.service} {' and '.join(gone)}" if gone else ""

    def view(self) -> CanaryView:
        """Return what people see."""
        rollout, record, judged = self.rollout, self.record, self.judgement
        weights = record.weights(rollout)
        return CanaryView(
            name=rollout.name,
            service=rollout.service,
            canary=rollout.canary,
            stable=rollout.stable,
            state=str(record.state),
            step=record.step + 1,
            steps=len(rollout.steps),
            weight=weights[rollout.canary] if weights else 0,
            verdict=str(judged.verdict),
            reason=record.reason or judged.reason,
            holding=self.holding,
            paused=record.paused,
            generation=record.generation,
            since=record.since,
            requests=judged.requests,
            stable_requests=judged.stable_requests,
            against_nats=judged.against,
            rollback_nats=rollout.risk.rollback_nats,
            signals={
                one.signal: {
                    "canary": _known(one.canary),
                    "stable": _known(one.stable),
                    "against_nats": _known(one.against),
                    "in_favour_nats": _known(one.in_favour),
                }
                for one in judged.signals
            },
            overlay=self.laid,
            what=self._what(),
        )

    def _what(self) -> str:
        if self.record.state is not State.PROGRESSING:
            return "requests"
        step = self.rollout.steps[self.record.step]
        return ("copies of " if step.mirror else "") + ("matching requests" if step.conditions else "requests")


def fresh(rollout: Rollout, now: float) -> Record:
    """Return the record of a canary that begins."""
    return Record(rollout.name, rollout.generation, since=now, created_at=rollout.created_at)


def begin(rollout: Rollout, record: Record, now: float) -> Guide:
    """Return a guide without evidence."""
    comparison = Comparison(
        rollout.service,
        rollout.canary,
        rollout.stable,
        rollout.margins,
        rollout.risk,
        least_requests=rollout.least_requests,
    )
    return Guide(rollout, record, comparison, comparison.judgement(), saved_at=now)


def _fleet(topology: Topology, service: str, version: str, ejected: set[str]) -> Fleet:
    members = [i for i in topology.of(service) if i.version == version and i.health is not Health.DRAINING]
    return Fleet(len(members), frozenset(i.id for i in members if i.health in OUT or i.id in ejected))


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value
