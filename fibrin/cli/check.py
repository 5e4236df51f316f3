"""`check`: is this mesh in order? One line per finding, with a reason and a hint."""

from __future__ import annotations

import shutil
import stat
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

import click

from agent.audit import verify
from fibrin.cli.context import Target, pass_target
from fibrin.cli.output import dump, plain
from fibrin.cli.resources import run
from models.domain import Health
from models.errors import FibrinError
from proxy.envoy import find

_ROOM_BYTES: Final = 16 * 2**20  # less than this is a disk about to be full
_OTHERS: Final = stat.S_IRWXG | stat.S_IRWXO


class Level(StrEnum):
    """How a check ended."""

    OK = "√"
    FAILED = "×"
    WARNING = "‼"


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of `fibrin check`."""

    level: Level
    subject: str
    reason: str
    hint: str = ""


@click.command()
@click.option("-o", "--output", type=click.Choice(["table", "json", "yaml", "name"]), default="table")
@pass_target
def check(target: Target, output: str) -> None:
    """Check the mesh of this machine; exit code 1 when something failed."""

    async def go() -> list[Finding]:
        return [f for part in PARTS async for f in _guarded(part, target)]

    findings = run(go())
    if output in ("json", "yaml"):
        click.echo(dump({"findings": [plain(f) for f in findings]}, output), nl=False)
    for finding in findings if output in ("table", "name") else ():
        if output == "name" and finding.level is Level.OK:
            continue
        click.echo(f"{finding.level.value} {finding.subject}: {finding.reason}")
        if finding.hint:
            click.echo(f"    {finding.hint}")
    failed = sum(f.level is Level.FAILED for f in findings)
    if output == "table":
        warned = sum(f.level is Level.WARNING for f in findings)
        well = f"in order, {warned} to look at" if warned else "in order"
        click.echo(f"Status: {f'{failed} failed' if failed else well}")
    raise SystemExit(1 if failed else 0)


Part = Callable[[Target], AsyncIterator[Finding]]


async def _guarded(part: Part, target: Target) -> AsyncIterator[Finding]:
    try:
        async for finding in part(target):
            yield finding
    except FibrinError as error:
        yield Finding(Level.FAILED, part.__name__.removeprefix("_"), error.message, error.hint)


async def _machine(target: Target) -> AsyncIterator[Finding]:
    yield Finding(Level.OK, "envoy", f"the data plane is {find()}")
    mode = target.state_dir.stat().st_mode if target.state_dir.exists() else 0
    if mode & _OTHERS:
        hint = f"chmod 700 {target.state_dir}"
        yield Finding(Level.FAILED, "state directory", "other users may read keys and tokens", hint)
    elif mode:
        yield Finding(Level.OK, "state directory", f"{target.state_dir} is private")
    free = shutil.disk_usage(target.state_dir).free if mode else _ROOM_BYTES
    if free < _ROOM_BYTES:
        reason = f"{free // 1024} KiB free in {target.state_dir}: soon nothing can be declared and the agent cannot act"
        yield Finding(Level.FAILED, "disk", reason, "make room on this disk")
    for name in ("xds.sock", "otlp.sock"):
        path = target.state_dir / name
        if path.exists() and path.stat().st_mode & _OTHERS:
            yield Finding(Level.FAILED, name, "other users may connect", f"chmod 600 {path}")


async def _control(target: Target) -> AsyncIterator[Finding]:
    async with target.control() as client:
        yield await _ready("control plane", client.healthy())
        instances = await client.instances()
        for instance in instances:
            if instance.health is not Health.HEALTHY:
                hint = f"`fibrin describe service {instance.service}`"
                yield Finding(Level.WARNING, f"instance/{instance.id}", f"is {instance.health.value}", hint)
        yield Finding(Level.OK, "instances", f"{len(instances)} registered")
        proxies = await client.proxies()
        for proxy in proxies:
            if proxy.nack:
                hint = f"`fibrin describe proxy {proxy.id}`; the last good configuration stays in force"
                yield Finding(Level.FAILED, f"proxy/{proxy.id}", f"refused its configuration: {proxy.nack}", hint)
            elif not proxy.connected:
                hint = "is the sidecar running? traffic through it goes on with what it last got"
                yield Finding(Level.WARNING, f"proxy/{proxy.id}", "is not connected", hint)
        synced = sum(p.synced for p in proxies)
        yield Finding(Level.OK, "sidecars", f"{synced} of {len(proxies)} run the wanted configuration")


async def _agent(target: Target) -> AsyncIterator[Finding]:
    async with target.agent() as client:
        yield await _ready("agent", client.healthy())
        for finding in of_status(plain(await client.status())):
            yield finding


def of_status(status: Mapping[str, Any]) -> Iterator[Finding]:
    """Yield what the agent's status (`GET /v1/status`) gives reason to say."""
    if stopped := status.get("stopped"):
        yield Finding(Level.WARNING, "kill switch", f"the agent does not act: {stopped}", "`fibrin resume-acting`")
    if waiting := status.get("audit_waiting"):
        hint = "make room on the disk; they are written then"
        yield Finding(Level.WARNING, "audit log", f"{waiting} records wait to be written", hint)
    for incident in status.get("unsolved") or ():
        hint = f"`fibrin explain incident/{incident}`; no other incident is opened for what it explains"
        yield Finding(Level.WARNING, f"incident/{incident}", "was left to a person and is still seen", hint)
    blind = status.get("blind") or ()
    for reporter in blind:
        hint = "is its Envoy alive? nothing is done on blind telemetry"
        yield Finding(Level.WARNING, f"proxy/{reporter}", "sends no telemetry", hint)
    if not blind:
        yield Finding(Level.OK, "telemetry", "every sidecar reports")


async def _audit(target: Target) -> AsyncIterator[Finding]:
    path = target.state_dir / "audit.log"
    if not path.exists():
        return
    found = verify(Path(path))
    if found.ok:
        yield Finding(Level.OK, "audit log", f"{found.records} records, chain unbroken")
    else:
        yield Finding(Level.FAILED, "audit log", found.message, "`fibrin audit verify` names the record")


async def _ready(subject: str, answer: Awaitable[bool]) -> Finding:
    if await answer:
        return Finding(Level.OK, subject, "answers and is ready")
    return Finding(Level.FAILED, subject, "does not answer or is not ready", "see its log, or `fibrin up`")


PARTS: Final[tuple[Part, ...]] = (_machine, _control, _agent, _audit)
COMMANDS = (check,)
