"""`audit`: read, prove, replay and export the tamper-evident log, with or without a running agent."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import click

from agent.audit import AuditLog, Record, find, read, verify
from agent.audit.export import lines, otlp_lines, ship
from agent.audit.keys import Trust, pinned
from agent.audit.reading import present
from agent.replay import decisions, replay
from fibrin.cli.context import Target, pass_target
from fibrin.cli.output import dump, plain, table
from fibrin.cli.resources import run
from models.errors import InvalidInput, NotFound

_WIDTH = 90

file_option = click.option(
    "--file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Another log file [audit.log of the state directory].",
)


@click.group()
def audit() -> None:
    """The tamper-evident record of everything the agent saw, decided and did."""


def _path(target: Target, file: Path | None) -> Path:
    return present(file or target.state_dir / "audit.log")


def _chosen(path: Path, incident: str, kinds: tuple[str, ...], since: int) -> Iterator[Record]:
    """Yield the records asked for, oldest first."""
    for record in read(path):
        about = str(record.data.get("incident") or "")
        if record.seq >= since and (not kinds or record.kind in kinds) and (not incident or about.startswith(incident)):
            yield record


@audit.command("list")
@file_option
@click.option("--limit", type=click.IntRange(min=1), default=50, show_default=True, help="Newest records.")
@click.option("--incident", default="", help="Only of this incident (a beginning of its id will do).")
@click.option("--kind", "kinds", multiple=True, help="Only of this kind; may be given several times.")
@click.option("-o", "--output", type=click.Choice(["table", "wide", "json", "yaml"]), default="table")
@pass_target
def list_(target: Target, file: Path | None, limit: int, incident: str, kinds: tuple[str, ...], output: str) -> None:
    """List the newest records."""
    path = _path(target, file)
    some = bool(incident or kinds)
    records = list(_chosen(path, incident, kinds, 0))[-limit:] if some else read(path, limit)
    if output in ("json", "yaml"):
        click.echo(dump({"items": [plain(r) for r in records]}, output), nl=False)
        return
    rows = []
    for record in records:
        who = record.data.get("who")
        name = str(who.get("name")) if isinstance(who, dict) else ""
        why = str(record.data.get("why") or "")
        text = why if output == "table" else json.dumps(plain(record.data), sort_keys=True)
        text = text if output == "wide" or len(text) <= _WIDTH else text[: _WIDTH - 1] + "…"
        rows.append([str(record.seq), _when(record), record.kind, name, str(record.data.get("incident") or ""), text])
    click.echo(table(["SEQ", "AT", "KIND", "WHO", "INCIDENT", "WHY" if output == "table" else "DATA"], rows))


@audit.command("show")
@click.argument("seq", type=click.IntRange(min=1))
@file_option
@click.option("-o", "--output", type=click.Choice(["json", "yaml"]), default="yaml")
@pass_target
def show(target: Target, seq: int, file: Path | None, output: str) -> None:
    """Show one record whole."""
    record = find(_path(target, file), seq)
    click.echo(dump({**plain(record), "when": _when(record)}, output), nl=False)


@audit.command("verify")
@file_option
@click.option("--key", help="Trust only this public key (a line of audit.pub, or a file with such lines).")
@click.option("--anchors", type=click.Path(path_type=Path, dir_okay=False), help="Where anchors are collected.")
@click.option("-o", "--output", type=click.Choice(["table", "json", "yaml"]), default="table")
@pass_target
def verify_(target: Target, file: Path | None, key: str | None, anchors: Path | None, output: str) -> None:
    """Check every record's hash, signature and place; name the first bad one and what was done to it."""
    path = _path(target, file)
    found = verify(path, trust=_trust(key), anchors=anchors)
    if output != "table":
        click.echo(dump(plain(found), output), nl=False)
    elif found.ok:
        keys = f"signed by {', '.join(found.keys)}" if found.keys else "nothing to sign yet"
        click.echo(f"√ {path}: {found.message}; {keys}")
    else:
        place = f" in {found.file}" if found.file else ""
        click.echo(f"× {path}: {found.fault}: record {found.first_bad}{place}: {found.message}", err=True)
    raise SystemExit(0 if found.ok else 1)


@audit.command("replay")
@click.argument("seq", type=click.IntRange(min=1), required=False)
@file_option
@click.option("--incident", default="", help="Only decisions about this incident.")
@click.option("--limit", type=click.IntRange(min=1), default=50, show_default=True, help="Newest decisions.")
@pass_target
def replay_(target: Target, seq: int | None, file: Path | None, incident: str, limit: int) -> None:
    """Make recorded decisions again (of record SEQ, or all): the same evidence must give the same plan."""
    path = _path(target, file)
    numbers = (seq,) if seq is not None else decisions(path, incident, limit)
    if not numbers:
        raise NotFound("there is no decision to replay", hint="`fibrin audit list --kind decision`")
    different = 0
    for number in numbers:
        again = replay(path, number)
        different += not again.same
        how = (
            "localised, selected and planned" if again.localised else "selected and planned (its evidence was not kept)"
        )
        plan = f"{again.playbook or 'no playbook'}, {again.steps} steps"
        click.echo(f"{'√' if again.same else '×'} record {number}: {again.incident}: {again.cause}: {plan}; {how} anew")
        for difference in again.differences:
            click.echo(f"    {difference}", err=True)
    raise SystemExit(1 if different else 0)


@audit.command("export")
@file_option
@click.option("--format", "form", type=click.Choice(["jsonl", "otlp"]), default="jsonl", show_default=True)
@click.option("--since", type=click.IntRange(min=1), default=1, help="Begin with this record.")
@click.option("--incident", default="", help="Only of this incident.")
@click.option("--kind", "kinds", multiple=True, help="Only of this kind; may be given several times.")
@click.option("--to", "url", help="Send to an OTLP/HTTP collector (http://HOST:4318) instead of printing.")
@pass_target
def export(
    target: Target, file: Path | None, form: str, since: int, incident: str, kinds: tuple[str, ...], url: str | None
) -> None:
    """Print records as signed JSON lines or OTLP logs, or send them to a collector."""
    records = _chosen(_path(target, file), incident, kinds, since)
    if url:
        click.echo(f"{run(ship(records, url))} records sent to {url}")
        return
    for line in lines(records) if form == "jsonl" else otlp_lines(records):
        click.echo(line)


@audit.command("rotate-key")
@file_option
@click.option("--reason", required=True, help="Why; stands in the log.")
@pass_target
def rotate_key(target: Target, file: Path | None, reason: str) -> None:
    """Let a new key sign from now on: asks the agent if one runs, else writes the log itself."""

    async def go() -> str:
        if file is None and target.address("agent") is not None:
            async with target.agent() as agent:
                if await agent.healthy():
                    return await agent.rotate_key(reason)
        async with AuditLog(_path(target, file)) as log:
            return await log.rotate_key(reason)

    click.echo(f"key {run(go())} signs from now on; keep the new line of audit.pub elsewhere")


def _trust(key: str | None) -> Trust | None:
    if key is None:
        return None
    place = Path(key)
    try:
        text = place.read_text(encoding="ascii") if place.is_file() else key
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput(
            f"cannot read the key {key}: {error}", hint="give a line of audit.pub, or the file"
        ) from error
    return pinned(text)


def _when(record: Record) -> str:
    return datetime.fromtimestamp(record.at, UTC).isoformat(timespec="milliseconds")


COMMANDS = (audit,)
