"""What the agent must remember over a `kill -9`: incidents, its timeline, the action ledger, learnt baselines.

One SQLite file of its own, or one PostgreSQL database that several replicas share. Incidents are stored as documents: the
agent always reads and writes them whole, one transaction per transition. On a shared database every incident belongs to
the agent that works on it; the one that takes over adopts it, and what the former owner writes late is refused.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

import structlog
from sqlalchemy import Connection, Engine, Table, create_engine, delete, event, func, or_, select, true, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, NoSuchModuleError, SQLAlchemyError

from agent.codec import EVENT, INCIDENT, Event
from agent.incidents import Incident
from agent.schema import EVENTS, INCIDENTS, MEMORY, OBJECTIVE_COUNTS, migrate
from control.disk import damaged
from models.budget import WIDTHS, Slot
from models.errors import Broken, Conflict, InvalidInput
from models.incident import TERMINAL

log = structlog.get_logger(__name__)

T = TypeVar("T")

SHARED: Final = ""
"""The owner of what all replicas share."""

ROWS_AT_ONCE: Final = 1000
"""Rows in one statement: databases bound the number of parameters."""

MOST_AT_ONCE: Final = 100
"""Works that share one commit: the first of them waits for the last."""

PATIENCE_S: Final = 5
"""How long a connection to PostgreSQL, and a lock in SQLite, is waited for."""


@dataclass(slots=True)
class _Queued:
    """Work that waits for the database, and what came of it. May be done twice, the first time without effect."""

    work: Callable[[Connection], Any]
    value: Any = None
    error: Exception | None = None


class Store:
    """The agent's database: a file, or a URL such as `postgresql://user@host/fibrin` that several agents share.

    `agent` names this agent on a shared database. All methods may be called from the event loop; none of them blocks it.
    Raises `Broken` when the database cannot be opened, read or written (disk full, away, not ours, newer schema).
    """

    def __init__(self, place: Path | str, agent: str = SHARED) -> None:
        self._place = place
        self._agent = self.agent = agent
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="agent-store")
        self._reader = ThreadPoolExecutor(max_workers=1, thread_name_prefix="agent-store-reads")
        self._queue: deque[_Queued] = deque()
        self._engine: Engine | None = None
        self._closed = False

    @property
    def shared(self) -> bool:
        """Tell whether other agents may use this database."""
        return self._agent != SHARED

    async def open(self) -> None:
        """Open the database, create or migrate what is there."""
        await self._run(self._open)

    async def close(self) -> None:
        """Finish what is queued, then close."""
        if self._engine is not None:
            await self._run(self._dispose)
        self._closed = True
        self._thread.shutdown(wait=False)
        self._reader.shutdown(wait=False)

    async def put(
        self, incident: Incident, events: tuple[Event, ...] = (), memory: Mapping[str, bytes] | None = None
    ) -> None:
        """Store an incident, the timeline lines that belong to it and shared memory, in one transaction.

        Raises:
            Conflict: another agent has adopted the incident; nothing was stored.
        """
        row = {
            "id": incident.id,
            "opened_at": incident.opened_at,
            "open": incident.stage not in TERMINAL,
            "held": incident.held,
            "document": INCIDENT.dump_json(incident).decode(),
            "agent": self._agent,
        }

        def write(db: Connection) -> None:
            put = _upsert(db, INCIDENTS, ("id",), [row], only=INCIDENTS.c.agent == self._agent)
            if put == 0:
                raise Conflict(f"incident {incident.id} was adopted by another agent", hint="it goes on there")
            self._put_events(db, events)
            for name, value in (memory or {}).items():
                _upsert(db, MEMORY, ("agent", "name"), [{"agent": SHARED, "name": name, "value": value}])

        await self._with(write)

    async def put_events(self, events: tuple[Event, ...]) -> None:
        """Store timeline lines that belong to no incident."""
        await self._with(lambda db: self._put_events(db, events))

    async def living(self) -> tuple[Incident, ...]:
        """Return this agent's incidents that are open or still hold an overlay, oldest first."""
        mine = INCIDENTS.c.agent == self._agent
        return await self._incidents(
            select(INCIDENTS.c.document).where(_living(), mine).order_by(INCIDENTS.c.opened_at)
        )

    async def adopt(self) -> tuple[Incident, ...]:
        """Take over the living incidents of all other agents (this one leads now); return them, oldest first."""

        def take(db: Connection) -> list[Any]:
            others = INCIDENTS.c.agent != self._agent
            query = select(INCIDENTS.c.id, INCIDENTS.c.document).where(_living(), others)
            rows = db.execute(query.order_by(INCIDENTS.c.opened_at).with_for_update()).all()
            if rows:
                taken = INCIDENTS.c.id.in_([row.id for row in rows])
                db.execute(update(INCIDENTS).where(taken).values(agent=self._agent))
            return [row.document for row in rows]

        return tuple(INCIDENT.validate_json(document) for document in await self._with(take))

    async def latest(self, limit: int, besides: Collection[str] = ()) -> tuple[Incident, ...]:
        """Return those of the newest `limit` incidents of all agents that are not among `besides` (ids), newest first."""
        newest = select(INCIDENTS.c.id, INCIDENTS.c.document).order_by(INCIDENTS.c.opened_at.desc(), INCIDENTS.c.id)

        def read(db: Connection) -> tuple[Incident, ...]:
            rows = db.execute(newest.limit(limit)).all()
            return tuple(INCIDENT.validate_json(row.document) for row in rows if row.id not in besides)

        return await self._with(read, aside=True)

    async def get(self, name: str) -> Incident | None:
        """Return one incident by id, None when there is none."""
        found = await self._incidents(select(INCIDENTS.c.document).where(INCIDENTS.c.id == name), aside=True)
        return found[0] if found else None

    async def events(self, since: int, limit: int) -> tuple[Event, ...]:
        """Return up to `limit` timeline lines of this agent with a sequence above `since`, in order."""
        query = select(EVENTS.c.document).where(EVENTS.c.agent == self._agent, EVENTS.c.sequence > since)
        found = await self._with(lambda db: list(db.scalars(query.order_by(EVENTS.c.sequence).limit(limit))))
        return tuple(EVENT.validate_json(document) for document in found)

    async def last_sequence(self) -> int:
        """Return the highest timeline sequence this agent ever gave (0 before the first)."""
        query = select(func.max(EVENTS.c.sequence)).where(EVENTS.c.agent == self._agent)
        return int(await self._with(lambda db: db.scalar(query)) or 0)

    async def remember(self, name: str, value: bytes, *, shared: bool = False) -> None:
        """Keep a named value of this agent, or one that all replicas share."""
        row = {"agent": SHARED if shared else self._agent, "name": name, "value": value}
        await self._with(lambda db: _upsert(db, MEMORY, ("agent", "name"), [row]))

    async def recall(self, name: str, *, shared: bool = False) -> bytes | None:
        """Return a named value, None when it was never kept."""
        owner = SHARED if shared else self._agent
        query = select(MEMORY.c.value).where(MEMORY.c.agent == owner, MEMORY.c.name == name)
        value = await self._with(lambda db: db.scalar(query))
        return None if value is None else bytes(value)

    async def keep_counts(self, slots: Collection[Slot], now: float) -> None:
        """Keep what was counted for objectives; forget what no window reaches any more, and what lies ahead of `now`."""
        rows = [
            {
                "agent": self._agent,
                "counted": s.counted,
                "width_s": s.width_s,
                "slot": s.index,
                "good": s.good,
                "valid": s.valid,
            }
            for s in slots
        ]

        def write(db: Connection) -> None:
            table = OBJECTIVE_COUNTS.c
            for width_s, reach_s in WIDTHS:
                outside = or_(table.slot > now // width_s, table.slot < (now - reach_s) // width_s)
                mine = OBJECTIVE_COUNTS.delete().where(table.agent == self._agent, table.width_s == width_s)
                db.execute(mine.where(outside))
            for start in range(0, len(rows), ROWS_AT_ONCE):
                key = ("agent", "counted", "width_s", "slot")
                _upsert(db, OBJECTIVE_COUNTS, key, rows[start : start + ROWS_AT_ONCE])

        await self._with(write)

    async def counts(self, counted: Collection[str]) -> tuple[Slot, ...]:
        """Return what was kept of what is `counted`."""
        table = OBJECTIVE_COUNTS.c
        query = select(table.counted, table.width_s, table.slot, table.good, table.valid).where(
            table.agent == self._agent, table.counted.in_(sorted(counted))
        )
        return tuple(Slot(*row) for row in await self._with(lambda db: db.execute(query).all()))

    async def trim(self, *, events: int = 20_000, incidents: int = 5_000) -> None:
        """Forget the oldest timeline lines and closed incidents beyond these numbers."""

        def write(db: Connection) -> None:
            mine = EVENTS.c.agent == self._agent
            last = db.scalar(select(func.max(EVENTS.c.sequence)).where(mine)) or 0
            db.execute(delete(EVENTS).where(mine, EVENTS.c.sequence <= last - events))
            newest = select(INCIDENTS.c.id).order_by(INCIDENTS.c.opened_at.desc()).limit(incidents)
            db.execute(delete(INCIDENTS).where(~_living(), INCIDENTS.c.id.not_in(newest)))

        await self._with(write)

    def _put_events(self, db: Connection, events: tuple[Event, ...]) -> None:
        rows = [
            {"agent": self._agent, "sequence": one.sequence, "document": EVENT.dump_json(one).decode()}
            for one in events
        ]
        _upsert(db, EVENTS, ("agent", "sequence"), rows)

    async def _incidents(self, query: Any, *, aside: bool = False) -> tuple[Incident, ...]:
        found = await self._with(lambda db: list(db.scalars(query)), aside=aside)
        return tuple(INCIDENT.validate_json(document) for document in found)

    def _open(self) -> None:
        engine = _engine(self._place)
        try:
            with engine.begin() as db:
                migrate(db, self._shown())
        except BaseException:
            engine.dispose()
            raise
        if isinstance(self._place, Path):
            self._place.chmod(0o600)
        self._engine = engine

    def _dispose(self) -> None:
        if self._engine is not None:
            self._engine.dispose()
            self._engine = None

    def _shown(self) -> str:
        """Return where the database is, without a password."""
        if isinstance(self._place, Path):
            return str(self._place)
        return make_url(self._place).render_as_string(hide_password=True)

    async def _with(self, work: Callable[[Connection], T], *, aside: bool = False) -> T:
        """Do `work` in a transaction; with `aside`, beside the queue of writes (what people ask for does not wait for it).

        Returns once it is on disk. What was queued meanwhile shares one commit.
        """
        if aside:
            return await self._run(lambda: self._alone(work), self._reader)
        one = _Queued(work)
        self._queue.append(one)

        def done() -> T:
            self._drain()
            if one.error is not None:
                raise one.error
            value: T = one.value
            return value

        return await self._run(done)

    def _alone(self, work: Callable[[Connection], T]) -> T:
        if self._engine is None:
            raise Broken("the agent's database is not open", hint="the agent is stopping or never started")
        with self._engine.begin() as db:
            return work(db)

    def _drain(self) -> None:
        """Do what is queued, with one commit (in the writer's thread); where anything fails, each by itself."""
        batch: list[_Queued] = []
        while self._queue and len(batch) < MOST_AT_ONCE:
            batch.append(self._queue.popleft())
        try:
            values = self._alone(lambda db: [one.work(db) for one in batch]) if len(batch) > 1 else []
        except Exception as error:  # noqa: BLE001 - whose it is shows when each is tried by itself
            log.debug("store.batch_failed", works=len(batch), error=str(error))
            values = []
        for one, value in zip(batch, values, strict=False):
            one.value = value
        for one in batch[len(values) :]:
            try:
                one.value = self._alone(one.work)
            except Exception as error:  # noqa: BLE001 - the rim of the writer's thread: the one who asked is told
                one.error = error

    async def _run(self, work: Callable[[], T], thread: ThreadPoolExecutor | None = None) -> T:
        if self._closed:
            raise Broken("the agent's database is closed", hint="the agent is stopping")
        try:
            return await asyncio.get_running_loop().run_in_executor(thread or self._thread, work)
        except (SQLAlchemyError, OSError) as error:
            why = str(error.__cause__ or error).strip().splitlines()[0]
            raise Broken(f"the agent's database {self._shown()} fails: {why}", hint=self._next_step(why)) from error

    def _next_step(self, why: str) -> str:
        if not isinstance(self._place, Path):
            return "is the server up?"
        if damaged(why):
            return (
                f"move {self._place} and {self._place.name}-* away and start again: the agent learns what is normal anew, "
                "and what it had changed in the mesh ends with its lease; the audit log keeps every incident"
            )
        return "check free space and permissions there"


def check_url(url: str) -> None:
    """Raise InvalidInput when `url` names no database this program can use."""
    try:
        _dialect(url)
        create_engine(_dialect(url))
    except (ArgumentError, NoSuchModuleError, ModuleNotFoundError) as error:
        hint = "write postgresql://USER@HOST/NAME and install the extra `postgres`"
        raise InvalidInput(f"agent.database cannot be used: {error}", hint=hint) from error


def _dialect(url: str) -> str:
    """Return the URL with our driver for PostgreSQL."""
    made = make_url(url)
    if made.drivername not in ("postgresql", "postgres", "postgresql+psycopg"):
        raise ArgumentError(f"{made.drivername} is not PostgreSQL")
    return made.set(drivername="postgresql+psycopg").render_as_string(hide_password=False)


def _engine(place: Path | str) -> Engine:
    if isinstance(place, str):
        return create_engine(
            _dialect(place),
            pool_size=2,  # one that writes, one that reads
            max_overflow=0,
            pool_pre_ping=True,
            connect_args={"connect_timeout": PATIENCE_S},
        )
    engine = create_engine(f"sqlite:///{place}", connect_args={"timeout": PATIENCE_S, "check_same_thread": False})
    event.listen(engine, "connect", _durable)
    return engine


def _durable(connection: Any, _: object) -> None:
    """Set SQLite up so that an incident marked as acting survives a power cut too."""
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=FULL")
    cursor.close()


def _living() -> Any:
    return or_(INCIDENTS.c.open == true(), INCIDENTS.c.held == true())


def _upsert(db: Connection, table: Table, key: tuple[str, ...], rows: list[dict[str, Any]], only: Any = None) -> int:
    """Insert rows or replace those with the same key (where `only` holds); return how many were written."""
    if not rows:
        return 0
    make = postgresql.insert if db.dialect.name == "postgresql" else sqlite.insert
    statement = make(table).values(rows)
    rest = {column.name: statement.excluded[column.name] for column in table.columns if column.name not in key}
    written = statement.on_conflict_do_update(index_elements=list(key), set_=rest, where=only)
    return len(db.execute(written.returning(table.c[key[-1]])).all())
