"""What Fibrin did of late: the memory behind cool-downs, rates, strikes and the one blast radius of the mesh.

A ledger is a value: each verb returns a new one. The agent persists it (`dumps`, `loads`), so that limits hold over a
`kill -9`, and hands it to the planner with every question.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Final

from pydantic import TypeAdapter, ValidationError

from models.errors import InvalidInput
from playbooks.memory import Memory, Result

KEEP_S: Final = 86_400.0
"""How long an entry is remembered, seconds."""

PENDING_S: Final = 900.0
"""An action that nobody settled for so long counts as over, seconds (its overlay's lease ended long before)."""


CANARY: Final = "canary/"
"""Begins the `playbook` of a canary's steps; they stay pending, for they neither help nor fail an incident."""


class Outcome(StrEnum):
    """How an action ended."""

    PENDING = "pending"  # acted, not yet verified
    HELPED = "helped"  # verified
    UNDONE = "undone"  # did not help, or harmed, and was removed
    FAILED = "failed"  # could not be carried out


@dataclass(frozen=True, slots=True)
class Entry:
    """One action. `id` is its overlay's id; `at` Unix s; `share` the share of the service's capacity it took (0–1).

    `cause_kind` and `cause_service` tell what it was done about ("" for what is not learnt from).
    """

    id: str
    at: float
    service: str
    share: float
    playbook: str
    outcome: Outcome = Outcome.PENDING
    incident: str = ""
    step: str = ""
    cause_kind: str = ""
    cause_service: str = ""

    @property
    def of_canary(self) -> bool:
        """Tell whether this is a canary's step."""
        return self.playbook.startswith(CANARY)


@dataclass(frozen=True, slots=True)
class Ledger:
    """Recent actions, oldest first, and what has been learnt from all there ever were."""

    entries: tuple[Entry, ...] = ()
    memory: Memory = field(default_factory=Memory)

    def record(self, entry: Entry) -> Ledger:
        """Add an action, replacing one of the same id; entries older than `KEEP_S` before it are dropped."""
        kept = (old for old in self.entries if old.id != entry.id and old.at > entry.at - KEEP_S)
        return replace(self, entries=tuple(sorted((*kept, entry), key=lambda each: (each.at, each.id))))

    def without(self, entry_id: str) -> Ledger:
        """Return the ledger as if the action `entry_id` had never been entered."""
        return replace(self, entries=tuple(entry for entry in self.entries if entry.id != entry_id))

    def settle(self, entry_id: str, outcome: Outcome, *, learn: bool = True) -> Ledger:
        """Write down how an action ended; an unknown id changes nothing. What it says of the step is learnt once, if at all."""
        found = next((entry for entry in self.entries if entry.id == entry_id), None)
        memory = self.memory
        if learn and found is not None and found.cause_kind and found.outcome is Outcome.PENDING:
            place = Result(found.cause_kind, found.cause_service, found.playbook, found.step, at=found.at)
            memory = memory.learn(place, helped=outcome is Outcome.HELPED)
        settled = tuple(replace(e, outcome=outcome) if e.id == entry_id else e for e in self.entries)
        return Ledger(settled, memory)

    def pending(self, now: float, *, playbook: str = "") -> tuple[Entry, ...]:
        """Return unverified actions (of one playbook, or of all)."""
        return tuple(
            entry
            for entry in self.entries
            if entry.outcome is Outcome.PENDING and entry.at > now - PENDING_S and playbook in ("", entry.playbook)
        )

    def since(self, at: float, *, playbook: str = "", service: str = "") -> tuple[Entry, ...]:
        """Return actions later than `at` that reached the mesh, of one playbook and service or of all."""
        return tuple(
            entry
            for entry in self.entries
            if entry.at > at and playbook in ("", entry.playbook) and service in ("", entry.service)
        )

    def strikes(self, at: float, *, playbook: str, service: str) -> int:
        """Count failures of a playbook on a service later than `at`."""
        bad = {Outcome.UNDONE, Outcome.FAILED}
        return sum(entry.outcome in bad for entry in self.since(at, playbook=playbook, service=service))

    def undo_rate(self, at: float) -> tuple[float, int]:
        """Return the share of settled actions later than `at` that did not help, and how many were settled."""
        settled = [entry for entry in self.since(at) if entry.outcome is not Outcome.PENDING]
        bad = sum(entry.outcome is not Outcome.HELPED for entry in settled)
        return (bad / len(settled) if settled else 0.0), len(settled)

    def dumps(self) -> str:
        """Return the ledger as JSON."""
        return _KEPT.dump_json(_Kept(self.entries, self.memory)).decode()

    @classmethod
    def loads(cls, text: str) -> Ledger:
        """Read a ledger back.

        Raises:
            InvalidInput: the text is not one that `dumps` wrote.
        """
        try:
            if text.startswith("["):  # of a build without a memory
                return cls(_ENTRIES.validate_json(text, strict=True))
            kept = _KEPT.validate_json(text, strict=True)
            return cls(kept.entries, kept.memory)
        except ValidationError as error:
            hint = "restore the state directory from a backup, or remove the ledger to start with an empty one"
            raise InvalidInput(f"the action ledger cannot be read: {error.errors()[0]['msg']}", hint=hint) from error


_ENTRIES: Final = TypeAdapter(tuple[Entry, ...])


@dataclass(frozen=True, slots=True)
class _Kept:
    """A ledger on disk: nothing of it may be missing."""

    entries: tuple[Entry, ...]
    memory: Memory


_KEPT: Final = TypeAdapter(_Kept)
