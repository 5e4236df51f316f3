"""Drives canaries: reads what is declared, judges what is seen, lays what is decided. One turn is `tick`.

Order of a move: the record is stored, then the audit record is written, then the overlay is laid under an id that follows
from the record; the older overlay goes last. Killed anywhere in between, the next process finds the stored record, lays the
same id again (which is once) and removes what is left of others. When the agent stays away, the lease ends and the weights
are those that people declared.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, replace
from typing import Final

import structlog

from agent import metrics
from agent.actuators.base import Actuator, Order
from agent.canaries.deciding import Advance, Move, Promote, RollBack, Stay, decide
from agent.canaries.guide import Guide, begin, fresh
from agent.canaries.record import FINAL, RECORD, CanaryView, Command, Record, State
from agent.canaries.surroundings import MARK, Surroundings, ours
from agent.canaries.tap import Tap
from agent.canaries.ties import Ties
from agent.chronicle import Chronicle, Who
from agent.incidents import Incident
from agent.mesh import MeshView
from agent.ports import Clock, Fence
from agent.store import Store
from agent.timeline import Timeline
from models.errors import Broken, Conflict, FibrinError, InvalidInput, NotFound
from models.overlay import RouteCanary, ShiftTraffic
from models.rollout import Rollout

log = structlog.get_logger(__name__)

READ_S: Final = 1.0
SAVE_S: Final = 5.0
RETRY_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class CanaryTools:
    """What the controller works with. `source` reads the declared canaries, `incidents` gives those of the loop, `stopped`
    says why nothing may be done (the kill switch), `hold` why a service may not take a risk now (freeze, error budget). `ties` to
    ledger and pager; None for a controller by itself.
    """

    source: Callable[[], Awaitable[tuple[Rollout, ...]]]
    tap: Tap
    mesh: MeshView
    incidents: Callable[[], Iterable[Incident]]
    actuator: Actuator
    fence: Fence
    chronicle: Chronicle
    store: Store
    timeline: Timeline
    clock: Clock
    stopped: Callable[[], str] = lambda: ""
    hold: Callable[[str, float], str] = lambda _, __: ""
    lease_s: float = 30.0
    tick_s: float = 0.2
    observe_only: bool = False
    ties: Ties | None = None


class CanaryController:
    """All canaries of a mesh."""

    def __init__(self, tools: CanaryTools) -> None:
        self._t = tools
        self._eyes = Surroundings(tools.tap, tools.mesh, tools.incidents, tools.hold)
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
            changed = self._told(guide, command, actor or "a person", now)
            body = {"canary": name, "command": str(command), "from": str(guide.record.state), "to": str(changed.state)}
            number = await self._t.chronicle.write("canary", body, who=Who(actor or "operator", "person"), first=True)
            if not self._t.chronicle.may_go_on(number):
                raise Broken("the audit log cannot be written, so this is not done", hint="see the agent's log")
            await self._keep(guide, changed, now)
            self._tell(guide, now, f"{actor or 'a person'}: {command}")
            guide.retry_at = 0.0
            await self._close(guide, now)
            return guide.view()

    def _told(self, guide: Guide, command: Command, actor: str, now: float) -> Record:
        record, rollout = guide.record, guide.rollout
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
                return _to(record, State.ABORTED, now, f"aborted by {actor}")
            case Command.PROMOTE_FULLY:
                return _to(record, State.PROMOTED, now, f"promoted by {actor}")
            case Command.PROMOTE:
                return self._promoted(rollout, record, actor, now)

    def _promoted(self, rollout: Rollout, record: Record, actor: str, now: float) -> Record:
        """Let it go on: approve a step whose gate waits, else take the next step at once."""
        step = record.step
        last = step + 1 >= len(rollout.steps)
        gated = step >= 0 and (rollout.steps[step].approval or (last and not rollout.automatic))
        if gated and record.approved < step:
            return replace(record, approved=step)
        if last:
            return _to(record, State.PROMOTED, now, f"promoted by {actor}")
        return _step(record, step + 1, now, f"sent on by {actor}")

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
            await self._forget(name)
        for name, rollout in rollouts.items():
            guide = self._guides.get(name)
            if guide is None or guide.rollout != rollout or anew:
                self._guides[name] = await self._take_up(rollout, now)
        self._t.tap.watched = frozenset(rollout.service for rollout in rollouts.values())
        await self._sweep()

    async def _take_up(self, rollout: Rollout, now: float) -> Guide:
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
        if record.step < 0 and self._leads():
            await self._keep(guide, record, now)
        return guide

    async def _forget(self, name: str) -> None:
        """The declaration is gone: so is all that hangs on it."""
        del self._guides[name]
        await self._t.store.remember(f"canary/{name}", b"", shared=True)
        await self._t.store.remember(f"canary-evidence/{name}", b"", shared=True)
        self._t.timeline.add(self._t.clock(), "canary", f"canary {name} is not declared any more")

    async def _sweep(self) -> None:
        """Remove overlays of canaries, or of steps, that are no more."""
        token = self._t.fence.token
        if token is None or self._t.observe_only or self._t.stopped():
            return
        current = {guide.record.overlay for guide in self._guides.values() if guide.record.change(guide.rollout)}
        waiting = {g.record.name for g in self._guides.values() if g.record.change(g.rollout) and not g.laid}
        for overlay in self._t.mesh.overlays:
            if not ours(overlay) or overlay.id in current or overlay.incident.removeprefix(MARK) in waiting:
                continue
            try:
                await self._t.actuator.remove(overlay.id, token)
            except FibrinError as error:
                metrics.CONTROL_ERRORS.labels("remove").inc()
                log.info("canary.leftover_stays", overlay=overlay.id, error=error.message)

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
                self._tell(guide, now, f"holds: {guide.holding}")
        await self._close(guide, now)
        if not self._leads() or now - guide.saved_at < SAVE_S:
            return
        if guide.record.step >= 0 and guide.record.state not in FINAL:
            guide.saved_at = now
            evidence = guide.comparison.saved()
            await self._t.store.remember(f"canary-evidence/{guide.rollout.name}", evidence, shared=True)

    async def _move(self, guide: Guide, move: Advance | Promote | RollBack, now: float) -> None:
        record = guide.record
        match move:
            case Advance(step=step, reason=reason):
                changed = _step(record, step, now, reason)
            case Promote(reason=reason):
                changed = _to(record, State.PROMOTED, now, reason)
            case RollBack(reason=reason):
                changed = _to(record, State.ROLLED_BACK, now, reason)
        body = {"canary": record.name, "move": _words(move), "evidence": _evidence(guide), "reason": move.reason}
        number = await self._t.chronicle.write("canary", body, first=True)
        if not self._t.chronicle.may_go_on(number):
            guide.retry_at, guide.holding = now + RETRY_S, "the audit log cannot be written"
            return
        await self._keep(guide, changed, now)
        if isinstance(move, Advance):
            guide.comparison.step()
            guide.judgement = guide.comparison.judgement()
        self._tell(guide, now, f"{_words(move)}: {move.reason}")
        if self._t.ties is None:
            return
        await self._t.ties.stepped(guide.rollout, changed, now)
        if isinstance(move, RollBack):
            self._t.ties.page(guide.rollout, move.reason, now)

    async def _keep(self, guide: Guide, record: Record, now: float) -> None:
        """Store a record, then take it as true."""
        await self._t.store.remember(f"canary/{record.name}", RECORD.dump_json(record), shared=True)
        if record.step >= 0:
            await self._t.store.remember(f"canary-evidence/{record.name}", guide.comparison.saved(), shared=True)
        guide.saved_at = now
        guide.record = record

    async def _close(self, guide: Guide, now: float) -> None:
        """Close the difference between what is laid and what the record asks for."""
        record, token = guide.record, self._t.fence.token
        change = record.change(guide.rollout)
        if change is None or now < guide.retry_at or token is None or self._t.observe_only:
            return
        if self._eyes.person(guide, now):
            guide.laid = ""
            return
        try:
            if guide.laid != record.overlay:
                if self._t.stopped():
                    return
                await self._lay(guide, change, token, now)
            elif self._t.mesh.overlays_at > guide.laid_at and not self._exists(record.overlay):
                await self._gone(guide, now)
            elif now - guide.renewed_at >= self._t.lease_s / 3 and await self._t.actuator.renew(
                record.overlay, self._t.lease_s, token
            ):
                guide.renewed_at = now
        except FibrinError as error:
            if isinstance(error, Conflict):
                self._t.fence.lost()
            metrics.CONTROL_ERRORS.labels("canary").inc()
            guide.retry_at, guide.holding = now + RETRY_S, error.message
            log.info("canary.not_laid", canary=record.name, overlay=record.overlay, error=error.message)

    async def _lay(self, guide: Guide, change: ShiftTraffic | RouteCanary, token: int, now: float) -> None:
        record = guide.record
        reason = f"canary {record.name}: {record.reason or record.state}"[:1000]
        await self._t.actuator.lay(
            Order(record.overlay, change, reason, self._t.lease_s, f"{MARK}{record.name}", token)
        )
        guide.laid, guide.laid_at, guide.renewed_at = record.overlay, self._t.clock(), now
        for overlay in self._t.mesh.overlays:
            if overlay.incident == f"{MARK}{record.name}" and overlay.id != record.overlay and ours(overlay):
                await self._t.actuator.remove(overlay.id, token)

    async def _gone(self, guide: Guide, now: float) -> None:
        """The overlay is not there any more: its lease ended (lay it again), or a person removed it (yield)."""
        if now - guide.renewed_at >= self._t.lease_s:
            guide.laid = ""
            self._tell(guide, now, "its lease ended; laying it again")
            return
        metrics.YIELDED.inc()
        why = f"a person, who removed {guide.laid}"
        guide.laid = ""
        await self._keep(guide, replace(guide.record, paused=why, yielded=True), now)
        self._tell(guide, now, f"paused by {why}; `fibrin canary resume {guide.rollout.name}` goes on")

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

    def _leads(self) -> bool:
        """Tell whether the memory of canaries is this agent's to write: replicas share it, and one of them leads."""
        return not self._t.store.shared or self._t.fence.token is not None

    def _exists(self, overlay: str) -> bool:
        return any(one.id == overlay for one in self._t.mesh.overlays)

    def _tell(self, guide: Guide, now: float, message: str) -> None:
        self._t.timeline.add(now, "canary", f"canary {guide.rollout.name}: {message}")


def _to(record: Record, state: State, now: float, reason: str) -> Record:
    return replace(record, state=state, since=now, reason=reason, paused="", yielded=False)


def _step(record: Record, step: int, now: float, reason: str) -> Record:
    return replace(record, state=State.PROGRESSING, step=step, since=now, reason=reason, yielded=False)


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
