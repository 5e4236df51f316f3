"""The registry in virtual time: who is healthy, who is lost, and when we doubt our own ears."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import pytest

from control.changes import ChangeLog
from control.registry import Registry
from control.settings import ControlSettings
from control.store import Drop, Put, Trim, Write
from models.domain import ChangeKind, Health, Instance
from models.errors import NotFound
from models.plain import Json

Make = Callable[..., Instance]


class Clock(Protocol):
    """The virtual clock."""

    def monotonic(self) -> float: ...
    def wall(self) -> float: ...
    def pass_(self, seconds: float) -> None: ...


@dataclass
class Mesh:
    """A registry, time, and what it stored."""

    clock: Clock
    settings: ControlSettings = field(default_factory=lambda: ControlSettings(Path("/nowhere")))

    def __post_init__(self) -> None:
        self.changes = ChangeLog(self.clock, keep=100)
        self.registry = Registry(self.clock, self.changes, self.settings)
        self.rows: dict[str, dict[str, dict[str, Json]]] = {}

    def keep(self, writes: Iterable[Write]) -> None:
        """Apply writes as the store would."""
        for write in writes:
            table = self.rows.setdefault(write.table, {})
            match write:
                case Put(key=key, body=body):
                    table[key] = dict(body)
                case Drop(key=key):
                    del table[key]
                case Trim():
                    pass

    def join(self, *instances: Instance) -> None:
        """Register instances, each with a first healthy heartbeat."""
        for instance in instances:
            self.keep(self.registry.register(instance))
            self.keep(self.registry.heartbeat(instance.id, healthy=True)[1])

    def live(self, seconds: float, *, beating: Iterable[str]) -> None:
        """Let time pass in sweeps; `beating` send heartbeats."""
        names = tuple(beating)
        for _ in range(round(seconds * 10)):
            self.clock.pass_(0.1)
            for name in names:
                self.keep(self.registry.heartbeat(name, healthy=True)[1])
            self.keep(self.registry.sweep())

    def health(self) -> dict[str, str]:
        """Return the health of each."""
        return {i.id: i.health.value for i in self.registry.instances}


@pytest.fixture
def mesh(clock: Clock) -> Mesh:
    """An empty mesh in virtual time."""
    return Mesh(clock)


def test_an_instance_serves_from_its_first_healthy_heartbeat(mesh: Mesh, make: Make) -> None:
    """Registered is not ready: requests come when the sidecar says so."""
    mesh.registry.register(make("a"))
    assert mesh.health() == {"a": "unhealthy"}
    mesh.registry.heartbeat("a", healthy=False, detail="Envoy is not serving yet")
    assert mesh.health() == {"a": "unhealthy"}
    mesh.registry.heartbeat("a", healthy=True)
    assert mesh.health() == {"a": "healthy"}
    assert [event.kind for event in mesh.changes.since(0).changes] == [ChangeKind.DEPLOY]


def test_the_silent_one_is_lost_and_comes_back(mesh: Mesh, make: Make) -> None:
    """Five seconds of silence lose an instance, one heartbeat brings it back, and both are change events."""
    mesh.join(make("a"), make("b"), make("c"))
    mesh.live(4.5, beating="ab")
    assert mesh.health()["c"] == "healthy"
    mesh.live(1.0, beating="ab")
    assert mesh.health() == {"a": "healthy", "b": "healthy", "c": "lost"}
    mesh.live(0.1, beating="abc")
    assert mesh.health()["c"] == "healthy"
    kinds = [event.kind for event in mesh.changes.since(0).changes]
    assert kinds == [ChangeKind.DEPLOY, ChangeKind.SCALE, ChangeKind.SCALE, ChangeKind.HEALTH, ChangeKind.HEALTH]


def test_most_silent_at_once_are_kept(mesh: Mesh, make: Make) -> None:
    """When more than half fall silent we suspect ourselves and give nobody up, not even over several windows."""
    mesh.join(*(make(name) for name in "abcde"))
    mesh.live(30.0, beating="ab")
    assert set(mesh.health().values()) == {"healthy"}


def test_losses_in_pieces_count_together(mesh: Mesh, make: Make) -> None:
    """Two lost one after the other within the window make the third doubtful."""
    mesh.join(*(make(name) for name in "abcde"))
    mesh.live(1.0, beating="abcd")
    mesh.live(1.0, beating="abc")
    mesh.live(8.0, beating="ab")
    assert sorted(mesh.health().values()) == ["healthy", "healthy", "healthy", "lost", "lost"]


def test_our_own_sleep_is_nobodys_silence(mesh: Mesh, make: Make) -> None:
    """A control plane that was stopped for a minute loses nobody for it."""
    mesh.join(make("a"), make("b"), make("c"))
    mesh.live(1.0, beating="abc")
    mesh.clock.pass_(60.0)
    mesh.live(1.0, beating="a")
    assert set(mesh.health().values()) == {"healthy"}


def test_draining_stays_until_it_registers_again(mesh: Mesh, make: Make) -> None:
    """A heartbeat does not undo a drain; a new registration does, once it is well."""
    mesh.join(make("a"))
    mesh.registry.drain("a")
    mesh.registry.heartbeat("a", healthy=True)
    assert mesh.health() == {"a": "draining"}
    mesh.registry.register(make("a"))
    mesh.registry.heartbeat("a", healthy=True)
    assert mesh.health() == {"a": "healthy"}


def test_registering_a_healthy_instance_again_changes_nothing(mesh: Mesh, make: Make) -> None:
    """A sidecar that registers again after we forgot nothing does not flap."""
    mesh.join(make("a"))
    assert mesh.registry.register(make("a")) == ()
    assert mesh.health() == {"a": "healthy"}


def test_restored_instances_have_a_grace_period(mesh: Mesh, make: Make) -> None:
    """After a restart everything is as it was; who is not heard within the grace period is lost."""
    mesh.join(make("a"), make("b"), make("c"))
    mesh.live(6.0, beating="ab")
    before = mesh.registry.instances
    again = Mesh(mesh.clock)
    again.registry.restore(mesh.rows["instances"], mesh.rows["versions"])
    assert again.registry.instances == before
    again.live(9.5, beating="a")
    assert again.health()["b"] == "healthy"
    again.join(make("d"))
    again.live(1.0, beating="ad")
    assert again.health() == {"a": "healthy", "b": "lost", "c": "lost", "d": "healthy"}
    assert ChangeKind.DEPLOY not in [event.kind for event in again.changes.since(0).changes]


def test_the_long_lost_are_forgotten(mesh: Mesh, make: Make) -> None:
    """An instance that does not come back disappears, and says so as a scale event."""
    mesh.join(make("a"), make("b"), make("c"))
    mesh.live(620.0, beating="ab")
    assert list(mesh.health()) == ["a", "b"]
    assert "c" not in mesh.rows["instances"]
    assert mesh.changes.since(0).changes[-1].kind is ChangeKind.SCALE


def test_unknown_instances_are_told_to_register(mesh: Mesh) -> None:
    """A heartbeat of somebody unknown says what to do."""
    with pytest.raises(NotFound, match="no instance `x`") as caught:
        mesh.registry.heartbeat("x", healthy=True)
    assert "register" in caught.value.hint


def test_health_in_a_restored_row_is_an_enum(mesh: Mesh, make: Make) -> None:
    """What comes back from JSON is of the domain's types."""
    mesh.join(make("a"))
    again = Mesh(mesh.clock)
    again.registry.restore(mesh.rows["instances"], ())
    assert again.registry.instances[0].health is Health.HEALTHY
