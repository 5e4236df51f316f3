"""Runs a campaign on all processors: each mesh is a job of its own, and the result does not depend on how many run at once."""

from __future__ import annotations

import asyncio
import logging
import math
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing import get_context
from typing import Final

import structlog

from models.errors import InvalidInput
from simulations.simulator.campaign import PER_MESH, Plan, Played, Quiet, play, watch
from simulations.simulator.mixture import DEFAULT, Mixture
from simulations.simulator.score import total

NAME_PARTS: Final = 3
HOUR_S: Final = 3600.0


@dataclass(frozen=True, slots=True)
class Campaign:
    """What `fibrin simulate` was asked for. `jobs` 0: as many as there are processors; `quiet_hours` are watched besides the
    incidents, on meshes of their own, an hour on each.
    """

    incidents: int
    services: int
    seed: int
    jobs: int = 0
    mixture: Mixture = DEFAULT
    quiet_hours: float = 0.0


def run(
    campaign: Campaign, progress: Callable[[int, int], None] = lambda _done, _of: None
) -> tuple[tuple[Played, ...], Quiet]:
    """Play all incidents; `progress` hears how many of how many are done."""
    meshes = math.ceil(campaign.incidents / PER_MESH)
    plan = Plan(campaign.services, campaign.seed, PER_MESH, campaign.mixture)
    work: list[Callable[[], tuple[list[Played], Quiet]]] = [
        partial(_play, replace(plan, incidents=min(PER_MESH, campaign.incidents - k * PER_MESH)), k)
        for k in range(meshes)
    ]
    left = campaign.quiet_hours
    while left > 0:
        work.append(partial(_watch, plan, len(work), HOUR_S * min(1.0, left)))
        left -= 1.0
    jobs = min(len(work), campaign.jobs or len(os.sched_getaffinity(0)))
    results: dict[int, tuple[list[Played], Quiet]] = {}

    def done(k: int, result: tuple[list[Played], Quiet]) -> None:
        results[k] = result
        progress(sum(len(found) for found, _ in results.values()), campaign.incidents)

    if jobs == 1:
        for k, job in enumerate(work):
            done(k, job())
    else:
        with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
            waiting = {pool.submit(job): k for k, job in enumerate(work)}
            for future in as_completed(waiting):
                done(waiting[future], future.result())
    ordered = [results[k] for k in sorted(results)]
    return tuple(p for found, _ in ordered for p in found), total(quiet for _, quiet in ordered)


def replay(name: str, services: int, mixture: Mixture) -> Played:
    """Play one incident again by its name (`seed/mesh/number`).

    Raises:
        InvalidInput: that is no name of an incident.
    """
    parts = name.split("/")
    if len(parts) != NAME_PARTS or not all(part.isdigit() for part in parts):
        raise InvalidInput(
            f"`{name}` names no incident", hint="names look like 1/0/17, as the table of worst cases shows"
        )
    seed, mesh, number = map(int, parts)
    plan = Plan(services, seed, number + 1, mixture)
    found, _ = _play(plan, mesh, only=number)
    return found[0]


def _play(plan: Plan, mesh: int, only: int | None = None) -> tuple[list[Played], Quiet]:
    with hushed():
        return asyncio.run(play(plan, mesh, only=only))


def _watch(plan: Plan, mesh: int, seconds: float) -> tuple[list[Played], Quiet]:
    with hushed():
        return [], asyncio.run(watch(plan, mesh, seconds))


@contextmanager
def hushed() -> Iterator[None]:
    """Keep the agent's logs back: they tell its story, and here the account is the story."""
    before = structlog.get_config()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    try:
        yield
    finally:
        structlog.configure(**before)
