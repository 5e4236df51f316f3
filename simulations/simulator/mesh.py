"""Random meshes as they are found in the wild, drawn from a seed.

Few services are called by very many, most by one or two (preferential attachment); call trees are shallow and wide; about
every tenth service runs two versions; instances spread over zones; service times span two decades; some calls
are optional. A few edges go back up the tree, since real graphs have cycles. (Shape after Luo et al., "Characterizing
Microservice Dependency and Performance: Alibaba Trace Analysis", SoCC 2021: heavy-tailed in-degree, median call depth
about 3 to 4, and Huye et al., "Lifting the veil on Meta's microservice architecture", ATC 2023.)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from models.domain import Edge, Instance, Topology
from models.policy import Fallback, Retries, Route, ServicePolicy

USERS: Final = "users"
ZONES: Final = ("zone-a", "zone-b", "zone-c")
STABLE: Final = "v1"
CANARY: Final = "v2"
DEPTHS: Final = 6
SERVICES_PER_ENTRY: Final = 40
TIMEOUT_S: Final = 2.0


@dataclass(frozen=True, slots=True)
class Nature:
    """How one service behaves. `median_s` and `sigma` give its own lognormal time per request, seconds.

    `utilisation` (0–1) is how busy its instances are on an average day: the plant gives them that many workers.
    `error_ratio` (0–1) is what fails on a good day.
    """

    name: str
    median_s: float
    sigma: float
    utilisation: float
    error_ratio: float
    depth: int


@dataclass(frozen=True, slots=True)
class Call:
    """One dependency: the caller makes `mean` calls per request of its own (0–3); an `optional` one may fail unnoticed.

    Calls of one `stage` run side by side, stages one after the other.
    """

    caller: str
    callee: str
    mean: float
    optional: bool
    backward: bool = False
    stage: int = 0


@dataclass(frozen=True, slots=True)
class Mesh:
    """Everything that is declared or built in: what runs where, who calls whom, and the policies people wrote.

    `entries` are the services users call, `rps` their request rate at each on an average day, per second.
    """

    natures: tuple[Nature, ...]
    calls: tuple[Call, ...]
    instances: tuple[Instance, ...]
    policies: dict[str, ServicePolicy]
    entries: tuple[str, ...]
    rps: float

    def topology(self) -> Topology:
        """Return what the control plane would tell the agent on a healthy day."""
        edges = {Edge(call.caller, call.callee) for call in self.calls} | {Edge(USERS, name) for name in self.entries}
        fallbacks = frozenset(name for name, policy in self.policies.items() if policy.fallback is not None)
        return Topology(instances=self.instances, edges=frozenset(edges), fallbacks=fallbacks)


def draw(services: int, seed: int, *, rps: float = 30.0) -> Mesh:
    """Draw a mesh of `services` (≥ 2) services; equal arguments give equal meshes."""
    random = np.random.default_rng([seed, services])
    entries = max(1, services // SERVICES_PER_ENTRY)
    natures = tuple(_nature(k, services, random, entry=k < entries) for k in range(services))
    calls = _calls(natures, random)
    instances = tuple(instance for nature in natures for instance in _instances(nature, random))
    policies = {nature.name: _policy(nature, instances, random) for nature in natures}
    return Mesh(natures, calls, instances, policies, tuple(n.name for n in natures[:entries]), rps)


def _nature(k: int, services: int, random: np.random.Generator, *, entry: bool) -> Nature:
    median = float(np.clip(np.exp(random.normal(np.log(0.008), 0.8)), 0.001, 0.08))
    levels = min(DEPTHS, services)
    depth = 0 if entry else 1 + int(random.choice(levels, p=_depth_shares(levels)))
    return Nature(
        name=f"svc-{k:04d}",
        median_s=median,
        sigma=float(random.uniform(0.2, 0.5)),
        utilisation=float(random.uniform(0.2, 0.55)),
        error_ratio=float(random.choice([0.0, 2e-5, 1e-4, 5e-4], p=[0.4, 0.3, 0.2, 0.1])),
        depth=depth,
    )


def _depth_shares(levels: int) -> np.ndarray:
    shares = np.asarray([0.10, 0.22, 0.28, 0.22, 0.12, 0.06])[:levels]
    return np.asarray(shares / shares.sum())


def _calls(natures: tuple[Nature, ...], random: np.random.Generator) -> tuple[Call, ...]:
    """Give every service one caller above it, popular ones more, and close a few cycles."""
    by_depth: dict[int, list[int]] = {}
    for k, nature in enumerate(natures):
        by_depth.setdefault(nature.depth, []).append(k)
    made: dict[tuple[int, int], Call] = {}
    fan = np.ones(len(natures))
    for depth in sorted(by_depth)[1:]:
        above = [k for d in range(depth) for k in by_depth.get(d, [])]
        nearest = max(d for d in by_depth if d < depth)
        near = by_depth[nearest]
        for callee in by_depth[depth]:
            popularity = 1 + min(int(random.pareto(1.6)), max(1, len(above) // 3))
            weights = fan[near] / fan[near].sum()
            first = int(random.choice(near, p=weights))
            more = random.choice(above, size=min(popularity - 1, len(above)), replace=False).tolist()
            for caller in {first, *more}:
                made[(caller, callee)] = _call(natures, caller, callee, random)
                fan[caller] += 0.5
    for _ in range(len(natures) // 50):
        low, high = sorted(random.choice(len(natures), size=2, replace=False).tolist(), key=lambda k: natures[k].depth)
        if natures[low].depth > 0 and natures[high].depth > natures[low].depth and (low, high) not in made:
            made[(high, low)] = Call(natures[high].name, natures[low].name, 0.02, optional=True, backward=True)
    return tuple(made[key] for key in sorted(made))


def _call(natures: tuple[Nature, ...], caller: int, callee: int, random: np.random.Generator) -> Call:
    mean = float(np.clip(random.lognormal(np.log(0.6), 0.5), 0.2, 1.5))
    return Call(natures[caller].name, natures[callee].name, mean, optional=bool(random.random() < 0.2))  # noqa: PLR2004


def _instances(nature: Nature, random: np.random.Generator) -> list[Instance]:
    count = int(random.choice([1, 2, 3, 4, 6], p=[0.12, 0.28, 0.34, 0.18, 0.08])) if nature.depth else 3
    canary = count > 1 and random.random() < 0.12  # noqa: PLR2004
    first = int(random.integers(len(ZONES)))
    number = int(nature.name.rpartition("-")[2])
    made = []
    for k in range(count):
        version = CANARY if canary and k == count - 1 else STABLE
        zone = ZONES[(first + k) % len(ZONES)]
        address = f"10.{number // 250}.{number % 250}.{k + 1}"
        made.append(Instance(f"{nature.name}-{version}-{k + 1}", nature.name, version, zone, address, 15006))
    return made


def _policy(nature: Nature, instances: tuple[Instance, ...], random: np.random.Generator) -> ServicePolicy:
    versions = {i.version for i in instances if i.service == nature.name}
    weights = {STABLE: 90, CANARY: 10} if len(versions) > 1 and random.random() < 0.5 else {}  # noqa: PLR2004
    attempts = 1 if random.random() < 0.15 else 0  # noqa: PLR2004
    on = ("connect-failure", "refused-stream", "5xx") if attempts else Retries().retry_on
    retries = Retries(attempts=max(attempts, 1), retry_on=on)
    fallback = Fallback(200, "[]") if nature.depth and random.random() < 0.25 else None  # noqa: PLR2004
    return ServicePolicy(
        nature.name, routes=(Route(weights=weights, timeout_s=TIMEOUT_S, retries=retries),), fallback=fallback
    )
