"""A running agent as a whole: its endless works, its memory, and what its API shows."""

from __future__ import annotations

import asyncio
import time
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Final

import structlog
from pydantic import TypeAdapter

from agent import metrics
from agent.api import Status
from agent.audit import AuditLog, read
from agent.canaries.controller import CanaryController
from agent.certificates import Certification
from agent.chronicle import Chronicle
from agent.codec import Event
from agent.following import Follower
from agent.incidents import Incident, Verb
from agent.leadership import Leadership
from agent.loop import HealingLoop
from agent.mesh import MeshView
from agent.objectives.keeper import ObjectiveKeeper
from agent.observe import Observer
from agent.planner import PlaybookPlanner
from agent.remembering import REMEMBER_S, keep
from agent.settings import AgentSettings
from agent.store import Store
from agent.switch import KillSwitch
from agent.timeline import KEPT, Timeline
from models.detect import DetectorBank
from models.errors import Broken, InvalidInput, NotFound
from playbooks.certificates import Standing, standing

log = structlog.get_logger(__name__)

STANDING: Final[TypeAdapter[Standing]] = TypeAdapter(Standing)


class Agent:
    """All parts of a running agent, and what its API shows of them."""

    def __init__(
        self,
        settings: AgentSettings,
        *,
        store: Store,
        timeline: Timeline,
        audit: AuditLog,
        chronicle: Chronicle,
        observer: Observer,
        bank: DetectorBank,
        mesh: MeshView,
        planner: PlaybookPlanner,
        certification: Certification,
        leadership: Leadership,
        follower: Follower,
        loop: HealingLoop,
        switch: KillSwitch,
        canaries: CanaryController,
        objectives: ObjectiveKeeper,
    ) -> None:
        self._settings = settings
        self._store = store
        self._timeline = timeline
        self._audit = audit
        self._chronicle = chronicle
        self._observer = observer
        self._bank = bank
        self._mesh = mesh
        self._planner = planner
        self._certification = certification
        self._leadership = leadership
        self._follower = follower
        self.loop = loop
        self._switch = switch
        self._canaries = canaries
        self._objectives = objectives
        self._started_at = time.time()

    def tasks(self) -> tuple[tuple[str, Any], ...]:
        """Return the named endless works of the agent."""
        works: list[tuple[str, Any]] = [
            ("loop", self.loop.run),
            ("canaries", self._canaries.run),
            ("objectives", self._objectives.run),
            ("topology", self._follower.topology),
            ("changes", self._follower.changes),
            ("overlays", self._follower.overlays),
            ("memory", self._remember),
            ("switch", self._switch.run),
            ("certificates", self._certification.follow),
        ]
        if not self._settings.observe_only:
            works.append(("leadership", self._leadership.run))
        return tuple(works)

    async def remember(self) -> None:
        """Keep what was learnt for the next process."""
        await keep(self._store, self._bank, time.time())
        await self._store.put_events(self._timeline.since(0, KEPT)[-200:])
        await self._objectives.save()

    async def _remember(self) -> None:
        while True:
            await asyncio.sleep(REMEMBER_S)
            try:
                await self.remember()
                await self._store.trim()
            except Broken as error:
                metrics.STORE_FAILED.inc()
                log.warning("store.failed", what="baselines", error=error.message, hint=error.hint)

    # api.Backend

    def status(self) -> Status:
        """Return how the agent is."""
        return Status(
            version=_version(),
            started_at=self._started_at,
            mode=str(self._settings.mode),
            observe_only=self._settings.observe_only,
            holder=self._leadership.holder,
            fence=self._leadership.token,
            why_not="observes only" if self._settings.observe_only else self._leadership.why_not,
            control_up=self._mesh.control_up,
            warm=self.loop.warm,
            blind=tuple(sorted(self.loop.blind)),
            reporters=self._observer.reporters(),
            anomalies=len(self.loop.anomalies),
            open_incidents=sum(incident.is_open for incident in self.loop.incidents),
            playbooks=tuple(p.name for p in self._planner.playbooks),
            audit_broken=self._chronicle.broken,
            audit_waiting=self._chronicle.waiting,
            stopped=self._switch.stopped,
            unsolved=tuple(incident.id for incident in self.loop.unsolved),
        )

    def ready(self) -> str:
        """Return why the agent is not ready yet ("" when it is)."""
        if not self._mesh.known:
            return "no topology from the control plane yet"
        if not self._settings.observe_only and self._leadership.token is None:
            return f"the fence is not held: {self._leadership.why_not}"
        return ""

    async def incidents(self, limit: int) -> tuple[Incident, ...]:
        """Return incidents, newest first."""
        living = {incident.id: incident for incident in self.loop.incidents}
        kept = {incident.id: incident for incident in await self._store.latest(limit, living)}
        living |= {incident.id: incident for incident in self.loop.incidents}
        return tuple(sorted((kept | living).values(), key=lambda i: -i.opened_at)[:limit])

    async def incident(self, name: str) -> Incident | None:
        """Return one incident by its id or an unambiguous beginning of it."""
        exact = self.loop.incident(name) or await self._store.get(name)
        if exact is not None:
            return exact
        found = [incident for incident in await self.incidents(1000) if incident.id.startswith(name)]
        if len(found) > 1:
            raise InvalidInput(f"{name} begins {len(found)} incidents", hint="give more of the id")
        return found[0] if found else None

    async def order(self, verb: Verb, name: str, who: str, why: str) -> Incident:
        """Carry out a person's order about an incident."""
        return await self.loop.people.order(verb, name, who, why)

    async def stop_acting(self, *, stop: bool, who: str, why: str) -> None:
        """Throw the kill switch or take it back."""
        await self.loop.people.stop_acting(stop=stop, who=who, why=why)

    async def rotate_key(self, *, who: str, why: str) -> str:
        """Let a new key sign the audit log from now on; the record that names it says who asked."""
        return await self._audit.rotate_key(f"{why} (asked by {who})")

    async def events(self, since: int, wait_s: float) -> tuple[Event, ...]:
        """Return timeline lines after `since`, waiting up to `wait_s` for the first."""
        return await self._timeline.wait(since, wait_s) if wait_s else self._timeline.since(since)

    def signals(self, window_s: float) -> object:
        """Return the golden signals."""
        return self._observer.signals(time.time(), window_s)

    async def audit(self, limit: int) -> list[Any]:
        """Return the last audit records, newest last."""
        try:
            return list(await asyncio.to_thread(read, self._audit.path, limit))
        except NotFound:
            return []

    def playbooks(self) -> list[dict[str, Any]]:
        """Return the playbooks in use, each with how it is certified why it may not act alone ("" when it may), and how
        often its steps have worked.
        """
        now, earned = time.time(), self._certification.earned
        lacking, memory = self._certification.lacking(now), self._planner.memory
        return [
            {
                "name": p.name,
                **p.model_dump(mode="json", by_alias=True),
                "certification": STANDING.dump_python(standing(p, earned, now), mode="json"),
                "asks_because": lacking.get(p.name, ""),
                "memory": [
                    {**asdict(r), "estimate": memory.estimate(r.kind, r.service, r.playbook, r.step).probability}
                    for r in memory.results
                    if r.playbook == p.name
                ],
            }
            for p in self._planner.playbooks
        ]


def _version() -> str:
    try:
        return version("fibrin")
    except PackageNotFoundError:
        return "unknown"
