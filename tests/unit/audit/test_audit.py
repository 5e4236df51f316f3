"""The audit log keeps what it promised to keep, and shows every change."""

import asyncio
import json
import math
import os
import shutil
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.audit import AuditLog, Fault, read, verify
from agent.audit.chain import Record, plain
from agent.audit.files import DATA_BYTES, LINE_BYTES
from agent.audit.keys import load_signer
from models.errors import Broken, InvalidInput, NotFound

ROOT = Path(__file__).resolve().parents[3]


async def written(path: Path, count: int) -> None:
    """Write `count` records to the log at `path`."""
    async with AuditLog(path, clock=lambda: 1000.5) as log:
        for number in range(count):
            await log.append("test", {"number": number})


async def test_append_read_verify(tmp_path: Path) -> None:
    """What was appended is read back in order, and the log proves whole."""
    path = tmp_path / "audit.log"
    async with AuditLog(path, clock=lambda: 1000.5) as log:
        assert await log.append("incident.opened", {"service": "catalog", "p": 0.5, "tags": ("a", "b")}) == 1
        assert await log.append("step.taken", {"n": 2}) == 2
        assert log.head.seq == 2
    first, second = read(path)
    assert (first.seq, first.kind, first.at) == (1, "incident.opened", 1000.5)
    assert first.data == {"service": "catalog", "p": 0.5, "tags": ["a", "b"]}
    assert second.prev == first.hash
    assert read(path, 1) == (second,)
    assert read(path, 0) == ()
    found = verify(path)
    assert (found.ok, found.records, found.first_bad) == (True, 2, None)


async def test_files_are_private(tmp_path: Path) -> None:
    """Nobody but the owner may read the log or its anchor."""
    await written(tmp_path / "audit.log", 1)
    modes = {entry.suffix: stat.S_IMODE(entry.stat().st_mode) for entry in tmp_path.iterdir()}
    assert modes == dict.fromkeys((".log", ".head", ".anchors", ".key", ".pub", ".lock"), 0o600)


async def test_chain_goes_on_after_a_restart(tmp_path: Path) -> None:
    """A second run continues the numbers and the chain of the first."""
    path = tmp_path / "audit.log"
    await written(path, 3)
    await written(path, 2)
    assert [record.seq for record in read(path)] == [1, 2, 3, 4, 5]
    assert verify(path).ok


async def test_concurrent_appends_are_all_kept_in_one_chain(tmp_path: Path) -> None:
    """Many tasks that append at once each get a number of their own, and share writes to disk."""
    path = tmp_path / "audit.log"
    async with AuditLog(path) as log:
        numbers = await asyncio.gather(*(log.append("burst", {"n": n}) for n in range(200)))
    assert sorted(numbers) == list(range(1, 201))
    assert {record.data["n"] for record in read(path)} == set(range(200))
    assert verify(path).ok


async def test_cancelled_caller_does_not_lose_the_record(tmp_path: Path) -> None:
    """Who appends and is cancelled leaves a record behind; nobody else is hurt."""
    path = tmp_path / "audit.log"
    async with AuditLog(path) as log:
        task = asyncio.create_task(log.append("cancelled", {}))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await log.append("after", {})
    assert [record.kind for record in read(path)] == ["cancelled", "after"]


async def test_second_writer_is_told_who_writes(tmp_path: Path) -> None:
    """One log has one writer; the other one learns its process id and what to do."""
    path = tmp_path / "audit.log"
    async with AuditLog(path):
        with pytest.raises(Broken, match=f"written by process {os.getpid()}") as caught:
            await AuditLog(path).start()
        assert "one agent per state directory" in caught.value.hint
    await written(path, 1)


async def test_closed_log_refuses(tmp_path: Path) -> None:
    """After `stop` an append fails at once instead of waiting for ever, and stopping twice is harmless."""
    log = AuditLog(tmp_path / "audit.log")
    await log.start()
    await log.stop()
    await log.stop()
    with pytest.raises(Broken, match="closed"):
        await log.append("late", {})


async def test_missing_directory_is_a_clear_error(tmp_path: Path) -> None:
    """A log in a directory that does not exist fails with the path and a hint."""
    log = AuditLog(tmp_path / "nowhere" / "audit.log")
    with pytest.raises(Broken, match="nowhere") as caught:
        await log.append("x", {})
    assert "directory" in caught.value.hint
    await log.stop()


def test_no_log_is_not_found(tmp_path: Path) -> None:
    """Reading or verifying a log that does not exist says so."""
    with pytest.raises(NotFound):
        read(tmp_path / "audit.log")
    with pytest.raises(NotFound):
        verify(tmp_path / "audit.log")


@pytest.mark.parametrize(
    ("value", "kept"),
    [
        (math.nan, "nan"),
        (-math.inf, "-inf"),
        (frozenset({"b", "a"}), ["a", "b"]),
        ({1: (True, None)}, {"1": [True, None]}),
        ("\ud800", "\ud800"),
    ],
)
def test_plain_keeps_what_json_cannot_say(value: object, kept: object) -> None:
    """Numbers without a JSON form, sets and tuples get one rather than cost the record."""
    assert plain(value) == kept


async def test_unrecordable_data_names_its_place(tmp_path: Path) -> None:
    """Something that has no JSON form is refused with its path, and the log goes on."""
    async with AuditLog(tmp_path / "audit.log") as log:
        with pytest.raises(InvalidInput, match=r"data\.a\[1\]\.b is a object"):
            await log.append("x", {"a": [1, {"b": object()}]})
        deep: list[object] = []
        for _ in range(100):
            deep = [deep]
        with pytest.raises(InvalidInput, match="deeper than"):
            await log.append("x", {"a": deep})
        assert await log.append("x", {}) == 1


def test_torn_tail_is_put_aside_and_noted(tmp_path: Path) -> None:
    """A last line without an end is moved to `.torn`, the log goes on, and a record says what happened."""
    path = tmp_path / "audit.log"
    asyncio.run(written(path, 3))
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"at":1,"data":{"half')
    before = verify(path)
    assert (before.ok, before.first_bad, before.line) == (False, 4, 4)
    asyncio.run(written(path, 1))
    assert path.read_bytes().startswith(whole)
    assert path.with_suffix(".torn").read_bytes() == b'{"at":1,"data":{"half\n'
    assert [record.kind for record in read(path)] == ["test", "test", "test", "audit.recovered", "test"]
    assert read(path)[3].data["bytes"] == 21
    assert verify(path).ok


def test_kill_between_log_and_anchor_is_no_tampering(tmp_path: Path) -> None:
    """The anchor may lag behind the log by what a kill came between; the next start moves it on."""
    path = tmp_path / "audit.log"
    asyncio.run(written(path, 1))
    lagging = path.with_suffix(".head").read_bytes()
    asyncio.run(written(path, 2))
    path.with_suffix(".head").write_bytes(lagging)
    assert verify(path).ok
    asyncio.run(written(path, 0))
    assert json.loads(path.with_suffix(".head").read_bytes())["seq"] == 3


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a log with five records that no test changes in place."""
    path = tmp_path_factory.mktemp("sample") / "audit.log"
    asyncio.run(written(path, 5))
    assert verify(path).ok
    return path


def beside(original: Path, copy: Path) -> None:
    """Give a copy of a log the companions of the original."""
    for kind in (".head", ".anchors", ".pub", ".key"):
        shutil.copy(original.with_suffix(kind), copy.with_suffix(kind))


@settings(deadline=None, max_examples=150)
@given(data=st.data())
def test_any_changed_byte_is_found(sample: Path, data: st.DataObject) -> None:
    """Whatever byte of the log is changed, verify says so and names the record it stands in."""
    whole = sample.read_bytes()
    at = data.draw(st.integers(0, len(whole) - 1))
    byte = data.draw(st.integers(0, 255).filter(lambda b: b != whole[at]))
    copy = sample.parent / "copy.log"
    copy.write_bytes(whole[:at] + bytes([byte]) + whole[at + 1 :])
    beside(sample, copy)
    found = verify(copy)
    assert not found.ok
    assert found.first_bad == whole.count(b"\n", 0, at) + 1
    assert found.line == found.first_bad
    assert found.records == found.first_bad - 1
    assert f"record {found.first_bad}" in found.message


@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_any_cut_is_found(sample: Path, data: st.DataObject) -> None:
    """However much is cut off the end, verify says so."""
    whole = sample.read_bytes()
    copy = sample.parent / "cut.log"
    copy.write_bytes(whole[: data.draw(st.integers(0, len(whole) - 1))])
    beside(sample, copy)
    assert not verify(copy).ok
    with pytest.raises(Broken, match="tampered"):
        asyncio.run(AuditLog(copy).start())


@settings(deadline=None, max_examples=30)
@given(data=st.data())
def test_removed_repeated_or_swapped_records_are_found(sample: Path, data: st.DataObject) -> None:
    """No order of the lines but the one written passes."""
    lines = sample.read_bytes().splitlines(keepends=True)
    picked = data.draw(st.lists(st.sampled_from(lines), max_size=7).filter(lambda chosen: chosen != lines))
    copy = sample.parent / "order.log"
    copy.write_bytes(b"".join(picked))
    beside(sample, copy)
    assert not verify(copy).ok


@pytest.mark.parametrize("name", ["audit.log", "audit.head", "audit.anchors", "audit.pub"])
def test_a_thing_without_an_end_is_refused_by_readers_and_writer(tmp_path: Path, name: str) -> None:
    """A device or a pipe in the place of the log or of its companions is named, and not a byte of it is read."""
    asyncio.run(written(tmp_path / "audit.log", 2))
    place = tmp_path / name
    place.unlink()
    place.symlink_to("/dev/zero")
    with pytest.raises(Broken, match=rf"{name} \(a link to /dev/zero\) is a device, not a regular file") as caught:
        verify(tmp_path / "audit.log")
    assert "move it away" in caught.value.hint
    place.unlink()
    os.mkfifo(place)
    with pytest.raises(Broken, match=f"{name} is a pipe, not a regular file"):
        verify(tmp_path / "audit.log")
    if name == "audit.log":
        with pytest.raises(Broken, match="is a pipe"):
            read(place)
    with pytest.raises(Broken, match=r"is a pipe|was tampered with"):
        asyncio.run(written(tmp_path / "audit.log", 1))


def test_a_line_that_no_record_can_be_is_not_read_whole(tmp_path: Path) -> None:
    """A file that goes on for ever in one line is refused after the length of the longest record."""
    path = tmp_path / "audit.log"
    asyncio.run(written(path, 2))
    with path.open("r+b") as file:
        file.truncate(LINE_BYTES * 40)  # takes no room: a hole
    found = verify(path)
    assert (found.fault, found.first_bad, found.line) == (Fault.EDITED, 3, 3)
    assert "record 3 is longer than the 32 MiB" in found.message
    with pytest.raises(Broken, match="a line longer than 32 MiB") as caught:
        read(path)
    assert "audit verify" in caught.value.hint
    with pytest.raises(Broken, match="bytes that are no record"):
        asyncio.run(written(path, 1))


async def test_more_than_a_record_may_hold_is_refused_at_once(tmp_path: Path) -> None:
    """The writer takes nothing that a reader would not read, and goes on."""
    async with AuditLog(tmp_path / "audit.log") as log:
        with pytest.raises(InvalidInput, match="16 MiB at most"):
            await log.append("x", {"a": "a" * DATA_BYTES})
        assert await log.append("x", {"a": "a" * (DATA_BYTES - 20)}) == 1
    assert verify(tmp_path / "audit.log").ok
    assert [record.seq for record in read(tmp_path / "audit.log")] == [1]


def test_log_written_anew_does_not_match_its_anchor(tmp_path: Path) -> None:
    """A whole new chain, valid in itself, is told from the old one by the anchor."""
    path = tmp_path / "audit.log"
    asyncio.run(written(path, 2))
    key = load_signer(path, fresh=False)
    record = Record.following(1, "0" * 64, 1.0, "forged", {}, signer=key)
    path.write_bytes(record.line() + Record.following(2, record.hash, 2.0, "forged", {}, signer=key).line())
    found = verify(path)
    assert "anchor" in found.message
    assert (found.fault, found.first_bad) == (Fault.REWRITTEN, 1)


def test_missing_anchor_is_told(tmp_path: Path) -> None:
    """Who removes the anchor in order to cut the tail is found out."""
    path = tmp_path / "audit.log"
    asyncio.run(written(path, 2))
    path.with_suffix(".head").unlink()
    assert "missing" in verify(path).message
    path.with_suffix(".head").write_text("nonsense")
    assert "not readable" in verify(path).message


async def test_change_under_a_running_writer_stops_it(tmp_path: Path) -> None:
    """The writer does not write behind a log that somebody cut, replaced or removed."""
    path = tmp_path / "audit.log"
    async with AuditLog(path) as log:
        await log.append("a", {})
        whole = path.read_bytes()
        path.write_bytes(b"")
        with pytest.raises(Broken, match="was changed"):
            await log.append("b", {})
        path.unlink()
        with pytest.raises(Broken, match="is gone"):
            await log.append("c", {})
        path.write_bytes(whole)
        with pytest.raises(Broken, match="replaced"):
            await log.append("d", {})


FULL = """
import asyncio, resource, sys
from pathlib import Path
from agent.audit import AuditLog, verify
from models.errors import Broken

async def main(path):
    async with AuditLog(path) as log:
        kept = 0
        soft = 4000
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, resource.RLIM_INFINITY))
        try:
            while True:
                kept = await log.append("fill", {"text": "x" * 300})
        except Broken as error:
            print(kept, path.stat().st_size < soft, "cannot be written" in error.message, "free space" in error.hint)
        print(verify(path).ok, verify(path).records == kept)
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        print(await log.append("room again", {}) == kept + 1, verify(path).ok)

asyncio.run(main(Path(sys.argv[1])))
"""


def test_full_disk_refuses_and_leaves_a_valid_log(tmp_path: Path) -> None:
    """When a write does not fit, the append fails, the log stays whole, and goes on once there is room."""
    done = subprocess.run(
        [sys.executable, "-c", FULL, str(tmp_path / "audit.log")], cwd=ROOT, capture_output=True, text=True, check=True
    )
    lines = [line for line in done.stdout.splitlines() if "audit." not in line]
    kept = int(lines[0].split()[0])
    assert kept > 3
    assert lines == [f"{kept} True True True", "True True", "True True"]


ENDLESS = """
import asyncio, sys
from pathlib import Path
from agent.audit import AuditLog

async def main(path):
    async with AuditLog(path) as log:
        async def one():
            while True:
                print(await log.append("work", {"text": "y" * 20000}), flush=True)
        await asyncio.gather(*(one() for _ in range(4)))

asyncio.run(main(Path(sys.argv[1])))
"""


def test_kill_9_loses_nothing_that_was_promised(tmp_path: Path) -> None:
    """After a `kill -9` in the middle of writing, every acknowledged record is there and the log goes on."""
    path = tmp_path / "audit.log"
    promised = 0
    for round_number in range(3):
        process = subprocess.Popen([sys.executable, "-c", ENDLESS, str(path)], cwd=ROOT, stdout=subprocess.PIPE)
        assert process.stdout is not None
        for _ in range(10 + 7 * round_number):
            process.stdout.readline()
        process.send_signal(signal.SIGKILL)
        rest = process.stdout.read().split()
        process.wait(timeout=10)
        process.stdout.close()
        promised = max([promised, *(int(word) for word in rest)])
        asyncio.run(written(path, 1))
        records = read(path)
        assert [record.seq for record in records] == list(range(1, len(records) + 1))
        assert len(records) > promised
        assert verify(path).ok


async def test_lock_dies_with_its_process(tmp_path: Path) -> None:
    """The lock of a killed writer does not keep the next one out."""
    path = tmp_path / "audit.log"
    process = subprocess.Popen([sys.executable, "-c", ENDLESS, str(path)], cwd=ROOT, stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    with pytest.raises(Broken, match=f"process {process.pid}"):
        await AuditLog(path).start()
    process.kill()
    process.stdout.close()
    process.wait(timeout=10)
    await written(path, 1)


async def test_verify_beside_a_busy_writer(tmp_path: Path) -> None:
    """Verification and reading work while the writer is at it."""
    path = tmp_path / "audit.log"
    async with AuditLog(path) as log:
        await log.append("first", {})
        until = time.monotonic() + 0.3
        looked = 0
        while time.monotonic() < until:
            appends = asyncio.gather(*(log.append("busy", {"text": "z" * 9000}) for _ in range(5)))
            found = await asyncio.to_thread(verify, path)
            assert found.ok, found.message
            assert await asyncio.to_thread(read, path, 2)
            await appends
            looked += 1
    assert looked > 1
