"""Keeping configured fields out of the audit log without weakening it.

A redacted value is replaced, before the record is hashed and signed, by a keyed commitment (HMAC-SHA-256 under a secret
derived from the log's key): the log verifies as it stands, equal values stay recognisable as equal, and whoever holds
the key can prove what a commitment stands for.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping, Sequence
from typing import Final

from agent.audit.chain import canonical
from models.plain import Json

MARK: Final = "redacted:"


def redacted(data: Mapping[str, Json], paths: Sequence[str], secret: bytes) -> dict[str, Json]:
    """Return `data` with every value at one of `paths` replaced (`who.name`; `*` stands for any key or list item)."""
    found: dict[str, Json] = dict(data)
    for path in paths:
        changed = _within(found, tuple(path.split(".")), secret)
        assert isinstance(changed, dict)
        found = changed
    return found


def commitment(value: Json, secret: bytes) -> str:
    """Return what stands in the log for a value."""
    return MARK + hmac.new(secret, canonical({"value": value}), hashlib.sha256).hexdigest()


def _within(value: Json, path: tuple[str, ...], secret: bytes) -> Json:
    if not path:
        return value if isinstance(value, str) and value.startswith(MARK) else commitment(value, secret)
    name, rest = path[0], path[1:]
    if isinstance(value, dict):
        return {k: _within(v, rest, secret) if name in ("*", k) else v for k, v in value.items()}
    if isinstance(value, list):
        return [_within(v, rest, secret) if name in ("*", str(i)) else v for i, v in enumerate(value)]
    return value
