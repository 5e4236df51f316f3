"""A small shop, causes in it, and playbooks: what the planner's tests talk about."""

from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

import playbooks
from models.domain import Edge, Instance, Topology
from models.incident import Cause, CauseKind, Signal
from models.overlay import Change, Overlay, Owner
from playbooks.planning import Context
from playbooks.schema import Playbook

CATALOG = (("v1", 3), ("v2", 1))
OTHERS = ("checkout", "payment", "cart", "ads", "shipping")


def instances() -> tuple[Instance, ...]:
    """Return the shop: a storefront of two, a catalog with a canary, five services of two instances each."""
    names = [("storefront", "v1", n) for n in range(2)]
    names += [("catalog", version, n) for version, count in CATALOG for n in range(count)]
    names += [(service, "v1", n) for service in OTHERS for n in range(2)]
    return tuple(
        Instance(
            id=f"{service}-{version}-{n}",
            service=service,
            version=version,
            zone=f"zone-{n % 2}",
            address=f"127.0.{index}.1",
            port=15006,
            labels={"team": "shop"} if service == "catalog" else {},
        )
        for index, (service, version, n) in enumerate(names)
    )


def shop() -> Topology:
    """Return the shop's topology: storefront calls everything, checkout calls payment; ads and payment have fallbacks."""
    edges = {Edge("storefront", service) for service in ("catalog", *OTHERS)} | {Edge("checkout", "payment")}
    return Topology(
        instances=instances(),
        edges=frozenset(edges),
        weights={"catalog": {"v1": 0.8, "v2": 0.2}},
        fallbacks=frozenset({"ads"}),
    )


def cause(
    kind: CauseKind = CauseKind.VERSION,
    service: str = "catalog",
    subject: str = "v2",
    signal: Signal = Signal.ERRORS,
    probability: float = 0.9,
) -> Cause:
    """Return a cause seen from the storefront."""
    return Cause(kind, service, subject, signal, probability, edge=Edge("storefront", service))


def overlay(change: Change, *, owner: Owner = Owner.AGENT, name: str = "o1", incident: str = "inc-0") -> Overlay:
    """Return an overlay in force."""
    return Overlay(name, change, owner, "alice" if owner is Owner.PERSON else "agent", "why", 0.0, 1e12, 30.0, incident)


@dataclass
class Shop:
    """The builders that tests use."""

    topology: Topology = field(default_factory=shop)
    cause: Callable[..., Cause] = cause
    overlay: Callable[..., Overlay] = overlay
    library: tuple[Playbook, ...] = field(default_factory=playbooks.library)

    def context(self, **changes: object) -> Context:
        """Return a quiet context at second 1000 with some fields changed."""
        return Context(**{"topology": self.topology, "now": 1000.0, **changes})  # type: ignore[arg-type]

    def playbook(self, name: str) -> Playbook:
        """Return one playbook of the library."""
        return next(each for each in self.library if each.name == name)


@pytest.fixture(scope="module")
def mesh() -> Shop:
    """Return the shop."""
    return Shop()
