"""What `fibrin demo` calls: the whole demo, from nothing to an exit code."""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

from rich.console import Console

from agent.audit import verify
from models.errors import Broken, FibrinError
from playbooks import library
from playbooks.certificates import Certificate, digest, dumps
from simulations import outputs
from simulations.cluster import Cluster, Options
from simulations.demo import report
from simulations.demo.account import Result
from simulations.demo.breakages import BREAKAGES
from simulations.demo.hold import hold as hold_up
from simulations.demo.options import DEFAULT_RATE, DemoOptions
from simulations.demo.scenario import Scenario
from simulations.demo.screen import Screen
from simulations.demo.story import Display, PlainLines, State, Story
from simulations.demo.watch import DemoWatch
from simulations.scratch import scratch
from simulations.stopping import cancel_on_sigterm

_FILE_WIDTH = 170  # of the table where there is no terminal to ask
_SOCKETS = ("*.sock", "*.fault")


async def run_demo(options: DemoOptions) -> int:
    """Play the demo and return its exit code: 0 only if everything healed, by the right cause, with nobody innocent hit.

    With `-o json` the object is all of stdout and the story goes to stderr. SIGINT and SIGTERM stop it in order.

    Raises:
        Broken: a process did not start or ended by itself; nothing is left running.
        InvalidInput: what is to be kept cannot be written where it was asked for; nothing was started.
    """
    outputs.folder(options.keep_logs)
    outputs.file(options.certify)
    cancel_on_sigterm()
    machine = options.output == "json"
    console = Console(stderr=machine)
    if not console.is_terminal:
        console.width = _FILE_WIDTH
    state = State()
    plain = options.headless or machine or not console.is_terminal
    try:
        results, audit_ok = await _shown(console, state, options, plain=plain)
    except asyncio.CancelledError:
        if state.results:
            _tell(console, options, state.results, audit_ok=False)
        raise
    if not (plain and options.hold):  # there it was told before the mesh was held
        _tell(console, options, results, audit_ok=audit_ok)
    return report.exit_code(results, len(BREAKAGES), audit_ok=audit_ok)


async def _shown(
    console: Console, state: State, options: DemoOptions, *, plain: bool
) -> tuple[tuple[Result, ...], bool]:
    """Play on a cluster of its own, and show it; leave nothing behind but what an error names."""
    last = partial(print, file=sys.stderr)
    async with scratch(last) as folder, _display(console, state, plain=plain) as display:
        story = Story(state, display)
        cluster = Cluster(
            Options(
                folder.path,
                seed=options.seed,
                rate=options.rate or DEFAULT_RATE,
                certified_only=options.certify is None,  # who stands trial acts alone to earn it
            ),
            lambda text: story.tell("demo", text),
        )
        before_hold = partial(_tell, console, options) if plain else None
        try:
            return await _play(cluster, story, hold=options.hold, before_hold=before_hold)
        finally:
            if options.keep_logs is not None:
                await asyncio.to_thread(_keep, cluster.state_dir, options.keep_logs)


def _tell(console: Console, options: DemoOptions, results: Sequence[Result], *, audit_ok: bool) -> None:
    """Show the results, complete or as far as the demo came, and write the certificates that were earned."""
    if options.certify is not None:
        _certify(options.certify, results)
    if options.output == "json":
        print(report.as_json(results, audit_ok=audit_ok), flush=True)
    else:
        console.print(report.as_table(results))
        console.print(f"audit log: {'every record verified' if audit_ok else 'not verified'}")
    for line in report.shortfalls(results, os.getloadavg()[0], os.cpu_count() or 1):
        console.print(line, markup=False, highlight=False, soft_wrap=True)


async def _play(
    cluster: Cluster, story: Story, *, hold: bool, before_hold: Callable[..., None] | None
) -> tuple[tuple[Result, ...], bool]:
    async with cluster:
        watch = DemoWatch(cluster, story)
        async with watch.following():
            story.phase(f"everything runs: {len(cluster.processes.pids())} processes, state in {cluster.state_dir}")
            scenario = Scenario(cluster, watch, story)
            played = await scenario.with_agent()
            results = await scenario.without_agent(played)
            audit_ok = await _audit(cluster, story)
            if hold:
                if before_hold is not None:
                    before_hold(results, audit_ok=audit_ok)
                await hold_up(cluster, watch, story)
    return results, audit_ok


async def _audit(cluster: Cluster, story: Story) -> bool:
    """Verify the audit log; one that is missing or unreadable does not verify."""
    try:
        found = await asyncio.to_thread(verify, cluster.state_dir / "audit.log")
    except (FibrinError, OSError) as error:
        story.tell("audit", f"the audit log cannot be verified: {error}")
        return False
    story.tell("audit", f"{found.records} records, chain unbroken" if found.ok else f"broken: {found.message}")
    return found.ok and found.records > 0


@asynccontextmanager
async def _display(console: Console, state: State, *, plain: bool) -> AsyncIterator[Display]:
    if plain:
        yield PlainLines(console, state.began)
        return
    screen = Screen(console, state)
    async with screen.shown():
        yield screen


def _certify(target: Path, results: Sequence[Result]) -> None:
    """Write a certificate for each playbook that healed its breakage, by the right cause, with nobody innocent hit."""
    known = {playbook.name: playbook for playbook in library()}
    passed = [r for r in results if r.healed and r.cause_right and not r.innocent_hit and r.playbook in known]
    certificates = [
        Certificate(
            r.playbook, digest(book), book.drill, round(time.time()), round(r.detected_s, 3), round(r.mitigated_s, 3)
        )
        for r in passed
        if (book := known[r.playbook]).drill and r.detected_s is not None and r.mitigated_s is not None
    ]
    try:
        target.write_text(dumps(certificates), encoding="utf-8")
    except OSError as error:
        raise Broken(
            f"the certificates cannot be written to {target}: {error.strerror}", hint="is there room?"
        ) from error


def _keep(state_dir: Path, target: Path) -> None:
    try:
        shutil.copytree(
            state_dir, target, dirs_exist_ok=True, ignore=shutil.ignore_patterns(*_SOCKETS, "ca", "*.token")
        )
    except OSError as error:  # also what copytree gathers
        raise Broken(f"state and logs cannot be kept in {target}: {error}", hint="is there room?") from error
