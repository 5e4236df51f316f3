"""The store: what is written is there after reopening, and a bad file is told with what to do."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from control.changes import ChangeLog
from control.clock import SystemClock
from control.store import VERSION, Drop, Put, Store, Trim
from models.domain import ChangeKind
from models.errors import Broken


async def test_rows_survive_reopening(tmp_path: Path) -> None:
    """Puts, drops and trims hold over a close."""
    store = Store(tmp_path / "c.db")
    await store.open()
    await store.write(Put("overlays", "a", {"x": 1}), Put("overlays", "b", {"x": 2}))
    await store.write(Drop("overlays", "b"), Put("changes", "01", {}), Put("changes", "02", {}), Trim("changes", "02"))
    store.write_soon(Put("overlays", "a", {"x": 3}))
    await store.close()
    again = Store(tmp_path / "c.db")
    contents = await again.open()
    await again.close()
    assert contents.of("overlays") == {"a": {"x": 3}}
    assert list(contents.of("changes")) == ["02"]
    assert (tmp_path / "c.db").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    "content", [b"this is not a database at all, by any measure" * 100, b"SQLite format 3\0junk" * 200]
)
async def test_a_corrupt_file_is_told(tmp_path: Path, content: bytes) -> None:
    """A file that is no database names itself and the way out."""
    (tmp_path / "c.db").write_bytes(content)
    with pytest.raises(Broken, match=r"c\.db") as caught:
        await Store(tmp_path / "c.db").open()
    assert "move" in caught.value.hint


async def test_a_newer_schema_is_not_touched(tmp_path: Path) -> None:
    """A database of a newer version is refused, not rewritten."""
    connection = sqlite3.connect(tmp_path / "c.db")
    connection.execute(f"PRAGMA user_version={VERSION + 1}")
    connection.close()
    with pytest.raises(Broken, match="newer Fibrin"):
        await Store(tmp_path / "c.db").open()


async def test_a_missing_directory_is_told(tmp_path: Path) -> None:
    """A path that cannot be opened is Broken, with a hint."""
    with pytest.raises(Broken) as caught:
        await Store(tmp_path / "no" / "c.db").open()
    assert caught.value.hint


async def test_a_full_disk_refuses_and_keeps_what_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A write that does not fit is Broken with what next; what was stored stays, and smaller writes go on."""
    connect = Store._connect

    def small(self: Store) -> sqlite3.Connection:
        connection = connect(self)
        (pages,) = connection.execute("PRAGMA page_count").fetchone()
        connection.execute(f"PRAGMA max_page_count={pages + 2}")
        return connection

    monkeypatch.setattr(Store, "_connect", small)
    store = Store(tmp_path / "c.db")
    await store.open()
    await store.write(Put("overlays", "a", {"x": 1}))
    with pytest.raises(Broken, match="full") as caught:
        await store.write(Put("overlays", "b", {"x": "y" * 100_000}))
    assert "make room" in caught.value.hint
    await store.write(Put("overlays", "c", {}))
    await store.close()
    again = Store(tmp_path / "c.db")
    assert list((await again.open()).of("overlays")) == ["a", "c"]
    await again.close()


async def test_a_closed_store_takes_nothing(tmp_path: Path) -> None:
    """Writing after the end is an error, not a silence."""
    store = Store(tmp_path / "c.db")
    await store.open()
    await store.close()
    with pytest.raises(Broken, match="closed"):
        await store.write(Put("overlays", "a", {}))


async def test_sequences_go_on_over_a_restart(tmp_path: Path) -> None:
    """Change events are numbered through, bounded, and a reader that was away too long learns it."""
    store = Store(tmp_path / "c.db")
    await store.open()
    log = ChangeLog(SystemClock(), keep=50)
    for n in range(220):
        await store.write(*log.add(ChangeKind.CONFIG, f"X/{n}"))
    await store.close()
    again = Store(tmp_path / "c.db")
    contents = await again.open()
    await again.close()
    assert 50 <= len(contents.of("changes")) <= 150
    restored = ChangeLog(SystemClock(), keep=50)
    restored.restore(contents.of("changes"))
    assert restored.sequence == 220
    assert len(restored.since(0).changes) == 50
    assert restored.since(10).lost
    assert not restored.since(200).lost
    restored.add(ChangeKind.CONFIG, "X/next")
    assert [e.sequence for e in restored.since(220).changes] == [221]
