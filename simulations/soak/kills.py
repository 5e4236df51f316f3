"""`python -m simulations.soak.kills`: `kill -9` of the agent's process at every line of its story, for every kind of action.

Each run has a control plane of its own. The killed process is followed by another one on the same state directory; the
outcome (stages, overlays in force, an audit log that verifies) has to be that of the run without a kill.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from agent.audit import verify
from control.client import ControlClient
from control.plane import serving
from control.settings import ControlSettings
from models.domain import Edge, Instance
from models.errors import Broken
from simulations.soak.victim import SERVICE

PATIENCE_S: Final = 90.0
HEARTBEAT_S: Final = 0.5

ACTIONS: Final[Mapping[str, str]] = {
    "shift-traffic": "shiftTraffic: {}",
    "eject-instance": "ejectInstance: {instance: catalog-v2-1}",
    "drain-instance": "drainInstance: {instance: catalog-v2-1}",
    "open-breaker": "openBreaker: {respond: failFast}",
    "set-retries": "setRetries: {attempts: 1}",
    "limit-connections": "limitConnections: {maxRequests: 10}",
    "set-outlier-detection": "setOutlierDetection: {consecutiveErrors: 3}",
    "set-timeout": "setTimeout: {timeout: 2s}",
    "adapt-concurrency": "adaptConcurrency: {}",
    "shed-load": "shedLoad: {percent: 10}",
}
"""One playbook action for each kind of overlay that an agent lays for an incident."""

USELESS: Final = "set-timeout"

_PLAYBOOK: Final = """
apiVersion: fibrin.dev/v1
kind: Playbook
metadata: {name: soak}
spec:
  when: {cause: [version], services: {all: true}, minProbability: 1%}
  mode: auto
  guard: {cooldown: 0s, strikes: 100, rate: {count: 100}, maxTrafficShare: 100%, minHealthyShare: 1%}
  steps:
"""
_STEP: Final = "  - {name: NAME, action: {ACTION}, verify: {deadline: 20s, services: [catalog]}, undo: automatic}\n"


@dataclass(frozen=True, slots=True)
class Case:
    """One way to heal: which steps, and which of them cures."""

    steps: tuple[str, ...]
    cure: str

    def __str__(self) -> str:
        """Render as `set-timeout → shift-traffic`."""
        return " → ".join(self.steps)

    def playbook(self) -> str:
        """Return it as a playbook."""
        steps = (_STEP.replace("NAME", kind).replace("ACTION", ACTIONS[kind]) for kind in self.steps)
        return _PLAYBOOK + "".join(steps)


@dataclass(frozen=True, slots=True)
class Outcome:
    """How it ended: the stages of all incidents, the kinds of overlays in force, what the audit log's proof found wrong."""

    stages: str
    overlays: tuple[str, ...]
    audit: str


def cases(kinds: Iterable[str] = ACTIONS) -> tuple[Case, ...]:
    """Return for each kind: it cures at once, and it cures after a step that did not help and was undone."""
    found = [Case((kind,), kind) for kind in kinds]
    return (*found, *(Case((USELESS, kind), kind) for kind in kinds if kind != USELESS))


async def run(case: Case, at: int = 0, patience_s: float = PATIENCE_S) -> tuple[Outcome, list[str]]:
    """Heal with a kill at line `at` of the story (0: none); return the outcome and the lines of the first process."""
    with tempfile.TemporaryDirectory(prefix="fb-") as folder:
        state = Path(folder)
        playbook = state / "soak.yaml"
        await asyncio.to_thread(playbook.write_text, case.playbook(), encoding="utf-8")
        async with _control(state):
            lines, ended = await _live(state, playbook, case, at, patience_s)
            if at:
                _, ended = await _live(state, playbook, case, 0, patience_s)
            async with ControlClient.from_state_dir(state, "operator") as client:
                kinds = tuple(sorted(overlay.change.kind for overlay in await client.overlays()))
        proof = await asyncio.to_thread(verify, state / "audit.log")
        return Outcome(ended, kinds, "" if proof.ok else str(proof)), lines


async def _live(state: Path, playbook: Path, case: Case, at: int, patience_s: float) -> tuple[list[str], str]:
    """Run one process until it ends or is killed at its line `at`; return its lines and its last word."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "simulations.soak.victim", str(state), str(playbook), case.cure),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    lines: list[str] = []
    try:
        async with asyncio.timeout(patience_s):
            while text := (await process.stdout.readline()).decode().strip():
                word, _, rest = text.partition(" ")
                if word == "end":
                    await process.wait()
                    return lines, rest
                lines.append(rest)
                if len(lines) == at:
                    process.kill()
                    await process.wait()
                    return lines, ""
                process.stdin.write(b"\n")
                await process.stdin.drain()
    except TimeoutError as error:
        raise Broken(
            f"{case}: not at rest in {patience_s:g} s; it said last: {lines[-1:]}", hint="see above"
        ) from error
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    raise Broken(
        f"{case}: the process ended by itself (code {process.returncode}) after {lines[-1:]}", hint="see above"
    )


@asynccontextmanager
async def _control(state: Path) -> AsyncIterator[None]:
    """Run a control plane that knows a front and a catalog of two versions."""
    async with serving(ControlSettings(state_dir=state, port=0)):
        instances = [Instance("front-1", "front", "v1", "z1", "127.9.1.1", 15006)]
        for version, count in (("v1", 3), ("v2", 2)):
            instances += [
                Instance(f"{SERVICE}-{version}-{n}", SERVICE, version, "z1", f"127.9.{version[1]}.{n + 10}", 15006)
                for n in range(count)
            ]
        async with ControlClient.from_state_dir(state, "agent") as agent:
            await agent.report_edges([Edge("front", SERVICE)])
        async with ControlClient.from_state_dir(state, "proxy") as proxy:
            for instance in instances:
                await proxy.register(instance)
                await proxy.heartbeat(instance.id)
            beating = asyncio.create_task(_beat(proxy, instances), name="heartbeats")
            try:
                yield
            finally:
                beating.cancel()
                await asyncio.wait({beating})


async def _beat(proxy: ControlClient, instances: Sequence[Instance]) -> None:
    while True:
        await asyncio.sleep(HEARTBEAT_S)
        for instance in instances:
            await proxy.heartbeat(instance.id)


async def matrix(chosen: Sequence[Case], every: int = 1, patience_s: float = PATIENCE_S) -> list[str]:
    """Kill at each `every`-th line of each case; return what came out otherwise than without a kill."""
    wrong: list[str] = []
    for case in chosen:
        wanted, lines = await run(case, 0, patience_s)
        if wanted.stages != "resolved" or wanted.overlays != (case.cure,) or wanted.audit:
            wrong.append(f"{case}: without a kill: {wanted}")
        for at in range(1, len(lines) + 1, every):
            found = await _killed(case, at, patience_s)
            told = "same" if found == wanted else f"WRONG: {found}, wanted {wanted}"
            print(f"{case}: killed at {at}/{len(lines)} ({lines[at - 1][:60]}): {told}", flush=True)
            if found != wanted:
                wrong.append(f"{case} killed at {at}: {found}, wanted {wanted}")
    return wrong


async def _killed(case: Case, at: int, patience_s: float) -> Outcome | Broken:
    """Return the outcome of a run with a kill, or why it had none: the matrix goes on."""
    try:
        found, _ = await run(case, at, patience_s)
    except Broken as error:
        return error
    return found


def main() -> None:
    """Run the matrix; exit code 1 when a kill changed an outcome."""
    parser = argparse.ArgumentParser(prog="simulations.soak.kills", description=__doc__)
    parser.add_argument("kinds", nargs="*", metavar="KIND", help=f"of {', '.join(ACTIONS)} [all]")
    parser.add_argument("--every", type=int, default=1, help="kill at every n-th line only")
    parser.add_argument("--patience", type=float, default=PATIENCE_S, help="seconds until a run counts as stuck")
    given = parser.parse_args()
    if unknown := set(given.kinds) - set(ACTIONS):
        parser.error(f"no kind {', '.join(sorted(unknown))}; there are {', '.join(ACTIONS)}")
    wrong = asyncio.run(matrix(cases(given.kinds or ACTIONS), given.every, given.patience))
    for line in wrong:
        print(line, file=sys.stderr)
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
