"""`audit`: read and verify the tamper-evident log, with or without a running agent."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import click

from agent.audit import read, verify
from fibrin.cli.context import Target, pass_target
from fibrin.cli.output import dump, plain, table
from models.errors import NotFound


@click.group()
def audit() -> None:
    """The tamper-evident record of everything the agent saw, decided and did."""


def _path(target: Target, file: Path | None) -> Path:
    path = file or target.state_dir / "audit.log"
    if not path.exists():
        raise NotFound(f"there is no audit log at {path}", hint="has an agent run on this state directory?")
    return path


@audit.command("list")
@click.option("--file", type=click.Path(path_type=Path, dir_okay=False), help="Another log file.")
@click.option("--limit", type=click.IntRange(min=1), default=50, show_default=True, help="Newest records.")
@click.option("-o", "--output", type=click.Choice(["table", "wide", "json", "yaml"]), default="table")
@pass_target
def list_(target: Target, file: Path | None, limit: int, output: str) -> None:
    """List the newest records."""
    records = read(_path(target, file), limit)
    if output in ("json", "yaml"):
        click.echo(dump({"items": [plain(r) for r in records]}, output), nl=False)
        return
    width = 10_000 if output == "wide" else 90
    rows = []
    for record in records:
        when = datetime.fromtimestamp(record.at, UTC).isoformat(timespec="milliseconds")
        data = json.dumps(plain(record.data), sort_keys=True)
        rows.append([str(record.seq), when, record.kind, data if len(data) <= width else data[: width - 1] + "…"])
    click.echo(table(["SEQ", "AT", "KIND", "DATA"], rows))


@audit.command("verify")
@click.option("--file", type=click.Path(path_type=Path, dir_okay=False), help="Another log file.")
@pass_target
def verify_(target: Target, file: Path | None) -> None:
    """Check every record's hash and chain; name the first bad one."""
    path = _path(target, file)
    found = verify(path)
    if not found.ok:
        click.echo(f"× {path}: record {found.first_bad}: {found.message}", err=True)
        raise SystemExit(1)
    click.echo(f"√ {path}: {found.records} records, chain unbroken")


COMMANDS = (audit,)
