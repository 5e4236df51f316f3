"""Many drills, few meshes: drills that can share one run on it one after the other.

A mesh is left after `MOST` drills, after one that deviated or in which the agent took a step back (it is more timid then), and
for a drill that wants its own; a drill waits until what the agent touched in the one before may be touched again. So one
drill's strikes, cool-downs and leftovers never decide another's.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from models.errors import Broken
from models.overlay import target
from playbooks import library as shipped_playbooks
from playbooks.units import span
from simulations.drills.injections import place
from simulations.drills.loading import SHOP
from simulations.drills.real import Ordered, RealMesh, running
from simulations.drills.runner import Runner
from simulations.drills.schema import Drill, Entry
from simulations.drills.seen import Seen
from simulations.drills.strikes.choice import named, relayed
from simulations.drills.verdict import Verdict

MOST: Final = 6


@dataclass(frozen=True, slots=True)
class Wishes:
    """How drills are run. `recordings`: where telemetry is kept, None for nowhere."""

    seed: int = 1
    recordings: Path | None = None
    playbooks: tuple[str, ...] = ()
    stop_files: tuple[Path, ...] = ()
    settings: Mapping[str, object] = field(default_factory=dict)


def batches(drills: Iterable[Drill]) -> tuple[tuple[Drill, ...], ...]:
    """Return drills in groups that may share a mesh, in the order given as far as that allows."""
    groups: dict[object, list[list[Drill]]] = {}
    order: list[list[Drill]] = []
    for number, drill in enumerate(drills):
        mesh = drill.spec.mesh
        alone = number if mesh.fresh else -1
        key = (alone, mesh.rate, mesh.warm_up, tuple(sorted(mesh.control.items())), tuple(sorted(mesh.agent.items())))
        found = groups.setdefault(key, [])
        if not found or len(found[-1]) >= MOST:
            found.append([])
            order.append(found[-1])
        found[-1].append(drill)
    return tuple(tuple(batch) for batch in order)


def ordered(batch: Sequence[Drill], wishes: Wishes) -> Ordered:
    """Return the mesh that a batch needs."""
    mesh = batch[0].spec.mesh
    entries = [entry for drill in batch for entry in drill.spec.faults]
    agent: dict[str, object] = {**wishes.settings, **mesh.agent}
    if wishes.playbooks:
        agent["playbooks"] = list(wishes.playbooks)
    return Ordered(
        rate=mesh.rate,
        settings={"control": dict(mesh.control), "agent": agent},
        relayed=relayed(entries, SHOP),
        named=named(entries, SHOP),
        tapped=wishes.recordings is not None or any(entry.inject.telemetry for entry in entries),
        seed=wishes.seed,
        stop_files=wishes.stop_files,
    )


async def play(
    drills: Iterable[Drill], wishes: Wishes, tell: Callable[[str, str], None]
) -> AsyncGenerator[Verdict, None]:
    """Play drills and yield the verdict of each as it is over. `tell` hears what happens: (kind, words).

    Raises:
        Broken: a mesh did not come up, or fell; what was started is stopped.
    """
    for batch in batches(drills):
        waiting = list(batch)
        while waiting:
            async with aclosing(_on_one_mesh(waiting, wishes, tell)) as played:
                async for verdict in played:
                    yield verdict


async def _on_one_mesh(
    waiting: list[Drill], wishes: Wishes, tell: Callable[[str, str], None]
) -> AsyncGenerator[Verdict, None]:
    """Play what waits, for as long as the mesh is good for another one."""
    async with AsyncExitStack() as stack:
        mesh = await stack.enter_async_context(running(ordered(waiting, wishes), lambda text: tell("mesh", text)))
        runner = Runner(mesh, tell)
        warm_up_s = waiting[0].spec.mesh.warm_up
        tell("mesh", f"everything runs, state in {mesh.cluster.state_dir}; {span(warm_up_s)} to learn what is normal")
        await runner.rest(warm_up_s)
        touched: dict[str, float] = {}
        while waiting:
            drill = waiting.pop(0)
            await runner.rest(cooling_s(drill, touched, time.time()))
            seen = await _one(drill, mesh, runner, wishes, tell)
            verdict = Verdict(seen)
            if not verdict.passed:
                mesh.kept = f"drill {drill.name}"
            yield verdict
            if not verdict.passed or _undone(seen):
                return
            for step in (s for i in seen.incidents for s in i.steps if s.acted_at):
                service = target(step.change)
                touched[service] = max(step.acted_at, touched.get(service, 0.0))


def cooling_s(drill: Drill, touched: Mapping[str, float], now: float) -> float:
    """Return how long the playbook that a drill expects has to wait at the services that were `touched` (Unix s), seconds.

    A drill that expects none waits as for `bad-instance`, which is what most others would get.
    """
    books = {book.name: book for book in shipped_playbooks()}
    book = books.get(drill.spec.expect.playbook, books["bad-instance"])
    struck = {service for entry in drill.spec.faults for service in _services(entry)}
    at = max((moment for service, moment in touched.items() if service in struck), default=0.0)
    return max(0.0, at + book.spec.guard.cooldown - now)


def _services(entry: Entry) -> set[str]:
    where = place(entry.inject.fault)
    return {instance.service for instance in where.struck(SHOP)} if where is not None else set()


def _undone(seen: Seen) -> bool:
    """Tell whether the agent took a step back: it is more timid for a while then, and the next drill would see that."""
    return any(step.acted_at and step.verdict != "recovered" for i in seen.incidents for step in i.steps)


async def _one(drill: Drill, mesh: RealMesh, runner: Runner, wishes: Wishes, tell: Callable[[str, str], None]) -> Seen:
    tell("drill", drill.name)
    if wishes.recordings is not None and mesh.tap is not None:
        mesh.tap.record()
    try:
        return await runner.play(drill)
    finally:
        if wishes.recordings is not None and mesh.tap is not None:
            place = wishes.recordings / f"{drill.name}.telemetry.gz"
            try:
                wishes.recordings.mkdir(parents=True, exist_ok=True)
                count = mesh.tap.save(place)
            except OSError as error:
                raise Broken(
                    f"the telemetry cannot be kept in {place}: {error.strerror}", hint="is there room?"
                ) from error
            tell("recorded", f"{count} reports in {place}")
