"""What the loop needs from its neighbours, as narrow protocols: telemetry, detectors, planner, audit log, pager.

The loop is tested against small real implementations of these; `run.py` wires in the full ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from agent.incidents import Incident, Step, Weighed
from models.detect import Baseline
from models.domain import Topology
from models.incident import Anomaly, Cause, Signal
from models.localise import Evidence
from models.objective import ErrorBudget
from models.overlay import Overlay
from models.signals import Outcomes, Saturation, Series
from playbooks.schema import Mode

Clock = Callable[[], float]
"""Unix time in seconds."""


class Sight(Protocol):
    """The agent's eyes (`agent/observe.py`)."""

    def take_tick(self, now: float) -> Mapping[Series, Outcomes]:
        """Return and forget the outcomes that arrived since the last call."""
        ...

    def blind(self, now: float) -> frozenset[str]:
        """Return the reporters whose telemetry is missing or cannot be trusted."""
        ...

    def saturation(self, now: float) -> Iterable[Saturation]:
        """Return how full each instance is."""
        ...

    def lag(self, now: float) -> float:
        """Return by how many seconds telemetry comes later than usual."""
        ...

    def reporters(self) -> int:
        """Return how many sidecars have ever reported and are still expected to."""
        ...


class Detector(Protocol):
    """The alarm bank (`models/detect`)."""

    @property
    def active(self) -> tuple[Anomaly, ...]:
        """Return the series that are anomalous now."""
        ...

    def update(
        self,
        at: float,
        outcomes: Mapping[Series, Outcomes],
        saturation: Iterable[Saturation] = (),
        *,
        lag_s: float = 0.0,
    ) -> tuple[Anomaly, ...]:
        """Take one tick, its telemetry `lag_s` seconds later than usual; return what alarmed in it."""
        ...

    def baseline(self, series: Series, signal: Signal) -> Baseline | None:
        """Return the learnt normal of a series, None when nothing is known."""
        ...

    def reset(self, match: Callable[[Series], bool]) -> None:
        """Forget the alarm state (not the baselines) of the matching series."""
        ...

    def save(self) -> bytes:
        """Return everything learnt."""
        ...

    def restore(self, state: bytes) -> None:
        """Continue from what `save` returned."""
        ...


Since = Callable[[float, frozenset[str]], Mapping[Series, Outcomes]]
"""Gives the outcomes of requests to some services that arrived from a time (Unix s) on, per reported series."""


class Localiser(Protocol):
    """Names causes, best first."""

    def __call__(self, anomalies: tuple[Anomaly, ...], since: Since, now: float) -> Diagnosis:
        """Return the suspects behind `anomalies`; it asks `since` for what it looks at."""
        ...


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """The suspects, best first, and what they were named from (None: not told)."""

    causes: tuple[Cause, ...]
    evidence: Evidence | None = None


@dataclass(frozen=True, slots=True)
class Consulted:
    """A guard that was asked: `observed` against `limit` in the guard's unit. `step` is "" for guards of the mesh."""

    guard: str
    ok: bool
    observed: float
    limit: float
    message: str
    step: str = ""


@dataclass(frozen=True, slots=True)
class Draft:
    """What the planner says: steps to take (none: nobody wrote a playbook that fits), and why."""

    playbook: str
    mode: Mode
    steps: tuple[Step, ...]
    considered: tuple[Weighed, ...] = ()
    refusals: tuple[str, ...] = ()
    passing: bool = False  # what stands against acting may pass by itself
    storm: bool = False  # too much of the mesh is anomalous
    page: str = ""  # what to tell a person when there is no step, or none helped
    guards: tuple[Consulted, ...] = ()


@dataclass(frozen=True, slots=True)
class Objection:
    """Why a planned step may not be taken now. `passing`: time may lift it, so it is worth waiting for."""

    reason: str
    passing: bool = False


@dataclass(frozen=True, slots=True)
class Circumstances:
    """What a plan depends on besides the cause. `storm_share` is the share (0–1) of services
    that are anomalous for other reasons, `blind` are reporter ids. `saturation` is each service's load as a share of
    its limit (absent: no limit known). `uncertified`: playbook → why it may not act alone.
    `load` is the present requests of the service in question over those before the incident (absent: not known).
    `budgets` are the error budgets of the services that have an objective.
    """

    topology: Topology
    overlays: tuple[Overlay, ...]
    storm_share: float
    blind: frozenset[str]
    now: float
    incident: str = ""
    anomalies: tuple[Anomaly, ...] = ()
    saturation: Mapping[str, float] = field(default_factory=dict)
    load: Mapping[str, float] = field(default_factory=dict)
    uncertified: Mapping[str, str] = field(default_factory=dict)
    budgets: Mapping[str, ErrorBudget] = field(default_factory=dict)


class Planner(Protocol):
    """Chooses a playbook and turns it into steps; remembers what was done (rate limits, cool-downs, strikes)."""

    def draft(self, cause: Cause, circumstances: Circumstances) -> Draft:
        """Return what to do about `cause`. Pure but for the ledger it reads."""
        ...

    def forbids(self, incident: Incident, step: Step, circumstances: Circumstances) -> Objection | None:
        """Return what forbids a planned step by now, None when nothing does."""
        ...

    def boldness(self, incident: Incident, circumstances: Circumstances) -> tuple[Mode, str]:
        """Return how boldly the incident's playbook may act by now, and why it is not its own mode ("" when it is)."""
        ...

    def acted(self, incident: Incident, step: Step, at: float) -> None:
        """Enter a step into the ledger: when it is about to be laid, and again when it was."""
        ...

    def not_acted(self, step: Step) -> None:
        """Take a step that was not laid after all out of the ledger."""
        ...

    def ended(self, step: Step, *, helped: bool, learn: bool = True) -> None:
        """Enter a step's outcome into the ledger; `learn`: it says something about the step."""
        ...

    def save(self) -> bytes:
        """Return the ledger."""
        ...

    def restore(self, state: bytes) -> None:
        """Continue with the ledger that `save` returned."""
        ...


class Audit(Protocol):
    """The append-only record (`agent/audit`)."""

    async def append(self, kind: str, data: Mapping[str, Any], *, at: float | None = None) -> int:
        """Write one record durably and return its number; `at`: when it happened, if not now (Unix s).

        Raises:
            Broken: that is impossible.
        """
        ...


class Fence(Protocol):
    """The right to write."""

    @property
    def token(self) -> int | None:
        """Return the fencing token while it is surely held, else None."""
        ...

    def lost(self) -> None:
        """Note that the control plane called the token stale."""
        ...


class Pager(Protocol):
    """Calls people."""

    def page(self, incident: Incident, message: str, *, urgent: bool = True) -> None:
        """Call a person, or tell them when it is not `urgent`; never blocks, never raises."""
        ...
