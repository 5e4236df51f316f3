"""The agent's tables and how an older database becomes a newer one.

Migrations run in order, each in one transaction, under a lock where several replicas may start at once. A migration that
was released is never changed: what comes later is a new one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Connection,
    Float,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    func,
    insert,
    inspect,
    select,
    text,
)

from models.errors import Broken

METADATA: Final = MetaData()

INCIDENTS: Final = Table(
    "incidents",
    METADATA,
    Column("id", String(64), primary_key=True),
    Column("opened_at", Float(53), nullable=False),
    Column("open", Boolean, nullable=False),
    Column("held", Boolean, nullable=False),
    Column("document", Text, nullable=False),
    Column("agent", String(64), nullable=False, server_default=""),  # who works on it; "" on a database of one agent
)
Index("incidents_by_time", INCIDENTS.c.opened_at)

EVENTS: Final = Table(
    "events",
    METADATA,
    Column("agent", String(64), primary_key=True, server_default=""),
    Column("sequence", BigInteger, primary_key=True, autoincrement=False),
    Column("document", Text, nullable=False),
)

MEMORY: Final = Table(
    "memory",
    METADATA,
    Column("agent", String(64), primary_key=True, server_default=""),  # "" is what all replicas share
    Column("name", String(64), primary_key=True),
    Column("value", LargeBinary, nullable=False),
)

OBJECTIVE_COUNTS: Final = Table(
    "objective_counts",
    METADATA,
    Column("agent", String(64), primary_key=True, server_default=""),
    Column("counted", String(32), primary_key=True),  # what is counted, see models.objective.Objective
    Column("width_s", Integer, primary_key=True, autoincrement=False),
    Column("slot", BigInteger, primary_key=True, autoincrement=False),  # beginning of the slot over its width
    Column("good", BigInteger, nullable=False),
    Column("valid", BigInteger, nullable=False),
)
Index("objective_counts_by_time", OBJECTIVE_COUNTS.c.agent, OBJECTIVE_COUNTS.c.width_s, OBJECTIVE_COUNTS.c.slot)

VERSION: Final = Table("schema_version", METADATA, Column("version", Integer, primary_key=True, autoincrement=False))

_LOCK: Final = 0x66696272
"""Number of PostgreSQL's advisory lock for migrations."""


def _first(db: Connection) -> None:
    METADATA.create_all(db)


def _several_agents(db: Connection) -> None:
    """Bring a database of the days when one agent had a file of its own to the form that replicas may share."""
    known = {column["name"] for column in inspect(db).get_columns("incidents")}
    if "agent" in known:
        return
    db.execute(text("ALTER TABLE incidents ADD COLUMN agent VARCHAR(64) NOT NULL DEFAULT ''"))
    for table in (EVENTS, MEMORY):
        db.execute(text(f"ALTER TABLE {table.name} RENAME TO {table.name}_old"))
        table.create(db)
        names = ", ".join(column.name for column in table.columns if column.name != "agent")
        db.execute(text(f"INSERT INTO {table.name} (agent, {names}) SELECT '', {names} FROM {table.name}_old"))  # noqa: S608 - our own table names
        db.execute(text(f"DROP TABLE {table.name}_old"))


def _objectives(db: Connection) -> None:
    """Make room for what objectives count."""
    OBJECTIVE_COUNTS.create(db, checkfirst=True)


MIGRATIONS: Final[tuple[Callable[[Connection], None], ...]] = (_first, _several_agents, _objectives)


def migrate(db: Connection, place: str) -> None:
    """Bring the database to the form this program knows; harmless when it is there already.

    Raises:
        Broken: a newer program wrote it.
    """
    if db.dialect.name == "postgresql":
        db.execute(select(func.pg_advisory_xact_lock(_LOCK)))
    VERSION.create(db, checkfirst=True)
    before = db.scalar(select(func.max(VERSION.c.version))) or 0
    if before > len(MIGRATIONS):
        raise Broken(
            f"{place} was written by a newer Fibrin (schema {before}, this one knows {len(MIGRATIONS)})",
            hint="start the newer version, or move the database away to begin anew",
        )
    for number, step in enumerate(MIGRATIONS[before:], before + 1):
        step(db)
        db.execute(insert(VERSION).values(version=number))
