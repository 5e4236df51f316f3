"""`simulate`: random incidents on random meshes in virtual time, healed by the agent's own code, and scored."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click

from models.errors import InvalidInput
from simulations.outputs import file
from simulations.simulator.compare import compare, table
from simulations.simulator.mixture import CLASSES, MIXES, Mixture, named
from simulations.simulator.picture import picture
from simulations.simulator.report import story, text
from simulations.simulator.runner import Campaign, replay, run
from simulations.simulator.score import score


@click.command()
@click.option("--incidents", type=click.IntRange(1, 100_000), default=100, show_default=True, help="How many to play.")
@click.option("--services", type=click.IntRange(5, 10_000), default=200, show_default=True, help="Services per mesh.")
@click.option("--seed", type=click.IntRange(0, 2**31), default=1, show_default=True, help="Equal seeds, equal results.")
@click.option("--jobs", type=click.IntRange(0, 256), default=0, help="Processes at once [as many as processors].")
@click.option(
    "--mix",
    metavar="CLASS=SHARE,…",
    default="",
    help=f"Which faults, how often: a mix by its name ({', '.join(MIXES)}), or shares of {', '.join(CLASSES)}.",
)
@click.option(
    "--quiet-hours",
    type=click.FloatRange(0, 100_000),
    default=0.0,
    help="Hours of healthy meshes to watch besides, to count false actions.",
)
@click.option("--worst", type=click.IntRange(0, 1000), default=5, show_default=True, help="Show this many worst cases.")
@click.option("--replay", "name", metavar="NAME", help="Play one incident again, by its name in the worst cases.")
@click.option(
    "--compare",
    "per_class",
    type=click.IntRange(1, 1000),
    help="Play this many incidents of every class in the mix beside outlier detection, canary analysis and alert rules; a table.",
)
@click.option(
    "--picture", "drawn", metavar="FILE", type=click.Path(path_type=Path), help="Draw the result into this SVG file."
)
@click.option("-o", "--output", type=click.Choice(["table", "json"]), default="table", help="How the result is shown.")
def simulate(
    incidents: int,
    services: int,
    seed: int,
    jobs: int,
    mix: str,
    quiet_hours: float,
    worst: int,
    name: str | None,
    per_class: int | None,
    drawn: Path | None,
    output: str,
) -> None:
    """Play random incidents on simulated meshes and score how the agent heals them."""
    mixture = _mixture(mix)
    if drawn is not None and (name is not None or per_class is not None):
        raise InvalidInput(
            "--picture draws a campaign, not one incident or a comparison", hint="leave --replay and --compare out"
        )
    file(drawn)
    if name is not None:
        click.echo(story(replay(name, services, mixture)))
        return
    if per_class is not None:
        kinds = [kind for kind, share in mixture.shares.items() if share > 0]
        click.echo(table(compare(services, seed, per_class, kinds, _progress)))
        return
    played, quiet = run(Campaign(incidents, services, seed, jobs, mixture, quiet_hours), _progress)
    result = score(played, quiet)
    if drawn is not None:
        drawn.write_text(picture(result, played), encoding="utf-8")
    if output == "json":
        click.echo(json.dumps(result.figures(), ensure_ascii=False))
    else:
        click.echo(text(result, played, worst))


def _progress(done: int, of: int) -> None:
    if sys.stderr.isatty():
        click.echo(f"\r{done} of {of} incidents", err=True, nl=done == of)


def _mixture(mix: str) -> Mixture:
    """Read `class=share,class=share`; raises InvalidInput saying what is wrong."""
    if (found := named(mix or "default")) is not None:
        return found
    shares: dict[str, float] = {}
    for part in mix.split(","):
        name, _, value = part.partition("=")
        try:
            shares[name.strip()] = float(value)
        except ValueError as error:
            raise InvalidInput(
                f"--mix: `{part}` is not CLASS=SHARE", hint="for instance version-errors=2,surge=1"
            ) from error
    return Mixture(shares)


COMMANDS = (simulate,)
