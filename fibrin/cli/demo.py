"""`demo`: a running shop breaks three times and the mesh heals it."""

from __future__ import annotations

import asyncio
from pathlib import Path

import click

from simulations.demo import DemoOptions, run_demo


@click.command()
@click.option("--headless", is_flag=True, help="Plain lines instead of the live screen; exit 0 only if all healed.")
@click.option("--hold", is_flag=True, help="Keep the mesh up after the last breakage until Ctrl-C.")
@click.option("--seed", type=int, default=1, show_default=True, help="Seed of load and latencies.")
@click.option("--rate", type=click.FloatRange(1, 500), default=None, help="Users' requests per second.")
@click.option("-o", "--output", type=click.Choice(["table", "json"]), default="table", help="How the result is shown.")
@click.option("--keep-logs", type=click.Path(path_type=Path, file_okay=False), help="Keep state and logs there.")
@click.option(
    "--certify", type=click.Path(path_type=Path, dir_okay=False), help="Certify the playbooks used, into FILE."
)
def demo(
    seed: int,
    rate: float | None,
    output: str,
    keep_logs: Path | None,
    certify: Path | None,
    *,
    headless: bool,
    hold: bool,
) -> None:
    """Break a running shop three times and watch the mesh heal it."""
    options = DemoOptions(headless, hold, seed, rate, output, keep_logs, certify)
    raise SystemExit(asyncio.run(run_demo(options)))


COMMANDS = (demo,)
