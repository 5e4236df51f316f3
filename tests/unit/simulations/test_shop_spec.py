"""The shop's table is whole: what the issue asks of the application, and a graph without loose ends."""

from __future__ import annotations

import pytest

from simulations.shop import spec


def test_shop_is_big_enough_to_be_a_mesh() -> None:
    """The shop has at least nine services, two zones, three instances of one and two versions of another."""
    assert len(spec.SERVICES) >= 9
    assert {p.zone for p in spec.PLACEMENTS} == {"zone-a", "zone-b"}
    assert len([p for p in spec.PLACEMENTS if p.service == "cart"]) == 3
    assert {p.version for p in spec.PLACEMENTS if p.service == "catalog"} == {"v1", "v2"}
    assert 14 <= len(spec.PLACEMENTS) <= 18


def test_every_service_runs_somewhere() -> None:
    """Each service has an instance, each instance runs a known service, and ids are unique."""
    assert {p.service for p in spec.PLACEMENTS} == set(spec.SERVICES)
    ids = [p.id for p in (*spec.PLACEMENTS, spec.USERS)]
    assert len(ids) == len(set(ids))


def test_every_call_lands_on_an_operation_of_its_callee() -> None:
    """A call names a service, method and path that the callee serves."""
    served = {(s.name, o.method, o.path) for s in spec.SERVICES.values() for o in s.operations}
    calls = [c for s in spec.SERVICES.values() for o in s.operations for stage in o.stages for c in stage]
    assert calls
    assert [c for c in calls if (c.callee, c.method, c.path) not in served] == []


def test_calls_form_no_cycle() -> None:
    """No request can go round in a circle."""
    depth: dict[str, int] = {}

    def visit(name: str, path: tuple[str, ...]) -> int:
        assert name not in path, f"cycle: {(*path, name)}"
        if name not in depth:
            depth[name] = 1 + max((visit(c, (*path, name)) for c in spec.SERVICES[name].callees()), default=0)
        return depth[name]

    assert max(visit(name, ()) for name in spec.SERVICES) >= 3


def test_users_reach_every_service() -> None:
    """Following the edges from the gateway finds the whole shop."""
    graph = set(spec.edges())
    seen, todo = {spec.GATEWAY}, [spec.GATEWAY]
    while todo:
        here = todo.pop()
        fresh = {callee for caller, callee in graph if caller == here} - seen
        seen |= fresh
        todo.extend(fresh)
    assert seen == {spec.GATEWAY, *spec.SERVICES}


def test_placement_is_found_by_instance_id() -> None:
    """An instance id leads back to its placement; an unknown one is a KeyError."""
    assert spec.placement("catalog-v2-1").version == "v2"
    with pytest.raises(KeyError):
        spec.placement("catalog-v9-1")
