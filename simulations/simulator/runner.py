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
from multiprocessing import get_context
from typing import Final

import structlog

from models.errors import InvalidInput
from simulations.simulator.campaign import PER_MESH, Plan, Played, Quiet, play
from simulations.simulator.mixture import DEFAULT, Mixture
from simulations.simulator.score import total

NAME_PARTS: Final = 3


@dataclass(frozen=True, slots=True)
class Campaign:
    """What `fibrin simulate` was asked for. `jobs` 0: as many as there are processors."""

    incidents: int
    services: int
    seed: int
    jobs: int = 0
    mixture: Mixture = DEFAULT


def run(
    campaign: Campaign, progress: Callable[[int, int], None] = lambda _done, _of: None
) -> tuple[tuple[Played, ...], Quiet]:
    """Play all incidents; `progress` hears how many of how many are done."""
    meshes = math.ceil(campaign.incidents / PER_MESH)
    sizes = [min(PER_MESH, campaign.incidents - k * PER_MESH) for k in range(meshes)]
    plan = Plan(campaign.services, campaign.seed, PER_MESH, campaign.mixture)
    jobs = min(meshes, campaign.jobs or len(os.sched_getaffinity(0)))
    results: dict[int, tuple[list[Played], Quiet]] = {}
    if jobs == 1:
        for k, size in enumerate(sizes):
            results[k] = _play(replace(plan, incidents=size), k)
            progress(sum(len(found) for found, _ in results.values()), campaign.incidents)
    else:
        with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
            waiting = {pool.submit(_play, replace(plan, incidents=size), k): k for k, size in enumerate(sizes)}
            for done in as_completed(waiting):
                results[waiting[done]] = done.result()
                progress(sum(len(found) for found, _ in results.values()), campaign.incidents)
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


@contextmanager
def hushed() -> Iterator[None]:
    """Keep the agent's logs back: they tell its story, and here the account is the story."""
    before = structlog.get_config()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    try:
        yield
    finally:
        structlog.configure(**before)
