"""The mesh as arrays of numbers: everything of it that never changes while it runs.

Instances are sorted by service, so that a service is a slice; calls are sorted by caller. Users are one more caller with the
number `len(services)`. Levels lead from the leaves to the entries: what a service's answer takes can be worked out
once all its callees' answers are known. Calls that go back up a cycle are not followed; they use the answers of the
moment before.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from simulations.simulator.mesh import USERS, Mesh

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Level:
    """Services of one depth, their instances, and the calls they make."""

    services: Ints
    instances: Ints
    calls: Ints


@dataclass(frozen=True, slots=True)
class Layout:
    """Index arrays. `S` services, `I` instances, `E` calls (users' first).

    `first` has shape (S + 1,): instances of service s are `first[s]:first[s + 1]`. `service_of` has shape (I,),
    `caller`, `callee`, `mean`, `optional`, `backward`, `stage` have shape (E,).
    """

    services: tuple[str, ...]
    number: dict[str, int]
    instances: tuple[str, ...]
    place: dict[str, int]
    first: Ints
    service_of: Ints
    version_of: tuple[str, ...]
    zone_of: tuple[str, ...]
    caller: Ints
    callee: Ints
    mean: Floats
    optional: Bools
    backward: Bools
    stage: Ints
    levels: tuple[Level, ...]

    def caller_name(self, call: int) -> str:
        """Return the name of a call's caller."""
        k = int(self.caller[call])
        return USERS if k == len(self.services) else self.services[k]

    def of_users(self, calls: Ints) -> Bools:
        """Return which of these calls (numbers) users make."""
        return np.asarray(self.caller[calls] == len(self.services), dtype=np.bool_)

    def members(self, service: str) -> Ints:
        """Return the instance numbers of a service."""
        k = self.number[service]
        return np.arange(self.first[k], self.first[k + 1])


def lay_out(mesh: Mesh) -> Layout:
    """Number everything in `mesh`."""
    services = tuple(nature.name for nature in mesh.natures)
    number = {name: k for k, name in enumerate(services)}
    instances = sorted(mesh.instances, key=lambda i: (number[i.service], i.id))
    service_of = np.asarray([number[i.service] for i in instances], dtype=np.int64)
    first = np.searchsorted(service_of, np.arange(len(services) + 1))
    calls = sorted(mesh.calls, key=lambda c: (number[c.caller], number[c.callee]))
    users = len(services)
    caller = np.asarray([*(users for _ in mesh.entries), *(number[c.caller] for c in calls)], dtype=np.int64)
    callee = np.asarray([*(number[e] for e in mesh.entries), *(number[c.callee] for c in calls)], dtype=np.int64)
    backward = np.asarray([*(False for _ in mesh.entries), *(c.backward for c in calls)])
    depth = np.asarray([nature.depth for nature in mesh.natures])
    return Layout(
        services=services,
        number=number,
        instances=tuple(i.id for i in instances),
        place={i.id: k for k, i in enumerate(instances)},
        first=first,
        service_of=service_of,
        version_of=tuple(i.version for i in instances),
        zone_of=tuple(i.zone for i in instances),
        caller=caller,
        callee=callee,
        mean=np.asarray([*(1.0 for _ in mesh.entries), *(c.mean for c in calls)]),
        optional=np.asarray([*(False for _ in mesh.entries), *(c.optional for c in calls)]),
        backward=backward,
        stage=np.asarray([*(0 for _ in mesh.entries), *(c.stage for c in calls)], dtype=np.int64),
        levels=tuple(_level(int(d), depth, service_of, caller) for d in sorted(set(depth.tolist()), reverse=True)),
    )


def _level(which: int, depth: Ints, service_of: Ints, caller: Ints) -> Level:
    here = np.append(depth == which, False)
    return Level(np.flatnonzero(here), np.flatnonzero(here[service_of]), np.flatnonzero(here[caller]))
