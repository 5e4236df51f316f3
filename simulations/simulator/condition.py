"""How every part of the mesh is at this moment: what faults change, what load has piled up."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from simulations.simulator.layout import Bools, Floats, Layout
from simulations.simulator.mesh import Mesh

FULL_QUEUE = 4.0
"""Requests an instance lets wait, in multiples of its workers, before it turns more away."""

NEVER_BUSIER = 0.98

LOAD_S = 2.0
"""Load is smoothed over this long. The mean wait at a given load allows for chance already: from the counts of single ticks the
same chance would be felt twice, and a backlog of a moment would stay until the pools are worked out anew."""


@dataclass(slots=True)
class Condition:
    """Arrays of the moment.

    Per instance, shape (I,):
    `dead` (its process is gone: connections are refused), `slow` (factor on its own time, ≥ 1), `delay_s` (added to its own
    time), `errors` (0–1 of requests it fails by itself), `stuck` (0–1 of requests that never get an answer),
    `workers`, `backlog` (requests waiting), `rejects` (0–1 turned away), `wait_s` (before a worker is free),
    `busy_s` (how long a request holds a worker), `load` (requests per second, smoothed).

    Per call, shape (E,): `cut` (0–1 of connections on this edge that fail), `lag_s` (added on the way),
    `surge` (factor on how many of these calls are made).
    """

    dead: Bools
    slow: Floats
    delay_s: Floats
    errors: Floats
    stuck: Floats
    workers: Floats
    backlog: Floats
    rejects: Floats
    wait_s: Floats
    busy_s: Floats
    load: Floats
    cut: Floats
    lag_s: Floats
    surge: Floats


def usual_errors(mesh: Mesh, layout: Layout) -> Floats:
    """Return the share of requests (0–1) that each instance fails by itself on a good day, shape (I,)."""
    return np.asarray([nature.error_ratio for nature in mesh.natures])[layout.service_of]


def healthy(mesh: Mesh, layout: Layout) -> Condition:
    """Return the condition of a good day, before load is known (`workers` are sized by the plant)."""
    instances, calls = len(layout.instances), len(layout.caller)
    return Condition(
        dead=np.zeros(instances, dtype=bool),
        slow=np.ones(instances),
        delay_s=np.zeros(instances),
        errors=usual_errors(mesh, layout),
        stuck=np.zeros(instances),
        workers=np.full(instances, 1e9),
        backlog=np.zeros(instances),
        rejects=np.zeros(instances),
        wait_s=np.zeros(instances),
        busy_s=np.zeros(instances),
        load=np.zeros(instances),
        cut=np.zeros(calls),
        lag_s=np.zeros(calls),
        surge=np.ones(calls),
    )


def queue(now: Condition, arrived: Floats, together: Floats, seconds: float) -> None:
    """Let `arrived` requests per instance queue for `seconds`: backlog, waits and rejections of the moment after.

    While there are free workers the mean wait is that of an M/M/c queue (Sakasegawa 1977) whose workers are all those
    among which the balancer chooses (`together`): it sends requests to whom is less busy. Beyond, the backlog grows like a
    fluid and what does not fit into the queue is turned away.
    """
    keep = np.exp(-seconds / LOAD_S)
    now.load = keep * now.load + (1 - keep) * arrived / seconds
    coming = now.load * seconds
    served = now.workers * seconds / np.maximum(now.busy_s, 1e-6)
    waiting = np.maximum(0.0, now.backlog + coming - served)
    room = FULL_QUEUE * now.workers
    over = np.maximum(0.0, waiting - room)
    now.rejects = np.minimum(1.0, over / np.maximum(coming, 1e-9))
    now.backlog = np.minimum(waiting, room)
    busy = np.minimum(NEVER_BUSIER, now.load * now.busy_s / now.workers)
    queued = busy ** (np.sqrt(2 * (together + 1)) - 1) / (together * (1 - busy)) * now.busy_s
    now.wait_s = now.backlog * now.busy_s / now.workers + np.minimum(queued, now.busy_s)
