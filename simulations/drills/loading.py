"""From YAML text to drills, or to every problem with its file, line and column.

Errors keep a drill from running; warnings are advice. Codes are stable:

    DR000  not YAML, or a field is wrong          DR004  strikes what the demo shop does not have (warning)
    DR001  a fault outside the drill's time       DR005  expects a playbook that is not shipped (warning)
    DR002  two drills of one name                 DR006  no description (warning)
    DR003  an expectation that cannot come true   DR007  heals, but asks for no cause (warning)
    DR008  no drill in the file (warning)
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import resources
from typing import Final

from models.domain import Instance
from models.errors import InvalidInput, NotFound
from models.manifest import Document, Path, parse, suggest, validate
from playbooks import library as playbooks
from playbooks.lint import Finding, Level, lacking, refuse
from playbooks.units import span
from simulations.drills.injections import place
from simulations.drills.schema import Drill, Outcome
from simulations.shop.spec import PLACEMENTS, USERS

SHOP: Final = tuple(Instance(p.id, p.service, p.version, p.zone, "", 0) for p in (*PLACEMENTS, USERS))
"""The instances of the demo shop."""


@dataclass(frozen=True, slots=True)
class _Written:
    document: Document
    drill: Drill

    def finding(self, code: str, level: Level, path: Path, message: str, hint: str) -> Finding:
        return Finding(code, level, self.document.problem(path, message, hint=hint))


def check(texts: Mapping[str, str]) -> tuple[tuple[Drill, ...], tuple[Finding, ...]]:
    """Return the drills in `texts` (source name → YAML text) whose form is right, and every finding, in reading order."""
    written: list[_Written] = []
    findings: list[Finding] = []
    without: dict[str, int] = {}
    for source in sorted(texts):
        try:
            parsed = parse(source, texts[source], kinds=("Drill",))
        except InvalidInput as error:
            findings.extend(Finding("DR000", Level.ERROR, problem) for problem in error.problems)
            continue
        documents = [each for each in parsed if each.kind == "Drill"]
        if not documents:
            without[source] = len(parsed)
        for document in documents:
            try:
                written.append(_Written(document, validate(document, Drill)))
            except InvalidInput as error:
                findings.extend(Finding("DR000", Level.ERROR, problem) for problem in error.problems)
    findings.extend(lacking("DR008", "drill", without, folder=len(without) < len(texts)))
    known = {book.name for book in playbooks()}
    for each in written:
        findings.extend(_times(each))
        findings.extend(_expectations(each, known))
        findings.extend(_places(each))
        if not each.drill.spec.description:
            text = "nobody will know what it proves"
            findings.append(each.finding("DR006", Level.WARNING, ("spec",), text, "add `description:`"))
    findings.extend(_names(written))
    order = sorted(findings, key=lambda f: (f.problem.source, f.problem.line, f.problem.column, f.code))
    return tuple(each.drill for each in written), tuple(order)


def _times(each: _Written) -> Iterator[Finding]:
    whole = each.drill.spec.lasts
    for k, entry in enumerate(each.drill.spec.faults):
        at: Path = ("spec", "faults", k)
        if entry.at >= whole:
            text = f"it would begin at {span(entry.at)}, and the drill is over after {span(whole)}"
            yield each.finding(
                "DR001", Level.ERROR, (*at, "at"), text, "let it begin earlier, or the drill last longer"
            )
        elif entry.at + entry.lasts > whole:
            text = f"it would last until {span(entry.at + entry.lasts)}, and the drill is over after {span(whole)}"
            yield each.finding(
                "DR001", Level.ERROR, (*at, "lasts"), text, "leave `lasts` out to let it last to the end"
            )
        if entry.setting and (entry.at or entry.ramp or entry.lasts):
            text = "a setting is there before anything begins"
            yield each.finding("DR001", Level.ERROR, (*at, "setting"), text, "leave `at`, `lasts` and `ramp` out")


def _expectations(each: _Written, known: set[str]) -> Iterator[Finding]:
    expect, at = each.drill.spec.expect, ("spec", "expect")
    for name, value in (("detectedWithin", expect.detected_within), ("mitigatedWithin", expect.mitigated_within)):
        if value > each.drill.spec.lasts:
            text = f"{span(value)} is longer than the drill lasts ({span(each.drill.spec.lasts)})"
            yield each.finding("DR003", Level.ERROR, (*at, name), text, "let the drill last longer")
    if expect.outcome is Outcome.ABSORBED and (expect.playbook or expect.may_touch):
        field = "playbook" if expect.playbook else "mayTouch"
        text = "a fault that the mesh absorbs leaves the agent nothing to do"
        yield each.finding("DR003", Level.ERROR, (*at, field), text, "leave it out, or expect `healed`")
    if all(entry.setting for entry in each.drill.spec.faults):
        text = "everything is setting: nothing breaks"
        yield each.finding("DR003", Level.ERROR, ("spec", "faults"), text, "one entry must be a fault")
    if expect.playbook and expect.playbook not in known:
        hint = suggest(expect.playbook, sorted(known))
        yield each.finding("DR005", Level.WARNING, (*at, "playbook"), f"no `{expect.playbook}` is shipped", hint)
    if expect.outcome is Outcome.HEALED and expect.cause is None:
        text = "healed by which cause? A lucky act would pass"
        yield each.finding("DR007", Level.WARNING, (*at, "outcome"), text, "add `cause:`")


def _places(each: _Written) -> Iterator[Finding]:
    for k, entry in enumerate(each.drill.spec.faults):
        where = place(entry.inject.fault)
        if where is None:
            continue
        try:
            where.struck(SHOP)
        except InvalidInput as error:
            at = ("spec", "faults", k, "inject", entry.inject.name)
            yield each.finding("DR004", Level.WARNING, at, f"{error.message} in the demo shop", error.hint)


def _names(written: list[_Written]) -> Iterator[Finding]:
    first: dict[str, _Written] = {}
    for each in written:
        if (other := first.setdefault(each.drill.name, each)) is not each:
            line, _ = other.document.position(("metadata", "name"))
            text = f"`{each.drill.name}` is the name of another drill ({other.document.source}:{line})"
            yield each.finding("DR002", Level.ERROR, ("metadata", "name"), text, "rename one of them")


def load(texts: Mapping[str, str]) -> tuple[Drill, ...]:
    """Return the drills in `texts`, sorted by name.

    Raises:
        InvalidInput: with one Problem per error; no drill of any text is to be used then.
    """
    found, findings = check(texts)
    refuse(findings, hint="`fibrin drill validate` lists everything that is wrong")
    return tuple(sorted(found, key=lambda drill: drill.name))


def library_texts() -> Mapping[str, str]:
    """Return the YAML of the drills that Fibrin ships: source name → text."""
    folder = resources.files("simulations.drills") / "library"
    files = sorted((entry for entry in folder.iterdir() if entry.name.endswith(".yaml")), key=lambda entry: entry.name)
    return {f"library/{entry.name}": entry.read_text(encoding="utf-8") for entry in files}


def library() -> tuple[Drill, ...]:
    """Return the drills that Fibrin ships, sorted by name."""
    return load(library_texts())


def choose(drills: tuple[Drill, ...], names: tuple[str, ...]) -> tuple[Drill, ...]:
    """Return the drills of these names, in this order. Raises NotFound with the nearest name."""
    known = {drill.name: drill for drill in drills}
    for name in names:
        if name not in known:
            raise NotFound(f"there is no drill `{name}`", hint=suggest(name, sorted(known)))
    return tuple(known[name] for name in names)
