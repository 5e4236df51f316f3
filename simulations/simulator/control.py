"""The control plane of the simulated mesh: the real books of overlays, fences and changes, the real interlocks and the real
effective policies, in virtual time and without sockets. It is an actuator, and passes the contract all actuators pass.
"""

from __future__ import annotations

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
from models.domain import ChangeKind, Edge, Health, Instance, Topology
from models.errors import NotFound
from models.overlay import Overlay, Owner
from models.policy import ServicePolicy

EPOCH_S: Final = 1_800_000_000.0
FENCE_S: Final = 300.0
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
    """Overlays over declared policies. `policies` are those in force; `moved` counts how often they changed.

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
        self._topology = Topology()
        self._topology_of = -1
        self.laid: list[Overlay] = []

    @property
    def token(self) -> int:
        """The agent's fencing token, always held here."""
        fence, _ = self.fences.acquire(HOLDER, FENCE_S)
        return fence.fence

    @property
    def floor(self) -> float:
        """The least share (0–1) of a service's instances that is left in service."""
        return self._settings.floor

    def lost(self) -> None:
        """There is one agent only: nobody can take the fence."""

    async def lay(self, order: Order) -> Overlay:
        """Lay an overlay; the same id again returns the one in force."""
        wanted = Wanted(
            order.id, order.change, order.reason, order.lease_s, Owner.AGENT, HOLDER, order.incident, order.fence
        )
        overlay = self.book.propose(wanted)
        if overlay is None:
            return self.book.get(order.id)
        members = tuple(self._instances.values())
        check(overlay, self._declared, self.book.all, members, floor=self._settings.floor)
        self.book.lay(overlay)
        self.laid.append(overlay)
        self._reconcile()
        return overlay

    async def renew(self, overlay: str, lease_s: float, fence: int) -> bool:
        """Prolong an overlay; False when it no longer exists."""
        try:
            self.book.renew(overlay, lease_s, owner=Owner.AGENT, fence=fence)
        except NotFound:
            return False
        return True

    async def remove(self, overlay: str, fence: int) -> bool:
        """Undo an overlay; False when it was gone already."""
        try:
            self.book.delete(overlay, owner=Owner.AGENT, fence=fence, actor=HOLDER)
        except NotFound:
            return False
        self._reconcile()
        return True

    async def overlays(self) -> tuple[Overlay, ...]:
        """Return every overlay that exists."""
        return self.book.all

    async def propagation(self, overlay: str) -> Propagation:
        """Everybody has everything at once: propagation takes milliseconds, a tick is longer."""
        del overlay
        return Propagation(len(self._instances), len(self._instances))

    def clear(self) -> None:
        """Remove every overlay, as a person does after a repair."""
        for overlay in self.book.all:
            self.book.delete(overlay.id, owner=Owner.PERSON, fence=0, actor="person")
        self._reconcile()

    def sweep(self) -> None:
        """End what has run out."""
        if self.book.sweep():
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

    def inform(self, view: MeshView) -> None:
        """Bring the agent's copy up to date (in the real mesh the agent follows by watch and poll)."""
        view.control_up = True
        view.overlays, view.overlays_at = self.book.all, self._clock.now
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
