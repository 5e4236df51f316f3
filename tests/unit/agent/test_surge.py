"""How much more than before a service is asked for."""

from __future__ import annotations

from dataclasses import replace

import pytest

from agent.history import History
from agent.surge import Surges
from agent.track import Track

from .conftest import World, bad_version, client, outcomes

ONSET_S = 40.0


def surges(before: int, now: int, *, seconds: float = ONSET_S, errors: int = 0) -> tuple[Surges, float]:
    """Return what `before` requests per tick of 0.2 s, and from a second before the onset on `now`, look like, and the time."""
    history, at = History(), 1000.0
    for k in range(round((seconds + 2) / 0.2)):
        at = 1000.0 + 0.2 * k
        count = before if at < 1000.0 + seconds - 1 else now
        history.add(at, {client("front", "catalog"): outcomes(count, min(errors, count))})
    return Surges(history), at


@pytest.fixture
async def track(world: World) -> Track:
    """Give an incident at catalog whose onset was 40 s after the first request."""
    await world.begin()
    await world.step(1.0)
    world.break_(bad_version(world))
    await world.step(0.6)
    return Track(world.incident)


@pytest.mark.parametrize(("before", "now", "low", "high"), [(10, 10, 0.7, 1.0), (10, 30, 2.6, 3.0), (20, 5, 0.1, 0.25)])
async def test_a_surge_is_told_less_one_deviation(track: Track, before: int, now: int, low: float, high: float) -> None:
    """The present rate over the one before the onset, never more than was seen, whatever failed."""
    track.incident = replace(track.incident, onset=1000.0 + ONSET_S)
    found, at = surges(before, now, errors=5)
    seen = found.of(track, at)
    assert seen is not None
    assert low < seen <= high


async def test_nothing_is_said_of_what_was_not_seen_before(track: Track) -> None:
    """A young mesh, a quiet service and a service nobody heard of have no load to compare with."""
    track.incident = replace(track.incident, onset=1006.0)
    assert surges(10, 30, seconds=6.0)[0].of(track, 1008.0) is None
    track.incident, track.before = replace(track.incident, onset=1000.0 + ONSET_S), None
    assert surges(0, 30)[0].of(track, 1042.0) is None
    track.before = None
    assert Surges(History()).of(track, 1042.0) is None
