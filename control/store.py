"""What survives `kill -9`: one SQLite database, written by one thread.

Everything is one row of JSON per thing, because nothing is ever queried here: the control plane holds it all in memory
and the store is only read at start. Writes that wait together are committed together (one fsync), so durability costs
one disk flush of latency and not one of throughput.
"""

from __future__ import annotations

import asyncio
import json
import queue
import sqlite3
import threading
import time
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal, TypeAlias

import structlog

from control import metrics
from control.disk import damaged
from models.errors import Broken
from models.plain import Json

log = structlog.get_logger(__name__)

VERSION: Final = 1
"""Version of the schema below (SQLite's user_version)."""

Table: TypeAlias = Literal["resources", "overlays", "fences", "instances", "changes", "versions", "edges"]

TABLES: Final[tuple[Table, ...]] = ("resources", "overlays", "fences", "instances", "changes", "versions", "edges")
_BATCH: Final = 256


@dataclass(frozen=True, slots=True)
class Put:
    """Write one row, in place of the one with the same key."""

    table: Table
    key: str
    body: Mapping[str, Json]


@dataclass(frozen=True, slots=True)
class Drop:
    """Delete one row."""

    table: Table
    key: str


@dataclass(frozen=True, slots=True)
class Trim:
    """Delete the rows whose key sorts before `key`."""

    table: Table
    key: str


Write: TypeAlias = Put | Drop | Trim


@dataclass(frozen=True, slots=True)
class Contents:
    """Everything stored: table → key → body, keys ascending."""

    tables: Mapping[Table, Mapping[str, Mapping[str, Json]]] = field(default_factory=dict)

    def of(self, table: Table) -> Mapping[str, Mapping[str, Json]]:
        """Return the rows of one table."""
        return self.tables.get(table, {})


@dataclass(frozen=True, slots=True)
class _Job:
    writes: tuple[Write, ...]
    done: Future[None]


class Store:
    """The database file; `open` before use, `close` after. Safe to use from one event loop."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    async def open(self) -> Contents:
        """Open or create the database and return what is in it.

        Raises:
            Broken: the file cannot be used; the message says why and the hint what to do.
        """
        loop = asyncio.get_running_loop()
        opened: asyncio.Future[Contents] = loop.create_future()

        def settle(result: Contents | Broken) -> None:
            if not opened.cancelled():
                if isinstance(result, Broken):
                    opened.set_exception(result)
                else:
                    opened.set_result(result)

        def work() -> None:
            try:
                connection = self._connect()
                contents = _read(connection)
            except sqlite3.Error as error:
                loop.call_soon_threadsafe(settle, self._broken(error))
                return
            except Broken as error:
                loop.call_soon_threadsafe(settle, error)
                return
            loop.call_soon_threadsafe(settle, contents)
            self._serve(connection)

        self._thread = threading.Thread(target=work, name="control-store", daemon=True)
        self._thread.start()
        return await opened

    async def write(self, *writes: Write) -> None:
        """Commit `writes` together, all or none; they are on the disk when this returns.

        Raises:
            Broken: the disk is full or fails; nothing of `writes` is stored.
        """
        if writes:
            await asyncio.shield(asyncio.wrap_future(self._submit(writes)))

    def write_soon(self, *writes: Write) -> None:
        """Commit `writes` when there is time; a failure is logged and counted, memory stays right without it."""
        if writes:
            self._submit(writes)

    async def close(self) -> None:
        """Commit what waits, then close the file."""
        thread, self._thread = self._thread, None
        if thread is not None:
            self._jobs.put(None)
            await asyncio.to_thread(thread.join)

    def _submit(self, writes: tuple[Write, ...]) -> Future[None]:
        done: Future[None] = Future()
        if self._thread is None:
            done.set_exception(Broken("the store is closed", hint="the control plane is stopping; ask again later"))
        else:
            self._jobs.put(_Job(writes, done))
        return done

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self._path, isolation_level=None, timeout=2.0)
        try:
            _prepare(connection, self._path)
        except BaseException:
            connection.close()
            raise
        self._path.chmod(0o600)
        return connection

    def _serve(self, connection: sqlite3.Connection) -> None:
        while (job := self._jobs.get()) is not None:
            jobs, last = [job], False
            while len(jobs) < _BATCH:
                try:
                    more = self._jobs.get_nowait()
                except queue.Empty:
                    break
                if more is None:
                    last = True
                    break
                jobs.append(more)
            self._commit(connection, jobs)
            if last:
                break
        connection.close()

    def _commit(self, connection: sqlite3.Connection, jobs: list[_Job]) -> None:
        started = time.perf_counter()
        try:
            connection.execute("BEGIN IMMEDIATE")
            for job in jobs:
                for write in job.writes:
                    _execute(connection, write)
            connection.execute("COMMIT")
        except sqlite3.Error as error:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            metrics.STORE_FAILURES.inc()
            log.exception("store.write-failed", path=str(self._path), error=str(error))
            for job in jobs:
                job.done.set_exception(self._broken(error))
            return
        metrics.STORE_SECONDS.observe(time.perf_counter() - started)
        for job in jobs:
            job.done.set_result(None)

    def _broken(self, error: sqlite3.Error) -> Broken:
        text = str(error)
        if "full" in text:
            hint = "make room on this disk; what is in force stays in force, nothing new is taken meanwhile"
        elif damaged(text):
            hint = (
                f"move {self._path} away and start again: instances register themselves anew, "
                "apply your YAML again; overlays end"
            )
        else:
            hint = "is the state directory on a local disk and yours to write?"
        return Broken(f"the control plane's database {self._path} fails: {text}", hint=hint)


def _prepare(connection: sqlite3.Connection, path: Path) -> None:
    """Set the connection up and bring the schema to `VERSION`."""
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")
    (verdict,) = connection.execute("PRAGMA quick_check(1)").fetchone()
    if verdict != "ok":
        raise sqlite3.DatabaseError(f"malformed: {verdict}")
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version > VERSION:
        raise Broken(
            f"{path} was written by a newer Fibrin (schema {version}, this one reads {VERSION})",
            hint="start the newer version, or name another --state-dir",
        )
    if version < VERSION:
        connection.execute("BEGIN IMMEDIATE")
        for table in TABLES:
            connection.execute(f"CREATE TABLE {table} (key TEXT PRIMARY KEY, body TEXT NOT NULL) WITHOUT ROWID")
        connection.execute(f"PRAGMA user_version={VERSION}")
        connection.execute("COMMIT")


def _execute(connection: sqlite3.Connection, write: Write) -> None:
    match write:
        case Put(table=table, key=key, body=body):
            text = json.dumps(body, separators=(",", ":"))
            connection.execute(f"INSERT OR REPLACE INTO {table} VALUES (?, ?)", (key, text))  # noqa: S608 - closed set of tables
        case Drop(table=table, key=key):
            connection.execute(f"DELETE FROM {table} WHERE key = ?", (key,))  # noqa: S608 - closed set of tables
        case Trim(table=table, key=key):
            connection.execute(f"DELETE FROM {table} WHERE key < ?", (key,))  # noqa: S608 - closed set of tables


def _read(connection: sqlite3.Connection) -> Contents:
    tables: dict[Table, Mapping[str, Mapping[str, Json]]] = {}
    for table in TABLES:
        rows = connection.execute(f"SELECT key, body FROM {table} ORDER BY key").fetchall()  # noqa: S608 - closed set
        tables[table] = {key: json.loads(body) for key, body in rows}
    return Contents(tables)
