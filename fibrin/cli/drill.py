"""`drill`: break a mesh on purpose, and hold what happens to what was promised."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Any, Final

import click

from agent.certificates import write as write_certificate
from fibrin.cli.context import Target, pass_target
from fibrin.cli.output import Column, counted, dump, findings, show, table, text
from fibrin.cli.playbook import FINDINGS, read_texts
from fibrin.cli.resources import output_option
from models.domain import Instance
from models.errors import InvalidInput
from playbooks import library as shipped_playbooks
from playbooks.lint import Level
from playbooks.loading import load as load_playbooks
from playbooks.schema import Playbook
from playbooks.units import span
from simulations import outputs
from simulations.busy import busy_now
from simulations.drills import calendar, report, safety
from simulations.drills.certify import earned
from simulations.drills.guest import visiting
from simulations.drills.loading import SHOP, check, choose, library, load
from simulations.drills.reference import json_schema
from simulations.drills.report.files import as_json
from simulations.drills.runner import Runner
from simulations.drills.schema import SHORT, Drill
from simulations.drills.suite import Wishes, batches, play
from simulations.drills.verdict import Verdict, standing
from simulations.stopping import cancel_on_sigterm

STOP_FILE: Final = "stop-drills"
"""A file of this name in the state directory ends a running drill, as the kill switch does."""

COLUMNS: Final = (
    Column("NAME", lambda d: d.name),
    Column("CLASS", lambda d: d.topic),
    Column("SET", lambda d: d.metadata.labels.get("set", "")),
    Column("FAULTS", lambda d: ",".join(e.inject.name for e in d.spec.faults if not e.setting)),
    Column("OUTCOME", lambda d: d.spec.expect.outcome),
    Column("PLAYBOOK", lambda d: d.spec.expect.playbook),
    Column("SCHEDULE", lambda d: d.spec.schedule.cron if d.spec.schedule else ""),
    Column("STEADY STATE", lambda d: standing(d.spec.steady_state), wide=True),
    Column("DESCRIPTION", lambda d: d.spec.description, wide=True),
    Column("LASTS", lambda d: span(d.spec.lasts)),
)

files_argument = click.argument("files", nargs=-1, type=click.Path(path_type=Path, exists=True), metavar="[FILE...]")


@click.group()
def drill() -> None:
    """Break a mesh on purpose and hold what happens to what was promised. Only `run` and `schedule` break anything."""


@drill.command("list")
@files_argument
@output_option
def list_(files: tuple[Path, ...], output: str) -> None:
    """List the drills that are shipped, or those in FILEs."""
    found = load(read_texts(files)) if files else library()
    if output in ("json", "yaml"):
        click.echo(dump({"items": [d.model_dump(mode="json", by_alias=True) for d in found]}, output), nl=False)
        return
    show(found, COLUMNS, output, kind="drill", name=lambda d: str(d.name))


@drill.command()
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path, exists=True), metavar="FILE...")
def validate(files: tuple[Path, ...]) -> None:
    """Say what is wrong with drills, where, and what to write instead. Exit code 3 when there are findings."""
    drills, found = check(read_texts(files))
    for finding in found:
        click.echo(str(finding))
    errors = sum(finding.level is Level.ERROR for finding in found)
    click.echo(f"{counted(len(drills), 'drill')}: {findings(errors, len(found) - errors)}", err=True)
    if found:
        raise SystemExit(FINDINGS)


@drill.command()
def schema() -> None:
    """Print the JSON schema of a drill, for editors."""
    click.echo(dump(json_schema(), "json"), nl=False)


@drill.command()
@click.argument("what", nargs=-1, metavar="[NAME|FILE...]")
@click.option("--all", "everything", is_flag=True, help="Every drill that is shipped.")
@click.option("--short", is_flag=True, help="The short set (label `set: short`).")
@click.option("--dry-run", is_flag=True, help="Say what would be broken, and whether it is safe; break nothing.")
@click.option("--on-this-mesh", is_flag=True, help="Break the mesh of this state directory, not one started for it.")
@click.option("--report", "folder", type=click.Path(path_type=Path, file_okay=False), help="Write a report there.")
@click.option("--record", type=click.Path(path_type=Path, file_okay=False), help="Keep the telemetry there.")
@click.option(
    "--playbook", "books", multiple=True, type=click.Path(path_type=Path, exists=True), help="Playbooks on trial."
)
@click.option("--certify/--no-certify", default=True, help="Whether a passed drill certifies its playbook here [yes].")
@click.option("--seed", type=int, default=1, show_default=True, help="Seed of load and latencies.")
@click.option("-o", "--output", type=click.Choice(["table", "json"]), default="table", help="How the result is shown.")
@pass_target
def run(
    target: Target,
    what: tuple[str, ...],
    folder: Path | None,
    record: Path | None,
    books: tuple[Path, ...],
    seed: int,
    output: str,
    *,
    everything: bool,
    short: bool,
    dry_run: bool,
    on_this_mesh: bool,
    certify: bool,
) -> None:
    """Play drills, by name or from files, on a mesh that is started for them. Exit code 1 when one deviates."""
    drills = _chosen(what, everything=everything, short=short)
    if dry_run:
        raise SystemExit(asyncio.run(_practise(target, drills, on_this_mesh=on_this_mesh)))
    outputs.folder(folder)
    outputs.folder(record)
    stop_files = (target.state_dir / STOP_FILE, target.state_dir / "stop-acting")
    wishes = Wishes(seed, record, tuple(str(book.absolute()) for book in books), stop_files)
    on_trial = _on_trial(books)

    def done(verdict: Verdict) -> None:
        if certify and (certificate := earned(verdict, on_trial, time.time())) is not None:
            write_certificate(target.state_dir, certificate)
            _tell("certified", f"playbook {certificate.playbook} may act alone on {target.state_dir}")

    work = _on_guest(target, drills, stop_files, done) if on_this_mesh else _on_own(drills, wishes, done)
    verdicts = asyncio.run(_stoppable(work))
    told = [report.told(verdict) for verdict in verdicts]
    if folder is not None:
        _tell("report", str(report.write(folder, told, time.time())))
    click.echo(as_json(told) if output == "json" else _table(told))
    raise SystemExit(0 if all(verdict.passed for verdict in verdicts) and len(verdicts) == len(drills) else 1)


@drill.command("report")
@click.argument("folder", type=click.Path(path_type=Path, exists=True), metavar="DIR")
@click.option("-o", "--output", type=click.Choice(["table", "json"]), default="table", help="How the result is shown.")
def report_(folder: Path, output: str) -> None:
    """Show the results in a report's folder again, and write its page anew. Exit code 1 when a drill had deviated."""
    told = report.read(folder)
    place = report.write(folder if folder.is_dir() else folder.parent, told, max((d.began for d in told), default=0.0))
    click.echo(as_json(told) if output == "json" else _table(told))
    click.echo(f"the page is {place}", err=True)
    raise SystemExit(0 if all(each.passed for each in told) else 1)


@drill.command()
@files_argument
@click.option("--report", "folder", type=click.Path(path_type=Path, file_okay=False), help="Write each report there.")
@click.option("--show", "only_show", is_flag=True, help="Say what is due when; run nothing.")
@pass_target
def schedule(target: Target, files: tuple[Path, ...], folder: Path | None, *, only_show: bool) -> None:
    """Run drills that have a schedule as they are due (shipped ones, or those in FILEs), until stopped."""
    drills = [d for d in (load(read_texts(files)) if files else library()) if d.spec.schedule is not None]
    if not drills:
        raise InvalidInput("none of these drills has a schedule", hint="add `schedule: {cron: …}` to one")
    rows = [
        [due.drill.name, due.at.isoformat(timespec="minutes") if due.at else "never", text(due.blocked)]
        for due in calendar.upcoming(drills, time.time())
    ]
    click.echo(table(["NAME", "NEXT", "BLOCKED"], rows))
    if only_show:
        return
    outputs.folder(folder)
    wishes = Wishes(stop_files=(target.state_dir / STOP_FILE, target.state_dir / "stop-acting"))

    async def one(due: Drill) -> None:
        def done(verdict: Verdict) -> None:
            told = report.told(verdict)
            click.echo(_table([told]))
            if folder is not None:
                stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
                _tell("report", str(report.write(folder / f"{due.name}-{stamp}", [told], time.time())))

        await _on_own([due], wishes, done)

    asyncio.run(_stoppable(calendar.follow(drills, one)))


def _chosen(what: Sequence[str], *, everything: bool, short: bool) -> tuple[Drill, ...]:
    """Return the drills that were asked for. Raises InvalidInput when nothing was."""
    shipped = library()
    if everything:
        return shipped
    found = [d for d in shipped if short and d.metadata.labels.get("set") == SHORT]
    for each in what:
        path = Path(each)
        if path.suffix in {".yaml", ".yml"} or path.is_dir():
            if not path.exists():
                raise InvalidInput(
                    f"there is no file {path}", hint="`fibrin drill list` names the drills that are shipped"
                )
            found += load(read_texts((path,)))
        else:
            found += choose(shipped, (each,))
    if not found:
        raise InvalidInput(
            "no drill named", hint="`fibrin drill list` names them; `--short` and `--all` choose several"
        )
    return tuple(found)


def _on_trial(books: tuple[Path, ...]) -> tuple[Playbook, ...]:
    own = load_playbooks(read_texts(books)) if books else ()
    taken = {book.name for book in own}
    return (*own, *(book for book in shipped_playbooks() if book.name not in taken))


async def _stoppable(work: Any) -> Any:
    cancel_on_sigterm()
    return await work


async def _on_own(drills: Sequence[Drill], wishes: Wishes, done: Callable[[Verdict], None]) -> list[Verdict]:
    """Play drills on meshes that are started for them."""
    verdicts = []
    async with aclosing(play(drills, wishes, _tell)) as played:
        async for verdict in played:
            verdicts.append(verdict)
            _told(verdict)
            done(verdict)
    return verdicts


async def _on_guest(
    target: Target, drills: Sequence[Drill], stop_files: tuple[Path, ...], done: Callable[[Verdict], None]
) -> list[Verdict]:
    """Play drills on the mesh of this state directory, each only if it is safe there."""
    verdicts = []
    for each in drills:
        async with visiting(lambda: target.control("drill"), target.agent, stop_files) as mesh:
            safety.check(each, await mesh.instances())
            _tell("drill", each.name)
            verdict = Verdict(await Runner(mesh, _tell).play(each))
        verdicts.append(verdict)
        _told(verdict)
        done(verdict)
    return verdicts


async def _practise(target: Target, drills: Sequence[Drill], *, on_this_mesh: bool) -> int:
    """Say what would happen; return 1 when a drill would be refused."""
    instances: tuple[Instance, ...] = SHOP
    if on_this_mesh:
        async with target.control() as control:
            instances = await control.instances()
    refused = 0
    for each in drills:
        click.echo(f"{each.name}: {each.spec.description}")
        click.echo(f"    must hold: {standing(each.spec.steady_state)}")
        for entry in each.spec.faults:
            when = "before" if entry.setting else f"at {span(entry.at)}"
            click.echo(f"    {when}: {entry.inject.fault}")
        for alarm in each.spec.abort:
            click.echo(f"    ends at once: {alarm}")
        click.echo(f"    taken back after {span(each.spec.lasts)}, whatever happens")
        objections = safety.objections(each, instances) if on_this_mesh else ()
        for objection in objections:
            click.echo(f"    × {objection}")
        refused += bool(objections)
    meshes = 0 if on_this_mesh else len(batches(drills))
    where = "this mesh" if on_this_mesh else f"{meshes} {'mesh' if meshes == 1 else 'meshes'} started for them"
    click.echo(f"{counted(len(drills), 'drill')} on {where}, {refused} would be refused; nothing was broken", err=True)
    return 1 if refused else 0


def _tell(kind: str, words: str) -> None:
    click.echo(f"{time.strftime('%H:%M:%S')}  {kind:<12} {words}", err=True)
    sys.stderr.flush()


def _told(verdict: Verdict) -> None:
    _tell("passed" if verdict.passed else "FAILED", verdict.seen.drill.name)
    for each in verdict.checks:
        if not each.ok:
            _tell("", f"× {each.name}: {each.wanted} promised, {each.found} found")
    if not verdict.passed and (why := busy_now()):
        _tell("", why)


def _table(told: Sequence[report.Told]) -> str:
    head = ["NAME", "RESULT", "OUTCOME", "CAUSE", "PLAYBOOK", "DETECTED", "MITIGATED", "LOST"]
    rows = [
        [
            d.name,
            "passed" if d.passed else "FAILED",
            text(d.outcome or d.phase),
            text(d.cause),
            text(d.playbook),
            _seconds(d.detected_s),
            _seconds(d.mitigated_s),
            f"{d.users.lost}/{d.users.requests}" if d.users.requests else "<none>",
        ]
        for d in told
    ]
    return table(head, rows)


def _seconds(value: float | None) -> str:
    return "<none>" if value is None else f"{value:.2f}s"


COMMANDS = (drill,)
