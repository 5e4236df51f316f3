"""The form of an audit record: one line of canonical JSON that carries the hash of the line before it.

    {"at":1764000000.25,"data":{…},"hash":"…","key":"…","kind":"act","prev":"…","seq":7,"sig":"…"}

`hash` is the SHA-256 of the line without `hash` and `sig`; `prev` is the hash of record `seq - 1` (64 zeros before the
first); `sig` is the Ed25519 signature over the hash by the key whose id is `key`. Canonical means: keys sorted, no
spaces, ASCII, floats as Python writes them. A record has exactly one spelling, so a change of any byte of a line shows.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Self, cast

from agent.audit.keys import ID_DIGITS, SIGNATURE_DIGITS, Signer, Trust, signed_by
from models.errors import InvalidInput
from models.plain import Json

GENESIS: Final = "0" * 64
"""What the first record names as the hash before it."""

_DEPTH: Final = 64
_BITS: Final = 1024
_FIELDS: Final = {"at", "data", "hash", "key", "kind", "prev", "seq", "sig"}
_KEY: Final = re.compile(rf"[0-9a-f]{{{ID_DIGITS}}}")
_SIGNATURE: Final = re.compile(rf"[0-9a-f]{{{SIGNATURE_DIGITS}}}")


@dataclass(frozen=True, slots=True)
class Record:
    """One entry of the log. `seq` counts from 1 without gaps; `at` is Unix time in seconds."""

    seq: int
    at: float
    kind: str
    data: Mapping[str, Json]
    prev: str
    key: str
    hash: str
    sig: str

    @classmethod
    def following(cls, seq: int, prev: str, at: float, kind: str, data: Mapping[str, Json], *, signer: Signer) -> Self:
        """Return the record with number `seq` behind the one whose hash is `prev`, signed."""
        digest = _digest({"seq": seq, "at": at, "kind": kind, "data": dict(data), "prev": prev, "key": signer.id})
        return cls(seq, at, kind, data, prev, signer.id, digest, signer.sign(_signed(digest)))

    @classmethod
    def parse(cls, line: bytes) -> Self:
        """Read one line (without its end) and prove that it is spelled canonically and bears its own hash.

        Raises:
            ValueError: it is not; the message says in what.
        """
        try:
            body = json.loads(line)
        except (ValueError, RecursionError):
            raise ValueError("is not JSON") from None
        if not isinstance(body, dict) or set(body) != _FIELDS:
            raise ValueError("does not have the fields of a record")
        seq, at, kind, data, prev = (body[name] for name in ("seq", "at", "kind", "data", "prev"))
        key, sig = str(body["key"]), str(body["sig"])
        shaped = isinstance(seq, int) and isinstance(at, float) and isinstance(kind, str) and isinstance(prev, str)
        if not shaped or not isinstance(data, dict) or not _KEY.fullmatch(key):
            raise ValueError("has a field of a wrong type")
        record = cls(seq, at, kind, data, prev, key, str(body["hash"]), sig)
        if record.hash != _digest(record._body()):
            raise ValueError("was changed: its content does not match its hash")
        if record.line() != line + b"\n":
            raise ValueError("was changed: it is not spelled as it was written")
        if not _SIGNATURE.fullmatch(sig):
            raise ValueError("was changed: it bears no signature")
        return record

    def line(self) -> bytes:
        """Return the record as it stands in the file, with the line's end."""
        return canonical({**self._body(), "hash": self.hash, "sig": self.sig}) + b"\n"

    def signed(self, trust: Trust) -> bool:
        """Tell whether the key it names is among `trust` and did sign it."""
        public = trust.get(self.key)
        return public is not None and signed_by(public, self.sig, _signed(self.hash))

    def _body(self) -> dict[str, Json]:
        """Return what the hash covers."""
        return {
            "seq": self.seq,
            "at": self.at,
            "kind": self.kind,
            "data": dict(self.data),
            "prev": self.prev,
            "key": self.key,
        }


def _digest(body: Mapping[str, Json]) -> str:
    return hashlib.sha256(canonical(body)).hexdigest()


def _signed(digest: str) -> bytes:
    """Return what a record's signature covers; the first word keeps it from being taken for another document's."""
    return f"fibrin-audit/1\n{digest}".encode()


def canonical(value: Mapping[str, Json]) -> bytes:
    """Return the one spelling of a JSON object.

    Raises:
        ValueError: it holds NaN or an infinity.
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False).encode()


def plain(value: object, path: str = "data") -> Json:
    """Return `value` as pure JSON: tuples become lists, sets sorted lists, NaN and infinities the words for them.

    Raises:
        InvalidInput: something in it has no JSON form, or it is nested too deep; the message names the place.
    """
    try:
        return _usual(value, 0)
    except _UnusualError:
        return _any(value, path, 0)


class _UnusualError(Exception):
    """Something that the quick way does not know."""


def _usual(value: object, depth: int) -> Json:
    """Return plain builtin types as pure JSON: almost everything there is, several times faster than `_any`."""
    kind = type(value)
    if kind is str or kind is bool or value is None:
        return cast("Json", value)
    if kind is int and cast("int", value).bit_length() <= _BITS:
        return cast("int", value)
    if kind is float:
        number = cast("float", value)
        return number if math.isfinite(number) else str(number)
    if depth > _DEPTH:
        raise _UnusualError
    if kind is dict:
        pairs = cast("dict[object, object]", value).items()
        return {key if type(key) is str else str(key): _usual(inner, depth + 1) for key, inner in pairs}
    if kind is list or kind is tuple:
        return [_usual(inner, depth + 1) for inner in cast("list[object]", value)]
    raise _UnusualError


def _any(value: object, path: str, depth: int) -> Json:  # noqa: PLR0911 - one per kind of value
    """Return anything that has a JSON form, in the words of `plain`."""
    if depth > _DEPTH:
        raise InvalidInput(f"{path[:80]}… is nested deeper than {_DEPTH} levels")
    below = depth + 1
    match value:
        case None | bool():
            return value
        case int() if value.bit_length() <= _BITS:
            return int(value)
        case float():
            return float(value) if math.isfinite(value) else str(float(value))
        case str():
            return str(value)
        case Mapping():
            return {str(key): _any(inner, f"{path}.{key}", below) for key, inner in value.items()}
        case list() | tuple():
            return [_any(inner, f"{path}[{index}]", below) for index, inner in enumerate(value)]
        case set() | frozenset():
            return [_any(inner, path, below) for inner in sorted(value, key=str)]
        case _:
            hint = "turn it into text, numbers, lists and mappings first"
            raise InvalidInput(f"{path} is a {type(value).__name__}, which an audit record cannot hold", hint=hint)
