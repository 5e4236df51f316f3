"""Random meshes and random faults, and what the sidecars of such a mesh report: seeded, pure, no clock.

A mesh is a directed graph of services with instances, versions, zones, retries and sometimes a cycle; external services
have no instances. Failures and waiting travel to the callers as probabilities and sampled times; counts are drawn from
them. It shares no formula with the localiser: it plays the mesh forwards, request by expected request.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import numpy.typing as npt

from models.domain import Edge, Instance, Topology

Floats = npt.NDArray[np.float64]

ZONES: Final = ("a", "b", "c")
SAMPLES: Final = 400
"""Requests played per instance to learn its distribution of latency."""


@dataclass(frozen=True, slots=True)
class Service:
    """One service: its own median latency (s), error ratio, and calls to others as {callee: calls per request}."""

    name: str
    median_s: float
    errors: float
    calls: Mapping[str, float]
    retries: int
    instances: tuple[Instance, ...]


@dataclass(frozen=True, slots=True)
class Mesh:
    """Services in an order in which callers come before callees (but for the calls that close a cycle)."""

    services: tuple[Service, ...]
    topology: Topology
    rps: float

    def of(self, name: str) -> Service:
        """Return the service of that name; KeyError when there is none."""
        return next(s for s in self.services if s.name == name)

    @property
    def callers(self) -> dict[str, tuple[str, ...]]:
        """Callers by callee."""
        found: dict[str, list[str]] = {s.name: [] for s in self.services}
        for service in self.services:
            for callee in service.calls:
                found[callee].append(service.name)
        return {k: tuple(v) for k, v in found.items()}


@dataclass(frozen=True, slots=True)
class Sick:
    """What a fault does. `errors` (share of requests) and `slower` (factor) by instance id; external services by name.

    `refused` are (caller, its version, callee) whose requests fail; `down` services cannot be reached; `full` services
    turn this share of attempts away with an overflowing pool.
    """

    errors: Mapping[str, float] = field(default_factory=dict)
    slower: Mapping[str, float] = field(default_factory=dict)
    refused: frozenset[tuple[str, str, str]] = frozenset()
    down: frozenset[str] = frozenset()
    full: Mapping[str, float] = field(default_factory=dict)


def grown(rng: np.random.Generator, size: int, *, rps: float = 60.0) -> Mesh:
    """Return a mesh of `size` services (at least 3) behind one entry, `s0`."""
    calls: list[dict[str, float]] = [{} for _ in range(size)]
    for k in range(1, size):
        for caller in {int(rng.integers(max(0, k - 8), k)) for _ in range(int(rng.integers(1, 4)))}:
            calls[caller][f"s{k}"] = float(rng.uniform(0.4, 1.3))
    if size > 4 and rng.random() < 0.15:  # noqa: PLR2004
        calls[size - 1][f"s{int(rng.integers(1, size - 1))}"] = 0.05
    services = []
    for k in range(size):
        external = not calls[k] and k > size // 2 and rng.random() < 0.2  # noqa: PLR2004
        services.append(
            Service(
                name=f"s{k}",
                median_s=float(np.exp(rng.uniform(np.log(0.002), np.log(0.03)))),
                errors=float(rng.choice([0.0, 0.001, 0.004])),
                calls=calls[k],
                retries=int(rng.random() < 0.4),  # noqa: PLR2004
                instances=() if external else _instances(rng, k),
            )
        )
    edges = frozenset(Edge(s.name, c) for s in services for c in s.calls)
    topology = Topology(instances=tuple(i for s in services for i in s.instances), edges=edges)
    return Mesh(tuple(services), topology, rps)


def _instances(rng: np.random.Generator, k: int) -> tuple[Instance, ...]:
    count = int(rng.integers(1, 6))
    canary = count > 1 and rng.random() < 0.4  # noqa: PLR2004
    found = []
    for i in range(count):
        version = "v2" if canary and i == count - 1 else "v1"
        found.append(
            Instance(f"s{k}-{version}-{i}", f"s{k}", version, ZONES[i % 3], f"127.{k // 250}.{k % 250}.{i + 1}", 15006)
        )
    return tuple(found)


@dataclass(frozen=True, slots=True)
class Behaviour:
    """How every instance answers: probability of failure, and a sample of latencies in seconds.

    Keys are (caller, caller's version, service, instance); instance "" is an external service.
    """

    failing: Mapping[tuple[str, str, str, str], float]
    seconds: Mapping[tuple[str, str], Floats]
    rates: Mapping[str, float]


def behave(rng: np.random.Generator, mesh: Mesh, sick: Sick) -> Behaviour:
    """Play the mesh from the leaves to the entry; a cycle is entered once (twice around changes little at 5 %)."""
    failing: dict[tuple[str, str, str, str], float] = {}
    seconds: dict[tuple[str, str], Floats] = {}
    callers = mesh.callers
    for service in reversed(mesh.services):
        for host, version in _hosts(service):
            waited, passed = _waits(rng, mesh, (service, version), failing, seconds)
            slower = sick.slower.get(host or service.name, 1.0)
            own = service.median_s * slower * np.exp(0.5 * rng.standard_normal(SAMPLES))
            seconds[service.name, host] = own + waited
            alone = 1.0 - (1.0 - service.errors) * (1.0 - sick.errors.get(host or service.name, 0.0))
            for caller in ("users", *callers[service.name]):
                for theirs in _versions(mesh, caller):
                    refused = (caller, theirs, service.name) in sick.refused
                    gone = service.name in sick.down
                    turned = sick.full.get(service.name, 0.0)
                    p = 1.0 if refused or gone else 1.0 - (1.0 - alone) * passed * (1.0 - turned)
                    failing[caller, theirs, service.name, host] = p
    return Behaviour(failing, seconds, _rates(mesh, failing))


def _waits(
    rng: np.random.Generator,
    mesh: Mesh,
    caller: tuple[Service, str],
    failing: Mapping[tuple[str, str, str, str], float],
    seconds: Mapping[tuple[str, str], Floats],
) -> tuple[Floats, float]:
    """Return the time an instance waits for its callees, and the probability that none of its calls fails."""
    service, version = caller
    waited, passed = np.zeros(SAMPLES), 1.0
    for callee, times in service.calls.items():
        hosts = [
            (h, failing[service.name, version, callee, h]) for h, _ in _hosts(mesh.of(callee)) if (callee, h) in seconds
        ]
        if not hosts:
            continue
        pool = np.concatenate([seconds[callee, h] for h, _ in hosts])
        made = rng.poisson(times, SAMPLES) if times > 1 else (rng.random(SAMPLES) < times).astype(int)
        for nth in range(int(made.max(initial=0))):
            waited = waited + np.where(made > nth, rng.choice(pool, SAMPLES), 0.0)
        p = float(np.mean([p for _, p in hosts])) ** (1 + service.retries)
        passed *= 1.0 - min(1.0, times) * p
    return waited, passed


def _rates(mesh: Mesh, failing: Mapping[tuple[str, str, str, str], float]) -> dict[str, float]:
    """Return requests per second that reach each service, retries included."""
    rates = dict.fromkeys((s.name for s in mesh.services), 0.0)
    rates[mesh.services[0].name] = mesh.rps
    chances: dict[tuple[str, str], list[float]] = {}
    for (caller, _, callee, _), p in failing.items():
        chances.setdefault((caller, callee), []).append(p)
    for service in mesh.services:
        for callee, times in service.calls.items():
            again = float(np.mean(chances[service.name, callee]))
            rates[callee] += rates[service.name] * times * (1.0 + service.retries * again)
    return rates


def _hosts(service: Service) -> tuple[tuple[str, str], ...]:
    return tuple((i.id, i.version) for i in service.instances) or (("", ""),)


def _versions(mesh: Mesh, caller: str) -> tuple[str, ...]:
    if caller == "users":
        return ("",)
    return tuple(sorted({version for _, version in _hosts(mesh.of(caller))}))
