"""What the agent knows of the mesh right now: topology, recent changes, overlays, whether the control plane answers.

A plain state holder: `following.py` fills it from the control plane, the loop reads it. The loop never waits for it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Final

import numpy as np

from models.domain import ChangeEvent, Edge, Instance, Topology
from models.frame import Frame, Memo
from models.overlay import Overlay
from models.signals import Counts, Saturation, Series, Side

CHANGES_S: Final = 1800.0
MET_MOST: Final = 200_000

ABSENT_S: Final = 1.0
"""A control plane that did not answer for this long was away; less is one slow answer."""

RETURN_S: Final = 3.0
"""After an absence sidecars reconnect and renew what ran out, certificates above all: measured, 2 s for all of them."""


class MeshView:
    """The agent's copy of the mesh. `known` tells whether a topology has ever arrived."""

    def __init__(self) -> None:
        self._declared = Topology()
        self._seen: set[Edge] = set()
        self._merged = Topology()
        self._services: frozenset[str] = frozenset()
        self._met: set[Series] = set()  # whose edges are in `_merged`
        self._memo = Memo()
        self._by_endpoint: dict[str, Instance] = {}
        self._changes: deque[ChangeEvent] = deque(maxlen=2000)
        self.overlays: tuple[Overlay, ...] = ()
        self.known = False
        self.control_up = False
        self.told_down = False
        self.away_since = 0.0  # Unix s, while `told_down`
        self.fresh_from = 0.0  # Unix s: what was seen before may be the absence's own doing
        self.overlays_at = 0.0  # when the request that gave `overlays` was sent, Unix s

    @property
    def topology(self) -> Topology:
        """Return the control plane's topology with the edges that telemetry has shown added."""
        return self._merged

    @property
    def services(self) -> frozenset[str]:
        """Return the names of all registered services."""
        return self._services

    def set_topology(self, topology: Topology) -> None:
        """Take a new topology from the control plane."""
        self.known = True
        if topology == self._declared:
            return
        self._declared = topology
        self._services = frozenset(instance.service for instance in topology.instances)
        self._met.clear()  # an edge may have been known by declaration only
        self._memo.forget()
        self._merge()

    def answers(self, now: float) -> None:
        """Note that the control plane answers; after an absence the mesh is given time to recover from that."""
        if self.told_down and now - self.away_since >= ABSENT_S:
            self.fresh_from = now + RETURN_S
        self.control_up, self.told_down = True, False

    def silent(self, now: float) -> None:
        """Note that the control plane does not answer."""
        self.away_since = self.away_since if self.told_down else now
        self.control_up, self.told_down = False, True

    def rewind(self, now: float) -> None:
        """Let no time lie ahead: the clock went back."""
        self.away_since, self.overlays_at = min(self.away_since, now), min(self.overlays_at, now)
        self.fresh_from = min(self.fresh_from, now)

    def stale(self, seen_at: float, now: float) -> str:
        """Return why a fault last seen at `seen_at` (Unix s) may be an absence's own doing, "" when it is none."""
        if now < self.fresh_from:
            return "the control plane has just come back: what its absence did may pass by itself"
        return "" if seen_at >= self.fresh_from else "not seen again since the control plane is back"

    def see(self, frame: Frame) -> frozenset[Edge]:
        """Learn edges from telemetry; return those not known before."""
        new: list[frozenset[Edge]] = []

        def meet(names: Sequence[Series]) -> Counts:
            new.append(self._meet(names))
            return np.zeros(len(names), dtype=np.int64)

        self._memo.of(frame, meet)
        return new[0] if new else frozenset()

    def _meet(self, series: Sequence[Series]) -> frozenset[Edge]:
        unmet = set(series) - self._met
        if not unmet:
            return frozenset()
        if len(self._met) > MET_MOST:
            self._met.clear()
            self._memo.forget()
        self._met.update(unmet)
        new = {
            Edge(one.caller, one.callee)
            for one in unmet
            if one.side is not Side.SERVER and one.caller and one.callee and one.caller != one.callee
        } - self._merged.edges
        if new:
            self._seen |= new
            self._merge()
        return frozenset(new)

    @property
    def seen(self) -> frozenset[Edge]:
        """Return the edges that telemetry has shown."""
        return frozenset(self._seen)

    def resolve(self, endpoint: str) -> Instance | None:
        """Return the instance behind `ip:port` as a sidecar reports it, or None."""
        return self._by_endpoint.get(endpoint)

    def add_changes(self, changes: Iterable[ChangeEvent]) -> None:
        """Take change events, oldest first; those already known are ignored."""
        last = self._changes[-1].sequence if self._changes else 0
        self._changes.extend(change for change in changes if change.sequence > last)

    def changes(self, now: float) -> tuple[ChangeEvent, ...]:
        """Return the changes of the last half hour, oldest first."""
        return tuple(change for change in self._changes if change.at >= now - CHANGES_S)

    def changes_since(self, sequence: int) -> tuple[ChangeEvent, ...]:
        """Return the changes after `sequence`, oldest first; all of them when the control plane began a new count."""
        last = self._changes[-1].sequence if self._changes else sequence
        if last == sequence:
            return ()
        return tuple(change for change in self._changes if change.sequence > sequence or last < sequence)

    def forget_changes(self) -> None:
        """Start over (the control plane began a new count)."""
        self._changes.clear()

    def _merge(self) -> None:
        self._merged = replace(self._declared, edges=self._declared.edges | self._seen)
        self._by_endpoint = {instance.endpoint: instance for instance in self._declared.instances}


def fullness(saturation: Iterable[Saturation], topology: Topology) -> Mapping[str, float]:
    """Return each service's requests in flight as a share of its instances' declared limits; without a limit, nothing."""
    service = {instance.id: instance.service for instance in topology.instances}
    active: dict[str, float] = {}
    limit: dict[str, float] = {}
    for found in saturation:
        name = service.get(found.instance)
        if name is not None and found.limit > 0:
            active[name] = active.get(name, 0.0) + found.active
            limit[name] = limit.get(name, 0.0) + found.limit
    return {name: active[name] / limit[name] for name in sorted(limit)}
