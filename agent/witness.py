"""What people did to the mesh, written into the audit log beside what the agent did.

The control plane numbers its change events and keeps them; the agent remembers the last one it has written down. So what a
person did while the agent was away is written when it returns, once.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import structlog

from agent import metrics
from agent.chronicle import Chronicle, Who
from agent.store import Store
from models.domain import ChangeEvent, ChangeKind
from models.errors import Broken

log = structlog.get_logger(__name__)

MEMORY: Final = "witnessed"
KINDS: Final = frozenset({ChangeKind.OVERLAY, ChangeKind.CONFIG, ChangeKind.WEIGHT})
OURS: Final = frozenset({"agent", "control", ""})
"""Actors that are no people: the agent writes its own deeds itself, the control plane only lets leases end."""


class Witness:
    """Writes people's changes. `begin` first."""

    def __init__(self, chronicle: Chronicle, store: Store) -> None:
        self._chronicle = chronicle
        self._store = store
        self._last = 0

    async def begin(self) -> None:
        """Take up where the previous process stopped."""
        known = await self._store.recall(MEMORY)
        self._last = int(known) if known else 0

    async def anew(self) -> None:
        """Start over: the control plane began a new count."""
        self._last = 0
        await self._remember()

    async def see(self, changes: Iterable[ChangeEvent]) -> None:
        """Write what people did among `changes` (oldest first); what was written before is skipped."""
        last = self._last
        for change in changes:
            if change.sequence <= last:
                continue
            last = change.sequence
            if change.kind in KINDS and change.actor not in OURS:
                body = {
                    "change": str(change.kind),
                    "subject": change.subject,
                    "service": change.service,
                    "why": change.message,
                    "sequence": change.sequence,
                }
                await self._chronicle.write("person", body, who=Who(change.actor, "person"), at=change.at)
        if last == self._last:
            return
        self._last = last
        if not self._chronicle.waiting:  # else a restart would lose what still waits
            await self._remember()

    async def _remember(self) -> None:
        try:
            await self._store.remember(MEMORY, str(self._last).encode())
        except Broken as error:
            metrics.STORE_FAILED.inc()
            log.warning("store.failed", what=MEMORY, error=error.message, hint=error.hint)
