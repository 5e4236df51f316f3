"""The demo's shop as a mesh for the simulator, from the shop's own table and the traffic rules that its people declared.

Nothing is fitted: service times, calls, places and policies are those of the shop. What the simulator does not know stays
different, and the comparison shows it: a service has several operations in the shop, and one mean request here; users go through
journeys there, and are one Poisson stream here; a sidecar takes longer than the simulator's fixed hop.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from importlib import resources
from typing import Final

from control.resources.compile import compile_policies
from control.resources.loading import load
from models.domain import Instance
from models.policy import ServicePolicy
from simulations.load import CHECK_OUT, FILL_CART, LOOK_AT_ANOTHER, STEPS_PER_SESSION
from simulations.shop.spec import ENTRY, INBOUND_PORT, PLACEMENTS, SERVICES, Operation
from simulations.simulator.mesh import Call, Mesh, Nature

JOURNEY: Final[Mapping[tuple[str, str], float]] = {
    ("GET", "/"): 1.0,
    ("GET", "/product/{id}"): 1 / (1 - LOOK_AT_ANOTHER),
    ("POST", "/cart/{id}"): FILL_CART,
    ("POST", "/checkout"): FILL_CART * CHECK_OUT,
}
"""Expected requests of one session by operation of the entrance."""

UTILISATION: Final = 0.02
"""The shop's processes wait more than they compute and hold any number of requests at once."""


def shop(rate: float) -> Mesh:
    """Return the shop with `rate` users' requests per second."""
    operations = _rates(rate)
    asked: dict[str, float] = defaultdict(float)
    for (service, _, _), rps in operations.items():
        asked[service] += rps
    made: dict[tuple[str, str], dict[int, float]] = defaultdict(lambda: defaultdict(float))
    needed: set[tuple[str, str]] = set()
    for service, operation in _operations():
        share = operations[service, operation.method, operation.path] / asked[service]
        for number, stage in enumerate(operation.stages):
            for call in stage:
                made[service, call.callee][number] += share
                needed |= set() if call.optional else {(service, call.callee)}
    calls = tuple(
        Call(*edge, sum(stages.values()), edge not in needed, stage=max(stages, key=lambda number: stages[number]))
        for edge, stages in sorted(made.items())
    )
    depth = _depths()
    natures = tuple(
        Nature(s.name, s.work.median_s, s.work.sigma, UTILISATION, 0.0, depth[s.name]) for s in SERVICES.values()
    )
    instances = tuple(
        Instance(p.id, p.service, p.version, p.zone, f"10.0.{k}.1", INBOUND_PORT) for k, p in enumerate(PLACEMENTS)
    )
    return Mesh(natures, calls, instances, _policies(), (ENTRY,), rate)


def _operations() -> list[tuple[str, Operation]]:
    return [(service.name, operation) for service in SERVICES.values() for operation in service.operations]


def _rates(rate: float) -> dict[tuple[str, str, str], float]:
    """Return how often each operation (service, method, path) is asked for, per second."""
    found: dict[tuple[str, str, str], float] = defaultdict(float)
    for (method, path), times in JOURNEY.items():
        found[ENTRY, method, path] = rate * times / STEPS_PER_SESSION
    depth = _depths()
    for service, operation in sorted(_operations(), key=lambda pair: depth[pair[0]]):
        for call in (c for stage in operation.stages for c in stage):
            found[call.callee, call.method, call.path] += found[service, operation.method, operation.path]
    return found


def _depths() -> dict[str, int]:
    """Return each service's longest way from the entrance, in calls."""
    depth = dict.fromkeys(SERVICES, 0)
    for _ in SERVICES:
        for service in SERVICES.values():
            for callee in service.callees():
                depth[callee] = max(depth[callee], depth[service.name] + 1)
    return depth


def _policies() -> dict[str, ServicePolicy]:
    folder = resources.files("simulations.shop") / "mesh"
    declared, _ = load((f.name, f.read_text(encoding="utf-8")) for f in folder.iterdir() if f.name.endswith(".yaml"))
    found = compile_policies({item.key: item for item in declared})
    return {name: found.get(name, ServicePolicy(name)) for name in SERVICES}
