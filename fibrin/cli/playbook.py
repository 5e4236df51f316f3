"""`playbook`: what playbooks say, whether they are right, what they would do, and how they stand with their drills."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import click

from agent.audit.reading import present
from agent.backtest import Tried, backtest
from agent.certificates import read as read_certificates
from agent.settings import AgentSettings
from agent.sources import read_sources
from fibrin import settings
from fibrin.cli.context import Target, pass_target
from fibrin.cli.files import read_manifests
from fibrin.cli.output import Column, age, counted, dump, findings, show, table, text
from fibrin.cli.resources import output_option, run
from models.errors import InvalidInput, NotFound
from models.incident import CauseKind
from models.manifest import suggest
from playbooks.cases import Answer, answer, load_cases
from playbooks.certificates import Standing, acts, standing
from playbooks.lint import Level, lint
from playbooks.loading import library, load
from playbooks.reference import json_schema
from playbooks.schema import Mode, Playbook

FINDINGS: Final = 3
"""Exit code of lint with findings."""


@dataclass(frozen=True, slots=True)
class Row:
    """A playbook and how it stands. `acts` is the mode in effect."""

    playbook: Playbook
    source: str
    standing: Standing
    acts: str

    @property
    def passed(self) -> str:
        """Return how long ago its drill passed."""
        certificate = self.standing.certificate
        return age(certificate.passed_at) if certificate else ""


COLUMNS: Final = (
    Column("NAME", lambda r: r.playbook.name),
    Column("MODE", lambda r: r.playbook.spec.mode),
    Column("ACTS", lambda r: r.acts),
    Column(
        "CAUSES",
        lambda r: "any" if set(r.playbook.spec.when.cause) == set(CauseKind) else ",".join(r.playbook.spec.when.cause),
    ),
    Column("PRIORITY", lambda r: r.playbook.spec.priority),
    Column("CERTIFIED", lambda r: r.standing.state if acts(r.playbook) else ""),
    Column("DETECTED", lambda r: _seconds(r.standing, "detect_s")),
    Column("MITIGATED", lambda r: _seconds(r.standing, "mitigate_s")),
    Column("DRILL", lambda r: r.playbook.drill, wide=True),
    Column("SOURCE", lambda r: r.source, wide=True),
    Column("WHY", lambda r: r.standing.reason, wide=True),
    Column("PASSED", lambda r: r.passed),
)


MEMORY_COLUMNS: Final = (
    Column("PLAYBOOK", lambda r: r["playbook"]),
    Column("STEP", lambda r: r["step"]),
    Column("CAUSE", lambda r: r["kind"]),
    Column("SERVICE", lambda r: r["service"]),
    Column("HELPED", lambda r: f"{r['helped']}/{r['helped'] + r['failed']}"),
    Column("ESTIMATE", lambda r: f"{r['estimate']:.0%}"),
    Column("AGE", lambda r: age(r["at"])),
)


def _seconds(how: Standing, field: str) -> str:
    return f"{getattr(how.certificate, field):.1f}s" if how.certificate else ""


@click.group()
def playbook() -> None:
    """Write, check and try playbooks; `fibrin drill run` certifies them.

    Only `list`, `memory` and `backtest` look at a mesh; none of them acts.
    """


@playbook.command("lint")
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path, exists=True), metavar="FILE...")
def lint_(files: tuple[Path, ...]) -> None:
    """Say what is wrong, where, and what to write instead. Exit code 3 when there are findings."""
    texts = read_texts(files)
    found = lint(texts)
    for finding in found:
        click.echo(str(finding))
    errors = sum(finding.level is Level.ERROR for finding in found)
    click.echo(f"{counted(len(texts), 'file')}: {findings(errors, len(found) - errors)}", err=True)
    if found:
        raise SystemExit(FINDINGS)


@playbook.command("test")
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path, exists=True), metavar="FILE...")
@click.option("--with-library", is_flag=True, help="Let the shipped playbooks compete, as they do in the agent.")
@click.option("-v", "--verbose", is_flag=True, help="Say of every playbook why it was or was not chosen.")
def test_(files: tuple[Path, ...], *, with_library: bool, verbose: bool) -> None:
    """Ask playbooks about written incidents (`kind: PlaybookTest`): what would they do?

    FILES hold playbooks, incidents, or both. Exit code 1 when an answer is not the expected one.
    """
    texts = read_texts(files)
    cases = load_cases(texts)
    if not cases:
        raise InvalidInput("no written incident among the files", hint="see docs/playbooks.md for one to copy")
    books = _with_library(load(texts), with_library=with_library)
    answers = [answer(case, books) for case in cases]
    for given in answers:
        _tell(given, verbose=verbose)
    wrong = sum(bool(given.surprises) for given in answers)
    click.echo(f"{len(answers)} incidents, {wrong} answered otherwise than expected", err=True)
    if wrong:
        raise SystemExit(1)


def _tell(given: Answer, *, verbose: bool) -> None:
    decision = given.decision
    made = decision.plan
    mark = "×" if given.surprises else "√"
    if made is not None and made.steps:
        click.echo(f"{mark} {given.case}: {given.cause}: {made.playbook} (mode {made.mode})")
        for step in made.steps:
            size = f"{step.blast_radius.traffic:.0%} of traffic, {step.blast_radius.capacity:.0%} of capacity"
            click.echo(f"    {step.name}: {step.reason} ({size})")
    else:
        page = decision.escalation
        click.echo(f"{mark} {given.case}: {given.cause}: pages ({page.summary if page else 'nobody'})")
    for plan in decision.shadows:
        click.echo(f"    in shadow, {plan.playbook} would {'; '.join(step.reason for step in plan.steps)}")
    for surprise in given.surprises:
        click.echo(f"    {surprise}")
    if verbose:
        for each in decision.considered:
            click.echo(f"    {'√' if each.accepted else '-'} {each.playbook}: {each.reason}")


@playbook.command("backtest")
@click.argument("files", nargs=-1, type=click.Path(path_type=Path, exists=True), metavar="[FILE...]")
@click.option("--without-library", is_flag=True, help="Try FILEs alone, without the shipped playbooks.")
@click.option("--limit", type=click.IntRange(min=1), default=100, show_default=True, help="Latest decisions.")
@click.option("-o", "--output", type=click.Choice(["table", "wide", "json", "yaml"]), default="table")
@pass_target
def backtest_(target: Target, files: tuple[Path, ...], limit: int, output: str, *, without_library: bool) -> None:
    """Make the recorded decisions of this mesh again with the playbooks in FILEs: what would have been done?"""
    log = present(target.state_dir / "audit.log")
    books = _with_library(load(read_texts(files)) if files else (), with_library=not without_library)
    if not books:
        raise InvalidInput("no playbooks to try", hint="name files, or leave out --without-library")
    tried = backtest(log, target.state_dir / "agent.db", books, limit)
    changed = sum(each.differs for each in tried)
    click.echo(f"{len(tried)} decisions, {changed} would be others now", err=True)
    if output in ("json", "yaml"):
        click.echo(dump({"items": [_plain(each) for each in tried]}, output), nl=False)
        return
    rows = [_line(each, wide=output == "wide") for each in tried]
    head = ["INCIDENT", "CAUSE", "THEN", "ENDED", "NOW", "DIFFERS", *(["WHY"] if output == "wide" else []), "AGE"]
    click.echo(table(head, rows) if rows else "No decisions found.", err=not rows)


def _line(each: Tried, *, wide: bool) -> list[str]:
    then = f"{each.then} ({','.join(each.then_steps)})" if each.then_steps else text(each.then)
    now = f"{each.now} ({','.join(each.now_steps)}; {each.now_mode})" if each.now_steps else text(each.now)
    cells = [each.incident, each.cause, then, text(each.ended), now, "yes" if each.differs else ""]
    return [text(cell) for cell in (*cells, *([each.why] if wide else []), age(each.at))]


def _plain(each: Tried) -> Mapping[str, object]:
    when = datetime.fromtimestamp(each.at, UTC).isoformat(timespec="milliseconds")
    return {
        "record": each.seq,
        "incident": each.incident,
        "at": when,
        "cause": each.cause,
        "then": {"playbook": each.then, "changes": list(each.then_steps), "ended": each.ended},
        "now": {"playbook": each.now, "mode": each.now_mode, "changes": list(each.now_steps), "why": each.why},
        "differs": each.differs,
    }


@playbook.command("list")
@click.argument("files", nargs=-1, type=click.Path(path_type=Path, exists=True), metavar="[FILE...]")
@output_option
@pass_target
def list_(target: Target, files: tuple[Path, ...], output: str) -> None:
    """List the playbooks in use (or those in FILEs): what they may do, and when their drills last passed."""
    rows = [row(target, book, source) for source, book in _in_use(target, files)]
    if output in ("json", "yaml"):
        click.echo(dump({"items": [_row_plain(each) for each in rows]}, output), nl=False)
        return
    show(rows, COLUMNS, output, kind="playbook", name=lambda r: str(r.playbook.name))


@playbook.command("memory")
@output_option
@pass_target
def memory_(target: Target, output: str) -> None:
    """Show how often each step has worked for each cause. Of equal playbooks the one whose first step works more often is tried."""

    async def go() -> list[Mapping[str, Any]]:
        async with target.agent() as agent:
            return [result for each in await agent.playbooks() for result in each["memory"]]

    rows = sorted(run(go()), key=lambda r: (r["kind"], r["service"], -r["estimate"], r["playbook"], r["step"]))
    show(rows, MEMORY_COLUMNS, output, kind="result", name=lambda r: f"{r['playbook']}/{r['step']}")


@playbook.command("schema")
def schema() -> None:
    """Print the JSON schema of a playbook, for editors (`# yaml-language-server: $schema=FILE`)."""
    click.echo(dump(json_schema(), "json"), nl=False)


def find(target: Target, what: str) -> Row:
    """Return one playbook by its name (of those in use) or by the file it is in.

    Raises:
        NotFound: there is none. InvalidInput: the file is wrong, or holds several.
    """
    path = Path(what)
    if path.suffix in {".yaml", ".yml"} or path.is_file():
        if not path.is_file():
            raise NotFound(f"there is no file {path}", hint="`fibrin playbook list` names the playbooks in use")
        found = load(read_texts((path,)))
        if len(found) != 1:
            raise InvalidInput(f"{path} holds {len(found)} playbooks, one is needed", hint="split the file")
        return row(target, found[0], str(path))
    known = {book.name: (source, book) for source, book in _in_use(target, ())}
    if what not in known:
        raise NotFound(f"there is no playbook `{what}`", hint=suggest(what, sorted(known)))
    source, book = known[what]
    return row(target, book, source)


def row(target: Target, book: Playbook, source: str) -> Row:
    """Return a playbook with how it stands in this mesh."""
    chosen = _settings(target)
    how = standing(book, read_certificates(target.state_dir), time.time(), chosen.certificate_fresh_s)
    mode = str(book.spec.mode)
    if book.spec.mode is Mode.AUTO and acts(book) and chosen.require_certificates and not how.certified:
        mode = "approve (not certified)"
    return Row(book, source, how, mode)


def _row_plain(each: Row) -> Mapping[str, object]:
    certificate = each.standing.certificate
    return {
        "name": each.playbook.name,
        "source": each.source,
        "mode": str(each.playbook.spec.mode),
        "acts": each.acts,
        "priority": each.playbook.spec.priority,
        "drill": each.playbook.drill,
        "certified": str(each.standing.state),
        "why": each.standing.reason,
        "passed_at": certificate.passed_at if certificate else None,
        "detect_s": certificate.detect_s if certificate else None,
        "mitigate_s": certificate.mitigate_s if certificate else None,
    }


def _in_use(target: Target, files: Sequence[Path]) -> list[tuple[str, Playbook]]:
    """Return the playbooks in FILEs, or those that the agent of this mesh loads, each with its source, by name."""
    if files:
        texts = read_texts(files)
        return sorted(((s, b) for s, t in texts.items() for b in load({s: t})), key=lambda found: found[1].name)
    sources = read_sources(_settings(target))
    own = [(source, book) for source, body in sources.own.items() for book in load({source: body})]
    taken = {book.name for _, book in own}
    shipped = library() if sources.library else ()
    return sorted([*own, *(("library", b) for b in shipped if b.name not in taken)], key=lambda found: found[1].name)


def _settings(target: Target) -> AgentSettings:
    return settings.read(
        "agent", AgentSettings, flags={"state_dir": target.state_dir}, env=target.env, config=target.config
    )


def _with_library(own: Sequence[Playbook], *, with_library: bool) -> tuple[Playbook, ...]:
    names = {book.name for book in own}
    return (*own, *(book for book in library() if with_library and book.name not in names))


def read_texts(files: Sequence[Path]) -> Mapping[str, str]:
    """Read files and the YAML files of directories; raises InvalidInput."""
    return read_manifests([str(place) for place in files], (".yaml", ".yml"))


COMMANDS = (playbook,)
