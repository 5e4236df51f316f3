"""Simulated traffic of a canary and its stable version: many canaries (lanes) beside each other, one tick at a time.

One caller, one canary instance, three stable ones. Failures and latencies come from what both share at a time (bursts,
load, a slow dependency), from what befalls one instance (hiccups), and from the canary's own fault.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from models.detect.baseline import FloatArray, IntArray
from models.signals import BOUNDS_S, BUCKETS

STABLE_INSTANCES = 3
INSTANCES = STABLE_INSTANCES + 1


@dataclass(frozen=True)
class World:
    """What happens. Rates are requests per second at the canary; times in seconds, ratios 0–1.

    `share`: the canary's share of traffic. `errors`: what both versions always fail. `fault`: what the canary fails besides,
    from `onset_s` on. `burst_every_s`: a shared dependency fails 30–100 % of requests for 0.5–8 s, on average so often
    (0: never). `season`: load swings between 1 − season and 1 + season times the rate in ten minutes. `hiccup_every_s`: each
    instance fails all its requests for half a second, on average so often. `retries`: attempts made again after a failure.
    `warm_s`: for so long the stable version alone is watched before the canary gets traffic (and time 0 comes).
    """

    rps: float
    share: float = 0.1
    errors: float = 0.0
    fault: float = 0.0
    onset_s: float = 0.0
    burst_every_s: float = 0.0
    season: float = 0.0
    hiccup_every_s: float = 0.0
    retries: int = 0
    median_s: float = 0.03
    spread: float = 0.5
    slower: float = 1.0
    warm_s: float = 0.0


@dataclass(frozen=True)
class Counts:
    """One tick: (requests, errors) of the canary (lanes,) and by stable instance (lanes, instances); chains of retries."""

    canary: tuple[FloatArray, FloatArray]
    stable: tuple[FloatArray, FloatArray]
    chain: FloatArray


def error_ticks(world: World, lanes: int, seconds: float, tick_s: float, rng: np.random.Generator) -> Iterator[Counts]:
    """Yield the warm-up and `seconds` of traffic."""
    busy_until, ratio = np.full(lanes, -np.inf), np.zeros(lanes)
    sick_until = np.full((lanes, INSTANCES), -np.inf)
    phase = rng.uniform(0, 2 * np.pi, lanes)
    load = np.asarray([world.share] + [(1 - world.share) / STABLE_INSTANCES] * STABLE_INSTANCES) / world.share
    for k in range(-round(world.warm_s / tick_s), round(seconds / tick_s)):
        now = k * tick_s
        if world.burst_every_s:
            new = (rng.random(lanes) < tick_s / world.burst_every_s) & (busy_until <= now)
            busy_until = np.where(new, now + rng.uniform(0.5, 8.0, lanes), busy_until)
            ratio = np.where(new, rng.uniform(0.3, 1.0, lanes), ratio)
        shared = np.where(busy_until > now, ratio, world.errors)[:, None]
        failing = np.broadcast_to(shared, (lanes, INSTANCES)).copy()
        if world.hiccup_every_s:
            new_sick = rng.random((lanes, INSTANCES)) < tick_s / world.hiccup_every_s
            sick_until = np.where(new_sick, now + 0.5, sick_until)
            failing += (1 - failing) * np.clip((sick_until - now) / tick_s, 0, 1)
        if now >= world.onset_s:
            failing[:, 0] += (1 - failing[:, 0]) * world.fault
        swing = 1 + world.season * np.sin(2 * np.pi * now / 600 + phase)
        requests = rng.poisson(world.rps * tick_s * swing[:, None] * load)
        requests[:, 0] *= now >= 0
        yield _count(requests.astype(float), failing, world.retries, rng)


def _count(requests: FloatArray, failing: FloatArray, retries: int, rng: np.random.Generator) -> Counts:
    attempts = requests
    errors = lost = rng.binomial(requests.astype(np.int64), failing).astype(float)
    for _ in range(retries):
        again = lost
        lost = rng.binomial(again.astype(np.int64), failing).astype(float)
        attempts, errors = attempts + again, errors + lost
    again_share = np.clip((attempts - requests).sum(axis=1) / np.maximum(errors.sum(axis=1), 1), 0, 0.6)
    chain = (1 + again_share) / (1 - again_share)
    return Counts((attempts[:, 0], errors[:, 0]), (attempts[:, 1:], errors[:, 1:]), chain)


def latency_ticks(
    world: World, lanes: int, seconds: float, tick_s: float, rng: np.random.Generator
) -> Iterator[tuple[FloatArray, FloatArray]]:
    """Yield latency counts of the canary (lanes, BUCKETS) and by stable instance (lanes, instances, BUCKETS).

    Log-normal latencies; a burst makes everybody 3 times slower, a hiccup one instance 10 times.
    """
    factors = np.asarray([a * b * c for a in (1.0, world.slower) for b in (1.0, 10.0) for c in (1.0, 3.0)])
    busy_until = np.full(lanes, -np.inf)
    sick_until = np.full((lanes, INSTANCES), -np.inf)
    load = np.asarray([world.share] + [(1 - world.share) / STABLE_INSTANCES] * STABLE_INSTANCES) / world.share
    for k in range(-round(world.warm_s / tick_s), round(seconds / tick_s)):
        now = k * tick_s
        if world.burst_every_s:
            new = rng.random(lanes) < tick_s / world.burst_every_s
            busy_until = np.where(new, now + rng.uniform(0.5, 8.0, lanes), busy_until)
        if world.hiccup_every_s:
            new_sick = rng.random((lanes, INSTANCES)) < tick_s / world.hiccup_every_s
            sick_until = np.where(new_sick, now + 0.5, sick_until)
        state = 2 * (sick_until > now) + (busy_until > now)[:, None]
        own = (state[:, :1] if now < world.onset_s else state[:, :1] + 4, state[:, 1:])
        requests = rng.poisson(world.rps * tick_s * load, (lanes, INSTANCES))
        requests[:, 0] *= now >= 0
        counts = latency_counts(requests, world.median_s * factors[np.concatenate(own, axis=1)], world.spread, rng)
        yield counts[:, 0], counts[:, 1:]


def latency_counts(requests: IntArray, median_s: FloatArray, spread: float, rng: np.random.Generator) -> FloatArray:
    """Return latency counts, shape (*requests.shape, BUCKETS), of requests whose latencies are log-normal around `median_s` (same shape)."""
    owner = np.repeat(np.arange(requests.size), requests.ravel())
    latency = median_s.ravel()[owner] * np.exp(spread * rng.standard_normal(len(owner)))
    bucket = np.searchsorted(BOUNDS_S, latency)
    counts = np.bincount(owner * BUCKETS + bucket, minlength=requests.size * BUCKETS)
    return counts.reshape(*requests.shape, BUCKETS).astype(np.float64)
