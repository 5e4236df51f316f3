"""Conditions over an incident's evidence, in CEL (the Common Expression Language of Kubernetes and Envoy).

`when.expression` speaks of the variables below, whose types are known: a slip of the pen is found when the playbook is
loaded, with its line and column, not at night. Evaluation has no side effects, always ends, and takes microseconds.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from cel_expr_python import cel

from models.incident import Anomaly, Cause
from models.manifest import suggest
from playbooks.guards import Context

_TEXTS: Final = cel.Type.List(cel.Type.STRING)

VARIABLES: Final[Mapping[str, tuple[cel.Type, str]]] = {
    "cause.kind": (cel.Type.STRING, "kind of cause, like `'version'`"),
    "cause.service": (cel.Type.STRING, "service in which it lies"),
    "cause.subject": (cel.Type.STRING, "instance, version or zone in which it lies"),
    "cause.signal": (cel.Type.STRING, "golden signal by which it shows"),
    "cause.caller": (cel.Type.STRING, "calling service on whose edge it shows most"),
    "cause.probability": (cel.Type.DOUBLE, "how sure the agent is, 0.0 to 1.0"),
    "cause.evidence": (_TEXTS, "the evidence, sentence by sentence"),
    "cause.numbers": (cel.Type.Map(cel.Type.STRING, cel.Type.DOUBLE), "the figures in the evidence, by name"),
    "cause.changes": (_TEXTS, "kinds of recent changes it follows, like `'deploy'`, `'config'`"),
    "signal.observed": (cel.Type.DOUBLE, "worst value seen: error ratio 0.0 to 1.0, or seconds"),
    "signal.expected": (cel.Type.DOUBLE, "what is normal there, in the same unit"),
    "signal.requests": (cel.Type.INT, "requests behind the evidence"),
    "severity": (cel.Type.STRING, "`'info'`, `'warning'` or `'critical'`"),
    "service.instances": (cel.Type.INT, "instances of the service"),
    "service.healthy": (cel.Type.INT, "healthy ones among them"),
    "service.versions": (cel.Type.INT, "versions of the service"),
    "service.zones": (cel.Type.INT, "zones in which it has instances"),
    "service.callers": (_TEXTS, "services that call it"),
    "service.labels": (cel.Type.Map(cel.Type.STRING, cel.Type.STRING), "labels that all its instances carry"),
    "service.fallback": (cel.Type.BOOL, "whether it declares a fallback answer"),
    "service.saturation": (cel.Type.DOUBLE, "load as a share of its limit, 0.0 when no limit is known"),
    "budget.remaining": (cel.Type.DOUBLE, "error budget left, 0.0 to 1.0; 1.0 without an objective"),
    "budget.burn": (cel.Type.DOUBLE, "how many times too fast it burns; 0.0 without an objective"),
    "budget.objectives": (
        cel.Type.Map(cel.Type.STRING, cel.Type.DOUBLE),
        "error budget left of each objective of the service, 0.0 to 1.0, by the objective's name",
    ),
    "mesh.anomalous": (cel.Type.DOUBLE, "share of services that are anomalous for other reasons, 0.0 to 1.0"),
}
"""What an expression may speak of: name → type and meaning."""

_ENVIRONMENT: Final = cel.NewEnv(variables={name: kind for name, (kind, _) in VARIABLES.items()})
_ERROR: Final = re.compile(r"ERROR: <input>:(\d+):(\d+): (.*?)(?=\n \||\nERROR: | \[INVALID_ARGUMENT\]|$)", re.DOTALL)

_Data = Mapping[str, "str | float | int | bool | list[str] | dict[str, float] | dict[str, str]"]


@dataclass(frozen=True, slots=True)
class Slip:
    """One thing wrong with an expression; `line` and `column` count from 1 within its text."""

    line: int
    column: int
    message: str
    hint: str = ""


def slips(expression: str) -> tuple[Slip, ...]:
    """Return what is wrong with an expression, in reading order; nothing when it compiles to a condition."""
    try:
        compiled = _compiled(expression)
    except RuntimeError as error:  # what cel-cpp raises, with every finding in its text
        found = [(int(line), int(column), said.strip()) for line, column, said in _ERROR.findall(str(error))]
        return tuple(Slip(line, column, *_worded(said)) for line, column, said in found) or (Slip(1, 1, str(error)),)
    kind = compiled.return_type()
    if kind != cel.Type.BOOL:
        message = f"the expression gives {_name(kind.name())}, a condition must be true or false"
        return (Slip(1, 1, message, "compare it with something, like `> 0.5`"),)
    return ()


def unmet(expression: str, cause: Cause, context: Context) -> str:
    """Return why the condition does not hold for an incident, "" when it holds."""
    if not expression:
        return ""
    value = _compiled(expression).eval(data=dict(facts(cause, context)))
    if value.type() == cel.Type.BOOL:
        return "" if value.value() else f"wants `{expression}`, which does not hold"
    return f"wants `{expression}`, which has no answer here: {value.value()}"


def facts(cause: Cause, context: Context) -> _Data:
    """Return the value of every variable for one incident."""
    members = context.view.of(cause.service)
    worst = _worst(cause, context.anomalies)
    common = set.intersection(*(set(i.labels.items()) for i in members)) if members else set()
    budget = context.budgets.get(cause.service)
    return {
        "cause.kind": cause.kind.value,
        "cause.service": cause.service,
        "cause.subject": cause.subject,
        "cause.signal": cause.signal.value,
        "cause.caller": cause.edge.caller if cause.edge else "",
        "cause.probability": float(cause.probability),
        "cause.evidence": list(cause.evidence),
        "cause.numbers": {name: float(number) for name, number in cause.numbers.items()},
        "cause.changes": sorted({change.kind.value for change in cause.changes}),
        "signal.observed": float(worst.observed) if worst else 0.0,
        "signal.expected": float(worst.expected) if worst else 0.0,
        "signal.requests": sum(anomaly.requests for anomaly in context.anomalies),
        "severity": context.severity.value,
        "service.instances": len(members),
        "service.healthy": len(context.view.healthy(cause.service)),
        "service.versions": len({i.version for i in members}),
        "service.zones": len({i.zone for i in members}),
        "service.callers": sorted(context.topology.callers(cause.service)),
        "service.labels": dict(sorted(common)),
        "service.fallback": cause.service in context.topology.fallbacks,
        "service.saturation": float(context.saturation.get(cause.service, 0.0)),
        "budget.remaining": budget.remaining if budget else 1.0,
        "budget.burn": budget.burn if budget else 0.0,
        "budget.objectives": dict(sorted(budget.objectives.items())) if budget else {},
        "mesh.anomalous": float(context.anomalous_share),
    }


@lru_cache(maxsize=1024)
def _compiled(expression: str) -> cel.Expression:
    return _ENVIRONMENT.compile(expression)


def _worst(cause: Cause, anomalies: tuple[Anomaly, ...]) -> Anomaly | None:
    same = [anomaly for anomaly in anomalies if anomaly.signal is cause.signal]
    return max(same, key=lambda anomaly: (anomaly.observed - anomaly.expected, anomaly.score), default=None)


def _worded(said: str) -> tuple[str, str]:
    """Put what the compiler says in words for the person who wrote the expression: message and hint."""
    if match := re.match(r"undeclared reference to '([^']+)'", said):
        name = match.group(1)
        return f"there is no variable or function `{name}`", suggest(name, sorted(VARIABLES))
    if match := re.match(r"found no matching overload for '_?([^_']+)_?' applied to '\((.*)\)'", said):
        operator, kinds = match.groups()
        hint = (
            "`2` is whole and `2.0` is not: write the number as the variable is"
            if {"double", "int"} == set(kinds.split(", "))
            else ""
        )
        return f"`{operator}` cannot take {kinds}", hint
    plain = said.removeprefix("Syntax error: ")
    if "expecting" in plain:
        what = plain.split(" expecting")[0].replace("'<EOF>'", "the end")
        return f"not an expression: {what}", "for example `cause.probability > 0.8 && service.healthy >= 3`"
    return f"not an expression: {plain}", ""


def _name(kind: str) -> str:
    return {"INT": "a whole number", "DOUBLE": "a number", "STRING": "a text"}.get(kind, kind.lower())
