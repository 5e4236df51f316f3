"""Signed statements of where the log ended: what shows that its tail was cut off.

`audit.head` is replaced with every write and holds the last record known to be durable. `audit.anchors` (or another file,
best on another disk) gets such a statement added now and then, so that a log, a head and a key that were all put back to
an older state still contradict it. Each is also told to the process log, for whoever collects that elsewhere.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Self

from agent.audit.chain import canonical
from agent.audit.files import bounded_lines
from agent.audit.keys import Signer, Trust, signed_by
from models.plain import Json


@dataclass(frozen=True, slots=True)
class Head:
    """Number and hash of a record known to be durable, when (Unix s) that was said, and the signature under it."""

    seq: int
    hash: str
    at: float = 0.0
    key: str = ""
    sig: str = ""

    def sealed(self, at: float, signer: Signer) -> Head:
        """Return it dated and signed."""
        bare = Head(self.seq, self.hash, at, signer.id)
        return Head(bare.seq, bare.hash, bare.at, bare.key, signer.sign(bare._content()))

    def genuine(self, trust: Trust) -> bool:
        """Tell whether a key among `trust` signed it."""
        public = trust.get(self.key)
        return public is not None and signed_by(public, self.sig, self._content())

    def dumps(self) -> bytes:
        """Return it as it stands in its file: one line."""
        body: dict[str, Json] = {"at": self.at, "hash": self.hash, "key": self.key, "seq": self.seq, "sig": self.sig}
        return canonical(body) + b"\n"

    @classmethod
    def loads(cls, line: bytes) -> Self:
        """Read it back.

        Raises:
            ValueError: the line is none.
        """
        body = json.loads(line)
        types = {"seq": int, "hash": str, "at": float, "key": str, "sig": str}
        if not isinstance(body, dict) or set(body) != set(types):
            raise ValueError("is not an anchor")
        if not all(isinstance(body[name], kind) for name, kind in types.items()):
            raise ValueError("is not an anchor")
        return cls(body["seq"], body["hash"], body["at"], body["key"], body["sig"])

    def _content(self) -> bytes:
        return b"fibrin-anchor/1\n" + canonical({"at": self.at, "hash": self.hash, "key": self.key, "seq": self.seq})


def head_path(path: Path) -> Path:
    """Return where the newest anchor of the log at `path` stands: `audit.log` → `audit.head`."""
    return path.with_suffix(".head")


def anchors_path(path: Path) -> Path:
    """Return where anchors are collected unless told otherwise: `audit.log` → `audit.anchors`."""
    return path.with_suffix(".anchors")


def read_head(path: Path) -> Head | None:
    """Return the newest anchor of the log at `path`, or None when there is none.

    Raises:
        ValueError: the anchor is there but is not one.
        Broken: it is no regular file.
    """
    try:
        return Head.loads(b"".join(islice(bounded_lines(head_path(path)), 1)))
    except FileNotFoundError:
        return None


def read_anchors(place: Path) -> tuple[Head, ...]:
    """Return the collected anchors; a last line without an end (a kill came between) is left out.

    Raises:
        ValueError: a line is not an anchor; the message names it.
        Broken: it is no regular file.
    """
    found: list[Head] = []
    try:
        for number, line in enumerate(bounded_lines(place), 1):
            if line.endswith(b"\n"):
                found.append(_numbered(number, line))
    except FileNotFoundError:
        return ()
    return tuple(found)


def _numbered(number: int, line: bytes) -> Head:
    try:
        return Head.loads(line)
    except ValueError as error:
        raise ValueError(f"line {number} {error}") from error
