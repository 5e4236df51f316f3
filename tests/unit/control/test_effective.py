"""Effective policies: overlays over declarations, never less capacity than the floor, no order in anything."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from control.effective import effective, must_keep
from models.domain import Health, Instance
from models.overlay import (
    AdaptConcurrency,
    Change,
    DisableFault,
    DrainInstance,
    EjectInstance,
    InjectFault,
    LimitConnections,
    LimitRate,
    OpenBreaker,
    Overlay,
    Owner,
    PauseCanary,
    RunHook,
    SetOutlierDetection,
    SetRetries,
    SetTimeout,
    ShedLoad,
    ShiftTraffic,
    ShiftZones,
)
from models.policy import Admission, Breaker, CallerRate, Fault, Limits, Route, ServicePolicy

Make = Callable[..., Instance]

DECLARED = {
    "catalog": ServicePolicy("catalog", routes=(Route(weights={"v1": 90, "v2": 10}),)),
    "cart": ServicePolicy("cart"),
}


def overlay(name: str, change: Change, *, owner: Owner = Owner.AGENT, at: float = 0.0, fence: int = 1) -> Overlay:
    """Return an overlay."""
    return Overlay(name, change, owner, "x", "because", at, at + 60, 60.0, fence=fence)


NAMES = st.sampled_from(["a", "b", "c", "d", "gone"])
CHANGES: st.SearchStrategy[Change] = st.one_of(
    st.builds(
        ShiftTraffic,
        service=st.sampled_from(["catalog", "cart"]),
        weights=st.dictionaries(st.sampled_from(["v1", "v2", "v3"]), st.integers(0, 3), max_size=3),
    ),
    st.builds(
        ShiftZones,
        service=st.just("catalog"),
        weights=st.dictionaries(st.sampled_from(["z", "y"]), st.integers(0, 3), max_size=2),
    ),
    st.builds(EjectInstance, service=st.just("catalog"), instance=NAMES),
    st.builds(DrainInstance, service=st.just("catalog"), instance=NAMES),
    st.builds(
        LimitRate, service=st.just("catalog"), requests_per_s=st.floats(1, 9), caller=st.sampled_from(["", "cart"])
    ),
    st.builds(ShedLoad, service=st.just("catalog"), percent=st.integers(1, 100)),
    st.builds(DisableFault, service=st.just("catalog")),
    st.builds(InjectFault, service=st.just("catalog"), abort_percent=st.floats(1, 9)),
    st.builds(AdaptConcurrency, service=st.just("catalog")),
    st.builds(OpenBreaker, callee=st.just("cart"), caller=st.sampled_from(["", "catalog"])),
    st.builds(SetTimeout, service=st.just("catalog"), timeout_s=st.floats(0.1, 5)),
)
OVERLAYS = st.lists(
    st.builds(
        overlay,
        st.uuids().map(str),
        CHANGES,
        owner=st.sampled_from(Owner),
        at=st.integers(0, 3).map(float),
        fence=st.integers(0, 2),
    ),
    max_size=6,
    unique_by=lambda o: o.id,
)
INSTANCES = st.lists(
    st.builds(
        Instance,
        id=st.sampled_from(["a", "b", "c", "d"]),
        service=st.just("catalog"),
        version=st.sampled_from(["v1", "v2"]),
        zone=st.sampled_from(["z", "y"]),
        address=st.just("127.0.0.2"),
        port=st.just(1),
        health=st.sampled_from(Health),
    ),
    max_size=4,
    unique_by=lambda i: i.id,
)


@given(OVERLAYS, INSTANCES, st.randoms(use_true_random=False))
def test_order_does_not_matter(overlays: list[Overlay], instances: list[Instance], rng: random.Random) -> None:
    """Shuffled overlays and instances give the same policies and the same reasons."""
    before = effective(DECLARED, overlays, instances)
    others, members = list(overlays), list(instances)
    rng.shuffle(others)
    rng.shuffle(members)
    assert effective(dict(reversed(DECLARED.items())), others, members) == before


@given(INSTANCES)
def test_without_overlays_exactly_what_was_declared(instances: list[Instance]) -> None:
    """Removing every overlay gives back the declared policies, whoever is healthy."""
    assert effective(DECLARED, [], instances).policies == DECLARED


@given(OVERLAYS, INSTANCES, st.floats(0.1, 1.0))
def test_capacity_never_falls_below_the_floor(overlays: list[Overlay], instances: list[Instance], floor: float) -> None:
    """Whatever is overlaid, ejections leave the floor of the healthy instances, and weights somebody to serve them."""
    policy = effective(DECLARED, overlays, instances, floor=floor).policies["catalog"]
    well = {i.id: i for i in instances if i.health is Health.HEALTHY}
    left = {name for name, i in well.items() if not policy.zones or policy.zones.get(i.zone)} - policy.ejected
    if well:
        assert len(left) >= min(must_keep(len(well), floor), len(well))
    shifted = any(isinstance(o.change, ShiftTraffic) and o.change.service == "catalog" for o in overlays)
    weights = policy.routes[0].weights
    if shifted and weights != DECLARED["catalog"].routes[0].weights:
        assert sum(weights.values()) > 0
        assert all(any(well[name].version == version for name in left) for version in weights)


def test_each_kind_of_change_lands(make: Make) -> None:
    """Every kind of change sets what its name says, on every route."""
    changes: list[Change] = [
        ShiftTraffic("catalog", {"v1": 1, "v2": 0}),
        SetRetries("catalog", 0, 0.1, 0.5),
        SetTimeout("catalog", 0.7),
        InjectFault("catalog", 5.0, 500),
        LimitConnections("catalog", max_requests=9),
        SetOutlierDetection("catalog", 3),
        OpenBreaker("catalog", "cart", 50),
        EjectInstance("catalog", "a"),
        LimitRate("catalog", 7.0, "cart"),
        LimitRate("catalog", 9.0),
        ShedLoad("catalog", 40, "high"),
        AdaptConcurrency("catalog"),
        ShiftZones("catalog", {"z1": 1, "z2": 0}),
        PauseCanary("catalog"),
        RunHook("catalog", "scale"),
    ]
    found = effective(
        DECLARED, [overlay(str(n), c) for n, c in enumerate(changes)], [make("a"), make("b"), make("c", version="v2")]
    )
    policy = found.policies["catalog"]
    route = policy.routes[0]
    assert found.held_back == {}
    assert route.weights == {"v1": 1}
    assert (route.retries.attempts, route.retries.budget, route.retries.per_try_timeout_s) == (0, 0.1, 0.5)
    assert route.timeout_s == 0.7
    assert route.fault == Fault(5.0, 500)
    assert policy.limits == Limits(max_requests=9)
    assert policy.outlier is not None
    assert policy.outlier.consecutive_errors == 3
    assert policy.breakers == (Breaker("cart", 50, "fail-fast"),)
    assert policy.ejected == {"a"}
    assert policy.drained == frozenset()
    rates = (CallerRate("", 9.0), CallerRate("cart", 7.0))
    assert policy.admission == Admission(rates, adaptive=True, shed_percent=40, shed_below="high")
    assert policy.zones == {"z1": 1}


def test_an_ejection_that_keeps_a_slice_thins_the_instance(make: Make) -> None:
    """What keeps a share of its requests is not out of load balancing, whatever the older whole ejection says."""
    well = [make(name, service="cart") for name in "abc"]
    whole = overlay("o1", EjectInstance("cart", "a"))
    part = overlay("o2", EjectInstance("cart", "a", 5), at=1.0)
    policy = effective(DECLARED, [whole, part], well).policies["cart"]
    assert (policy.ejected, policy.thinned) == (frozenset[str](), {"a": 5})
    assert effective(DECLARED, [whole], well).policies["cart"].thinned == {}


def test_a_drained_instance_is_ejected_too(make: Make) -> None:
    """Draining is ejecting and more; of the two on one instance one holds."""
    both = [overlay("d", DrainInstance("catalog", "a"), at=1.0), overlay("e", EjectInstance("catalog", "a"))]
    policy = effective({}, both, [make("a"), make("b")]).policies["catalog"]
    assert (policy.ejected, policy.drained) == (frozenset({"a"}), frozenset({"a"}))
    policy = effective({}, both[1:], [make("a"), make("b")]).policies["catalog"]
    assert (policy.ejected, policy.drained) == (frozenset({"a"}), frozenset[str]())


def test_declared_faults_rest_and_laid_ones_stay() -> None:
    """Whatever the order, a fault that somebody lays on purpose outlives the silencing of declared ones."""
    broken = {"cart": ServicePolicy("cart", routes=(Route(fault=Fault(10.0, 500)),))}
    rest = overlay("r", DisableFault("cart"))
    drill = overlay("a", InjectFault("cart", 5.0, 503))
    assert effective(broken, [rest], []).policies["cart"].routes[0].fault is None
    assert effective(broken, [drill, rest], []).policies["cart"].routes[0].fault == Fault(5.0, 503)


def test_zones_are_kept_while_the_others_cannot_carry(make: Make) -> None:
    """Leaving a zone is held back when too few, or none of a version with a share, would stand elsewhere."""
    away = [overlay("z", ShiftZones("catalog", {"east": 0, "west": 1}))]
    east, west = make("a", zone="east"), make("b", zone="west")
    flat = {"catalog": ServicePolicy("catalog")}
    assert effective(flat, away, [east, west]).policies["catalog"].zones == {"west": 1}
    few = effective(flat, away, [east, make("c", zone="east"), west])
    assert "1 of 3 healthy instances of catalog stand in these zones, 2 must be" in few.held_back["z"]
    bare = effective(DECLARED, away, [east, make("c", zone="west", version="v2")])
    assert "v1 has a share" in bare.held_back["z"]
    lost = effective(flat, away, [east, replace(west, health=Health.LOST)])
    assert lost.policies["catalog"].zones == {}


def test_ejections_count_what_zones_have_closed(make: Make) -> None:
    """With one zone left, no further instance of it may go below the floor."""
    members = [make("a", zone="east"), make("b", zone="west"), make("c", zone="west"), make("d", zone="east")]
    both = [overlay("z", ShiftZones("catalog", {"west": 1})), overlay("e", EjectInstance("catalog", "b"))]
    found = effective({"catalog": ServicePolicy("catalog")}, both, members)
    assert "1 of 4 healthy instances" in found.held_back["e"]


def test_people_win_and_newer_fences_win() -> None:
    """Of two timeouts a person's holds, of two agents' the one with the newer fence."""
    agents = [overlay("x", SetTimeout("cart", 1), fence=2), overlay("y", SetTimeout("cart", 2), fence=1, at=9.0)]
    person = overlay("p", SetTimeout("cart", 3), owner=Owner.PERSON, fence=0)
    assert effective(DECLARED, agents, []).policies["cart"].routes[0].timeout_s == 1
    assert effective(DECLARED, [*agents, person], []).policies["cart"].routes[0].timeout_s == 3


def test_an_ejection_is_held_back_when_the_others_fall_ill(make: Make) -> None:
    """An ejected instance serves again rather than nobody."""
    eject = [overlay("e", EjectInstance("catalog", "a"))]
    flat = {"catalog": ServicePolicy("catalog")}
    well = [make("a"), make("b"), make("c")]
    assert effective(flat, eject, well).policies["catalog"].ejected == {"a"}
    ill = [well[0], *(replace(i, health=Health.UNHEALTHY) for i in well[1:])]
    found = effective(flat, eject, ill)
    assert found.policies["catalog"].ejected == frozenset()
    assert "0 of 1 healthy instances" in found.held_back["e"]


def test_weights_fall_back_to_declared_when_their_version_dies(make: Make) -> None:
    """All traffic on a version without a healthy instance would be an outage: the declared weights hold."""
    shift = [overlay("s", ShiftTraffic("catalog", {"v2": 1}))]
    found = effective(DECLARED, shift, [make("a"), make("c", version="v2", health=Health.LOST)])
    assert found.policies["catalog"] == DECLARED["catalog"]
    assert "s" in found.held_back
