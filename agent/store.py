"""What the agent must remember over a `kill -9`: incidents, its timeline, the action ledger, learnt baselines.

One SQLite file, written by one thread of ours, one transaction per transition. Incidents are stored as documents: the
agent always reads and writes them whole, and nobody else reads the file.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final, TypeVar

from agent.codec import EVENT, INCIDENT, Event
from agent.incidents import Incident
from models.errors import Broken
from models.incident import TERMINAL

T = TypeVar("T")

SCHEMA_VERSION: Final = 1
SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS incidents (
    id TEXT PRIMARY KEY, opened_at REAL NOT NULL, open INTEGER NOT NULL, held INTEGER NOT NULL, document TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS incidents_by_time ON incidents (opened_at);
CREATE TABLE IF NOT EXISTS events (sequence INTEGER PRIMARY KEY, document TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS memory (name TEXT PRIMARY KEY, value BLOB NOT NULL);
"""


class Store:
    """The agent's database. All methods may be called from the event loop; none of them blocks it.

    Raises `Broken` when the file cannot be opened, read or written (disk full, not a database, newer schema).
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="agent-store")
        self._db: sqlite3.Connection | None = None
        self._closed = False

    async def open(self) -> None:
        """Open the file, create what is missing."""
        await self._run(self._open)

    async def close(self) -> None:
        """Finish what is queued, then close."""
        if self._db is not None:
            await self._run(self._close)
        self._closed = True
        self._thread.shutdown(wait=False)

    async def put(self, incident: Incident, events: tuple[Event, ...] = ()) -> None:
        """Store an incident and the timeline lines that belong to it, in one transaction."""
        document = INCIDENT.dump_json(incident).decode()
        row = (incident.id, incident.opened_at, incident.stage not in TERMINAL, incident.held, document)
        lines = [(event.sequence, EVENT.dump_json(event).decode()) for event in events]

        def write(db: sqlite3.Connection) -> None:
            with db:
                db.execute("INSERT OR REPLACE INTO incidents VALUES (?, ?, ?, ?, ?)", row)
                db.executemany("INSERT OR REPLACE INTO events VALUES (?, ?)", lines)

        await self._with(write)

    async def put_events(self, events: tuple[Event, ...]) -> None:
        """Store timeline lines that belong to no incident."""
        lines = [(event.sequence, EVENT.dump_json(event).decode()) for event in events]

        def write(db: sqlite3.Connection) -> None:
            with db:
                db.executemany("INSERT OR REPLACE INTO events VALUES (?, ?)", lines)

        await self._with(write)

    async def living(self) -> tuple[Incident, ...]:
        """Return the incidents that are open or still hold an overlay, oldest first."""
        return await self._incidents("SELECT document FROM incidents WHERE open OR held ORDER BY opened_at", ())

    async def latest(self, limit: int) -> tuple[Incident, ...]:
        """Return the newest `limit` incidents, newest first."""
        return await self._incidents("SELECT document FROM incidents ORDER BY opened_at DESC LIMIT ?", (limit,))

    async def get(self, name: str) -> Incident | None:
        """Return one incident by id, None when there is none."""
        found = await self._incidents("SELECT document FROM incidents WHERE id = ?", (name,))
        return found[0] if found else None

    async def events(self, since: int, limit: int) -> tuple[Event, ...]:
        """Return up to `limit` timeline lines with a sequence above `since`, in order."""

        def read(db: sqlite3.Connection) -> list[tuple[str]]:
            return db.execute(
                "SELECT document FROM events WHERE sequence > ? ORDER BY sequence LIMIT ?", (since, limit)
            ).fetchall()

        return tuple(EVENT.validate_json(document) for (document,) in await self._with(read))

    async def last_sequence(self) -> int:
        """Return the highest timeline sequence ever given (0 before the first)."""

        def read(db: sqlite3.Connection) -> int:
            (value,) = db.execute("SELECT COALESCE(MAX(sequence), 0) FROM events").fetchone()
            return int(value)

        return await self._with(read)

    async def remember(self, name: str, value: bytes) -> None:
        """Keep a named value."""

        def write(db: sqlite3.Connection) -> None:
            with db:
                db.execute("INSERT OR REPLACE INTO memory VALUES (?, ?)", (name, value))

        await self._with(write)

    async def recall(self, name: str) -> bytes | None:
        """Return a named value, None when it was never kept."""

        def read(db: sqlite3.Connection) -> bytes | None:
            row = db.execute("SELECT value FROM memory WHERE name = ?", (name,)).fetchone()
            return None if row is None else bytes(row[0])

        return await self._with(read)

    async def trim(self, *, events: int = 20_000, incidents: int = 5_000) -> None:
        """Forget the oldest timeline lines and closed incidents beyond these numbers."""

        def write(db: sqlite3.Connection) -> None:
            with db:
                db.execute("DELETE FROM events WHERE sequence <= (SELECT MAX(sequence) FROM events) - ?", (events,))
                db.execute(
                    "DELETE FROM incidents WHERE NOT open AND NOT held AND id NOT IN"
                    " (SELECT id FROM incidents ORDER BY opened_at DESC LIMIT ?)",
                    (incidents,),
                )

        await self._with(write)

    async def _incidents(self, query: str, arguments: tuple[str | int, ...]) -> tuple[Incident, ...]:
        def read(db: sqlite3.Connection) -> list[tuple[str]]:
            return db.execute(query, arguments).fetchall()

        return tuple(INCIDENT.validate_json(document) for (document,) in await self._with(read))

    def _open(self) -> None:
        db = sqlite3.connect(self._path, check_same_thread=False)
        db.execute("PRAGMA journal_mode=WAL")
        db.execute("PRAGMA synchronous=FULL")  # an incident marked "acting" must survive a power cut too
        (version,) = db.execute("PRAGMA user_version").fetchone()
        if version > SCHEMA_VERSION:
            db.close()
            raise Broken(
                f"{self._path} was written by a newer Fibrin (schema {version}, this one knows {SCHEMA_VERSION})",
                hint="start the newer version, or move the file away to begin anew",
            )
        db.executescript(SCHEMA)
        db.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
        self._path.chmod(0o600)
        self._db = db

    def _close(self) -> None:
        if self._db is not None:
            self._db.close()
            self._db = None

    async def _with(self, work: Callable[[sqlite3.Connection], T]) -> T:
        def run() -> T:
            if self._db is None:
                raise Broken(f"{self._path} is not open", hint="the agent is stopping or never started")
            return work(self._db)

        return await self._run(run)

    async def _run(self, work: Callable[[], T]) -> T:
        if self._closed:
            raise Broken(f"{self._path} is closed", hint="the agent is stopping")
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, work)
        except (sqlite3.Error, OSError) as error:
            raise Broken(
                f"the agent's database {self._path} fails: {error}", hint="check free space and permissions there"
            ) from error
