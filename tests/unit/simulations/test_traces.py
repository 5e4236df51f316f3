"""What callers inherit is what their callees report: counts of both sides never contradict each other."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.policy import Breaker, Fallback, Retries, Route, ServicePolicy
from simulations.simulator.condition import healthy
from simulations.simulator.layout import Layout, lay_out
from simulations.simulator.mesh import Call, Mesh, draw
from simulations.simulator.plant import Ended, Plant
from simulations.simulator.requests import BAD, Fate, joined, moment
from simulations.simulator.routing import route
from simulations.simulator.traces import Tracer, Traffic

TICK_S = 0.25


def flawless(mesh: Mesh) -> Mesh:
    """Return a mesh whose instances fail nothing by themselves on a good day, so that what fails is known."""
    return replace(mesh, natures=tuple(replace(nature, error_ratio=0.0) for nature in mesh.natures))


def meddling(mesh: Mesh, random: np.random.Generator) -> dict[str, ServicePolicy]:
    """Return policies with retries of answers, short time-outs, and breakers of either kind here and there."""
    policies = {}
    for name, policy in mesh.policies.items():
        on = ("connect-failure", "5xx") if random.random() < 0.5 else ("connect-failure",)
        retries = Retries(attempts=int(random.integers(1, 3)), retry_on=on)
        route_ = replace(policy.routes[0], retries=retries, timeout_s=float(random.choice([0.05, 0.5, 2.0])))
        breakers = (
            (Breaker("", 50, "fallback" if random.random() < 0.5 else "fail-fast"),) if random.random() < 0.2 else ()
        )
        policies[name] = replace(policy, routes=(route_,), breakers=breakers, fallback=Fallback(200, "[]"))
    return policies


def inherited(ended: Ended, layout: Layout) -> np.ndarray:
    """Return per service, shape (3, S), as reported: failures of calls that its requests needed, failed calls that its visits
    felt, and of these those of visits that were answered (a caller that gave up reports before what it did not wait for).
    """
    services, tried = len(layout.services), ended.attempts
    needed = ended.requests.needed & BAD[ended.requests.fate]
    reported = np.bincount(layout.caller[ended.requests.call[needed]], minlength=services)
    by, answered = layout.callee[tried.call], tried.fate != Fate.TIMEOUT
    felt = np.bincount(by, weights=tried.felt, minlength=services)
    return np.stack([reported, felt, np.bincount(by, weights=tried.felt * answered, minlength=services)])


def sick(seed: int) -> Plant:
    """Return a plant under meddling policies of which any part has any trouble there is."""
    random = np.random.default_rng(seed)
    plant = Plant(flawless(draw(12, seed, rps=20.0)), seed=seed, tick_s=TICK_S)
    plant.steer(meddling(plant.mesh, random))
    now, instances, calls = plant.now, len(plant.layout.instances), len(plant.layout.caller)
    some = random.random((5, instances)) < random.choice([0.05, 0.3])
    now.errors[some[0]] = random.choice([0.02, 0.5, 1.0])
    now.stuck[some[1]] = random.choice([0.1, 1.0])
    now.dead[some[2]] = True
    now.slow[some[3]] = random.choice([5.0, 50.0])
    now.workers[some[4]] = 1.0
    of = random.random((3, calls)) < random.choice([0.0, 0.2])
    now.cut[of[0]] = random.choice([0.5, 1.0])
    now.lag_s[of[1]] = random.choice([0.1, 1.0])
    now.surge[of[2]] = random.choice([3.0, 6.0])
    plant.disturbed()
    return plant


@settings(max_examples=30)
@given(seed=st.integers(0, 10_000), seconds=st.floats(0.25, 6.0))
def test_over_any_time_callers_inherit_what_their_calls_reported_and_never_before(seed: int, seconds: float) -> None:
    """At no step has a service answered for more failed calls than its calls have reported, and in the end it felt exactly as many."""
    plant = sick(seed)
    seen = np.zeros((3, len(plant.layout.services)))
    for _ in range(round(seconds / TICK_S)):
        seen += inherited(plant.step(), plant.layout)
        assert (seen[2] <= seen[0]).all()
    plant.mesh = replace(plant.mesh, rps=0.0)  # users leave, and what is under way ends
    plant.disturbed()
    for _ in range(round(30.0 / TICK_S)):
        seen += inherited(plant.step(), plant.layout)
    assert (seen[1] == seen[0]).all()


@settings(max_examples=30)
@given(seed=st.integers(0, 10_000))
def test_who_is_well_himself_fails_only_what_his_calls_made_fail(seed: int) -> None:
    """An instance answers with an error when it fails a request by itself or feels a failed call, and then always."""
    plant = sick(seed)
    made = joined([plant.step().attempts for _ in range(16)])
    alone = plant.now.errors[made.instance] > 0
    failed = made.fate == Fate.FAILED
    assert (made.felt[failed & ~alone] > 0).all()
    assert not (made.felt[made.fate == Fate.OK] > 0).any()


def chain(stages: tuple[int, ...] = (0, 0), mean: float = 1.0) -> Mesh:
    """Return a shop in which `top` calls `left` and `right` at these stages, and users call `top`."""
    drawn = flawless(draw(5, 1))
    names = ("top", "left", "right")
    natures = tuple(
        replace(drawn.natures[0], name=name, median_s=0.01, sigma=0.3, depth=min(k, 1)) for k, name in enumerate(names)
    )
    instances = tuple(replace(drawn.instances[0], id=f"{name}-1", service=name, version="v1") for name in names)
    calls = tuple(Call("top", name, mean, optional=False, stage=s) for name, s in zip(names[1:], stages, strict=True))
    policies = {name: ServicePolicy(name, routes=(Route(timeout_s=2.0),)) for name in names}
    return Mesh(natures, calls, instances, policies, ("top",), 100.0)


def traced(mesh: Mesh, users: int = 400) -> tuple[Traffic, Layout]:
    """Return users' requests that begin at second 10, each a second after the one before, with all they cause."""
    layout, random = lay_out(mesh), np.random.default_rng(4)
    now = healthy(mesh, layout)
    tracer = Tracer(mesh, layout, random)
    here = moment(layout, route(layout, mesh.policies, np.ones(len(layout.instances), dtype=bool)), now)
    return tracer.trace(np.zeros(users, dtype=np.int64), np.arange(10.0, 10.0 + users), here, random), layout


@pytest.mark.parametrize("stages", [(0, 0), (0, 1)])
def test_a_request_takes_as_long_as_the_calls_it_waits_for(stages: tuple[int, int]) -> None:
    """Calls of one stage run side by side, stages one after the other, and a caller ends after the last of its own calls."""
    traffic, layout = traced(chain(stages))
    by = [np.flatnonzero(layout.callee[traffic.requests.call] == layout.number[n]) for n in ("top", "left", "right")]
    seconds = [traffic.requests.seconds[k[np.argsort(traffic.request_roots[k])]] for k in by]
    ends = [traffic.request_ends[k[np.argsort(traffic.request_roots[k])]] for k in by]
    waited = seconds[1] + seconds[2] if stages == (0, 1) else np.maximum(seconds[1], seconds[2])
    own = seconds[0] - waited
    assert (own > 0.002).all()
    assert np.corrcoef(seconds[0], waited)[0, 1] > 0.5
    assert (ends[0] >= np.maximum(ends[1], ends[2])).all()
    assert (ends[0] - np.maximum(ends[1], ends[2])).max() < 0.001, "it answers as soon as they have"
    assert ends[0] - seconds[0] == pytest.approx(10.0 + np.arange(400))


def test_equal_calls_of_a_request_follow_each_other_and_are_as_many_as_declared() -> None:
    """A mean of 1.5 calls are one or two, and two take as long as both together."""
    traffic, layout = traced(chain(mean=1.5))
    left = layout.callee[traffic.requests.call] == layout.number["left"]
    counts = np.bincount(traffic.request_roots[left], minlength=400)
    assert set(counts.tolist()) == {1, 2}
    assert 1.4 < counts.mean() < 1.6
    top = layout.callee[traffic.requests.call] == layout.number["top"]
    together = np.bincount(traffic.request_roots[left], weights=traffic.requests.seconds[left])
    assert (traffic.requests.seconds[top][np.argsort(traffic.request_roots[top])] > together).all()


def test_a_slow_callee_makes_the_same_requests_slow() -> None:
    """As many of a caller's requests are slow as its calls were, to the request."""
    plant = Plant(chain(), seed=3, tick_s=TICK_S)
    plant.now.workers[:] = 1000.0
    plant.now.stuck[plant.layout.members("left")] = 0.02
    plant.disturbed()
    seen = joined([plant.step().requests for _ in range(200)])
    slow = seen.seconds > 1.0
    into = {
        n: int(slow[plant.layout.callee[seen.call] == plant.layout.number[n]].sum()) for n in ("top", "left", "right")
    }
    assert into["right"] == 0
    assert into["top"] == into["left"] > 10


def test_what_has_not_begun_is_drawn_anew_when_something_changes() -> None:
    """Requests are drawn ahead while nothing changes, and yet a fault strikes those of the very next tick."""
    plant = Plant(chain(), seed=3, tick_s=TICK_S)
    for _ in range(60):
        plant.step()
    plant.now.errors[plant.layout.members("left")] = 1.0
    plant.disturbed()
    plant.step()
    seen = plant.step().requests
    left = plant.layout.callee[seen.call] == plant.layout.number["left"]
    assert left.sum() > 5
    assert BAD[seen.fate[left]].mean() > 0.9
