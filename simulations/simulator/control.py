"""The control plane of the simulated mesh: the real books of overlays, fences and changes, the real interlocks and the real
effective policies, in virtual time and without sockets. It is an actuator, and passes the contract all actuators pass.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final

from agent.actuators.base import Order, Propagation
from agent.mesh import MeshView
from control.changes import ChangeLog
from control.effective import effective
from control.fencing import Fences
from control.interlocks import check
from control.overlays import OverlayBook, Wanted
from control.settings import ControlSettings
from control.topology import topology_of
from control.wire import Fence
from models.domain import ChangeKind, Edge, Health, Instance, Topology
from models.errors import NotFound, Unavailable
from models.overlay import Overlay, Owner
from models.policy import ServicePolicy

EPOCH_S: Final = 1_800_000_000.0
HOLDER: Final = "agent"


class VirtualClock:
    """Time that only moves when told to. Unix seconds; callable, as the agent wants it."""

    def __init__(self) -> None:
        self.now = EPOCH_S

    def __call__(self) -> float:
        """Return Unix time."""
        return self.now

    def wall(self) -> float:
        """Return Unix time."""
        return self.now

    def monotonic(self) -> float:
        """Return a time that only moves forward."""
        return self.now


class SimulatedControl:
    """Overlays over declared policies. `policies` are those wanted; `moved` counts how often they changed.

    `away`: it answers nobody. `refusing`: sidecars refuse what it sends. `late_s`: how long changes are under way. `flaky`: of four calls one
    is not done, and one is done and its answer lost.

    Args:
        clock: virtual time.
        declared: what people declared, by service.
        instances: everything that is registered.
        edges: who may call whom.
    """

    def __init__(
        self,
        clock: VirtualClock,
        declared: Mapping[str, ServicePolicy],
        instances: tuple[Instance, ...],
        edges: frozenset[Edge],
    ) -> None:
        self._clock = clock
        self._declared = dict(declared)
        self._instances = {instance.id: instance for instance in instances}
        self._edges = edges
        self._settings = ControlSettings(state_dir=Path("/nonexistent"))
        self.changes = ChangeLog(clock, keep=self._settings.keep_changes)
        self.fences = Fences(clock)
        self.book = OverlayBook(clock, self.changes, self.fences, self._settings)
        self.policies: Mapping[str, ServicePolicy] = dict(declared)
        self.moved = 0
        self.away = self.refusing = self.flaky = False
        self.late_s = 0.0
        self._calls = 0
        self._under_way: deque[tuple[float, Mapping[str, ServicePolicy]]] = deque([(clock.now, self.policies)])
        self._laid_at: dict[str, float] = {}
        self._topology = Topology()
        self._topology_of = -1
        self.laid: list[Overlay] = []

    @property
    def floor(self) -> float:
        """The least share (0–1) of a service's instances that is left in service."""
        return self._settings.floor

    async def acquire_fence(self, holder: str, ttl_s: float) -> Fence:
        """Give out the fence."""
        if self.away:
            raise _unavailable()
        return self.fences.acquire(holder, ttl_s)[0]

    async def lay(self, order: Order) -> Overlay:
        """Lay an overlay; the same id again returns the one in force."""
        lost = self._answers()
        wanted = Wanted(
            order.id, order.change, order.reason, order.lease_s, Owner.AGENT, HOLDER, order.incident, order.fence
        )
        overlay = self.book.propose(wanted)
        if overlay is not None:
            members = tuple(self._instances.values())
            check(overlay, self._declared, self.book.all, members, floor=self._settings.floor)
            self.book.lay(overlay)
            self.laid.append(overlay)
            self._laid_at[order.id] = self._clock.now
            self._reconcile()
        if lost:
            raise _unavailable()
        return overlay or self.book.get(order.id)

    async def renew(self, overlay: str, lease_s: float, fence: int) -> bool:
        """Prolong an overlay; False when it no longer exists."""
        lost = self._answers()
        try:
            self.book.renew(overlay, lease_s, owner=Owner.AGENT, fence=fence)
        except NotFound:
            return False
        if lost:
            raise _unavailable()
        return True

    async def remove(self, overlay: str, fence: int) -> bool:
        """Undo an overlay; False when it was gone already."""
        lost = self._answers()
        try:
            self.book.delete(overlay, owner=Owner.AGENT, fence=fence, actor=HOLDER)
        except NotFound:
            return False
        self._reconcile()
        if lost:
            raise _unavailable()
        return True

    async def overlays(self) -> tuple[Overlay, ...]:
        """Return every overlay that exists."""
        if self._answers():
            raise _unavailable()
        return self.book.all

    async def propagation(self, overlay: str) -> Propagation:
        """Return who has an overlay: mostly everybody at once, since propagation takes milliseconds and a tick is longer."""
        if self._answers():
            raise _unavailable()
        everybody = len(self._instances)
        if self.refusing:
            return Propagation(everybody, 0, everybody)
        there = self._clock.now - self._laid_at.get(overlay, 0.0) >= self.late_s
        return Propagation(everybody, everybody if there else 0)

    def delivered(self) -> Mapping[str, ServicePolicy] | None:
        """Return the policies that sidecars put in force now, None when nothing new has come."""
        newest = None
        while self._under_way and self._arrives(self._under_way[0][0]):
            newest = self._under_way.popleft()[1]
        return newest

    def clear(self) -> None:
        """Remove every overlay, as a person does after a repair."""
        for overlay in self.book.all:
            self.book.delete(overlay.id, owner=Owner.PERSON, fence=0, actor="person")
        self._reconcile()

    def sweep(self) -> None:
        """End what has run out."""
        if not self.away and self.book.sweep():
            self._reconcile()

    def health(self, instance: str, *, healthy: bool) -> None:
        """Take what active health checking found."""
        before = self._instances[instance]
        after = replace(before, health=Health.HEALTHY if healthy else Health.UNHEALTHY)
        self._instances[instance] = after
        self.changes.add(
            ChangeKind.HEALTH,
            f"Instance/{instance}",
            service=after.service,
            version=after.version,
            actor="probe",
            message=f"{instance} is {after.health}",
        )
        self._reconcile()

    def tell(self, kind: ChangeKind, service: str, version: str, message: str) -> None:
        """Note a change that people made."""
        self.changes.add(kind, f"Service/{service}", service=service, version=version, actor="person", message=message)

    def inform(self, view: MeshView, now: float) -> None:
        """Bring the agent's copy up to date at `now` by its clock (in the real mesh the agent follows by watch and poll)."""
        if self.away:
            if view.control_up or not view.told_down:
                view.silent(now)
            return
        if not view.control_up:
            view.answers(now)
        view.overlays, view.overlays_at = self.book.all, now
        view.add_changes(self.changes.since(0).changes)
        if self._topology_of != self.moved:  # nothing else changes it
            self._topology_of = self.moved
            self._topology = topology_of(self.policies, tuple(self._instances.values()), self._edges)
        view.set_topology(self._topology)

    def _reconcile(self) -> None:
        self.policies = effective(
            self._declared, self.book.all, tuple(self._instances.values()), floor=self._settings.floor
        ).policies
        self.moved += 1
        if self.refusing:  # whoever refuses gets the newest state, and no other, when he takes one again
            self._under_way.clear()
        self._under_way.append((self._clock.now, self.policies))

    def _arrives(self, sent_at: float) -> bool:
        return not (self.away or self.refusing) and sent_at + self.late_s <= self._clock.now

    def _answers(self) -> bool:
        """Count a call; return whether its answer gets lost.

        Raises:
            Unavailable: the call is not done.
        """
        self._calls += 1
        if self.away or (self.flaky and self._calls % 4 == 1):
            raise _unavailable()
        return self.flaky and self._calls % 4 == 3  # noqa: PLR2004


def _unavailable() -> Unavailable:
    return Unavailable("the control plane does not answer", hint="it is asked again")
