"""What is remembered of canaries over a `kill -9`, by whoever leads."""

from __future__ import annotations

from typing import Final

import structlog

from agent.canaries.guide import Guide, begin, fresh
from agent.canaries.record import FINAL, RECORD, Record
from agent.canaries.tools import CanaryTools
from models.errors import InvalidInput
from models.rollout import Rollout

log = structlog.get_logger(__name__)

SAVE_S: Final = 5.0


class CanaryMemory:
    """Keeps records and evidence in the store."""

    def __init__(self, tools: CanaryTools) -> None:
        self._t = tools

    async def take_up(self, rollout: Rollout, now: float) -> Guide:
        """Go on where the previous process stopped, or begin."""
        record = fresh(rollout, now)
        kept = await self._t.store.recall(f"canary/{rollout.name}", shared=True)
        if kept:
            before = RECORD.validate_json(kept)
            if (before.created_at, before.generation) == (rollout.created_at, rollout.generation):
                record = before
        guide = begin(rollout, record, now)
        evidence = (
            await self._t.store.recall(f"canary-evidence/{rollout.name}", shared=True) if record.step >= 0 else None
        )
        if evidence:
            try:
                guide.comparison.restore(evidence)
            except InvalidInput as error:
                log.warning("canary.evidence_lost", canary=rollout.name, error=error.message, hint=error.hint)
            guide.judgement = guide.comparison.judgement()
        if record.step < 0 and self._t.leads:
            await self.keep(guide, record, now)
        return guide

    async def forget(self, name: str) -> None:
        """The declaration is gone: so is all that hangs on it."""
        await self._t.store.remember(f"canary/{name}", b"", shared=True)
        await self._t.store.remember(f"canary-evidence/{name}", b"", shared=True)
        self._t.timeline.add(self._t.clock(), "canary", f"canary {name} is not declared any more")

    async def keep(self, guide: Guide, record: Record, now: float) -> None:
        """Store a record, then take it as true."""
        await self._t.store.remember(f"canary/{record.name}", RECORD.dump_json(record), shared=True)
        if record.step >= 0:
            await self._t.store.remember(f"canary-evidence/{record.name}", guide.comparison.saved(), shared=True)
        guide.saved_at = now
        guide.record = record

    async def keep_evidence(self, guide: Guide, now: float) -> None:
        """Store what speaks for and against a canary under way, now and then."""
        if not self._t.leads or now - guide.saved_at < SAVE_S:
            return
        if guide.record.step >= 0 and guide.record.state not in FINAL:
            guide.saved_at = now
            evidence = guide.comparison.saved()
            await self._t.store.remember(f"canary-evidence/{guide.rollout.name}", evidence, shared=True)
