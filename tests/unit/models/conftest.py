"""Seeded traffic for detectors, and a shop of ten services whose failures spread as in a real mesh."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pytest

from models.detect import DetectorBank
from models.domain import Edge, Instance, Topology
from models.signals import BOUNDS_S, BUCKETS, Outcomes, Series, Side

TICK_S = 0.2
START = 1_000_000.0


def outcomes(
    rng: np.random.Generator,
    requests: int,
    *,
    errors: float = 0.0,
    median_s: float = 0.02,
    sigma: float = 0.5,
    slower: float = 1.0,
    added_s: float = 0.0,
) -> Outcomes:
    """Draw `requests` outcomes: a share `errors` fails, latency is log-normal times `slower` plus `added_s`."""
    failed = int(rng.binomial(requests, errors)) if requests else 0
    seconds = median_s * slower * np.exp(sigma * rng.standard_normal(requests)) + added_s
    latency = np.bincount(np.searchsorted(BOUNDS_S, seconds), minlength=BUCKETS).astype(np.int64)
    return Outcomes(requests=requests, errors=failed, latency=latency)


@dataclass(slots=True)
class Call:
    """What one simulated call came to."""

    failed: bool
    seconds: float


@dataclass(slots=True)
class Fault:
    """Where and how the shop is sick: matches by instance id, version of a service, zone, or whole service."""

    matches: Callable[[Instance], bool] = lambda _: False
    errors: float = 0.0
    slower: float = 1.0
    down: frozenset[str] = frozenset()  # services whose sidecars cannot be reached
    bad_caller: tuple[str, str, str] | None = None  # (caller, caller's version, callee): its requests are refused


CALLS = {
    "storefront": ("catalog", "cart", "recommendation", "ads"),
    "checkout": ("cart", "payment", "shipping", "currency", "email"),
    "recommendation": ("catalog",),
    "cart": (),
    "catalog": (),
    "payment": (),
    "shipping": (),
    "currency": (),
    "email": (),
    "ads": (),
}
COUNTS = {"storefront": 2, "catalog": 4, "cart": 3, "checkout": 2, "payment": 2}


@dataclass(slots=True)
class Shop:
    """Ten services; `catalog` has versions v1 (three instances) and v2 (one); odd instances are in zone b."""

    rng: np.random.Generator
    fault: Fault = field(default_factory=Fault)
    topology: Topology = field(init=False)
    tick: dict[Series, Outcomes] = field(default_factory=dict)

    def __post_init__(self) -> None:
        instances = []
        for s, service in enumerate(CALLS):
            for k in range(COUNTS.get(service, 1)):
                version = "v2" if service in {"catalog", "checkout"} and k == COUNTS[service] - 1 else "v1"
                name = f"{service}-{version}-{k}"
                instances.append(Instance(name, service, version, "ab"[k % 2], f"127.1.{s}.{k + 1}", 15006))
        edges = frozenset(Edge(a, b) for a, callees in CALLS.items() for b in callees)
        self.topology = Topology(instances=tuple(instances), edges=edges)

    def run(self, rps: float) -> dict[Series, Outcomes]:
        """Play one tick of users at `rps` to each of storefront and checkout; return what the sidecars report."""
        self.tick = {}
        for entry in ("storefront", "checkout"):
            for _ in range(int(self.rng.poisson(rps * TICK_S))):
                self._call("users", "v1", "users-1", entry)
        return self.tick

    def _call(self, caller: str, version: str, reporter: str, callee: str) -> Call:
        if callee in self.fault.down:
            seen = Call(failed=True, seconds=0.002)
            flags = ("UF",)
            for side in (Side.ATTEMPT, Side.CLIENT):
                self._note(Series(side, caller, callee, "", "", reporter), seen, flags)
            return seen
        hosts = self.topology.of(callee)
        host = hosts[int(self.rng.integers(len(hosts)))]
        sick = self.fault.matches(host)
        waited = [self._call(callee, host.version, host.id, c) for c in CALLS[callee]]
        own = 0.01 * float(np.exp(0.4 * self.rng.standard_normal())) * (self.fault.slower if sick else 1.0)
        failed = any(w.failed for w in waited) or (sick and bool(self.rng.random() < self.fault.errors))
        failed = failed or self.fault.bad_caller == (caller, version, callee)
        seen = Call(failed, own + sum(w.seconds for w in waited))
        self._note(Series(Side.ATTEMPT, caller, callee, host.version, host.id, reporter), seen)
        self._note(Series(Side.CLIENT, caller, callee, "", "", reporter), seen)
        self._note(Series(Side.SERVER, caller, callee, host.version, host.id, host.id), seen)
        return seen

    def _note(self, series: Series, call: Call, flags: tuple[str, ...] = ()) -> None:
        found = self.tick.setdefault(series, Outcomes())
        found.requests += 1
        found.errors += call.failed
        found.latency[int(np.searchsorted(BOUNDS_S, call.seconds))] += 1
        for flag in flags:
            found.flags[flag] = found.flags.get(flag, 0) + 1


@dataclass(frozen=True, slots=True)
class Well:
    """A shop's detectors after a quiet minute, and the time it took."""

    state: bytes
    at: float


@pytest.fixture(scope="session")
def well() -> Well:
    """Learn the healthy shop once for all tests."""
    bank, at = DetectorBank(), START
    shop = Shop(np.random.default_rng(1))
    for _ in range(300):
        at += TICK_S
        assert not bank.update(at, shop.run(20))
    return Well(bank.save(), at)
