"""Which drills share a mesh, and how long one waits for what the one before it left."""

from __future__ import annotations

from simulations.busy import busy
from simulations.drills.loading import choose, library
from simulations.drills.suite import MOST, batches, cooling_s


def test_no_more_than_six_drills_share_a_mesh_and_only_alike_ones() -> None:
    """Every drill of the library is played once; each mesh is what all of its drills ask for, and some want their own."""
    groups = batches(library())
    assert sorted(d.name for group in groups for d in group) == [d.name for d in library()]
    assert max(map(len, groups)) == MOST
    for group in groups:
        assert len({d.spec.mesh.model_dump_json() for d in group}) == 1
        assert len(group) == 1 or not group[0].spec.mesh.fresh


def test_a_drill_waits_until_its_playbook_may_touch_the_service_again() -> None:
    """The cool-down of the playbook it expects counts, at the services it strikes; elsewhere nothing has to cool down."""
    instance, zone, kill = choose(library(), ("bad-instance", "slow-zone", "kill-instance"))
    assert cooling_s(instance, {"cart": 1000.0}, 1004.0) == 11.0
    assert cooling_s(zone, {"catalog": 1000.0, "cart": 1050.0}, 1004.0) == 56.0
    assert cooling_s(kill, {"cart": 1000.0}, 1004.0) == 11.0
    assert cooling_s(instance, {"catalog": 1000.0}, 1004.0) == 0.0
    assert cooling_s(instance, {"cart": 1000.0}, 1020.0) == 0.0


def test_a_busy_machine_is_told() -> None:
    """Only from one and a half runnable processes per processor on, and with the figure."""
    assert busy(2.9, 2) == ""
    assert busy(3.1, 2).startswith("this machine was busy (load average 3.1 on 2 processors)")
