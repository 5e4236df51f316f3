"""What the shop is: its services, their operations, whom they call, how long they work, and where they run.

One table drives the processes, the load generator, the fault catalogue and the tests, so that none of them can
disagree on the graph. Units: seconds; service times are lognormal, given by median and sigma (of the natural log), as
measured service times of request-driven systems are: never negative, skewed, with an honest tail.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

ENTRY = "storefront"
"""The service users enter through."""

GATEWAY = "gateway"
"""The sidecar that stands for the users' side: the load generator is its application."""

APP_PORT = 8080
INBOUND_PORT = 15006
OUTBOUND_PORT = 15001


@dataclass(frozen=True, slots=True)
class Work:
    """The service's own part of a request: waiting (`median_s`, `sigma`) and computing (`rounds` of a hash)."""

    median_s: float
    sigma: float = 0.25
    rounds: int = 40


@dataclass(frozen=True, slots=True)
class Call:
    """One call to another service. A failed call fails the request, unless it is `optional`."""

    callee: str
    path: str
    method: str = "GET"
    optional: bool = False


@dataclass(frozen=True, slots=True)
class Operation:
    """One thing a service does. `stages` run one after the other, the calls of one stage side by side."""

    method: str
    path: str
    stages: tuple[tuple[Call, ...], ...] = ()


@dataclass(frozen=True, slots=True)
class Service:
    """One service: its work per request and its operations."""

    name: str
    work: Work
    operations: tuple[Operation, ...]

    def callees(self) -> frozenset[str]:
        """Return the services this one calls."""
        return frozenset(c.callee for o in self.operations for stage in o.stages for c in stage)


@dataclass(frozen=True, slots=True)
class Placement:
    """One instance: which version of which service runs in which zone. `index` counts from 1 within a version."""

    service: str
    version: str
    index: int
    zone: str

    @property
    def id(self) -> str:
        """The instance id, unique in the mesh: `catalog-v1-2`."""
        return f"{self.service}-{self.version}-{self.index}"


_CART = Call("cart", "/cart")
_EMPTY = Call("cart", "/cart", "DELETE")

SERVICES: dict[str, Service] = {
    s.name: s
    for s in (
        Service(
            ENTRY,
            Work(0.004),
            (
                Operation("GET", "/", ((_CART,), (Call("catalog", "/products"), Call("ads", "/ads")))),
                Operation(
                    "GET",
                    "/product/{id}",
                    (
                        (_CART,),
                        (
                            Call("catalog", "/products/{id}"),
                            Call("recommendation", "/recommendations/{id}"),
                            Call("ads", "/ads"),
                        ),
                    ),
                ),
                Operation(
                    "POST",
                    "/cart/{id}",
                    ((Call("catalog", "/products/{id}"),), (Call("cart", "/cart/{id}", "POST"),)),
                ),
                Operation("POST", "/checkout", ((Call("checkout", "/orders", "POST"),),)),
            ),
        ),
        Service("catalog", Work(0.012, 0.3), (Operation("GET", "/products"), Operation("GET", "/products/{id}"))),
        Service(
            "cart",
            Work(0.028, 0.2),
            (Operation("GET", "/cart"), Operation("POST", "/cart/{id}"), Operation("DELETE", "/cart")),
        ),
        Service(
            "recommendation",
            Work(0.010, 0.3),
            (Operation("GET", "/recommendations/{id}", ((Call("catalog", "/products"),),)),),
        ),
        Service("ads", Work(0.015, 0.3), (Operation("GET", "/ads"),)),
        Service(
            "checkout",
            Work(0.006),
            (
                Operation(
                    "POST",
                    "/orders",
                    (
                        (
                            _CART,
                            Call("catalog", "/products"),
                            Call("shipping", "/quotes", "POST"),
                            Call("currency", "/rates"),
                        ),
                        (Call("payment", "/charges", "POST"),),
                        (Call("email", "/receipts", "POST", optional=True), _EMPTY),
                    ),
                ),
            ),
        ),
        Service("payment", Work(0.016, 0.3), (Operation("POST", "/charges"),)),
        Service("shipping", Work(0.014), (Operation("POST", "/quotes"),)),
        Service("currency", Work(0.010), (Operation("GET", "/rates"),)),
        Service("email", Work(0.016), (Operation("POST", "/receipts"),)),
    )
}
"""Every service of the shop by name."""

PLACEMENTS: tuple[Placement, ...] = (
    Placement("storefront", "v1", 1, "zone-a"),
    Placement("storefront", "v1", 2, "zone-b"),
    Placement("catalog", "v1", 1, "zone-a"),
    Placement("catalog", "v1", 2, "zone-b"),
    Placement("catalog", "v2", 1, "zone-a"),
    Placement("catalog", "v2", 2, "zone-b"),
    Placement("cart", "v1", 1, "zone-a"),
    Placement("cart", "v1", 2, "zone-b"),
    Placement("cart", "v1", 3, "zone-a"),
    Placement("recommendation", "v1", 1, "zone-a"),
    Placement("recommendation", "v1", 2, "zone-b"),
    Placement("checkout", "v1", 1, "zone-a"),
    Placement("ads", "v1", 1, "zone-b"),
    Placement("payment", "v1", 1, "zone-a"),
    Placement("shipping", "v1", 1, "zone-b"),
    Placement("currency", "v1", 1, "zone-a"),
    Placement("email", "v1", 1, "zone-b"),
)
"""Where everything runs: two zones, two versions of `catalog`, three instances of `cart`."""

USERS = Placement(GATEWAY, "v1", 1, "zone-a")
"""The users' side of the mesh: a sidecar whose application is the load generator."""


def edges() -> Iterator[tuple[str, str]]:
    """Yield every (caller, callee) of the shop, the users' edge included."""
    yield (GATEWAY, ENTRY)
    for service in SERVICES.values():
        for callee in sorted(service.callees()):
            yield (service.name, callee)


def placement(instance: str) -> Placement:
    """Return the placement of an instance id. Raises KeyError for an unknown id."""
    for candidate in (*PLACEMENTS, USERS):
        if candidate.id == instance:
            return candidate
    raise KeyError(instance)
