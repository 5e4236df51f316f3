"""The `fibrin` command line, in kubectl's manners.

Exit codes: 0 ok, 1 failed, 2 usage or invalid input, 3 lint findings. Data goes to stdout, errors to stderr.

A verb's module is loaded when the verb is used: half of them need the agent, the planner or the simulator, which takes longer
than `fibrin get` itself.
"""

from __future__ import annotations

import asyncio
import importlib
import logging
import signal
import sys
from difflib import get_close_matches
from pathlib import Path
from types import FrameType
from typing import Any, Final, TextIO, cast

import click
import structlog
from prometheus_client import disable_created_metrics

from fibrin import settings
from fibrin.cli.context import Target
from fibrin.cli.output import report
from fibrin.logs import Sink
from models.errors import FibrinError, InvalidInput

VERBS: Final = {
    "processes": ("up", "down", "control", "agent", "proxy"),
    "resources": ("get", "describe", "apply", "delete"),
    "overlay": ("overlay",),
    "incidents": ("incidents", "explain"),
    "people": ("approve", "deny", "abort", "pause", "resume", "stop-acting", "resume-acting"),
    "canary": ("canary",),
    "slo": ("slo",),
    "audit": ("audit",),
    "check": ("check",),
    "playbook": ("playbook",),
    "demo": ("demo",),
    "drill": ("drill",),
    "simulate": ("simulate",),
}
"""Module of this package → the verbs in its `COMMANDS`, in the order in which help lists them."""


class Group(click.Group):
    """A click group that loads verbs on demand and turns Fibrin's errors into messages and exit codes."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return all verbs."""
        del ctx
        return [verb for verbs in VERBS.values() for verb in verbs]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return a verb, None when there is none of this name."""
        del ctx
        module = next((module for module, verbs in VERBS.items() if cmd_name in verbs), None)
        return None if module is None else load(module)[cmd_name]

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Return the verb; an unknown one is answered with a near one, as click does where all verbs are loaded."""
        known = self.list_commands(ctx)
        near = [] if args[0] in known else get_close_matches(args[0], known, n=1)
        if near:
            raise click.UsageError(f"No such command '{args[0]}'. Did you mean '{near[0]}'?", ctx)
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; an expected error is told, never a traceback."""
        try:
            return super().invoke(ctx)
        except FibrinError as error:
            report(error)
            ctx.exit(2 if isinstance(error, InvalidInput) else 1)


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.option("--state-dir", metavar="DIR", help="Where the mesh of this machine keeps its state [~/.fibrin].")
@click.option("--config", type=click.Path(path_type=Path, dir_okay=False), help="Settings file (YAML).")
@click.option("--log-level", type=click.Choice(["debug", "info", "warning", "error"]), default="info")
@click.version_option(package_name="fibrin", prog_name="fibrin")
@click.pass_context
def cli(ctx: click.Context, state_dir: str | None, config: Path | None, log_level: str) -> None:
    """Fibrin: a service mesh that heals itself."""
    env = settings.environment()
    ctx.obj = Target(settings.state_dir(state_dir, env), config, env)
    configure_logs(log_level)
    disable_created_metrics()  # type: ignore[no-untyped-call] # the text format has no place for them: each would be a gauge of its own


def configure_logs(level: str) -> None:
    """Send structured logs to stderr: readable on a terminal, JSON lines elsewhere."""
    terminal = sys.stderr.isatty()
    renderer: Any = structlog.dev.ConsoleRenderer() if terminal else structlog.processors.JSONRenderer()
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso"),
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, level.upper())),
        logger_factory=structlog.PrintLoggerFactory(file=cast("TextIO", Sink(sys.stderr))),
    )


def load(module: str) -> dict[str, click.Command]:
    """Return the verbs of one module of this package by name."""
    found: tuple[click.Command, ...] = importlib.import_module(f"fibrin.cli.{module}").COMMANDS
    return {command.name or "": command for command in found}


def main() -> None:
    """Run the command line; Ctrl-C ends it with 130 and SIGTERM with 143, as shells expect."""
    terminated: list[int] = []

    def terminate(number: int, frame: FrameType | None) -> None:
        """Do what Ctrl-C does at this moment: interrupt, or cancel the event loop's main task, so that all is put in order."""
        terminated.append(number)
        interrupt = signal.getsignal(signal.SIGINT)
        (interrupt if callable(interrupt) else signal.default_int_handler)(number, frame)

    signal.signal(signal.SIGTERM, terminate)
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        sys.exit(cli.main(standalone_mode=False))
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except asyncio.CancelledError:  # by a verb's own handler of SIGTERM; Ctrl-C comes as KeyboardInterrupt
        sys.exit(128 + signal.SIGTERM)
    except (KeyboardInterrupt, click.Abort):
        sys.exit(128 + (signal.SIGTERM if terminated else signal.SIGINT))
