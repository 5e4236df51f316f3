"""`canary`: watch and steer the canaries that the agent drives."""

from __future__ import annotations

from typing import Final

import click

from agent.canaries.record import CanaryView, Command
from fibrin.cli.context import Target, pass_target
from fibrin.cli.output import Column, age, show
from fibrin.cli.resources import output_option, run

_COLUMNS: Final = (
    Column("NAME", lambda c: c.name),
    Column("SERVICE", lambda c: c.service),
    Column("CANARY", lambda c: c.canary),
    Column("STABLE", lambda c: c.stable),
    Column("STEP", lambda c: f"{c.step}/{c.steps}"),
    Column("WEIGHT", lambda c: f"{c.weight}%"),
    Column("OF", lambda c: c.what, wide=True),
    Column("STATE", lambda c: f"{c.state} (paused)" if c.paused else c.state),
    Column("VERDICT", lambda c: c.verdict),
    Column("REASON", lambda c: c.holding or c.reason, wide=True),
    Column("AGE", lambda c: age(c.since)),
)


@click.group()
def canary() -> None:
    """Watch and steer canaries. `fibrin apply` declares them."""


@canary.command("list")
@output_option
@pass_target
def list_canaries(target: Target, output: str) -> None:
    """List canaries."""

    async def go() -> None:
        async with target.agent() as agent:
            found = await agent.canaries()
        show(found, _COLUMNS, output, kind="canary", name=lambda c: str(c.name))

    run(go())


@canary.command("describe")
@click.argument("name")
@pass_target
def describe(target: Target, name: str) -> None:
    """Show one canary with the numbers behind its verdict."""

    async def go() -> None:
        async with target.agent() as agent:
            click.echo(_story(await agent.canary(name)))

    run(go())


def _tell(name: str, command: Command, target: Target) -> None:
    async def go() -> None:
        async with target.agent() as agent:
            seen = await agent.tell_canary(name, command)
        paused = f", paused by {seen.paused}" if seen.paused else ""
        click.echo(f"canary/{seen.name} {seen.state}, {seen.canary} has {seen.weight} % of {seen.what}{paused}")

    run(go())


@canary.command("pause")
@click.argument("name")
@pass_target
def pause(target: Target, name: str) -> None:
    """Keep the weights as they are: no further step. A proven fault still rolls back."""
    _tell(name, Command.PAUSE, target)


@canary.command("resume")
@click.argument("name")
@pass_target
def resume(target: Target, name: str) -> None:
    """Go on after a pause."""
    _tell(name, Command.RESUME, target)


@canary.command("promote")
@click.argument("name")
@click.option("--full", is_flag=True, help="Give the canary all traffic now.")
@pass_target
def promote(target: Target, name: str, *, full: bool) -> None:
    """Approve the step that waits, or take the next step now."""
    _tell(name, Command.PROMOTE_FULLY if full else Command.PROMOTE, target)


@canary.command("abort")
@click.argument("name")
@pass_target
def abort(target: Target, name: str) -> None:
    """Give the stable version all traffic now."""
    _tell(name, Command.ABORT, target)


def _story(seen: CanaryView) -> str:
    lines = [
        f"Name:      {seen.name}",
        f"Service:   {seen.service}: {seen.canary} to replace {seen.stable}",
        f"State:     {seen.state}, step {seen.step} of {seen.steps}, {seen.weight} % of {seen.what} for {age(seen.since)}",
        f"Verdict:   {seen.verdict}",
        f"Reason:    {seen.reason or '<none>'}",
        f"Holding:   {seen.holding or '<none>'}",
        f"Paused:    {seen.paused or '<none>'}",
        f"Requests:  {seen.requests} to {seen.canary}, {seen.stable_requests} to {seen.stable} in this step",
        f"Evidence:  {seen.against_nats:.1f} against it, rolled back at {seen.rollback_nats:.1f}",
        "Signals:",
    ]
    for name, numbers in seen.signals.items():
        canary, stable = numbers.get("canary"), numbers.get("stable")
        lines.append(f"  {name}: {seen.canary} {_number(name, canary)}, {seen.stable} {_number(name, stable)}")
    return "\n".join(lines)


def _number(signal: str, value: float | None) -> str:
    if value is None:
        return "unknown"
    match signal:
        case "latency":
            return f"{1000 * value:.3g} ms"
        case "ejections":
            return f"{value:.0f}"
        case _:
            return f"{value:.2%}"


COMMANDS: Final = (canary,)
