"""What each instance's answer takes at present, worked out from the leaves of the call graph upwards.

A request's own time is lognormal; the calls it makes at one stage run side by side, so it also waits for the slowest of each
stage. Failures of calls that are not optional fail it. Durations are kept as K equally likely values, failures as
probabilities, so that a rare error stays rare.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from simulations.simulator.condition import Condition
from simulations.simulator.layout import Floats, Ints, Layout, Level
from simulations.simulator.mesh import Mesh
from simulations.simulator.requests import BAD, Moment, Pools, send
from simulations.simulator.routing import Routing

VALUES = 128


@dataclass(frozen=True, slots=True)
class _Stage:
    """Calls of one level that are made at the same stage: positions in the level's `calls`, those of one caller side by side.

    `first` are the positions in `calls` at which the next of `services` (positions in the level's) begins.
    """

    calls: Ints
    first: Ints
    services: Ints


def _stages(layout: Layout, level: Level) -> list[_Stage]:
    found = []
    rows = np.searchsorted(level.services, layout.caller[level.calls])
    for stage in np.unique(layout.stage[level.calls]).tolist():
        here = np.flatnonzero(layout.stage[level.calls] == stage)
        here = here[np.argsort(rows[here], kind="stable")]
        services, first = np.unique(rows[here], return_index=True)
        found.append(_Stage(here, first, services))
    return found


class PoolMaker:
    """Refreshes the pools of a mesh. `pools` are the latest."""

    def __init__(self, mesh: Mesh, layout: Layout, random: np.random.Generator) -> None:
        self._layout = layout
        self._random = random
        self._median = np.asarray([n.median_s for n in mesh.natures])[layout.service_of]
        self._sigma = np.asarray([n.sigma for n in mesh.natures])[layout.service_of]
        count = len(layout.instances)
        self.pools = Pools(np.repeat(self._median[:, None], VALUES, axis=1), np.zeros(count))
        own = random.standard_normal((count, VALUES))
        self._own = np.exp(np.log(self._median)[:, None] + self._sigma[:, None] * own)
        self._stages = [_stages(layout, level) for level in layout.levels]

    def refresh(self, routing: Routing, now: Condition) -> None:
        """Work all pools out anew for the present routing and condition; notes how long requests hold a worker."""
        layout = self._layout
        own = self._own * now.slow[:, None] + now.delay_s[:, None]
        for level, stages in zip(layout.levels, self._stages, strict=True):
            wait, failed = self._callees(level, stages, routing, now)
            here = level.instances
            rows = np.searchsorted(level.services, layout.service_of[here])
            turned = self._random.integers(VALUES, size=(len(here), 1)) + np.arange(VALUES)
            spent = own[here] + wait[rows[:, None], turned % VALUES]
            now.busy_s[here] = spent.mean(axis=1)
            self.pools.seconds[here] = spent + now.wait_s[here, None]
            self.pools.errors[here] = 1 - (1 - now.errors[here]) * (1 - failed[rows])

    def _callees(
        self, level: Level, stages: Sequence[_Stage], routing: Routing, now: Condition
    ) -> tuple[Floats, Floats]:
        """Return (waiting for callees, shape (services, VALUES); share of requests they fail, shape (services,))."""
        layout, calls = self._layout, level.calls
        wait = np.zeros((len(level.services), VALUES))
        survive = np.zeros(len(level.services))
        if not len(calls):
            return wait, survive
        sent = np.repeat(calls, VALUES)
        got, _ = send(sent, Moment(layout, routing, now, self.pools), self._random)
        made = self._random.random(len(sent)) < np.minimum(1.0, layout.mean * now.surge)[sent]
        seconds = np.where(made, got.seconds * np.maximum(1.0, layout.mean)[sent], 0.0).reshape(len(calls), VALUES)
        for stage in stages:
            wait[stage.services] += np.maximum.reduceat(seconds[stage.calls], stage.first, axis=0)
        rows = np.searchsorted(level.services, layout.caller[calls])
        ratio = self._failing(calls, BAD[got.fate].reshape(len(calls), VALUES).mean(axis=1), routing, now)
        felt = np.where(layout.optional[calls], 0.0, np.minimum(1.0, layout.mean[calls]) * ratio)
        np.add.at(survive, rows, np.log1p(-np.minimum(felt, 1 - 1e-9)))
        return wait, 1 - np.exp(survive)

    def _failing(self, calls: np.ndarray, seen: Floats, routing: Routing, now: Condition) -> Floats:
        """Return the share of requests of each call that fail: sampled where it is large, by formula where it is rare."""
        layout = self._layout
        bad = 1 - (1 - self.pools.errors) * (1 - now.rejects) * (1 - now.stuck) * ~now.dead
        mean = np.add.reduceat(routing.share * bad, layout.first[:-1])
        rare = mean[layout.callee[calls]]
        first = 1 - (1 - rare) * (1 - now.cut[calls])
        retried = np.where(routing.retry_5xx[calls], first**2, first)
        rare = (1 - routing.broken[calls]) * (1 - (1 - retried) * (1 - routing.abort[calls]))
        return np.where(seen > 0.1, seen, np.minimum(rare, 0.15))  # noqa: PLR2004
