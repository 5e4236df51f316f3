"""The agent's database, held to one contract on a file and on a real PostgreSQL that replicas share."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.event import listen

from agent.codec import Event
from agent.incidents import Incident, moved
from agent.schema import MIGRATIONS
from agent.store import Store, check_url
from models.errors import Broken, Conflict, InvalidInput
from models.incident import Stage

Place = Callable[[], Path | str]


@pytest.fixture(params=["sqlite", "postgresql"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Path | str:
    """Give an empty database of either kind."""
    if request.param == "sqlite":
        return tmp_path / "agent.db"
    url: str = request.getfixturevalue("server")
    name = f"t{abs(hash(request.node.name)) % 10**9}"
    engine = create_engine(
        url.format("postgres").replace("postgresql:", "postgresql+psycopg:"), isolation_level="AUTOCOMMIT"
    )
    with engine.connect() as db:
        db.execute(text(f"DROP DATABASE IF EXISTS {name}"))
        db.execute(text(f"CREATE DATABASE {name}"))
    engine.dispose()
    return url.format(name)


@asynccontextmanager
async def opened(place: Path | str, agent: str = "") -> AsyncIterator[Store]:
    """Open a store until the block ends."""
    store = Store(place, agent)
    await store.open()
    try:
        yield store
    finally:
        await store.close()


def incident(name: str, at: float = 1.0, stage: Stage = Stage.PLANNED) -> Incident:
    """Return an incident."""
    return Incident(name, opened_at=at, onset=at - 0.3, stage=stage)


async def test_what_was_put_is_there_after_a_restart(place: Path | str) -> None:
    """Incidents, lines, memory: whole, latest version, in order."""
    lines = tuple(Event(n, 1.0 + n, "inc-1", "planned", "it", {"n": n, "nan": None}) for n in (1, 2, 3))
    async with opened(place) as store:
        await store.put(incident("inc-1"), lines, {"ledger": b"[]"})
        await store.put(moved(incident("inc-1"), Stage.ACTING, 2.0, "go"))
        await store.put(incident("inc-2", 5.0))
        await store.put(replace(incident("inc-3", 6.0, Stage.RESOLVED), held=True))
        await store.put(incident("inc-4", 7.0, Stage.OBSERVED))
        await store.put_events((Event(4, 9.0, "", "control", "up"),))
        await store.remember("normal", b"\x00\xff")
    async with opened(place) as store:
        assert [(i.id, i.stage) for i in await store.living()] == [
            ("inc-1", Stage.ACTING),
            ("inc-2", Stage.PLANNED),
            ("inc-3", Stage.RESOLVED),
        ]
        assert [i.id for i in await store.latest(2)] == ["inc-4", "inc-3"]
        found = await store.get("inc-1")
        assert found is not None
        assert found.history[-1].message == "go"
        assert await store.get("inc-9") is None
        assert [e.sequence for e in await store.events(1, 2)] == [2, 3]
        assert await store.last_sequence() == 4
        assert await store.recall("normal") == b"\x00\xff"
        assert await store.recall("ledger", shared=True) == b"[]"
        assert await store.recall("nothing") is None


async def test_old_things_are_forgotten_but_nothing_that_lives(place: Path | str) -> None:
    """Only closed incidents that hold nothing, and the oldest lines, go."""
    async with opened(place) as store:
        for n in range(6):
            await store.put(incident(f"inc-{n}", float(n), Stage.OBSERVED if n else Stage.VERIFYING))
        await store.put_events(tuple(Event(n, 1.0, "", "x", "y") for n in range(1, 11)))
        await store.trim(events=3, incidents=2)
        assert [i.id for i in await store.latest(10)] == ["inc-5", "inc-4", "inc-0"]
        assert [e.sequence for e in await store.events(0, 99)] == [8, 9, 10]


async def test_an_incident_and_its_memory_are_stored_together_or_not_at_all(place: Path | str) -> None:
    """A transaction that fails half-way leaves nothing behind."""
    async with opened(place) as store:
        broken = Event(10**30, 1.0, "inc-1", "planned", "no database has so large a number")
        with pytest.raises((Broken, OverflowError)):
            await store.put(incident("inc-1"), (broken,), {"ledger": b"[]"})
        assert await store.latest(10) == ()
        assert await store.recall("ledger", shared=True) is None


async def test_writes_that_wait_share_a_commit_and_fail_alone(place: Path | str) -> None:
    """Of thirty written at once all are on disk afterwards, by a few commits; the one that must not be written alone fails."""
    async with opened(place, "one") as first, opened(place, "two") as second:
        await first.put(incident("inc-other"))
        await second.adopt()
        commits: list[object] = []
        assert first._engine is not None
        listen(first._engine, "commit", commits.append)
        names = [f"inc-{n}" for n in range(30)]
        put = [first.put(incident(name)) for name in (*names, "inc-other")]
        found = await asyncio.gather(*put, return_exceptions=True)
        assert [type(one) for one in found] == [type(None)] * 30 + [Conflict]
        assert {one.id for one in await first.latest(100)} == {*names, "inc-other"}
        del commits[:]
        await asyncio.gather(*(first.put(incident(name, stage=Stage.ACTING)) for name in names))
        assert 0 < len(commits) <= 5
        assert {one.stage for one in await first.living()} == {Stage.ACTING}


async def test_a_database_of_the_future_is_refused(place: Path | str) -> None:
    """A newer schema is named with the way out; it is not touched."""
    async with opened(place) as store:
        await store.put(incident("inc-1"))
    url = f"sqlite:///{place}" if isinstance(place, Path) else place.replace("postgresql:", "postgresql+psycopg:")
    engine = create_engine(url)
    with engine.begin() as db:
        db.execute(text("INSERT INTO schema_version VALUES (99)"))
    engine.dispose()
    with pytest.raises(Broken, match="newer Fibrin") as caught:
        await Store(place).open()
    assert "newer version" in caught.value.hint


@pytest.mark.parametrize("place", ["postgresql"], indirect=True)
async def test_an_agent_that_takes_over_adopts_and_the_former_one_writes_no_more(place: str) -> None:
    """Replicas share incidents, each has its own; adopted, the paused owner's late write is refused."""
    async with opened(place, "a") as first, opened(place, "b") as second:
        await first.put(incident("inc-1"))
        await first.remember("normal", b"a")
        await first.put_events((Event(1, 1.0, "", "x", "of a"),))
        await second.put_events((Event(1, 1.0, "", "x", "of b"),))
        assert await second.living() == ()
        assert await second.recall("normal") is None
        assert [e.message for e in await second.events(0, 9)] == ["of b"]
        assert [i.id for i in await second.adopt()] == ["inc-1"]
        assert await second.adopt() == ()
        with pytest.raises(Conflict, match="adopted by another agent"):
            await first.put(moved(incident("inc-1"), Stage.ACTING, 2.0, "late"), (), {"ledger": b"late"})
        assert await second.recall("ledger", shared=True) is None
        assert [i.stage for i in await second.living()] == [Stage.PLANNED]
        assert await first.living() == ()


@pytest.mark.parametrize("place", ["postgresql"], indirect=True)
async def test_replicas_may_start_at_the_same_time(place: str) -> None:
    """Migrations run once, whoever comes first."""
    stores = [Store(place, f"agent-{n}") for n in range(4)]
    await asyncio.gather(*(store.open() for store in stores))
    for store in stores:
        await store.put(incident(f"inc-{store.agent}"))
        await store.close()
    async with opened(place, "agent-0") as store:
        assert len(await store.latest(10)) == 4


OLD = """
CREATE TABLE incidents (id TEXT PRIMARY KEY, opened_at REAL NOT NULL, open INTEGER NOT NULL, held INTEGER NOT NULL,
    document TEXT NOT NULL);
CREATE INDEX incidents_by_time ON incidents (opened_at);
CREATE TABLE events (sequence INTEGER PRIMARY KEY, document TEXT NOT NULL);
CREATE TABLE memory (name TEXT PRIMARY KEY, value BLOB NOT NULL);
"""


async def test_a_database_of_an_earlier_version_is_migrated(tmp_path: Path) -> None:
    """What an agent stored before there were migrations is all there afterwards, in the new form."""
    place = tmp_path / "agent.db"
    old, new = sqlite3.connect(place), tmp_path / "new.db"
    old.executescript(OLD)
    async with opened(new) as store:
        await store.put(incident("inc-1"), (Event(7, 1.0, "inc-1", "planned", "then"),))
    document = sqlite3.connect(new).execute("SELECT document FROM incidents").fetchone()[0]
    line = sqlite3.connect(new).execute("SELECT document FROM events").fetchone()[0]
    with old:
        old.execute("INSERT INTO incidents VALUES ('inc-1', 1.0, 1, 0, ?)", (document,))
        old.execute("INSERT INTO events VALUES (7, ?)", (line,))
        old.execute("INSERT INTO memory VALUES ('holder', 'agent-1')")
    old.close()
    for _ in range(2):
        async with opened(place) as store:
            assert [i.id for i in await store.living()] == ["inc-1"]
            assert await store.last_sequence() == 7
            assert [e.message for e in await store.events(0, 9)] == ["then"]
    assert sqlite3.connect(place).execute("SELECT MAX(version) FROM schema_version").fetchone()[0] == len(MIGRATIONS)
    assert place.stat().st_mode & 0o777 == 0o600


async def test_what_cannot_be_opened_or_is_closed_says_so(tmp_path: Path) -> None:
    """No directory, not a database, no server, closed: Broken with a hint; a password is never shown."""
    with pytest.raises(Broken, match="fails") as caught:
        await Store(tmp_path / "nowhere" / "agent.db").open()
    assert "space and permissions" in caught.value.hint
    (tmp_path / "x.db").write_text("this is no database, however long it may be" * 10)
    with pytest.raises(Broken, match="not a database") as damaged:
        await Store(tmp_path / "x.db").open()
    assert f"move {tmp_path / 'x.db'} and x.db-* away and start again" in damaged.value.hint
    with pytest.raises(Broken, match="Connection refused") as away:
        await Store("postgresql://me:s3cret@127.0.0.1:9/none", "a").open()
    assert "is the server up" in away.value.hint
    assert "s3cret" not in str(away.value)
    store = Store(tmp_path / "agent.db")
    with pytest.raises(Broken, match="not open"):
        await store.get("x")
    await store.open()
    await store.close()
    with pytest.raises(Broken, match="closed"):
        await store.get("x")
    for url in ("mysql://x", "nonsense", "sqlite:///x"):
        with pytest.raises(InvalidInput, match=r"agent\.database"):
            check_url(url)
    check_url("postgresql://me@host/fibrin")
