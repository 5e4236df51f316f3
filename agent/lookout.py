"""What holds at this very moment, put together from all sides for whoever decides: the circumstances of a plan, and the gates."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from agent.correlate import Symptoms
from agent.gates import Block, Interlock, Situation, check
from agent.history import History
from agent.incidents import Incident, Step
from agent.mesh import fullness
from agent.ports import Circumstances
from agent.scribe import Gate, Tools
from agent.senses import Senses
from agent.surge import Surges
from agent.track import Track
from agent.users import Onlooker
from models.incident import Cause
from models.signals import Saturation

WITNESS_S: Final = 3.0
"""Who saw requests to the sick service within this time is a witness, seconds."""


@dataclass
class Lookout:
    """Looks around for the loop, which says at every tick what is anomalous (`symptoms`) and who is `blind`.

    `person` tells why a step's place belongs to people, `warm` whether enough normal was seen.
    """

    tools: Tools
    senses: Senses
    history: History
    person: Callable[[Step | None, float], str]
    warm: Callable[[], bool]
    symptoms: Symptoms
    blind: frozenset[str] = frozenset()
    _saturation: tuple[Saturation, ...] = field(default=(), init=False)
    _full: Mapping[str, float] | None = field(default=None, init=False)  # of this tick, once it was asked for
    _surges: Surges = field(init=False)
    onlooker: Onlooker = field(init=False)

    def __post_init__(self) -> None:
        self._surges = Surges(self.history)
        self.onlooker = Onlooker(self.senses, self.history)

    def see(self, symptoms: Symptoms, saturation: tuple[Saturation, ...]) -> None:
        """Take in what this tick showed: what is anomalous, and how full instances are."""
        self.symptoms, self._saturation, self._full = symptoms, saturation, None
        self.onlooker.look(symptoms.all, self.blind)

    def gate(self, track: Track) -> Gate:
        """Return what tells whether the incident's planned step may be taken at the moment it is asked."""
        return lambda: self._block(track)

    def circumstances(self, track: Track, now: float) -> Circumstances:
        """Return what a plan for the incident depends on besides its cause."""
        mesh = self.senses.mesh
        if self._full is None:
            self._full = fullness(self._saturation, mesh.topology)
        return Circumstances(
            topology=mesh.topology,
            overlays=mesh.overlays,
            storm_share=self.storm(track.incident.cause),
            blind=self.blind,
            now=now,
            incident=track.incident.id,
            anomalies=track.incident.anomalies,
            saturation=self._full,
            load=self._load(track, now),
            uncertified=self.tools.uncertified(now),
            budgets=self.tools.budgets(),
        )

    def _load(self, track: Track, now: float) -> Mapping[str, float]:
        """Return the load of the service in question."""
        found, cause = self._surges.of(track, now), track.incident.cause
        return {} if found is None or cause is None else {cause.service: found}

    def storm(self, cause: Cause | None) -> float:
        """Return the share (0–1) of services that are sick for other reasons."""
        return self.symptoms.unexplained(cause, len(self.senses.mesh.services)) if cause else 0.0

    def _block(self, track: Track) -> Block | None:
        incident, mesh = track.incident, self.senses.mesh
        now = self.tools.clock()
        assert incident.cause is not None
        block = check(
            Situation(
                cause=incident.cause,
                witnesses=self.history.reporters(now - WITNESS_S, incident.cause.service),
                topology=mesh.topology,
                topology_known=mesh.known,
                control_up=mesh.control_up,
                fence=self.tools.fence.token,
                blind=self.blind,
                reporters=self.senses.sight.reporters(),
                storm_share=self.storm(incident.cause),
                storm_limit=self.tools.settings.storm_share,
                warm=self.warm(),
                audit_broken="",
                person=self.person(incident.current, now),
                stopped=self.tools.switch.stopped or _ordered(incident),
                stale=mesh.stale(track.live_at, now),
            )
        )
        if block is None and incident.current is not None:  # others may have acted since it was planned
            found = self.tools.planner.forbids(incident, incident.current, self.circumstances(track, now))
            return Block(Interlock.GUARD, found.reason, final=not found.passing) if found else None
        return block


def _ordered(incident: Incident) -> str:
    """Return why a person's order about this incident forbids acting, "" when none does."""
    if incident.aborted:
        return f"aborted by {incident.aborted}"
    return f"paused by {incident.paused}" if incident.paused else ""
