"""Signatures, anchors, rotation and retention: what shows a forger, a cut tail and a cut beginning for what they are."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from agent.audit import AuditLog, Fault, Keeping, find, read, verify
from agent.audit.anchors import anchors_path, head_path, read_anchors
from agent.audit.chain import GENESIS, Record
from agent.audit.files import segments
from agent.audit.keys import Signer, key_path, load_signer, new_signer, next_path, pinned, public_path
from agent.audit.redaction import commitment
from models.errors import Broken, InvalidInput, NotFound


class Clock:
    """Unix time that the test moves."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


async def written(path: Path, count: int, keeping: Keeping | None = None) -> None:
    """Write `count` records."""
    async with AuditLog(path, keeping, clock=Clock()) as log:
        for number in range(count):
            await log.append("test", {"number": number})


def lines(path: Path) -> list[bytes]:
    """Return the log's lines."""
    return path.read_bytes().splitlines(keepends=True)


def forged(record: Record, signer: Signer, **data: str) -> Record:
    """Return a record that stands in the place of another one, with a hash and a chain that fit."""
    return Record.following(record.seq, record.prev, record.at, record.kind, data, signer=signer)


def _edited(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b'"number":2', b'"number":7'))


def _removed(path: Path) -> None:
    path.write_bytes(b"".join(lines(path)[:2] + lines(path)[3:]))


def _reordered(path: Path) -> None:
    one, two, three, *rest = lines(path)
    path.write_bytes(b"".join([one, two, one, three, *rest]))


def _truncated(path: Path) -> None:
    path.write_bytes(b"".join(lines(path)[:2]))


def _wrong_key(path: Path) -> None:
    records = read(path)
    stranger = new_signer()
    path.write_bytes(b"".join([*lines(path)[:2], forged(records[2], stranger).line(), *lines(path)[3:]]))


def _stolen_name(path: Path) -> None:
    third = read(path)[2]
    fake = Record(third.seq, third.at, third.kind, third.data, third.prev, third.key, third.hash, "ab" * 64)
    path.write_bytes(b"".join([*lines(path)[:2], fake.line(), *lines(path)[3:]]))


@pytest.mark.parametrize(
    ("attack", "fault"),
    [
        (_edited, Fault.EDITED),
        (_removed, Fault.REMOVED),
        (_reordered, Fault.REORDERED),
        (_truncated, Fault.TRUNCATED),
        (_wrong_key, Fault.WRONG_KEY),
        (_stolen_name, Fault.WRONG_KEY),
    ],
)
async def test_verify_names_the_first_bad_record_and_what_was_done_to_it(
    tmp_path: Path, attack: Callable[[Path], None], fault: Fault
) -> None:
    """Five ways to falsify the third of five records, five findings."""
    path = tmp_path / "audit.log"
    await written(path, 5)
    attack(path)
    found = verify(path)
    assert (found.ok, found.fault, found.first_bad, found.records) == (False, fault, 3, 2)


async def test_a_chain_made_anew_without_the_key_is_no_chain(tmp_path: Path) -> None:
    """Whoever rewrites the whole log, head and anchors, but has not the key, is found at the first record."""
    path = tmp_path / "audit.log"
    await written(path, 3)
    other = tmp_path / "other" / "audit.log"
    other.parent.mkdir()
    await written(other, 3)
    for forgery in (other, head_path(other), anchors_path(other)):
        shutil.copy(forgery, tmp_path / forgery.name)
    found = verify(path)
    assert (found.fault, found.first_bad) == (Fault.WRONG_KEY, 1)


async def test_a_pinned_key_unmasks_a_log_that_was_exchanged_whole(tmp_path: Path) -> None:
    """When even the public keys were exchanged, only a key kept elsewhere helps: that is what `--key` is for."""
    path = tmp_path / "audit.log"
    await written(path, 3)
    kept = pinned(public_path(path).read_text())
    assert verify(path, trust=kept).ok
    for file in tmp_path.iterdir():
        file.unlink()
    await written(path, 3)
    assert verify(path).ok
    assert verify(path, trust=kept).fault is Fault.WRONG_KEY
    with pytest.raises(InvalidInput, match="public key"):
        pinned("not a key")


async def test_log_and_head_put_back_together_contradict_the_anchors(tmp_path: Path) -> None:
    """An older log with its own head and key is whole in itself; the anchors know that there was more."""
    path = tmp_path / "audit.log"
    await written(path, 3)
    backup = {place: place.read_bytes() for place in (path, head_path(path))}
    await written(path, 4)
    for place, content in backup.items():
        place.write_bytes(content)
    found = verify(path)
    assert (found.fault, found.first_bad) == (Fault.TRUNCATED, 4)
    assert "records 4 to 7 are missing" in found.message


async def test_anchors_are_collected_by_count_and_by_time(tmp_path: Path) -> None:
    """Every so many records or seconds, in the file that was asked for, each signed."""
    path, elsewhere, clock = tmp_path / "audit.log", tmp_path / "elsewhere", Clock()
    async with AuditLog(path, Keeping(anchors=elsewhere, anchor_records=3, anchor_s=60.0), clock=clock) as log:
        for _ in range(7):
            await log.append("test", {})
        clock.now += 61
        await log.append("test", {})
    assert [anchor.seq for anchor in read_anchors(elsewhere)] == [1, 4, 7, 8]
    assert not anchors_path(path).exists()
    assert verify(path, anchors=elsewhere).ok
    elsewhere.write_bytes(elsewhere.read_bytes().replace(b'"seq":4', b'"seq":5'))
    assert verify(path, anchors=elsewhere).fault in {Fault.REWRITTEN, Fault.WRONG_KEY}


async def test_a_new_key_is_vouched_for_by_the_old_one(tmp_path: Path) -> None:
    """After a rotation the first key alone proves the whole log, and the old one signs no more."""
    path = tmp_path / "audit.log"
    async with AuditLog(path) as log:
        first = log.key
        await log.append("before", {})
        kept = pinned(public_path(path).read_text())
        old = load_signer(path, fresh=False)
        second = await log.rotate_key("drill")
        assert second == log.key != first
        await log.append("after", {})
    assert [record.key for record in read(path)] == [first, first, second]
    assert verify(path, trust=kept).keys == (first, second)
    assert load_signer(path, fresh=False).id == second
    await written(path, 1)
    assert verify(path, trust=kept).ok
    last = read(path)[-1]
    path.write_bytes(b"".join([*lines(path)[:-1], forged(last, old).line()]))
    assert (verify(path).fault, verify(path).first_bad) == (Fault.WRONG_KEY, 4)


async def test_a_kill_in_the_middle_of_a_key_rotation_leaves_one_key_in_force(tmp_path: Path) -> None:
    """Not announced yet: the waiting key is dropped; announced already: it takes over."""
    path = tmp_path / "audit.log"
    await written(path, 1)
    before = load_signer(path, fresh=False)
    next_path(path).write_bytes(new_signer().pem())
    next_path(path).chmod(0o600)
    await written(path, 1)
    assert not next_path(path).exists()
    assert load_signer(path, fresh=False).id == before.id
    async with AuditLog(path) as log:
        after = await log.rotate_key("drill")
    key_path(path).rename(next_path(path))
    key_path(path).write_bytes(before.pem())
    key_path(path).chmod(0o600)
    await written(path, 1)
    assert load_signer(path, fresh=False).id == after
    assert verify(path).ok


async def test_without_its_key_a_log_is_not_continued(tmp_path: Path) -> None:
    """A log that lost its key is evidence: nothing is written behind it; a key that others may read is none."""
    path = tmp_path / "audit.log"
    await written(path, 2)
    key_path(path).chmod(0o644)
    with pytest.raises(Broken, match="others may read"):
        await AuditLog(path).start()
    key_path(path).unlink()
    with pytest.raises(Broken, match="is missing") as caught:
        await AuditLog(path).start()
    assert "restore" in caught.value.hint
    assert verify(path).ok


async def test_full_files_are_moved_aside_and_the_chain_goes_on(tmp_path: Path) -> None:
    """Many small files, one log: read, found and verified over all of them; a restart goes on in the last."""
    path = tmp_path / "audit.log"
    keeping = Keeping(file_bytes=1500)
    await written(path, 10, keeping)
    await written(path, 10, keeping)
    assert len(segments(path)) > 3
    assert [record.seq for record in read(path)] == list(range(1, 21))
    assert [record.seq for record in read(path, 7)] == list(range(14, 21))
    assert find(path, 2).data == {"number": 1}
    with pytest.raises(NotFound, match="no record 21"):
        find(path, 21)
    assert (verify(path).ok, verify(path).records) == (True, 20)
    middle = segments(path)[1]
    lost = Record.parse(lines(middle)[0][:-1]).seq
    middle.unlink()
    found = verify(path)
    assert (found.fault, found.first_bad) == (Fault.REMOVED, lost)


async def test_a_kill_between_two_files_is_no_loss(tmp_path: Path) -> None:
    """Moved aside, the next file not begun: the next start begins it and the chain goes on."""
    path = tmp_path / "audit.log"
    await written(path, 3)
    path.rename(path.with_name("audit.log.000000000001"))
    assert verify(path).records == 3
    await written(path, 2)
    assert [record.seq for record in read(path)] == [1, 2, 3, 4, 5]
    assert verify(path).ok


async def test_retention_cuts_whole_files_and_proves_the_cut(tmp_path: Path) -> None:
    """What is too old goes, a record says so, and a beginning that nothing accounts for is a finding."""
    path, clock = tmp_path / "audit.log", Clock()
    async with AuditLog(path, Keeping(file_bytes=1500, keep_s=100.0), clock=clock) as log:
        for _ in range(12):
            await log.append("old", {})
        clock.now += 200
        for _ in range(8):
            await log.append("new", {})
    cut = next(record for record in read(path) if record.kind == "audit.cut")
    found = verify(path)
    assert found.ok, found.message
    assert found.cut_through == cut.data["through"]
    assert found.cut_through >= 8
    assert f"retention cut 1 to {found.cut_through}" in found.message
    segments(path)[0].unlink()
    assert (verify(path).fault, verify(path).first_bad) == (Fault.REMOVED, 1)


async def test_redacted_fields_never_reach_the_disk_and_the_log_verifies(tmp_path: Path) -> None:
    """Configured fields leave a commitment behind: equal for equal values, provable by the key's holder."""
    path = tmp_path / "audit.log"
    async with AuditLog(path, Keeping(redact=("who.name", "calls.*.token"))) as log:
        for name in ("ada@example.org", "ada@example.org", "bob@example.org"):
            await log.append("act", {"who": {"name": name, "role": "person"}, "calls": [{"token": "s3cret!", "n": 1}]})
    assert b"ada@example.org" not in path.read_bytes()
    assert b"s3cret!" not in path.read_bytes()
    assert verify(path).ok
    first, second, third = (record.data["who"] for record in read(path))
    assert first == second != third
    assert isinstance(first, dict)
    assert first["role"] == "person"
    assert first["name"] == commitment("ada@example.org", load_signer(path, fresh=False).secret("redaction"))


async def test_a_record_may_tell_when_it_happened(tmp_path: Path) -> None:
    """What could not be written at once is written later with the time at which it was."""
    path = tmp_path / "audit.log"
    async with AuditLog(path, clock=Clock()) as log:
        await log.append("late", {}, at=900.5)
    assert read(path)[0].at == 900.5
    assert read(path)[0].prev == GENESIS
