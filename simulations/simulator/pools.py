"""How long a request holds a worker of each instance, in the mean, worked out from the leaves of the call graph upwards.

Queues need that before anybody has queued: a mean over what the last few requests took would wander where few come. So every
instance answers with K equally likely durations, its own time and the slowest of the calls that a request makes at each
stage, drawn from the callees' values. Failures play no part but where they are retried. What requests really take, and how they end, is
`traces`' business.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from simulations.simulator.layout import Floats, Ints, Layout, Level
from simulations.simulator.requests import Answers, Moment, send

VALUES = 64

KEPT = 0.75
"""So much of the mean wait stays when it is drawn anew while nothing changes: chance in it would be felt as load."""


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


class Pools:
    """Refreshes `busy_s` of a mesh. `own` are its instances' own times (seconds), shape (I, at least VALUES)."""

    def __init__(self, own: Floats, layout: Layout, random: np.random.Generator) -> None:
        self._layout = layout
        self._random = random
        self._own = own[:, :VALUES]
        self._mean = own.mean(axis=1)
        self._seconds = self._own.copy()
        self._waited = np.zeros(len(layout.services))
        self._stages = [_stages(layout, level) for level in layout.levels]

    def refresh(self, here: Moment, *, fresh: bool) -> None:
        """Work out anew how long requests hold a worker, for the present routing and condition. `fresh`: something changed."""
        layout, now = self._layout, here.now
        for level, stages in zip(layout.levels, self._stages, strict=True):
            wait = self._wait(level, stages, here)
            at = level.instances
            rows = np.searchsorted(level.services, layout.service_of[at])
            turned = self._random.integers(VALUES, size=(len(at), 1)) + np.arange(VALUES)
            self._seconds[at] = self._own[at] * now.slow[at, None] + (now.delay_s + now.wait_s)[at, None]
            self._seconds[at] += wait[rows[:, None], turned % VALUES]
            kept = 0.0 if fresh else KEPT
            waited = self._waited[level.services] = kept * self._waited[level.services] + (1 - kept) * wait.mean(axis=1)
            now.busy_s[at] = self._mean[at] * now.slow[at] + now.delay_s[at] + waited[rows]

    def _wait(self, level: Level, stages: Sequence[_Stage], here: Moment) -> Floats:
        """Return how long requests of each service of a level wait for their calls, shape (services, VALUES)."""
        layout, calls = self._layout, level.calls
        wait = np.zeros((len(level.services), VALUES))
        if not len(calls):
            return wait
        sent = np.repeat(calls, VALUES)
        _, took, _ = send(sent, here, lambda instances: self._serve(instances, here), self._random)
        made = self._random.random(len(sent)) < np.minimum(1.0, layout.mean)[sent]
        seconds = np.where(made, took * np.maximum(1.0, layout.mean)[sent], 0.0).reshape(len(calls), VALUES)
        for stage in stages:
            wait[stage.services] += np.maximum.reduceat(seconds[stage.calls], stage.first, axis=0)
        return wait

    def _serve(self, instances: Ints, here: Moment) -> Answers:
        draw = self._random.random((2, len(instances)))
        seconds = self._seconds.ravel().take(instances * VALUES + (draw[0] * VALUES).astype(np.int64))
        return Answers(seconds, draw[1] < here.now.errors[instances], np.zeros(len(instances), dtype=np.int64), 0)
