"""The catalogue of faults: who is at fault, which cause is right, which overlay hits an innocent."""

from __future__ import annotations

import pytest

from models.incident import Cause, CauseKind, Signal
from models.overlay import Change, EjectInstance, OpenBreaker, SetTimeout, ShiftTraffic
from simulations import faults
from simulations.faults import DependencyDown, Fault, SlowInstance, VersionErrors
from simulations.shop.fault import Fault as Injected

CANARY = VersionErrors("catalog", "v2")
SLOW = SlowInstance("cart-v1-2")
DOWN = DependencyDown("recommendation")


class Shop:
    """A shop that remembers what was done to it."""

    def __init__(self) -> None:
        self.faults: dict[str, Injected] = {}
        self.dead: set[str] = set()

    async def set_fault(self, instance: str, fault: Injected) -> None:
        self.faults[instance] = fault

    async def kill_application(self, instance: str) -> None:
        self.dead.add(instance)

    async def start_application(self, instance: str) -> None:
        self.dead.remove(instance)


async def test_faults_strike_their_instances_and_are_undone() -> None:
    """Each fault strikes exactly the instances it names, and undoing it leaves the shop as it was."""
    shop = Shop()
    await faults.apply(CANARY, shop)
    assert shop.faults == {"catalog-v2-1": Injected(error_ratio=0.2), "catalog-v2-2": Injected(error_ratio=0.2)}
    await faults.apply(SLOW, shop)
    assert shop.faults["cart-v1-2"] == Injected(slow_factor=10.0)
    await faults.apply(DOWN, shop)
    assert shop.dead == {"recommendation-v1-1", "recommendation-v1-2"}
    for fault in (CANARY, SLOW, DOWN):
        await faults.undo(fault, shop)
    assert not shop.dead
    assert not any(f.active for f in shop.faults.values())


@pytest.mark.parametrize(
    ("fault", "change", "innocent"),
    [
        (CANARY, ShiftTraffic("catalog", {"v1": 100, "v2": 0}), False),
        (CANARY, ShiftTraffic("catalog", {"v1": 0, "v2": 100}), True),
        (CANARY, ShiftTraffic("cart", {"v1": 1}), True),
        (CANARY, EjectInstance("catalog", "catalog-v2-1"), False),
        (CANARY, EjectInstance("catalog", "catalog-v1-1"), True),
        (SLOW, EjectInstance("cart", "cart-v1-2"), False),
        (SLOW, EjectInstance("cart", "cart-v1-1"), True),
        (SLOW, SetTimeout("cart", 0.2), False),
        (DOWN, OpenBreaker("recommendation", respond="fallback"), False),
        (DOWN, OpenBreaker("catalog"), True),
    ],
)
def test_overlays_on_the_innocent_are_recognised(fault: Fault, change: Change, *, innocent: bool) -> None:
    """Only overlays on what is at fault spare the innocent."""
    assert faults.hits_innocent(fault, change) is innocent


def _cause(kind: CauseKind, service: str, subject: str = "") -> Cause:
    return Cause(kind, service, subject, Signal.ERRORS, 0.9)


def test_the_right_cause_is_the_exact_one() -> None:
    """A cause is right when kind, service and subject are; a symptom next door is not."""
    assert faults.explains(CANARY, _cause(CauseKind.VERSION, "catalog", "v2"))
    assert not faults.explains(CANARY, _cause(CauseKind.VERSION, "catalog", "v1"))
    assert not faults.explains(CANARY, _cause(CauseKind.INSTANCE, "catalog", "catalog-v2-1"))
    assert faults.explains(SLOW, _cause(CauseKind.INSTANCE, "cart", "cart-v1-2"))
    assert not faults.explains(SLOW, _cause(CauseKind.SERVICE, "cart"))
    assert faults.explains(DOWN, _cause(CauseKind.DEPENDENCY, "recommendation"))
    assert not faults.explains(DOWN, _cause(CauseKind.DEPENDENCY, "storefront"))


def test_trouble_points_at_the_fault_only_by_name() -> None:
    """A spoiled request counts for a fault when it names an instance at fault or its service."""
    assert faults.blames(SLOW, ["cart-v1-2"])
    assert not faults.blames(SLOW, ["cart-v1-1"])
    assert faults.blames(DOWN, ["recommendation"])
    assert not faults.blames(DOWN, [])
