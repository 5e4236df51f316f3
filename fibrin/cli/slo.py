"""`slo`: what services promise, what is left of their error budgets, and how fast those burn."""

from __future__ import annotations

from typing import Final

import click

from agent.objectives.view import BurnView, ObjectiveView
from fibrin.cli.context import Target, pass_target
from fibrin.cli.output import FORMATS, Column, age, dump, plain, show, text
from fibrin.cli.resources import output_option, run


def sentence(seen: ObjectiveView) -> str:
    """Return how an objective stands, in one line."""
    promise = f"{share(seen.target)} {signal(seen)} over {span(seen.window_s)}"
    if not seen.valid:
        return f"{seen.name}: {promise}; no requests yet"
    stands = f"{left(seen.remaining)} of its budget left, burning {seen.burn:.1f} times too fast"
    return f"{seen.name}: {promise}; {seen.state}, {share(seen.ratio)} good, {stands}"


def signal(seen: ObjectiveView) -> str:
    """Return what makes a request good: `availability`, or `latency<=180ms`."""
    if seen.signal != "latency":
        return seen.signal
    return f"latency<={1000 * seen.threshold_s:g}ms" if seen.threshold_s < 1 else f"latency<={seen.threshold_s:g}s"


def share(ratio: float) -> str:
    """Render a share near 1 with the digits that matter: `99.95%`."""
    return f"{100 * ratio:.6g}%"


def left(remaining: float) -> str:
    """Render what is left of a budget; overspent ones are negative."""
    return f"{100 * remaining:.1f}%"


def span(seconds: float) -> str:
    """Render a window: `30d`, `6h`, `5m`, `70s`."""
    for size, unit in ((86_400, "d"), (3600, "h"), (60, "m")):
        if seconds >= size and round(seconds) % size == 0:
            return f"{round(seconds) // size}{unit}"
    return f"{round(seconds)}s" if seconds < 3600 else f"{seconds / 3600:.1f}h"  # noqa: PLR2004 - an hour


_COLUMNS: Final = (
    Column("NAME", lambda o: o.name),
    Column("SERVICE", lambda o: o.service),
    Column("ROUTE", lambda o: o.route, wide=True),
    Column("SIGNAL", signal),
    Column("OBJECTIVE", lambda o: share(o.target)),
    Column("WINDOW", lambda o: span(o.window_s)),
    Column("GOOD", lambda o: share(o.ratio) if o.valid else ""),
    Column("BUDGET", lambda o: left(o.remaining) if o.valid else ""),
    Column("BURN", lambda o: f"{o.burn:.1f}x" if o.valid else ""),
    Column("STATE", lambda o: o.state),
    Column("ALERT", lambda o: o.alert, wide=True),
    Column("BLIND", lambda o: ",".join(o.blind), wide=True),
    Column("AGE", lambda o: age(o.created_at)),
)


@click.group()
def slo() -> None:
    """See objectives, their error budgets and burn rates. `fibrin apply` declares them."""


@slo.command("list")
@output_option
@pass_target
def list_objectives(target: Target, output: str) -> None:
    """List objectives: BUDGET is what is left of it, BURN how many times too fast it goes."""

    async def go() -> None:
        async with target.agent() as agent:
            found = await agent.objectives()
        show(found, _COLUMNS, output, kind="slo", name=lambda o: str(o.name))

    run(go())


@slo.command("describe")
@click.argument("name")
@click.option(
    "-o", "--output", type=click.Choice([f for f in FORMATS if f in ("table", "json", "yaml")]), default="table"
)
@pass_target
def describe(target: Target, name: str, output: str) -> None:
    """Show one objective with its burn rates over every window."""

    async def go() -> None:
        async with target.agent() as agent:
            found = await agent.objective(name)
        if output == "table":
            click.echo("\n".join(_story(found)))
        else:
            click.echo(dump(plain(found), output), nl=False)

    run(go())


def _story(seen: ObjectiveView) -> list[str]:
    where = f"{seen.service}, route {seen.route}" if seen.route else seen.service
    since = f", since {age(seen.alert_since)}" if seen.alert != "none" else ""
    seen_for = f"{span(seen.seen_s)} of {span(seen.window_s)}"
    lines = [
        f"Name:      {seen.name}",
        f"Service:   {where}",
        f"Objective: {share(seen.target)} {signal(seen)} over {span(seen.window_s)}",
        f"State:     {seen.state}",
        f"Requests:  {seen.good} good of {seen.valid} valid ({share(seen.ratio)}), counted for {seen_for}",
        f"Budget:    {left(seen.remaining)} left" if seen.valid else "Budget:    untouched",
        f"Alert:     {text(seen.alert)}{since}",
        f"Blind:     {text(', '.join(seen.blind))}",
        "Burn rates (times too fast; an alert wants both windows at its rate):",
    ]
    return (
        [*lines, *(f"  {_burn(burn)}" for burn in seen.burns)]
        if seen.burns
        else [*lines, "  <none>: the window is short"]
    )


def _burn(burn: BurnView) -> str:
    windows = f"{span(burn.long_s)} {burn.long:.2f}, {span(burn.short_s)} {burn.short:.2f}"
    return f"{burn.level} at {burn.factor:g}: {windows}{', holds' if burn.holds else ''}"


COMMANDS: Final = (slo,)
