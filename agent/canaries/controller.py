"""Drives canaries: reads what is declared, judges what is seen, lays what is decided. One turn is `tick`.

Order of a move: the record is stored, then the audit record is written, then the overlay is laid under an id that follows
from the record; the older overlay goes last. Killed anywhere in between, the next process finds the stored record, lays the
same id again (which is once) and removes what is left of others. When the agent stays away, the lease ends and the weights
are those that people declared.
"""

from __future__ import annotations

import asyncio
import time
from typing import Final

import structlog

from agent import metrics
from agent.canaries.deciding import Advance, Move, Promote, RollBack, Stay, decide
from agent.canaries.guide import RETRY_S, Guide
from agent.canaries.laying import CanaryLaying
from agent.canaries.memory import CanaryMemory
from agent.canaries.orders import ordered
from agent.canaries.record import FINAL, CanaryView, Command, State, ended, stepped
from agent.canaries.surroundings import Surroundings
from agent.canaries.tools import CanaryTools
from agent.chronicle import Who
from models.errors import Broken, Conflict, FibrinError, NotFound

log = structlog.get_logger(__name__)

READ_S: Final = 1.0


class CanaryController:
    """All canaries of a mesh."""

    def __init__(self, tools: CanaryTools) -> None:
        self._t = tools
        self._eyes = Surroundings(tools.tap, tools.mesh, tools.incidents, tools.hold)
        self._memory = CanaryMemory(tools)
        self._laying = CanaryLaying(tools, self._eyes, self._memory)
        self._guides: dict[str, Guide] = {}
        self._known = False  # whether what is declared was ever read
        self._read_at = float("-inf")
        self._fed_at: float | None = None
        self._led_with: int | None = None
        self._turn = asyncio.Lock()

    async def run(self) -> None:
        """Tick for ever; ends only by cancellation."""
        due = time.monotonic()
        while True:
            try:
                await self.tick()
            except FibrinError as error:
                metrics.FAILURES.labels("canaries").inc()
                log.warning("canaries.tick_failed", error=error.message, hint=error.hint)
            due = max(due + self._t.tick_s, time.monotonic())
            await asyncio.sleep(due - time.monotonic())

    async def tick(self) -> None:
        """One turn."""
        async with self._turn:
            now = self._t.clock()
            if self._t.fence.token != self._led_with:
                self._read_at = float("-inf")  # whoever led before may have gone on: take up what it left
            if now - self._read_at >= READ_S:
                self._read_at = now
                await self._read(now)
            self._see(now)
            for guide in list(self._guides.values()):
                await self._drive(guide, now)
            shadows = [guide.rollout for guide in self._guides.values() if guide.shadows(now)]
            self._t.tap.shadows = frozenset((rollout.service, rollout.canary) for rollout in shadows)

    # What people see and say

    async def look(self) -> None:
        """Read what is declared, so that what was just applied is there."""
        async with self._turn:
            await self._read(self._t.clock())

    def views(self) -> tuple[CanaryView, ...]:
        """Return all canaries, by name."""
        return tuple(self._guides[name].view() for name in sorted(self._guides))

    def view(self, name: str) -> CanaryView:
        """Return one canary, or raise NotFound."""
        return self._find(name).view()

    async def command(self, name: str, command: Command, actor: str) -> CanaryView:
        """Do what a person says, at once.

        Raises:
            NotFound: there is no such canary. InvalidInput: it makes no sense in the canary's state.
            Conflict: the kill switch is thrown. Broken: it cannot be recorded, so it is not done.
        """
        async with self._turn:
            guide, now = self._find(name), self._t.clock()
            if stopped := self._t.stopped() or ("it only observes" if self._t.observe_only else ""):
                raise Conflict(
                    f"the agent may not act: {stopped}", hint="`fibrin overlay shift` sets weights without it"
                )
            changed = ordered(guide.rollout, guide.record, command, actor or "a person", now)
            body = {"canary": name, "command": str(command), "from": str(guide.record.state), "to": str(changed.state)}
            number = await self._t.chronicle.write("canary", body, who=Who(actor or "operator", "person"), first=True)
            if not self._t.chronicle.may_go_on(number):
                raise Broken("the audit log cannot be written, so this is not done", hint="see the agent's log")
            await self._memory.keep(guide, changed, now)
            self._t.tell(guide.rollout.name, now, f"{actor or 'a person'}: {command}")
            guide.retry_at = 0.0
            await self._laying.close(guide, now)
            return guide.view()

    def _find(self, name: str) -> Guide:
        guide = self._guides.get(name)
        if guide is None:
            hint = "`fibrin canary list` shows those there are" if self._known else "the control plane was not read yet"
            raise NotFound(f"there is no canary {name}", hint=hint)
        return guide

    # What is declared, what is seen

    async def _read(self, now: float) -> None:
        try:
            rollouts = {rollout.name: rollout for rollout in await self._t.source()}
        except FibrinError as error:
            metrics.CONTROL_ERRORS.labels("canaries").inc()
            log.debug("canaries.not_read", error=error.message)
            return
        self._known = True
        token = self._t.fence.token
        anew = self._t.store.shared and (token is None or token != self._led_with)
        self._led_with = token
        for name in self._guides.keys() - rollouts.keys():
            del self._guides[name]
            await self._memory.forget(name)
        for name, rollout in rollouts.items():
            guide = self._guides.get(name)
            if guide is None or guide.rollout != rollout or anew:
                self._guides[name] = await self._memory.take_up(rollout, now)
        self._t.tap.watched = frozenset(rollout.service for rollout in rollouts.values())
        await self._laying.sweep(self._guides.values())

    def _see(self, now: float) -> None:
        outcomes = self._t.tap.take()
        before, self._fed_at = self._fed_at, now
        if before is None or now <= before:
            return
        saturation = self._t.tap.saturation(now)
        for guide in self._guides.values():
            if guide.record.state not in FINAL and not self._eyes.blind(guide, now):
                guide.feed(now - before, outcomes, saturation, self._t.mesh)

    # What is done

    async def _drive(self, guide: Guide, now: float) -> None:
        move = decide(guide.rollout, guide.record, guide.judgement, self._eyes.around(guide, now))
        guide.holding = move.holding if isinstance(move, Stay) else ""
        if not isinstance(move, Stay):
            hindered = self._hindered() or self._crowded(move, now)
            if hindered:
                guide.holding = hindered
            elif now >= guide.retry_at:
                await self._move(guide, move, now)
        elif guide.holding != guide.told:
            guide.told = guide.holding
            if guide.holding:
                self._t.tell(guide.rollout.name, now, f"holds: {guide.holding}")
        await self._laying.close(guide, now)
        await self._memory.keep_evidence(guide, now)

    async def _move(self, guide: Guide, move: Advance | Promote | RollBack, now: float) -> None:
        record = guide.record
        match move:
            case Advance(step=step, reason=reason):
                changed = stepped(record, step, now, reason)
            case Promote(reason=reason):
                changed = ended(record, State.PROMOTED, now, reason)
            case RollBack(reason=reason):
                changed = ended(record, State.ROLLED_BACK, now, reason)
        body = {"canary": record.name, "move": _words(move), "evidence": _evidence(guide), "reason": move.reason}
        number = await self._t.chronicle.write("canary", body, first=True)
        if not self._t.chronicle.may_go_on(number):
            guide.retry_at, guide.holding = now + RETRY_S, "the audit log cannot be written"
            return
        await self._memory.keep(guide, changed, now)
        if isinstance(move, Advance):
            guide.comparison.step()
            guide.judgement = guide.comparison.judgement()
        self._t.tell(guide.rollout.name, now, f"{_words(move)}: {move.reason}")
        if self._t.ties is None:
            return
        await self._t.ties.stepped(guide.rollout, changed, now)
        if isinstance(move, RollBack):
            self._t.ties.page(guide.rollout, move.reason, now)

    # Circumstances

    def _crowded(self, move: Move, now: float) -> str:
        """Return why the mesh has no room for a step; going back needs none."""
        return "" if self._t.ties is None or isinstance(move, RollBack) else self._t.ties.crowded(now)

    def _hindered(self) -> str:
        """Return why nothing may be done now, "" when it may."""
        if stopped := self._t.stopped():
            return stopped
        if self._t.observe_only:
            return "this agent only observes"
        if not self._t.mesh.control_up:
            return "the control plane does not answer"
        return "" if self._t.fence.token is not None else "this agent does not hold the fence"


def _words(move: Move) -> str:
    match move:
        case Advance(step=step):
            return f"step {step + 1}"
        case Promote():
            return "promoted"
        case RollBack():
            return "rolled back"
        case Stay():
            return "stays"


def _evidence(guide: Guide) -> dict[str, object]:
    view = guide.view()
    return {
        "verdict": view.verdict,
        "requests": view.requests,
        "stable_requests": view.stable_requests,
        "against_nats": view.against_nats,
        "rollback_nats": view.rollback_nats,
        "signals": view.signals,
    }
