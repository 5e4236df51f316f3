"""Written incidents, to ask a playbook "what would you do?" before anything breaks.

    apiVersion: fibrin.dev/v1
    kind: PlaybookTest
    metadata: {name: canary-fails}
    spec:
      mesh:
        catalog: {versions: {v1: 3, v2: 1}, weights: {v1: 80, v2: 20}, callers: [storefront]}
        storefront: {versions: {v1: 2}}
      incident: {cause: version, service: catalog, subject: v2, signal: errors, observed: 0.4, expected: 0.01}
      expect: {playbook: bad-version, changes: [shift-traffic]}

The mesh is as small as the question needs. `expect` may be left out: then the answer is only shown.
"""

# mypy: disable-error-code="explicit-any"
# (the constructor that pydantic gives every model takes Any; nothing here is written with it)

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Final, Literal

from pydantic import Field

from models.domain import ChangeEvent, ChangeKind, Edge, Health, Instance, Topology
from models.errors import InvalidInput, Problem
from models.incident import Anomaly, Cause, CauseKind, Signal
from models.manifest import Document, parse, suggest, validate
from models.objective import ErrorBudget
from models.signals import Series, Side
from playbooks.base import Mode, Model, Severity
from playbooks.guards import Context
from playbooks.planning import Decision, plan
from playbooks.schema import Metadata, Playbook
from playbooks.units import Share

KIND: Final = "PlaybookTest"
NOW: Final = 1_800_000_000.0
"""The moment of a written incident when it names none (a Friday morning in January 2027), Unix s."""


class ServiceCase(Model):
    """A service of the mesh: how many instances of each version, and what else matters."""

    versions: dict[str, Annotated[int, Field(ge=1, le=1000)]] = Field(default_factory=lambda: {"v1": 2})
    """Instances by version."""
    weights: dict[str, Annotated[float, Field(ge=0, strict=False)]] = Field(default_factory=dict)
    """Shares of traffic by version; none: by instances."""
    zones: tuple[str, ...] = ("zone-a",)
    """Zones over which the instances are spread in turn."""
    labels: dict[str, str] = Field(default_factory=dict)
    """Labels of every instance."""
    unhealthy: Annotated[int, Field(ge=0)] = 0
    """How many instances are unhealthy, from the last one on."""
    fallback: bool = False
    """Whether it declares a fallback answer."""
    fault: bool = False
    """Whether its declaration injects a fault."""
    callers: tuple[str, ...] = ()
    """Services that call it."""
    saturation: Annotated[float, Field(ge=0, strict=False)] | None = None
    """Its load as a share of its limit; none: no limit is known."""
    budget: Share | None = None
    """Error budget that is left; none: it has no objective."""


class IncidentCase(Model):
    """The incident that is asked about."""

    cause: CauseKind
    """Kind of cause."""
    service: str = ""
    """Service in which it lies."""
    subject: str = ""
    """Instance (`catalog-v2-1`), version or zone in which it lies."""
    signal: Signal = Signal.ERRORS
    """Signal by which it shows."""
    probability: Share = 0.9
    """How sure the agent is."""
    severity: Severity = Severity.CRITICAL
    """How much it hurts."""
    caller: str = ""
    """Calling service on whose edge it shows most; none: the first caller."""
    observed: Annotated[float, Field(ge=0, strict=False)] = 0.5
    """Worst value seen."""
    expected: Annotated[float, Field(ge=0, strict=False)] = 0.01
    """What is normal."""
    changes: tuple[ChangeKind, ...] = ()
    """Kinds of changes it follows."""
    numbers: dict[str, Annotated[float, Field(strict=False)]] = Field(default_factory=dict)
    """Figures of the evidence."""
    anomalous: Share = 0.0
    """Share of the mesh that is anomalous for other reasons."""
    at: Annotated[float, Field(gt=0, strict=False)] = NOW
    """When, Unix time in seconds (for freeze windows)."""


class Expected(Model):
    """What the answer must be. Only what is given is compared."""

    playbook: str | None = None
    """The playbook that acts; "" for none."""
    mode: Mode | None = None
    """Its mode then."""
    changes: tuple[str, ...] | None = None
    """Kinds of its changes, in order, like `shift-traffic`; empty: it only pages."""


class CaseSpec(Model):
    """The body of a case."""

    mesh: dict[str, ServiceCase]
    """The services there are."""
    incident: IncidentCase
    """What happens."""
    expect: Expected | None = None
    """What should be done about it."""


class Case(Model):
    """One written incident."""

    api_version: Literal["fibrin.dev/v1"]
    kind: Literal["PlaybookTest"]
    metadata: Metadata
    spec: CaseSpec


@dataclass(frozen=True, slots=True)
class Answer:
    """What would be done about one written incident, and where that is not what was expected."""

    case: str
    cause: Cause
    decision: Decision
    surprises: tuple[str, ...] = ()


def load_cases(texts: Mapping[str, str]) -> tuple[Case, ...]:
    """Return the written incidents in `texts` (source name → YAML text), in reading order.

    Raises:
        InvalidInput: with one Problem per finding, each with file, line and column.
    """
    found: list[Case] = []
    problems: list[Problem] = []
    for source in sorted(texts):
        for document in parse(source, texts[source]):
            if document.kind != KIND:
                continue
            try:
                case = validate(document, Case)
            except InvalidInput as error:
                problems.extend(error.problems)
                continue
            problems.extend(_nonsense(document, case.spec))
            found.append(case)
    if problems:
        raise InvalidInput(str(problems[0]), hint="correct the written incidents", problems=tuple(problems))
    return tuple(found)


def answer(case: Case, playbooks: Sequence[Playbook]) -> Answer:
    """Return what the playbooks would do about a written incident."""
    cause, context = question(case.spec)
    decision = plan(cause, context, playbooks)
    return Answer(case.metadata.name, cause, decision, tuple(_surprises(case.spec.expect, decision)))


def question(spec: CaseSpec) -> tuple[Cause, Context]:
    """Return the planner's question for a written incident."""
    incident = spec.incident
    instances = tuple(each for name, service in spec.mesh.items() for each in _instances(name, service))
    edges = frozenset(Edge(caller, name) for name, service in spec.mesh.items() for caller in service.callers)
    weights = {name: dict(service.weights) for name, service in spec.mesh.items() if service.weights}
    topology = Topology(
        instances,
        edges,
        {name: _shares(parts) for name, parts in weights.items()},
        frozenset(name for name, service in spec.mesh.items() if service.fallback),
        frozenset(name for name, service in spec.mesh.items() if service.fault),
    )
    caller = incident.caller or next(iter(sorted(topology.callers(incident.service))), "")
    series = Series(Side.CLIENT, caller, incident.service, "", "", "")
    anomaly = Anomaly(series, incident.signal, incident.at, incident.at, incident.observed, incident.expected, 9.0, 100)
    changes = tuple(
        ChangeEvent(n, incident.at, kind, "written", incident.service, incident.subject)
        for n, kind in enumerate(incident.changes, 1)
    )
    cause = Cause(
        incident.cause,
        incident.service,
        incident.subject,
        incident.signal,
        incident.probability,
        Edge(caller, incident.service) if caller else None,
        ("as written",),
        dict(incident.numbers),
        changes,
    )
    context = Context(
        topology,
        now=incident.at,
        anomalous_share=incident.anomalous,
        severity=incident.severity,
        saturation={name: s.saturation for name, s in spec.mesh.items() if s.saturation is not None},
        anomalies=(anomaly,),
        budgets={name: ErrorBudget(s.budget) for name, s in spec.mesh.items() if s.budget is not None},
    )
    return cause, context


def _instances(name: str, service: ServiceCase) -> Iterator[Instance]:
    made = [f"{name}-{version}-{n}" for version, count in service.versions.items() for n in range(1, count + 1)]
    sick = set(made[len(made) - service.unhealthy :]) if service.unhealthy else set[str]()
    for number, ident in enumerate(made):
        version = ident.removeprefix(f"{name}-").rpartition("-")[0]
        health = Health.UNHEALTHY if ident in sick else Health.HEALTHY
        zone = service.zones[number % len(service.zones)] if service.zones else ""
        yield Instance(ident, name, version, zone, "127.0.0.1", 15006, health, dict(service.labels))


def _shares(parts: Mapping[str, float]) -> Mapping[str, float]:
    total = sum(parts.values())
    return {version: part / total for version, part in parts.items()} if total else {}


def _nonsense(document: Document, spec: CaseSpec) -> Iterator[Problem]:
    """Say what names nothing of the written mesh: the answer would be about something else."""
    incident, path = spec.incident, ("spec", "incident")
    if incident.cause is not CauseKind.GLOBAL and incident.service not in spec.mesh:
        near = suggest(incident.service, sorted(spec.mesh))
        yield document.problem((*path, "service"), f"the mesh has no service `{incident.service}`", hint=near)
        return
    members = [i for name, service in spec.mesh.items() for i in _instances(name, service) if name == incident.service]
    subjects = {
        CauseKind.INSTANCE: {i.id for i in members},
        CauseKind.VERSION: {i.version for i in members},
        CauseKind.ZONE: {i.zone for i in members},
    }.get(incident.cause)
    if subjects is not None and incident.subject not in subjects:
        message = f"{incident.service} has no {incident.cause} `{incident.subject}`"
        yield document.problem((*path, "subject"), message, hint=suggest(incident.subject, sorted(subjects)))


def _surprises(expected: Expected | None, decision: Decision) -> Iterator[str]:
    if expected is None:
        return
    made = decision.plan
    found: dict[str, object] = {
        "playbook": made.playbook if made else "",
        "mode": made.mode.value if made else None,
        "changes": tuple(step.change.kind for step in made.steps) if made else (),
    }
    wanted: dict[str, object] = {
        "playbook": expected.playbook,
        "mode": expected.mode.value if expected.mode else None,
        "changes": expected.changes,
    }
    for name, value in wanted.items():
        if value is not None and value != found[name]:
            yield f"{name}: expected {_shown(value)}, it would be {_shown(found[name])}"


def _shown(value: object) -> str:
    return ", ".join(str(each) for each in value) or "none" if isinstance(value, tuple) else str(value or "none")
