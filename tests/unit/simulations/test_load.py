"""The users' schedule repeats, keeps its rate, and may be entered in the middle; the journal loses nothing."""

from __future__ import annotations

import asyncio
from itertools import islice, pairwise, takewhile
from pathlib import Path

import pytest

from simulations.journal import Journal, Record, Tail
from simulations.load import STEPS_PER_SESSION, herd, hot, schedule


def test_one_seed_is_one_schedule() -> None:
    """Equal seeds give equal requests at equal moments; another seed gives others."""
    first, again, other = (list(islice(schedule(seed, 50), 500)) for seed in (7, 7, 8))
    assert first == again
    assert first != other


def test_schedule_is_ordered_and_holds_its_rate() -> None:
    """Requests come in order of time, at the asked rate from the first seconds on."""
    minutes = list(takewhile(lambda d: d.at < 300, schedule(3, 70)))
    assert all(a.at <= b.at for a, b in pairwise(minutes))
    assert len(minutes) / 300 == pytest.approx(70, rel=0.05)
    early = [d for d in minutes if d.at < 10]
    assert len(early) / 10 == pytest.approx(70, rel=0.25)


def test_schedule_entered_in_the_middle_is_the_same_schedule() -> None:
    """Starting at second 20 gives exactly the requests that a run from 0 sends from second 20 on."""
    whole = list(takewhile(lambda d: d.at < 30, schedule(5, 40)))
    late = list(takewhile(lambda d: d.at < 30, schedule(5, 40, start=20)))
    assert late == [d for d in whole if d.at >= 20]


def test_journeys_are_shopping() -> None:
    """Every session begins at home and checks out only after it filled a cart."""
    # Sessions that began before 0 are seen without their first steps: leave them out.
    steps: dict[int, list[str]] = {}
    for due in takewhile(lambda d: d.at < 120, schedule(1, 40)):
        steps.setdefault(due.session, []).append(due.name)
    whole = [s for s in steps.values() if s[0] == "home"]
    assert len(whole) > 1000
    assert all("add-to-cart" in s[: s.index("checkout")] for s in whole if "checkout" in s)
    mean = sum(map(len, whole)) / len(whole)
    assert mean == pytest.approx(STEPS_PER_SESSION, rel=0.1)


def test_senseless_rate_is_refused() -> None:
    """A rate of zero is a ValueError, not an endless wait."""
    with pytest.raises(ValueError, match="rate must be positive"):
        next(schedule(1, 0))


async def test_journal_is_read_back_whole(tmp_path: Path) -> None:
    """What is recorded is what a tail reads, once each, with half-written lines left for later."""
    path = tmp_path / "journal"
    tail = Tail(path)
    assert tail.read() == ()
    journal = Journal(path)
    journal.began(1000.0, 5.0)
    record = Record(6.0, 1001.0, "home", 200, 0.25, missed=False, trouble=("cart-v1-2",))
    journal.add(record)
    async with asyncio.TaskGroup() as group:
        group.create_task(journal.write_until_closed())
        journal.close()
    assert tail.read() == (record,)
    assert tail.read() == ()
    assert (tail.began, tail.start) == (1000.0, 5.0)
    assert record.seen == 1001.25
    with path.open("a") as file:
        file.write(record.encode())
    assert tail.read() == ()
    assert tail.window(1000.0, 1001.5) == (record,)


def test_hot_and_herd_are_what_they_say() -> None:
    """Everybody wants one product at the rate asked for; a herd comes in one moment, again and again."""
    wanted = list(islice(hot(1, 50.0, 3), 2000))
    assert {due.path for due in wanted} == {"/product/3"}
    assert wanted[-1].at == pytest.approx(40.0, rel=0.1)
    herds = list(islice(herd(5, 2.0), 15))
    assert [due.at for due in herds] == [0.0] * 5 + [2.0] * 5 + [4.0] * 5
