"""The state directory: made private, locked against a second control plane, telling others where we are."""

from __future__ import annotations

import fcntl
import json
import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, Self, TypeAlias

from control.disk import unusable, unwritable
from models.errors import Broken, Conflict

Role: TypeAlias = Literal["operator", "agent", "proxy"]

ROLES: Final[tuple[Role, ...]] = ("operator", "agent", "proxy")
_SHORTEST_TOKEN: Final = 16


@dataclass(frozen=True, slots=True)
class Tokens:
    """The bearer token of each role."""

    by_role: Mapping[Role, str]

    def role(self, token: str) -> Role | None:
        """Return the role a token stands for, or None. Takes the same time for every wrong token."""
        found: Role | None = None
        for role, known in self.by_role.items():
            if secrets.compare_digest(known.encode(), token.encode()):
                found = role
        return found


class StateDir:
    """A state directory that this process owns until `release`. File I/O: use it in a thread."""

    def __init__(self, path: Path, lock: int) -> None:
        self._path = path
        self._lock = lock

    @classmethod
    def take(cls, path: Path) -> Self:
        """Make the directory (mode 0700) and lock it.

        Raises:
            Conflict: another control plane runs on it. Broken: it cannot be used.
        """
        make(path)
        try:
            lock = os.open(path / "control.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise unusable(path, error) from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(lock)
            raise Conflict(
                f"another control plane runs on {path}{_who(path)}",
                hint="stop it with `fibrin down`, or name another --state-dir",
            ) from error
        return cls(path, lock)

    def release(self) -> None:
        """Remove `control.json` and let others have the directory."""
        (self._path / "control.json").unlink(missing_ok=True)
        os.close(self._lock)

    def tokens(self) -> Tokens:
        """Return the tokens, made on the first start (mode 0600).

        Raises:
            Broken: a token file cannot be read or written, or holds no token.
        """
        found: dict[Role, str] = {}
        for role in ROLES:
            file = self._path / f"{role}.token"
            try:
                if not file.exists():
                    _write(file, secrets.token_urlsafe(32) + "\n")
                file.chmod(0o600)
                token = file.read_text(encoding="ascii").strip()
            except (OSError, UnicodeDecodeError) as error:
                raise Broken(
                    f"the token file {file} cannot be used: {error}", hint="delete it and start anew"
                ) from error
            if len(token) < _SHORTEST_TOKEN:
                raise Broken(f"{file} holds no token", hint="delete it; a new one is made at the next start")
            found[role] = token
        return Tokens(found)

    def announce(self, url: str, started_at: float) -> None:
        """Write `control.json`: where we are, once we are ready."""
        body = {"url": url, "pid": os.getpid(), "started_at": started_at}
        try:
            _write(self._path / "control.json", json.dumps(body) + "\n")
        except OSError as error:
            raise unwritable(self._path / "control.json", error) from error


def make(path: Path) -> None:
    """Make a state directory, for its owner's eyes only.

    Raises:
        Broken: it cannot be made or is not ours.
    """
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.chmod(0o700)
    except OSError as error:
        raise unusable(path, error) from error


def _who(path: Path) -> str:
    try:
        found = json.loads((path / "control.json").read_text(encoding="utf-8"))
        return f" (process {found['pid']}, {found['url']})"
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def _write(path: Path, text: str) -> None:
    """Write with mode 0600, whole or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
