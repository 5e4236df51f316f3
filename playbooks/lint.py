"""What is wrong with a playbook, where, and what to write instead.

Errors keep a playbook from loading (it could harm, or can never do what it says); warnings are advice. Every finding
has a stable code, so that people can look it up and tools can count it:

    PB000  not YAML, or a field is wrong          PB006  a placeholder that these causes never fill
    PB001  an action without undo                 PB007  a guard that forbids the step for good
    PB002  an action without a verify deadline    PB008  two playbooks of one name
    PB003  a step that is never reached           PB009  auto, for every service, on thin evidence (warning)
    PB004  two steps of one name                  PB010  no description (warning)
    PB005  an unknown placeholder                 PB011  an expression that does not compile
    PB012  an undo that cannot be                 PB013  waves of what cannot be split
    PB014  auto, but names no drill (warning)     PB015  a hold-out that leaves nobody out
    PB016  no playbook in the file (warning)
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from models.errors import InvalidInput, Problem
from models.incident import CauseKind
from models.manifest import Document, Path, parse, render, suggest, validate
from playbooks.conditions import slips
from playbooks.deeds import Breaker, Page, Restart, Reversibility, RunHook, Shed, dose, reversibility, untreated
from playbooks.effects import PLACEHOLDER, PLACEHOLDERS
from playbooks.places import inside
from playbooks.schema import DRILL, HookCall, Mode, Playbook, Step
from playbooks.units import percent, span

_THIN: Final = 0.5
"""Certainty below which acting alone on any service is called thin."""


_LEAST_HOLD_DOWN_S: Final = 10.0
"""How long something irreversible must wait, seconds."""


class Level(StrEnum):
    """How bad a finding is."""

    ERROR = "error"
    WARNING = "warning"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing wrong: its stable code, how bad it is, where it is and what to write."""

    code: str
    level: Level
    problem: Problem

    def __str__(self) -> str:
        """Render as `file:line:column: field: message (hint) [CODE]`."""
        return f"{self.level}: {self.problem} [{self.code}]"


def refuse(findings: Iterable[Finding], hint: str) -> None:
    """Raise InvalidInput with one Problem per error among `findings`; with none, do nothing. `hint` says who lists them."""
    problems = tuple(finding.problem for finding in findings if finding.level is Level.ERROR)
    if problems:
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise InvalidInput(f"{problems[0]}{more}", hint=hint, problems=problems)


@dataclass(frozen=True, slots=True)
class _Place:
    """A playbook and where it is written."""

    document: Document
    playbook: Playbook
    text: str

    def error(self, code: str, path: Path, message: str, hint: str) -> Finding:
        return Finding(code, Level.ERROR, self.document.problem(path, message, hint=hint))

    def warning(self, code: str, path: Path, message: str, hint: str) -> Finding:
        return Finding(code, Level.WARNING, self.document.problem(path, message, hint=hint))


def lint(texts: Mapping[str, str]) -> tuple[Finding, ...]:
    """Return everything wrong with the playbooks in `texts` (source name → YAML text), in reading order."""
    return check(texts)[1]


def check(texts: Mapping[str, str]) -> tuple[tuple[Playbook, ...], tuple[Finding, ...]]:
    """Return the playbooks whose form is right, and every finding about any of them, in reading order."""
    places: list[_Place] = []
    findings: list[Finding] = []
    without: dict[str, int] = {}
    for source in sorted(texts):
        try:
            parsed = parse(source, texts[source])
        except InvalidInput as error:
            findings.extend(Finding("PB000", Level.ERROR, problem) for problem in error.problems)
            continue
        documents = [each for each in parsed if each.kind == "Playbook"]
        if not documents:
            without[source] = len(parsed)
        for document in documents:
            try:
                places.append(_Place(document, validate(document, Playbook), texts[source]))
            except InvalidInput as error:
                findings.extend(Finding("PB000", Level.ERROR, problem) for problem in error.problems)
    findings.extend(lacking("PB016", "playbook", without, folder=len(without) < len(texts)))
    for place in places:
        findings.extend(_playbook(place))
    findings.extend(_names(places))
    order = sorted(findings, key=lambda f: (f.problem.source, f.problem.line, f.problem.column, f.code))
    return tuple(place.playbook for place in places), tuple(order)


def lacking(code: str, what: str, without: Mapping[str, int], *, folder: bool) -> Iterator[Finding]:
    """Yield a warning for each text without a `what` (source → number of its documents).

    `folder`: other texts have one, so those that hold only other documents are in their place.
    """
    for source, others in without.items():
        if others and folder:
            continue
        hint = "its documents are of another kind" if others else "is the file empty?"
        yield Finding(code, Level.WARNING, Problem(f"there is no {what} in it", source=source, hint=hint))


def _playbook(place: _Place) -> Iterator[Finding]:
    spec = place.playbook.spec
    steps: Path = ("spec", "steps")
    seen: dict[str, int] = {}
    for index, step in enumerate(spec.steps):
        path: Path = (*steps, index)
        if step.name in seen:
            hint = f"step {seen[step.name] + 1} has it already; reports tell steps apart by name"
            yield place.error("PB004", (*path, "name"), f"two steps are named `{step.name}`", hint)
        seen.setdefault(step.name, index)
        yield from _step(place, path, step)
        yield from _waves(place, path, step)
        yield from _placeholders(place, (*path, "action", step.action.name), step)
        yield from _impossible(place, path, step)
    yield from _unreachable(place)
    yield from _words(place, ("spec", "escalate", "summary"), spec.escalate.summary)
    yield from _words(place, ("spec", "escalate", "details"), spec.escalate.details)
    yield from _expression(place)
    when = spec.when
    if spec.mode is Mode.AUTO and when.services.everything and when.min_probability < _THIN and _acts(place):
        message = f"acts alone on any service from {percent(when.min_probability)} certainty on"
        yield place.warning("PB009", ("spec", "mode"), message, "raise `minProbability`, or choose `mode: approve`")
    if spec.mode is Mode.AUTO and _acts(place) and not place.playbook.drill:
        message = "acts alone, but names no drill that proves it: it will ask a person instead"
        hint = f"write `metadata: {{annotations: {{{DRILL}: NAME}}}}`, the name of a drill"
        yield place.warning("PB014", ("metadata", "annotations"), message, hint)
    if not spec.description.strip():
        hint = "one sentence: what is broken, what this does about it"
        yield place.warning("PB010", ("spec", "description"), "says nothing to whoever is paged", hint)


def _step(place: _Place, path: Path, step: Step) -> Iterator[Finding]:
    if isinstance(step.action.spec, Page):
        return
    yield from _way_back(place, path, step)
    if step.verify is None:
        hint = "write `verify: {deadline: 10s}`: how long it may take until the signal is back"
        yield place.error("PB002", path, f"`{step.action.name}` has no verify deadline", hint)
    elif step.verify.hold_out is not None and untreated(step.action.spec, step.verify.hold_out.share) is None:
        message = f"`{step.action.name}` leaves nobody out to compare with"
        hint = "shifts that keep less than its share, `ejectInstance` and `setRetries` can; remove `holdOut`"
        yield place.error("PB015", (*path, "verify", "holdOut"), message, hint)


def _way_back(place: _Place, path: Path, step: Step) -> Iterator[Finding]:
    spec, name = step.action.spec, step.action.name
    if step.undo is None:
        hint = "write `undo: automatic`: the overlay is removed when the step does not help"
        if isinstance(spec, RunHook):
            hint = "write `undo: {hook: NAME}`, the hook that takes it back, or `undo: nothing` when none can"
        elif isinstance(spec, Restart):
            hint = "write `undo: nothing` (a restart cannot be taken back) and a `holdDown` of at least 10s"
        yield place.error("PB001", path, f"`{name}` declares no undo", hint)
        return
    final = reversibility(spec) is Reversibility.NONE
    hooked = isinstance(spec, RunHook)
    if isinstance(step.undo, HookCall) and not hooked:
        hint = "write `undo: nothing`" if final else "write `undo: automatic`"
        yield place.error("PB012", (*path, "undo"), f"`{name}` is not taken back by a hook", hint)
    elif step.undo == "automatic" and (hooked or final):
        hint = "write `undo: {hook: NAME}` or `undo: nothing`" if hooked else "write `undo: nothing`"
        yield place.error("PB012", (*path, "undo"), f"`{name}` cannot be taken back automatically", hint)
    elif step.undo == "nothing" and not (hooked or final):
        yield place.error("PB012", (*path, "undo"), f"`{name}` can be taken back", "write `undo: automatic`")
    elif step.undo == "nothing" and step.hold_down < _LEAST_HOLD_DOWN_S:
        message = f"`{name}` cannot be taken back and waits only {span(step.hold_down)} before it acts"
        yield place.error("PB012", path, message, "write `holdDown: 10s` or more: it may pass by itself")


def _waves(place: _Place, path: Path, step: Step) -> Iterator[Finding]:
    if step.waves and dose(step.action.spec, 1.0) is None:
        message = f"`{step.action.name}` cannot be split into waves"
        hint = "shifts, `openBreaker` and `shedLoad` can; remove `waves`, or try several steps"
        yield place.error("PB013", (*path, "waves"), message, hint)


def _expression(place: _Place) -> Iterator[Finding]:
    path: Path = ("spec", "when", "expression")
    expression = place.playbook.spec.when.expression
    for slip in slips(expression) if expression else ():
        line, column = inside(place.text, place.document, path, slip.line, slip.column)
        problem = Problem(slip.message, place.document.source, line, column, render(path), slip.hint)
        yield Finding("PB011", Level.ERROR, problem)


def _unreachable(place: _Place) -> Iterator[Finding]:
    steps = place.playbook.spec.steps
    for index, step in enumerate(steps):
        path: Path = ("spec", "steps", index)
        paged = next((i for i in range(index) if isinstance(steps[i].action.spec, Page)), None)
        same = next((i for i in range(index) if steps[i].action == step.action), None)
        if paged is not None:
            hint = f"step `{steps[paged].name}` hands over to a person; put it last"
            yield place.error("PB003", path, f"step `{step.name}` is never reached", hint)
        elif same is not None:
            hint = f"step `{steps[same].name}` was undone because the same action did not help; remove one of the two"
            yield place.error("PB003", path, f"step `{step.name}` repeats an earlier one", hint)


def _placeholders(place: _Place, path: Path, step: Step) -> Iterator[Finding]:
    for field, value in step.action.spec.model_dump(by_alias=True).items():
        if isinstance(value, str):
            yield from _words(place, (*path, field), value)
        for key, told in value.items() if isinstance(value, dict) else ():
            yield from _words(place, (*path, field, key), str(told))


def _words(place: _Place, path: Path, text: str) -> Iterator[Finding]:
    """Check the placeholders of one text (written or default) against what the playbook's causes can fill."""
    causes = place.playbook.spec.when.cause
    for word in PLACEHOLDER.findall(text):
        if word not in PLACEHOLDERS:
            yield place.error("PB005", path, f"unknown placeholder `{{{word}}}`", suggest(word, sorted(PLACEHOLDERS)))
            continue
        never = [kind for kind in causes if kind not in PLACEHOLDERS[word]]
        if never:
            fits = ", ".join(kind.value for kind in CauseKind if kind in PLACEHOLDERS[word])
            message = f"`{{{word}}}` has no value for cause {' or '.join(never)}"
            yield place.error(
                "PB006", path, message, f"it has one for {fits}; narrow `when.cause` or change the action"
            )


def _impossible(place: _Place, path: Path, step: Step) -> Iterator[Finding]:
    spec, guard = step.action.spec, place.playbook.spec.guard
    if isinstance(spec, Breaker | Shed):
        touched = spec.percent / 100 if isinstance(spec, Shed) or spec.caller == "all" else 0.0
    else:
        touched = 1.0 if step.action.name in _WHOLE else 0.0
    if touched > guard.max_traffic_share:
        message = f"touches {percent(touched)} of the traffic, `guard.maxTrafficShare` allows {percent(guard.max_traffic_share)}"
        yield place.error("PB007", path, message, f"write `maxTrafficShare: {percent(touched)}` if that is meant")


_WHOLE: Final = frozenset(
    {
        "setTimeout",
        "setRetries",
        "limitConnections",
        "setOutlierDetection",
        "adaptConcurrency",
        "disableFault",
    }
)
"""Actions that change how every request to the service is treated."""


def _acts(place: _Place) -> bool:
    return any(not isinstance(step.action.spec, Page) for step in place.playbook.spec.steps)


def _names(places: list[_Place]) -> Iterator[Finding]:
    first: dict[str, Document] = {}
    for place in places:
        name = place.playbook.name
        if name in first:
            other = first[name]
            hint = f"the other one is {other.source}:{other.line}; rename one"
            yield place.error("PB008", ("metadata", "name"), f"two playbooks are named `{name}`", hint)
        first.setdefault(name, place.document)
