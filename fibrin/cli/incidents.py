"""`incidents` and `explain`: what happened, what was found to be the cause, what was done, and did it help."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any, Final

import click

from agent.client import AgentClient
from agent.incidents import Incident, Step, Users, Weighed
from agent.objectives.view import ObjectiveView
from fibrin.cli.context import Target, pass_target
from fibrin.cli.output import Column, age, dump, plain, show, text
from fibrin.cli.playbook import find
from fibrin.cli.resources import output_option, run
from fibrin.cli.slo import sentence
from models.errors import InvalidInput
from playbooks.prose import explain as prose

_NAMED: Final = 3
"""Playbooks with the same reason that are named before the rest is only counted."""

FELT: Final = {
    Users.PENDING: "it will show in a moment how they are",
    Users.WELL: "feel nothing of it, so nobody was called in haste",
    Users.HURT: "feel it",
}

COLUMNS = (
    Column("NAME", lambda i: i["id"]),
    Column("STAGE", lambda i: i["stage"]),
    Column("CAUSE", lambda i: i["title"]),
    Column("PLAYBOOK", lambda i: i["playbook"]),
    Column("DETECTED", lambda i: _after(i["times"], "detected")),
    Column("ACTED", lambda i: _after(i["times"], "acted")),
    Column("RECOVERED", lambda i: _after(i["times"], "recovered")),
    Column("OVERLAYS", lambda i: ",".join(i["overlays"]), wide=True),
    Column("WAITING", lambda i: i["waiting"], wide=True),
    Column("AGE", lambda i: age(i["opened_at"])),
)


def _after(times: dict[str, float], name: str) -> str:
    """Render when something happened as seconds after the onset."""
    return f"{times[name] - times['onset']:.1f}s" if name in times and "onset" in times else ""


@click.command()
@click.argument("name", required=False)
@output_option
@click.option("--open", "only_open", is_flag=True, help="Only incidents that still move.")
@click.option("--limit", type=click.IntRange(min=1), default=50, show_default=True, help="Newest incidents.")
@click.option("-w", "--watch", is_flag=True, help="Then follow the story line by line.")
@pass_target
def incidents(target: Target, name: str | None, output: str, limit: int, *, only_open: bool, watch: bool) -> None:
    """List incidents, newest first; DETECTED, ACTED and RECOVERED count from the onset."""

    async def go() -> None:
        async with target.agent() as client:
            if name:
                found = await client.incident(name)
                click.echo(dump(plain(found), "json" if output == "json" else "yaml"), nl=False)
                return
            if stopped := (await client.status()).get("stopped"):
                click.echo(f"‼ the agent does not act: {stopped} (`fibrin resume-acting`)", err=True)
            rows = await client.incidents(limit)
            if only_open:
                rows = [r for r in rows if "closed" not in r["times"]]
            show(rows, COLUMNS, output, kind="incident", name=lambda i: str(i["id"]))
            if watch:
                await _follow(client)

    run(go())


async def _follow(client: AgentClient) -> None:
    since = 0
    for event in await client.events():
        since = event.sequence
    while True:
        for event in await client.events(since, wait_s=10.0):
            since = event.sequence
            click.echo(f"{_clock(event.at)}  {event.incident or '-':12}  {event.stage:10}  {event.message}")
        await asyncio.sleep(0)


@click.command()
@click.argument("what", nargs=-1, required=True, metavar="incident/ID | playbook NAME|FILE")
@click.option("-o", "--output", type=click.Choice(["table", "json", "yaml"]), default="table")
@pass_target
def explain(target: Target, what: tuple[str, ...], output: str) -> None:
    """Tell an incident's story (evidence, cause, playbook, action, result), or a playbook in prose."""
    kind, ident = _asked(what)
    if kind == "playbook":
        found = find(target, ident)
        said = found.playbook.model_dump(mode="json", by_alias=True)
        click.echo(prose(found.playbook, found.standing) if output == "table" else dump(said, output), nl=False)
        return

    async def go() -> None:
        async with target.agent() as client:
            incident = await client.incident(ident)
            promised = about(await client.objectives(), incident) if output == "table" else []
        if output == "table":
            click.echo("\n".join([*story(incident), *promised]))
        else:
            click.echo(dump(plain(incident), output), nl=False)

    run(go())


def _asked(what: tuple[str, ...]) -> tuple[str, str]:
    """Return kind and name from `incident/ID`, `playbook NAME`, `playbook/NAME` or a bare incident id."""
    kinds = {"incident": "incident", "incidents": "incident", "playbook": "playbook", "playbooks": "playbook"}
    kind, slash, name = what[0].partition("/")
    if len(what) == 1 and not slash:
        return "incident", what[0]
    ident = what[1] if len(what) == 2 else name  # noqa: PLR2004 - kind and name
    if kind not in kinds or len(what) > 2 or not ident:  # noqa: PLR2004
        raise InvalidInput(
            f"cannot explain a {kind}", hint="`fibrin explain incident/ID`, `fibrin explain playbook NAME`"
        )
    return kinds[kind], ident


def story(incident: Incident) -> list[str]:
    """Return the incident's story as lines for a terminal."""
    lines = [f"Incident {incident.id}: {incident.title}", f"Stage:     {incident.stage}"]
    if incident.waiting:
        lines.append(f"Waiting:   {incident.waiting}")
    if incident.users is not Users.UNKNOWN:
        lines.append(f"Users:     {FELT[incident.users]}")
    for order, by in (("Approved", incident.approved_by), ("Paused", incident.paused), ("Aborted", incident.aborted)):
        if by:
            lines.append(f"{order + ':':10} by {by}")
    lines += ["", "Evidence"]
    for anomaly in incident.anomalies[:8]:
        series = anomaly.series
        where = "→".join(part for part in (series.caller, series.callee) if part)
        which = " ".join(part for part in (series.version, series.instance) if part)
        change = f"{_unit(anomaly.signal, anomaly.expected)} → {_unit(anomaly.signal, anomaly.observed)}"
        numbers = f"{anomaly.requests} requests, evidence 10^{anomaly.score:.0f}"
        lines.append(f"  {anomaly.signal.value} of {where} {which}: {change} ({numbers})")
    lines += ["", "Cause"]
    for cause in incident.causes[:3]:
        lines.append(f"  {cause.probability:.0%}  {cause}")
        lines += [f"        {sentence}" for sentence in cause.evidence]
    lines += ["", f"Playbook   {text(incident.playbook)}{f' (mode {incident.mode})' if incident.mode else ''}"]
    lines += considered(incident.considered)
    lines += [f"  × {refusal}" for refusal in incident.refusals]
    lines += ["", "Action"]
    lines += [line for step in incident.steps for line in _step(step)] or ["  <none>"]
    lines += ["", "Story"]
    lines += [
        f"  {_clock(m.at)}  {m.at - incident.onset:+7.2f}s  {m.stage.value:10}  {m.message}" for m in incident.history
    ]
    return lines


def considered(choices: Iterable[Weighed]) -> list[str]:
    """Return a line for each reason, with the playbooks it stands for: the mesh's own limits speak of all of them."""
    reasons: dict[tuple[bool, str], list[str]] = {}
    for one in choices:
        reasons.setdefault((one.accepted, one.reason), []).append(one.playbook)
    return [f"  {'√' if accepted else '-'} {_names(names)}: {reason}" for (accepted, reason), names in reasons.items()]


def _names(names: Sequence[str]) -> str:
    if len(names) <= _NAMED:
        return ", ".join(names)
    return f"{len(names)} playbooks ({', '.join(names[:_NAMED])}, …)"


def about(objectives: Iterable[ObjectiveView], incident: Incident) -> list[str]:
    """Return lines about the objectives of the services that an incident hurts, as they stand now."""
    hurt = {anomaly.series.callee for anomaly in incident.anomalies}
    hurt |= {incident.cause.service} if incident.cause else set()
    lines = [f"  {sentence(one)}" for one in objectives if one.service in hurt]
    return ["", "Objectives (as they stand now)", *lines] if lines else []


def _step(step: Step) -> list[str]:
    if not step.acted_at:
        return [f"  {step.name}: not taken"]
    shares = f"{step.traffic_share:.0%} of its traffic, {step.capacity_share:.0%} of its capacity"
    lines = [f"  {step.name}: {step.change.kind}, overlay {step.overlay} ({shares})"]
    if step.acked_at:
        lines.append(f"        on the wire after {1000 * (step.acked_at - step.acted_at):.0f} ms ({step.propagation})")
    if step.verdict:
        numbers = ", ".join(f"{key} {value:.4g}" for key, value in sorted(step.numbers.items()))
        lines.append(f"        {step.verdict}: {numbers}")
    return lines


def _unit(signal: Any, value: float) -> str:
    match str(signal):
        case "errors" | "saturation":
            return f"{value:.1%}"
        case "latency":
            return f"{1000 * value:.0f} ms"
        case _:
            return f"{value:.1f}/s"


def _clock(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%H:%M:%S.%f")[:-3]


COMMANDS = (incidents, explain)
