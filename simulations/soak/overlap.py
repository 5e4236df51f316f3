"""`python -m simulations.soak.overlap`: ten minutes of a real shop in which five faults overlap.

Each fault is repaired by a person minutes after it began. Held at the end: every incident is healed, over, or in a person's
hands; nothing was done to an innocent; users are as well as before; the audit log verifies and every decision in it
comes out the same when it is made again.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from agent.audit import verify
from agent.client import AgentClient
from agent.incidents import Incident, Step
from agent.replay import decisions, replay
from models.errors import FibrinError
from simulations import faults
from simulations.cluster import Cluster, Options
from simulations.faults import DependencyDown, Fault, SlowInstance, VersionErrors, hits_innocent
from simulations.journal import Record, Tail
from simulations.scratch import scratch

CALM_S: Final = 60.0
"""Before the first fault, and after the last repair: what users are used to, and whether they have it again."""

WORSE: Final = 0.01
"""How much larger the share of spoiled requests may be afterwards."""

SETTLE_S: Final = 20.0


@dataclass(frozen=True, slots=True)
class Trouble:
    """A fault from second `begins` to second `ends` of the run."""

    begins: float
    ends: float
    fault: Fault


SCHEDULE: Final = (
    Trouble(60, 330, VersionErrors("catalog", "v2", 0.2)),
    Trouble(90, 360, SlowInstance("cart-v1-2", 10.0)),
    Trouble(150, 390, DependencyDown("recommendation")),
    Trouble(240, 450, SlowInstance("checkout-v1-1", 10.0)),
    Trouble(300, 480, SlowInstance("catalog-v1-1", 10.0)),
)
LENGTH_S: Final = 600.0


@dataclass(frozen=True, slots=True)
class _Run:
    """A schedule that began at `began` (Unix s) and passes `speed` times faster."""

    schedule: Sequence[Trouble]
    began: float
    speed: float

    def at(self, second: float) -> float:
        """Return when a second of the schedule is, Unix s."""
        return self.began + second / self.speed

    def innocent(self, step: Step) -> bool:
        """Tell whether a step was taken on what was not at fault then, or shortly before."""
        guilty = [t.fault for t in self.schedule if self.at(t.begins) <= step.acted_at <= self.at(t.ends) + SETTLE_S]
        return bool(step.acted_at) and all(hits_innocent(fault, step.change) for fault in guilty)


@dataclass(frozen=True, slots=True)
class Findings:
    """What is left to say: incidents by stage, what became of each, and everything that is not as it should be."""

    stages: Mapping[str, int]
    told: tuple[str, ...]
    before: float
    after: float
    decisions: int
    wrong: tuple[str, ...]


async def play(schedule: Sequence[Trouble] = SCHEDULE, length_s: float = LENGTH_S, speed: float = 1.0) -> Findings:
    """Play the schedule (`speed` times faster) and look at what it left."""
    async with scratch(lambda text: print(text, file=sys.stderr)) as folder:
        cluster = Cluster(Options(folder.path), tell=lambda text: print(text, flush=True))
        async with cluster, AgentClient.from_state_dir(cluster.state_dir) as agent:
            tail = await cluster.start_users()
            run = _Run(schedule, time.time(), speed)
            await _faults(cluster, run)
            await asyncio.sleep(max(0.0, run.at(length_s) - time.time()))
            await asyncio.to_thread(tail.read)
            incidents = await _incidents(agent)
        found = await asyncio.to_thread(_findings, cluster.state_dir, run, incidents, tail)
        folder.kept = "what was not as it should be" if found.wrong else ""
        return found


async def _faults(cluster: Cluster, run: _Run) -> None:
    moments = [(t.begins, True, t) for t in run.schedule] + [(t.ends, False, t) for t in run.schedule]
    for at, begins, trouble in sorted(moments, key=lambda m: m[:2]):
        await asyncio.sleep(max(0.0, run.at(at) - time.time()))
        print(f"{time.time() - run.began:6.1f} s  {'breaks' if begins else 'repaired'}: {trouble.fault}", flush=True)
        await (faults.apply if begins else faults.undo)(trouble.fault, cluster)


async def _incidents(agent: AgentClient) -> list[Incident]:
    """Return every incident once it is at rest, or as it stands after a while."""
    deadline = time.monotonic() + SETTLE_S
    while True:
        rows = await agent.incidents(1000)
        found = [await agent.incident(str(row["id"])) for row in rows]
        if not any(_moves(incident) for incident in found) or time.monotonic() > deadline:
            return found
        await asyncio.sleep(0.5)


def _moves(incident: Incident) -> bool:
    """Tell whether neither the incident is over nor a person was told of it."""
    return incident.is_open and not incident.waiting


def _findings(state: Path, run: _Run, incidents: Sequence[Incident], tail: Tail) -> Findings:
    wrong = [f"{i.id} ({i.title}) is left {i.stage}" for i in incidents if _moves(i)]
    wrong += [f"{i.id} touched an innocent: {s.change}" for i in incidents for s in i.steps if run.innocent(s)]
    calm = tail.window(run.at(10.0), run.at(min(t.begins for t in run.schedule)))
    later = tail.window(run.at(max(t.ends for t in run.schedule) + CALM_S / 2), time.time())
    before, after = _spoiled(calm), _spoiled(later)
    story = [f"{i.id} {i.title}: {i.stage}, {i.playbook or 'no playbook'}: {i.history[-1].message}" for i in incidents]
    story += [f"requests {when}: {_kinds(found)}" for when, found in (("before", calm), ("after", later))]
    if after > before + WORSE:
        wrong.append(f"users are worse off afterwards: {after:.2%} spoiled, {before:.2%} before")
    path = state / "audit.log"
    proof = verify(path)
    if not proof.ok:
        wrong.append(f"the audit log does not verify: {proof}")
    numbers = decisions(path)
    wrong += [f"decision {number}: {told}" for number in numbers if (told := _replayed(path, number))]
    return Findings(Counter(str(i.stage) for i in incidents), tuple(story), before, after, len(numbers), tuple(wrong))


def _spoiled(records: Sequence[Record]) -> float:
    bad = sum(r.status == 0 or r.status >= 500 or r.missed for r in records)  # noqa: PLR2004 - server errors
    return bad / len(records) if records else 0.0


def _kinds(records: Sequence[Record]) -> str:
    """Return how many requests there were of each status, and how many missed their deadline."""
    found = Counter(f"{r.status or 'no answer'}{' late' if r.missed else ''}" for r in records)
    return ", ".join(f"{count} {kind}" for kind, count in sorted(found.items()))


def _replayed(path: Path, number: int) -> str:
    try:
        return "; ".join(replay(path, number).differences)
    except FibrinError as error:
        return error.message


def main() -> None:
    """Play, tell, and exit with 1 when anything was not as it should be."""
    found = asyncio.run(play())
    print(f"incidents: {dict(found.stages)}; spoiled requests {found.before:.2%} before, {found.after:.2%} after")
    for line in found.told:
        print(line)
    print(f"audit log verified, {found.decisions} decisions made again" if not found.wrong else "not as it should be:")
    for line in found.wrong:
        print(line, file=sys.stderr)
    sys.exit(1 if found.wrong else 0)


if __name__ == "__main__":
    main()
