"""What may not be laid at all."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import pytest

from control.interlocks import check
from models.domain import Instance
from models.errors import FibrinError, InvalidInput, Refused
from models.overlay import (
    Change,
    DrainInstance,
    EjectInstance,
    InjectFault,
    LimitConnections,
    LimitRate,
    OpenBreaker,
    Overlay,
    Owner,
    PauseCanary,
    RouteCanary,
    RunHook,
    SetOutlierDetection,
    SetRetries,
    SetTimeout,
    ShedLoad,
    ShiftTraffic,
    ShiftZones,
)
from models.policy import Route, ServicePolicy

Make = Callable[..., Instance]

DECLARED = {"catalog": ServicePolicy("catalog", routes=(Route(weights={"v1": 90, "v2": 10}),))}


def laid(name: str, change: Change) -> Overlay:
    """Return an agent's overlay."""
    return Overlay(name, change, Owner.AGENT, "agent", "because", 0.0, 60.0, 60.0, fence=1)


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        (ShiftTraffic("catalog", {"v1": 0, "v2": 0}), Refused, "add up to 0"),
        (ShiftTraffic("catalog", {}), InvalidInput, "empty never means all"),
        (ShiftTraffic("catalog", {"v1": -1}), InvalidInput, "between 0 and"),
        (ShiftTraffic("catalog", {"v9": 1}), InvalidInput, "no version `v9`"),
        (ShiftTraffic("catalgo", {"v1": 1}), InvalidInput, "no service `catalgo`"),
        (ShiftTraffic("", {"v1": 1}), InvalidInput, "empty never means all"),
        (EjectInstance("catalog", "zz"), InvalidInput, "no instance `zz`"),
        (EjectInstance("catalog", "c"), Refused, "last healthy instance of v2"),
        (OpenBreaker("catalog", percent=0), InvalidInput, "between 1 and 100"),
        (OpenBreaker("catalog", "nobody"), InvalidInput, "no service `nobody`"),
        (OpenBreaker("catalog", respond="fallback"), InvalidInput, "declares no fallback"),
        (InjectFault("catalog", 10, caller="nobody"), InvalidInput, "no caller `nobody`"),
        (InjectFault("catalog", 10, version="v9"), InvalidInput, "no version `v9`"),
        (InjectFault("catalog", 10, instance="zz"), InvalidInput, "no instance `zz`"),
        (InjectFault("catalog", 10, route="x"), InvalidInput, "no route `x`"),
        (InjectFault("catalog", 10, route="default", version="v1"), InvalidInput, "only callers know routes"),
        (InjectFault("catalog", 10, caller="catalog", version="v1"), InvalidInput, "give one of"),
        (SetRetries("catalog", 99), InvalidInput, "attempts"),
        (SetRetries("catalog", 1, budget=math.nan), InvalidInput, "budget"),
        (SetTimeout("catalog", 0), InvalidInput, "timeout_s"),
        (LimitConnections("catalog"), InvalidInput, "no limit"),
        (InjectFault("catalog"), InvalidInput, "nothing"),
        (InjectFault("catalog", 5, 700), InvalidInput, "abort_status"),
        (SetOutlierDetection("catalog", 0), InvalidInput, "consecutive_errors"),
        (DrainInstance("catalog", "c"), Refused, "last healthy instance of v2"),
        (ShiftZones("catalog", {}), InvalidInput, "empty never means all"),
        (ShiftZones("catalog", {"z": 0}), Refused, "add up to 0"),
        (ShiftZones("catalog", {"nowhere": 1}), InvalidInput, "no zone `nowhere`"),
        (LimitRate("catalog", 0), InvalidInput, "requests_per_s"),
        (LimitRate("catalog", 5, "nobody"), InvalidInput, "no service `nobody`"),
        (ShedLoad("catalog", 0), InvalidInput, "between 1 and 100"),
        (RouteCanary("catalog", "v2", "v1", 100), InvalidInput, "chooses no requests"),
        (RouteCanary("catalog", "v9", "v1", 5, mirror=True), InvalidInput, "no version `v9`"),
        (RouteCanary("catalog", "v1", "v1", 5, mirror=True), InvalidInput, "same version"),
        (RouteCanary("catalog", "v2", "v1", 0, mirror=True), InvalidInput, "between 1 and 100"),
        (RunHook("catalog", ""), InvalidInput, "names no hook"),
        (RunHook("catalog", "restart", instance="zz"), InvalidInput, "no instance `zz`"),
    ],
)
def test_harm_and_nonsense_are_refused(make: Make, change: Change, error: type[FibrinError], words: str) -> None:
    """Each is refused with the error that fits, in words that name the interlock or the field."""
    members = [make("a"), make("b"), make("c", version="v2")]
    with pytest.raises(error, match=words):
        check(laid("o", change), DECLARED, [], members, floor=0.5)


def test_the_floor_counts_what_is_ejected_already(make: Make) -> None:
    """Of four at a floor of one half two may go, the third may not."""
    members = [make(name) for name in "abcd"]
    flat = {"catalog": ServicePolicy("catalog")}
    there = [laid(name, EjectInstance("catalog", name)) for name in "ab"]
    check(there[1], flat, there[:1], members, floor=0.5)
    with pytest.raises(Refused, match="1 of 4 healthy instances of catalog would be left, 2 must be"):
        check(laid("c", EjectInstance("catalog", "c")), flat, there, members, floor=0.5)


def test_the_only_instance_is_never_ejected(make: Make) -> None:
    """A service of one cannot be helped by ejecting it."""
    with pytest.raises(Refused, match="0 of 1"):
        check(laid("o", EjectInstance("catalog", "a")), {}, [], [make("a")], floor=0.1)


def test_a_shift_may_not_lift_an_ejection(make: Make) -> None:
    """Traffic is not sent to a version whose only healthy instance somebody has taken out."""
    members = [make("a"), make("b"), make("d"), make("c", version="v2")]
    only_v1 = {"catalog": ServicePolicy("catalog", routes=(Route(weights={"v1": 1}),))}
    eject = laid("e", EjectInstance("catalog", "c"))
    check(eject, only_v1, [], members, floor=0.5)
    with pytest.raises(Refused, match="last healthy instance of v2"):
        check(laid("s", ShiftTraffic("catalog", {"v2": 1})), only_v1, [eject], members, floor=0.5)


def test_a_paused_canary_takes_no_step_but_incidents_and_people_do(make: Make) -> None:
    """A shift without an incident is a canary's step and is refused while the pause is in force."""
    members = [make("a"), make("b"), make("c", version="v2")]
    pause = laid("p", PauseCanary("catalog"))
    step = laid("s", ShiftTraffic("catalog", {"v1": 80, "v2": 20}))
    copies = laid("s", RouteCanary("catalog", "v2", "v1", 5, mirror=True))
    for one in (step, copies):
        with pytest.raises(Refused, match="its canary is paused by p"):
            check(one, DECLARED, [pause], members, floor=0.5)
    check(step, DECLARED, [], members, floor=0.5)
    check(replace(step, incident="inc-1"), DECLARED, [pause], members, floor=0.5)
    check(replace(step, owner=Owner.PERSON), DECLARED, [pause], members, floor=0.5)
