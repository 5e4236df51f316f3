"""Playbooks against what really happened: every decision in the audit log made again with other playbooks.

Inputs are those of the time: the cause that was named, the mesh, its overlays, the ledger. How the incident ended comes
from the agent's database. Reads only; a running agent is not disturbed.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pydantic import TypeAdapter

from agent.audit import find
from agent.codec import INCIDENT
from agent.planner import PlaybookPlanner
from agent.replay import asked, decisions
from models.errors import Broken, InvalidInput, NotFound
from playbooks.schema import Playbook


@dataclass(frozen=True, slots=True)
class Tried:
    """One decision: what was done `then` and how that ended, what would be done `now`, and why.

    `mode` and `steps` belong to the playbook beside them; `ended` is the incident's stage, "" when it is not known.
    """

    seq: int
    incident: str
    at: float
    cause: str
    then: str
    then_steps: tuple[str, ...]
    ended: str
    now: str
    now_mode: str
    now_steps: tuple[str, ...]
    why: str

    @property
    def differs(self) -> bool:
        """Tell whether something else would be done now."""
        return (self.then, self.then_steps) != (self.now, self.now_steps)


@dataclass(frozen=True, slots=True)
class _Step:
    """What a record says of a step, as far as it is needed here."""

    change: dict[str, Any]


@dataclass(frozen=True, slots=True)
class _Drafted:
    """What a record says of a draft, as far as it is needed here."""

    playbook: str
    steps: tuple[_Step, ...]


DRAFTED: Final = TypeAdapter(_Drafted)


def backtest(audit: Path, database: Path, playbooks: Sequence[Playbook], limit: int) -> tuple[Tried, ...]:
    """Make the last `limit` decisions again with `playbooks`, oldest first. Blocking.

    A decision whose inputs are gone (retention, redaction) is left out.

    Raises:
        Broken: the log or the database cannot be read.
    """
    ends = endings(database)
    tried: list[Tried] = []
    for seq in decisions(audit, limit=limit):
        record = find(audit, seq)
        try:
            causes, around, ledger, limits = asked(audit, record)
        except (NotFound, InvalidInput):
            continue
        planner = PlaybookPlanner(playbooks, limits)
        planner.restore(ledger)
        draft = planner.draft(causes[0], around)
        then = DRAFTED.validate_python(record.data["draft"])
        incident = str(record.data["incident"])
        chosen = next((w.reason for w in draft.considered if w.accepted), draft.page or "no playbook applies")
        tried.append(
            Tried(
                seq,
                incident,
                around.now,
                str(causes[0]),
                then.playbook,
                tuple(str(step.change["kind"]) for step in then.steps),
                ends.get(incident, ""),
                draft.playbook,
                str(draft.mode) if draft.steps else "",
                tuple(step.change.kind for step in draft.steps),
                chosen,
            )
        )
    return tuple(tried)


def endings(database: Path) -> Mapping[str, str]:
    """Return incident → its last stage; nothing when there is no database."""
    if not database.exists():
        return {}
    try:
        connection = sqlite3.connect(f"file:{database}?mode=ro", uri=True)
        try:
            rows = connection.execute("SELECT document FROM incidents").fetchall()
        finally:
            connection.close()
    except sqlite3.Error as error:
        raise Broken(f"cannot read {database}: {error}", hint="is it the agent's database?") from error
    found = (INCIDENT.validate_json(document) for (document,) in rows)
    return {incident.id: str(incident.stage) for incident in found}
