"""What people may tell a canary, and what becomes of it."""

from __future__ import annotations

from dataclasses import replace

from agent.canaries.record import FINAL, Command, Record, State, ended, stepped
from models.errors import InvalidInput
from models.rollout import Rollout


def ordered(rollout: Rollout, record: Record, command: Command, actor: str, now: float) -> Record:
    """Return the canary's record once a person's order is carried out.

    Raises:
        InvalidInput: the canary came to its end already.
    """
    if record.state in FINAL:
        raise InvalidInput(
            f"the canary {record.name} is {record.state} already", hint="apply it again, changed, to begin anew"
        )
    match command:
        case Command.PAUSE:
            return replace(record, paused=actor)
        case Command.RESUME:
            return replace(record, paused="", yielded=False)
        case Command.ABORT:
            return ended(record, State.ABORTED, now, f"aborted by {actor}")
        case Command.PROMOTE_FULLY:
            return ended(record, State.PROMOTED, now, f"promoted by {actor}")
        case Command.PROMOTE:
            return _promoted(rollout, record, actor, now)


def _promoted(rollout: Rollout, record: Record, actor: str, now: float) -> Record:
    """Let it go on: approve a step whose gate waits, else take the next step at once."""
    step = record.step
    last = step + 1 >= len(rollout.steps)
    gated = step >= 0 and (rollout.steps[step].approval or (last and not rollout.automatic))
    if gated and record.approved < step:
        return replace(record, approved=step)
    if last:
        return ended(record, State.PROMOTED, now, f"promoted by {actor}")
    return stepped(record, step + 1, now, f"sent on by {actor}")
