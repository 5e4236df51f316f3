"""Proving that nobody changed the audit log. Needs nothing but the files; the writer may be at work.

The chain shows a changed, removed, added or reordered record; signatures show a chain made anew by somebody without the
key; anchors show a cut tail. A missing beginning is in order only if a record of the log says that retention cut
exactly it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from agent.audit.anchors import Head, anchors_path, head_path, read_anchors, read_head
from agent.audit.chain import GENESIS, Record
from agent.audit.files import LINE_BYTES, bounded_lines, segments
from agent.audit.keys import Trust, decoded, public_path, trusted
from agent.audit.reading import missing
from models.errors import Broken

CUT: Final = "audit.cut"
"""Kind of the record that says which beginning of the log retention removed: `through`, `hash`, `files`."""

NEW_KEY: Final = "audit.key"
"""Kind of the record in which a key names its successor: `key`, `public`."""

_ATTEMPTS: Final = 5
"""How often verification starts anew because the writer was in the middle of a line."""


class Fault(StrEnum):
    """What is wrong with a log."""

    EDITED = "edited"
    REMOVED = "removed"
    REORDERED = "reordered"
    TRUNCATED = "truncated"
    WRONG_KEY = "wrong-key"
    REWRITTEN = "rewritten"
    TORN = "torn"
    UNPROVABLE = "unprovable"


@dataclass(frozen=True, slots=True)
class Verification:
    """Whether the log is whole. `records` are good ones before the first bad one; `first_bad` is its number (seq) and
    `line` its line in `file`, None and 0 when all is well. `message` says it for people.
    """

    ok: bool
    records: int
    first_bad: int | None
    message: str
    line: int = 0
    fault: Fault | None = None
    file: str = ""
    keys: tuple[str, ...] = ()
    cut_through: int = 0


@dataclass(slots=True)
class _Walk:
    """How far a verification has come. `proofs` are the cuts that records of this log account for; up to record
    `signed_to` the signature of a later anchor vouches, through the chain, for the single ones.
    """

    trust: dict[str, Ed25519PublicKey]
    statements: Mapping[int, Head]
    signed_to: int
    prev: str = GENESIS
    seq: int = 0
    first: int = 1
    first_prev: str = GENESIS
    key: str = ""
    keys: list[str] = field(default_factory=list)
    proofs: set[tuple[int, str]] = field(default_factory=set)


def verify(path: Path, *, trust: Trust | None = None, anchors: Path | None = None) -> Verification:
    """Check every record of the log, its signatures and anchors. Blocking: reads all files.

    `trust` are the keys to believe (None: those in `audit.pub` beside the log), `anchors` where anchors are collected.

    Raises:
        NotFound: there is no log.
        Broken: a file cannot be read.
    """
    return _verify(path, trust, anchors or anchors_path(path), whole=True)


def verify_end(path: Path, *, anchors: Path | None = None) -> Verification:
    """Check only the newest file, its anchors, and the signature of its end: what a start can afford."""
    return _verify(path, None, anchors or anchors_path(path), whole=False)


def _verify(path: Path, trust: Trust | None, anchors: Path, *, whole: bool) -> Verification:
    try:
        for _ in range(_ATTEMPTS):
            before = _shape(path)
            result = _verify_once(path, trust, anchors, whole=whole)
            if result.ok or _shape(path) == before:
                return result
    except FileNotFoundError as error:
        raise missing(path) from error
    except OSError as error:
        raise Broken(f"the audit log {path} cannot be read: {error.strerror}") from error
    return result


def _shape(path: Path) -> tuple[tuple[str, int], ...]:
    """Return names and sizes of the log's files: equal when the writer did nothing in between."""
    return tuple((place.name, place.stat().st_size) for place in (*segments(path), path) if place.exists())


def _verify_once(path: Path, trust: Trust | None, anchors: Path, *, whole: bool) -> Verification:
    try:  # anchors before the log: the writer moves them last, so they can only lag behind
        place = head_path(path)
        head = read_head(path)
        place = anchors
        collected = read_anchors(anchors)
        place = public_path(path)
        known = dict(trusted(path) if trust is None else trust)
    except ValueError as error:
        text = f"{place} is not readable: {error}"
        return Verification(ok=False, records=0, first_bad=1, message=text, fault=Fault.UNPROVABLE)
    parts = [*segments(path), path] if path.exists() else list(segments(path))
    if not parts:
        raise FileNotFoundError(path)
    statements = {one.seq: one for one in (*collected, *((head,) if head else ()))}
    walk = _Walk(dict(known), statements, signed_to=0 if whole or head is None else head.seq)
    for record, part, number in _records(_newest(parts) if not whole else parts):
        fault, text = record if isinstance(record, tuple) else _judge(walk, record)
        if fault is not None:
            message = f"line {number}: record {walk.seq + 1} {text}"
            return _bad(walk, walk.seq + 1, message, fault, line=number, file=part.name)
        assert isinstance(record, Record)
        _take(walk, record)
    return _end(path, walk, head, whole=whole)


def _records(parts: list[Path]) -> Iterator[tuple[Record | tuple[Fault, str], Path, int]]:
    """Yield each record, or what is wrong with it, with its file and line."""
    for part in parts:
        for number, line in enumerate(bounded_lines(part), start=1):
            if len(line) > LINE_BYTES:
                yield (Fault.EDITED, f"is longer than the {LINE_BYTES >> 20} MiB that a record may have"), part, number
                return
            if not line.endswith(b"\n"):
                torn = "is cut off: the writer died while it wrote, or the file was cut"
                yield (Fault.TORN, torn), part, number
                return
            try:
                yield Record.parse(line[:-1]), part, number
            except ValueError as error:
                yield (Fault.EDITED, str(error)), part, number
                return


def _newest(parts: list[Path]) -> list[Path]:
    """Return the newest file that holds records, and what comes after it."""
    filled = [part for part in parts if part.stat().st_size]
    return filled[-1:]


def _judge(walk: _Walk, record: Record) -> tuple[Fault | None, str]:
    """Return what is wrong with the next record (None, "" when nothing)."""
    if not walk.seq and record.seq > 1:  # the beginning was cut, or only the end is looked at
        walk.first, walk.first_prev = record.seq, record.prev
        walk.seq, walk.prev = record.seq - 1, record.prev
    if record.seq > walk.seq + 1:
        return Fault.REMOVED, f"is missing: record {record.seq} stands in its place"
    if record.seq <= walk.seq:
        return Fault.REORDERED, f"is not in its place: record {record.seq} stands there, repeated or reordered"
    if record.prev != walk.prev:
        return Fault.REMOVED, "does not follow the record before it: one between them was exchanged"
    if text := _unsigned(walk, record):
        return Fault.WRONG_KEY, text
    stated = walk.statements.get(record.seq)
    if stated is not None and stated.hash != record.hash:
        return Fault.REWRITTEN, "is not the record that the anchor names: the log was written anew"
    return None, ""


def _unsigned(walk: _Walk, record: Record) -> str:
    """Return why the signature of a record does not hold, "" when it does."""
    if record.key not in walk.trust:
        return f"is signed by the unknown key {record.key}"
    if walk.key and record.key != walk.key:
        return f"is signed by the key {record.key}, but {walk.key} was in force"
    if record.seq > walk.signed_to and not record.signed(walk.trust):
        return f"bears a signature that the key {record.key} did not make"
    if record.kind == NEW_KEY:
        try:
            decoded(str(record.data.get("public")))
        except ValueError as error:
            return f"names a next key that {error}"
    return ""


def _take(walk: _Walk, record: Record) -> None:
    """Go on behind a good record."""
    walk.prev, walk.seq, walk.key = record.hash, record.seq, record.key
    if record.key not in walk.keys:
        walk.keys.append(record.key)
    if record.kind == NEW_KEY:
        walk.key = str(record.data["key"])
        walk.trust[walk.key] = decoded(str(record.data["public"]))
    elif record.kind == CUT:
        through = record.data.get("through")
        walk.proofs.add((through if isinstance(through, int) else 0, str(record.data.get("hash"))))


def _end(path: Path, walk: _Walk, head: Head | None, *, whole: bool) -> Verification:
    """Compare the end of a flawless chain with its anchors, and its beginning with what retention wrote down."""
    nxt = walk.seq + 1
    if head is None and walk.seq:
        message = f"the anchor {head_path(path)} is missing: whether records were cut off cannot be told"
        return _bad(walk, nxt, message, Fault.UNPROVABLE, line=nxt)
    for stated in walk.statements.values():
        if stated.seq >= walk.first and not stated.genuine(walk.trust):
            message = f"the anchor of record {stated.seq} bears a signature that no key of this log made"
            return _bad(walk, max(1, stated.seq), message, Fault.WRONG_KEY)
    last = max(walk.statements, default=0)
    if last > walk.seq:
        message = f"records {nxt} to {last} are missing: the log was cut off behind record {walk.seq}"
        return _bad(walk, nxt, message, Fault.TRUNCATED, line=nxt)
    if whole and walk.first > 1 and (walk.first - 1, walk.first_prev) not in walk.proofs:
        message = f"records 1 to {walk.first - 1} are missing and no record says that retention cut them"
        return _bad(walk, 1, message, Fault.REMOVED, line=1)
    cut = walk.first - 1
    count = walk.seq - cut
    text = f"{count} records, chain unbroken" + (f"; retention cut 1 to {cut}, and the log says so" if cut else "")
    return Verification(ok=True, records=count, first_bad=None, message=text, keys=tuple(walk.keys), cut_through=cut)


def _bad(walk: _Walk, first: int, message: str, fault: Fault, *, line: int = 0, file: str = "") -> Verification:
    return Verification(
        ok=False,
        records=max(0, walk.seq - walk.first + 1),
        first_bad=first,
        message=message,
        line=line,
        fault=fault,
        file=file,
        keys=tuple(walk.keys),
        cut_through=walk.first - 1,
    )
