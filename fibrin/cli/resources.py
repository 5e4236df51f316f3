"""`apply`, `get`, `describe`, `delete`: what people declared and what the mesh is."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import click

from control.client import ControlClient, OverlayStatus, ProxyView, Resource, ServiceView
from fibrin.cli.context import Target, pass_target
from fibrin.cli.files import read_manifests
from fibrin.cli.output import FORMATS, Column, age, dump, plain, show, table, text
from models.domain import ChangeEvent, Instance
from models.errors import InvalidInput, NotFound
from models.manifest import Document, parse
from models.overlay import target as landing

T = TypeVar("T")

MOST_WARNINGS: Final = 20

output_option = click.option("-o", "--output", type=click.Choice(FORMATS), default="table", help="Output format.")


@dataclass(frozen=True, slots=True)
class Kind:
    """One thing `get` can list: its names, how to fetch all of it, and its columns."""

    name: str
    aliases: tuple[str, ...]
    fetch: Callable[[ControlClient], Awaitable[Sequence[Any]]]
    columns: tuple[Column, ...]
    key: Callable[[Any], str]


def _weights(service: ServiceView) -> str:
    shares = [f"{v}={w}" for route in service.effective.routes for v, w in sorted(route.weights.items())]
    return ",".join(shares)


def _healthy(service: ServiceView) -> str:
    good = sum(1 for i in service.instances if i.health.value == "healthy")
    return f"{good}/{len(service.instances)}"


def _declared(kind: str) -> Callable[[ControlClient], Awaitable[Sequence[Resource]]]:
    async def fetch(client: ControlClient) -> Sequence[Resource]:
        return await client.resources(kind)

    return fetch


_RESOURCE_COLUMNS: Final = (
    Column("NAME", lambda r: r.name),
    Column("GENERATION", lambda r: r.generation),
    Column("SOURCE", lambda r: r.source, wide=True),
    Column("ACTOR", lambda r: r.actor, wide=True),
    Column("AGE", lambda r: age(r.created_at)),
)


def _sidecar_state(proxy: ProxyView) -> str:
    if not proxy.connected:
        return "DISCONNECTED"
    return "NACK" if proxy.nack else "SYNCED" if proxy.synced else "PENDING"


async def _changes(client: ControlClient) -> Sequence[ChangeEvent]:
    return (await client.changes()).changes


KINDS: Final = (
    Kind(
        "service",
        ("services", "svc"),
        lambda c: c.services(),
        (
            Column("NAME", lambda s: s.name),
            Column("HEALTHY", _healthy),
            Column("VERSIONS", lambda s: ",".join(sorted({i.version for i in s.instances}))),
            Column("WEIGHTS", _weights),
            Column("OVERLAYS", lambda s: len(s.overlays)),
            Column("ADJUSTMENTS", lambda s: "; ".join(s.adjustments), wide=True),
        ),
        lambda s: str(s.name),
    ),
    Kind(
        "instance",
        ("instances", "inst", "endpoint", "endpoints"),
        lambda c: c.instances(),
        (
            Column("NAME", lambda i: i.id),
            Column("SERVICE", lambda i: i.service),
            Column("VERSION", lambda i: i.version),
            Column("ZONE", lambda i: i.zone),
            Column("HEALTH", lambda i: i.health.value),
            Column("ENDPOINT", lambda i: i.endpoint),
            Column("LABELS", lambda i: ",".join(f"{k}={v}" for k, v in sorted(i.labels.items())), wide=True),
        ),
        lambda i: str(i.id),
    ),
    Kind(
        "proxy",
        ("proxies", "sidecar", "sidecars"),
        lambda c: c.proxies(),
        (
            Column("NAME", lambda p: p.id),
            Column("STATUS", _sidecar_state),
            Column("ACKED", lambda p: p.acked),
            Column("SENT", lambda p: p.sent),
            Column("REFUSED", lambda p: ",".join(p.rejected), wide=True),
            Column("LAST-NACK", lambda p: p.nack, wide=True),
            Column("AGE", lambda p: age(p.since)),
        ),
        lambda p: str(p.id),
    ),
    Kind(
        "overlay",
        ("overlays", "ov"),
        lambda c: c.overlay_statuses(),
        (
            Column("NAME", lambda s: s.overlay.id),
            Column("CHANGE", lambda s: s.overlay.change.kind),
            Column("TARGET", lambda s: landing(s.overlay.change)),
            Column("OWNER", lambda s: s.overlay.owner.value),
            Column("IN-FORCE", lambda s: "yes" if s.in_force else f"no, {s.superseded_by}"),
            Column("ACKED", lambda s: f"{s.propagation.acked}/{s.propagation.sidecars}"),
            Column("INCIDENT", lambda s: s.overlay.incident, wide=True),
            Column("REASON", lambda s: s.overlay.reason, wide=True),
            Column("AGE", lambda s: age(s.overlay.created_at)),
        ),
        lambda s: str(s.overlay.id),
    ),
    Kind(
        "change",
        ("changes", "events"),
        _changes,
        (
            Column("NAME", lambda c: c.sequence),
            Column("KIND", lambda c: c.kind.value),
            Column("SUBJECT", lambda c: c.subject),
            Column("ACTOR", lambda c: c.actor),
            Column("MESSAGE", lambda c: c.message),
            Column("AGE", lambda c: age(c.at)),
        ),
        lambda c: str(c.sequence),
    ),
    Kind(
        "virtualservice",
        ("virtualservices", "vs"),
        _declared("VirtualService"),
        _RESOURCE_COLUMNS,
        lambda r: str(r.name),
    ),
    Kind(
        "destinationrule",
        ("destinationrules", "dr"),
        _declared("DestinationRule"),
        _RESOURCE_COLUMNS,
        lambda r: str(r.name),
    ),
    Kind(
        "canary",
        ("canaries",),
        _declared("Canary"),
        _RESOURCE_COLUMNS,
        lambda r: str(r.name),
    ),
    Kind(
        "servicelevelobjective",
        ("servicelevelobjectives", "slo", "slos", "objective", "objectives"),
        _declared("ServiceLevelObjective"),
        _RESOURCE_COLUMNS,
        lambda r: str(r.name),
    ),
)

_DECLARED: Final = {
    "virtualservice": "VirtualService",
    "destinationrule": "DestinationRule",
    "canary": "Canary",
    "servicelevelobjective": "ServiceLevelObjective",
}


def run(work: Awaitable[T]) -> T:
    """Run one command's coroutine to its end."""

    async def go() -> T:
        return await work

    return asyncio.run(go())


def find_kind(word: str) -> Kind:
    """Return the kind that `word` (any case, singular, plural or short) names, or raise InvalidInput."""
    wanted = word.lower().partition(".")[0]
    for kind in KINDS:
        if wanted == kind.name or wanted in kind.aliases:
            return kind
    known = ", ".join(kind.name for kind in KINDS)
    raise InvalidInput(f"there is no kind {word!r}", hint=f"known: {known}")


@click.command()
@click.argument("kind")
@click.argument("name", required=False)
@output_option
@click.option(
    "-l",
    "--selector",
    metavar="KEY=VALUE",
    multiple=True,
    help="Only instances with these labels, or this service, version or zone.",
)
@click.option("-w", "--watch", is_flag=True, help="After listing, print rows as they change.")
@pass_target
def get(target: Target, kind: str, name: str | None, output: str, selector: tuple[str, ...], *, watch: bool) -> None:
    """List one kind: service, instance, proxy, overlay, change, virtualservice, destinationrule,
    canary, servicelevelobjective (slo).
    """
    what = find_kind(kind.partition("/")[0])
    wanted = name or kind.partition("/")[2] or None
    labels = _labels(selector, what)

    async def fetch(client: ControlClient) -> list[Any]:
        rows = [r for r in await what.fetch(client) if not wanted or what.key(r) == wanted]
        if wanted and not rows:
            raise NotFound(f"{what.name} {wanted!r} not found", hint=f"list them with `fibrin get {what.name}`")
        return [r for r in rows if not labels or labels.items() <= selectable(r).items()]

    async def go() -> None:
        async with target.control() as client:
            rows = await fetch(client)
            show(rows, what.columns, output, kind=what.name, name=what.key, single=bool(wanted))
            while watch:
                await asyncio.sleep(1.0)
                rows, before = await fetch(client), {what.key(r): r for r in rows}
                changed = [r for r in rows if before.get(what.key(r)) != r]
                if changed:
                    show(changed, what.columns, output, kind=what.name, name=what.key)

    run(go())


def selectable(instance: Instance) -> dict[str, str]:
    """Return what `-l` compares: the labels, and behind them the properties the table shows."""
    shown = {"service": instance.service, "version": instance.version, "zone": instance.zone}
    return {**shown, **instance.labels}


def _labels(selector: tuple[str, ...], kind: Kind) -> dict[str, str]:
    labels: dict[str, str] = {}
    for part in (piece for text_ in selector for piece in text_.split(",")):
        key, equals, value = part.partition("=")
        if not (key and equals and value):
            raise InvalidInput(f"--selector {part!r}: expected KEY=VALUE", hint="for example -l team=web")
        labels[key] = value
    if labels and kind.name != "instance":
        raise InvalidInput(f"{kind.name} has no labels to select by", hint="use -l with `get instance`")
    return labels


@click.command()
@click.argument("kind")
@click.argument("name", required=False)
@pass_target
def describe(target: Target, kind: str, name: str | None) -> None:
    """Show everything known about one thing: `describe service catalog` or `describe service/catalog`."""
    what = find_kind(kind.partition("/")[0])
    wanted = name or kind.partition("/")[2]
    if not wanted:
        raise InvalidInput(f"describe {what.name}: which one?", hint=f"`fibrin get {what.name}` lists them")

    async def go() -> None:
        async with target.control() as client:
            if what.name == "service":
                await _describe_service(client, wanted)
                return
            rows = [r for r in await what.fetch(client) if what.key(r) == wanted]
            if not rows:
                raise NotFound(f"{what.name} {wanted!r} not found", hint=f"list them with `fibrin get {what.name}`")
            click.echo(dump(plain(rows[0]), "yaml"), nl=False)

    run(go())


async def _describe_service(client: ControlClient, name: str) -> None:
    service = await client.service(name)
    overlays = {s.overlay.id: s for s in await client.overlay_statuses()}
    topology = await client.topology()
    events = [e for e in (await client.changes()).changes if e.service == name][-10:]
    click.echo(f"Name:       {service.name}")
    click.echo(f"Callers:    {text(', '.join(sorted(topology.callers(name))))}")
    click.echo(f"Callees:    {text(', '.join(sorted(topology.callees(name))))}")
    click.echo("Instances:")
    rows = [[i.id, i.version, i.zone, i.health.value, i.endpoint] for i in service.instances]
    click.echo(_indent(table(["NAME", "VERSION", "ZONE", "HEALTH", "ENDPOINT"], rows)))
    click.echo("Effective policy:")
    click.echo(_indent(dump(plain(service.effective), "yaml")))
    if service.overlays:
        click.echo("Overlays in force:")
        for ident in service.overlays:
            click.echo(_indent(_overlay_line(overlays[ident]) if ident in overlays else ident))
    for sentence in service.adjustments:
        click.echo(f"Adjusted:   {sentence}")
    click.echo("Recent changes:" if events else "Recent changes: <none>")
    for event in events:
        click.echo(_indent(f"{age(event.at):>5} ago  {event.kind.value:8} {event.subject}  {event.message}"))


def _overlay_line(status: OverlayStatus) -> str:
    overlay = status.overlay
    return f"{overlay.id}  {overlay.change.kind}  by {overlay.owner.value} {overlay.actor}: {overlay.reason}"


def _indent(block: str) -> str:
    return "\n".join(f"  {line}" for line in block.rstrip("\n").split("\n"))


@click.command()
@click.option("-f", "--filename", "files", multiple=True, required=True, help="File, directory, or - for stdin.")
@click.option("--dry-run", is_flag=True, help="Check everything, change nothing.")
@click.option("-o", "--output", type=click.Choice(["table", "json", "yaml", "name"]), default="table")
@pass_target
def apply(target: Target, files: tuple[str, ...], output: str, *, dry_run: bool) -> None:
    """Declare resources from YAML: all of them, or on any error none."""
    texts = read_manifests(files)

    async def go() -> None:
        async with target.control() as client:
            result = await client.apply(texts, dry_run=dry_run)
        for warning in shortened(map(str, result.warnings)):
            click.echo(f"warning: {warning}", err=True)
        if output in ("json", "yaml"):
            click.echo(dump(plain(result), output), nl=False)
            return
        for done in result.results:
            suffix = "" if output == "name" else f" {done.action}{' (dry run)' if dry_run else ''}"
            click.echo(f"{done.kind.lower()}/{done.name}{suffix}")

    run(go())


def shortened(warnings: Iterable[str]) -> list[str]:
    """Return at most `MOST_WARNINGS` of them, as people count (`svc-2` before `svc-10`), and how many more there are."""
    ordered = sorted(
        warnings,
        key=lambda one: [
            (part.isdigit(), int(part) if part.isdigit() else 0, part) for part in re.split(r"([0-9]+)", one)
        ],
    )
    more = len(ordered) - MOST_WARNINGS
    return [*ordered[:MOST_WARNINGS], f"and {more} more"] if more > 0 else ordered


@click.command()
@click.argument("kind", required=False)
@click.argument("names", nargs=-1)
@click.option("-f", "--filename", "files", multiple=True, help="Delete what these files declare.")
@click.option("--dry-run", is_flag=True, help="Say what would be deleted, delete nothing.")
@pass_target
def delete(target: Target, kind: str | None, names: tuple[str, ...], files: tuple[str, ...], *, dry_run: bool) -> None:
    """Delete declared resources or overlays: `delete vs catalog`, `delete overlay ov-…`, `delete -f FILE`."""
    wanted = list(_named(kind, names)) if kind else []
    if files:
        found = [(d.kind, d.name) for s, t in read_manifests(files).items() for d in _documents(s, t)]
        wanted += sorted(found, key=lambda each: _REFERRED_TO.get(each[0], 0))  # what refers to others goes first
    if not wanted:
        raise InvalidInput("delete: what?", hint="`fibrin delete KIND NAME` or `fibrin delete -f FILE`")

    async def go() -> None:
        async with target.control() as client:
            for what, name in wanted:
                if dry_run:
                    click.echo(f"{what.lower()}/{name} would be deleted (dry run)")
                    continue
                if what == "overlay":
                    await client.delete_overlay(name)
                elif what == "instance":
                    await client.deregister(name)
                else:
                    await client.delete_resource(what, name)
                click.echo(f"{what.lower()}/{name} deleted")

    run(go())


_REFERRED_TO: Final = {"DestinationRule": 2, "VirtualService": 1}
"""Kinds that others refer to, the last to go with the highest number."""


def _named(kind: str, names: Sequence[str]) -> Iterable[tuple[str, str]]:
    word, slash, name = kind.partition("/")
    what = find_kind(word)
    if what.name not in _DECLARED and what.name not in ("overlay", "instance"):
        raise InvalidInput(f"{what.name} cannot be deleted", hint=f"delete {', '.join(_DECLARED)} or overlay")
    for each in (name, *names) if slash else names:
        yield _DECLARED.get(what.name, what.name), each


def _documents(source: str, content: str) -> tuple[Document, ...]:
    return parse(source, content)


COMMANDS = (get, describe, apply, delete)
