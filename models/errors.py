"""The one exception tree of Fibrin.

Every error that Fibrin raises on purpose derives from `FibrinError` and carries what a person at a terminal
needs: what happened, where, and the next thing to do.

    FibrinError
    ├── InvalidInput        what a person wrote is wrong (exit code 2; HTTP 400/422)
    ├── NotFound            the named thing does not exist (HTTP 404)
    ├── Conflict            another writer was there first: stale fence, version mismatch (HTTP 409)
    ├── Refused             an interlock forbids it (HTTP 403)
    ├── Unavailable         the other side cannot be reached or is not ready (HTTP 503)
    └── Broken              a part of this machine fails us: port in use, disk full, Envoy missing (exit code 1)
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong with an input: where it is, what was found, what was wanted.

    `line` and `column` count from 1; 0 means the input has no lines (an HTTP body, a flag).
    """

    message: str
    source: str = ""
    line: int = 0
    column: int = 0
    field: str = ""
    hint: str = ""

    def __str__(self) -> str:
        """Render as `file:line:column: field: message (hint)`."""
        place = self.source
        if self.line:
            place = f"{place}:{self.line}:{self.column}"
        head = ": ".join(part for part in (place, self.field) if part)
        text = f"{head}: {self.message}" if head else self.message
        return f"{text} ({self.hint})" if self.hint else text


class FibrinError(Exception):
    """Root of the tree. `hint` is the next thing to do; `problems` lists every single finding."""

    def __init__(self, message: str, *, hint: str = "", problems: tuple[Problem, ...] = ()) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.problems = problems


class InvalidInput(FibrinError):
    """What a person or a program sent is wrong; nothing of it was applied."""


class NotFound(FibrinError):
    """The named thing does not exist."""


class Conflict(FibrinError):
    """Another writer was there first; read again, then decide again."""


class Refused(FibrinError):
    """A safety interlock forbids the request; the message names the interlock."""


class Unavailable(FibrinError):
    """The other side cannot be reached or is not ready; the same request may succeed later."""


class Broken(FibrinError):
    """The machine fails us (port in use, disk full, Envoy missing); a person has to mend it."""
