"""The agent process: ordered start, a group of named tasks, ordered stop within a deadline.

Start: settings → state directory (one agent at a time) → database → playbooks → audit log → API port → telemetry socket
→ the loop. A missing control plane does not keep the agent from starting: it sees, says so, and acts once it may.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
import secrets
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

import structlog
from prometheus_client import REGISTRY

from agent import metrics
from agent.actuators.control import ControlActuator
from agent.api import AgentApi, Status
from agent.audit import AuditLog, read
from agent.codec import Event
from agent.escalation import WebhookPager
from agent.following import Follower
from agent.incidents import Incident
from agent.leadership import Leadership
from agent.loop import HealingLoop, Senses
from agent.mesh import MeshView
from agent.observe import Observer
from agent.planner import PlaybookPlanner
from agent.settings import AgentSettings
from agent.store import Store
from agent.telemetry.receiver import OtlpReceiver
from agent.thinking import MeshLocaliser
from agent.timeline import KEPT, Timeline
from agent.treatment import Tools
from control.client import ControlClient
from models.detect import DetectorBank, FalseAlarmBudget
from models.errors import Broken, FibrinError, InvalidInput, NotFound, Unavailable
from playbooks import library, load
from playbooks.guards import Limits
from playbooks.schema import Playbook

log = structlog.get_logger(__name__)

DEFAULT_CONTROL_URL: Final = "http://127.0.0.1:15080"
TOKEN_WAIT_S: Final = 10.0
REMEMBER_S: Final = 30.0
STALE_NORMAL_S: Final = 900.0
"""Baselines older than this are learnt anew: the mesh has moved on."""


async def run(settings: AgentSettings, *, ready: asyncio.Event | None = None) -> None:
    """Run the agent until cancelled. `ready` is set once it listens.

    Raises:
        InvalidInput: settings or a playbook are wrong (file, line, column and field are named).
        Broken: another agent runs here, a port or socket is taken, the database or audit log cannot be used.
        Unavailable: the control plane's tokens did not appear (start it first).
    """
    settings.check()
    async with AsyncExitStack() as stack:
        agent = await _assemble(settings, stack)
        if ready is not None:
            ready.set()
        async with asyncio.TaskGroup() as group:
            for name, work in agent.tasks():
                group.create_task(_guarded(name, work), name=name)


class Agent:
    """All parts of a running agent, and what its API shows of them."""

    def __init__(
        self,
        settings: AgentSettings,
        *,
        store: Store,
        timeline: Timeline,
        audit: AuditLog,
        observer: Observer,
        bank: DetectorBank,
        mesh: MeshView,
        planner: PlaybookPlanner,
        leadership: Leadership,
        follower: Follower,
        loop: HealingLoop,
    ) -> None:
        self._settings = settings
        self._store = store
        self._timeline = timeline
        self._audit = audit
        self._observer = observer
        self._bank = bank
        self._mesh = mesh
        self._planner = planner
        self._leadership = leadership
        self._follower = follower
        self.loop = loop
        self._started_at = time.time()

    def tasks(self) -> tuple[tuple[str, Any], ...]:
        """Return the named endless works of the agent."""
        works: list[tuple[str, Any]] = [
            ("loop", self.loop.run),
            ("topology", self._follower.topology),
            ("changes", self._follower.changes),
            ("overlays", self._follower.overlays),
            ("memory", self._remember),
        ]
        if not self._settings.observe_only:
            works.append(("leadership", self._leadership.run))
        return tuple(works)

    async def remember(self) -> None:
        """Keep what was learnt for the next process."""
        state = json.dumps({"at": time.time()}).encode() + b"\n" + self._bank.save()
        await self._store.remember("normal", state)
        await self._store.put_events(self._timeline.since(0, KEPT)[-200:])

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
            audit_broken=self.loop.treatment.audit_broken,
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
        kept = {incident.id: incident for incident in await self._store.latest(limit)}
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
        """Return the playbooks in use."""
        return [{"name": p.name, **p.model_dump(mode="json", by_alias=True)} for p in self._planner.playbooks]


async def _assemble(settings: AgentSettings, stack: AsyncExitStack) -> Agent:
    """Start everything in order; `stack` stops it in the reverse order."""
    directory = settings.state_dir
    await asyncio.to_thread(_make_directory, directory)
    await stack.enter_async_context(_only_one(directory))
    playbooks = await asyncio.to_thread(_read_playbooks, settings)
    store = Store(directory / "agent.db")
    await store.open()
    stack.push_async_callback(store.close)
    timeline = Timeline()
    last = await store.last_sequence()
    timeline.resume(await store.events(max(0, last - KEPT), KEPT), last)
    audit = AuditLog(directory / "audit.log")
    stack.push_async_callback(audit.stop)
    audit_broken = await _start_audit(audit)
    token = settings.token or await _token(directory / "agent.token")
    address = settings.control_url or await asyncio.to_thread(_control_url, directory)
    client = await stack.enter_async_context(ControlClient(address, token, actor="agent"))
    pager = WebhookPager(settings.webhook)
    await pager.start()
    stack.push_async_callback(pager.stop)

    mesh, observer = MeshView(), Observer()
    REGISTRY.register(observer.exposition)
    stack.callback(REGISTRY.unregister, observer.exposition)
    bank = DetectorBank(FalseAlarmBudget(ticks_per_s=1 / settings.tick_s))
    planner = PlaybookPlanner(playbooks, Limits(storm_share=settings.storm_share))
    leadership = Leadership(client, await _holder(store), settings.fence_ttl_s, time.monotonic)
    actuator = ControlActuator(client)
    proxy_token = await _token(directory / "proxy.token")
    receiver = OtlpReceiver(settings.socket, observer.receive, resolve=mesh.resolve, token=proxy_token)

    def on_topology() -> None:
        receiver.forget()
        observer.expect((instance.id for instance in mesh.topology.instances), time.time())

    follower = Follower(client, actuator, mesh, timeline, clock=time.time, on_topology=on_topology)
    tools = Tools(settings, time.time, store, timeline, audit, actuator, planner, leadership, pager)
    senses = Senses(observer, bank, MeshLocaliser(bank, mesh), mesh)
    loop = HealingLoop(senses, tools)
    loop.treatment.audit_broken = audit_broken
    loop.remembers_normal = await _restore(store, bank, planner)
    await loop.start()
    agent = Agent(
        settings,
        store=store,
        timeline=timeline,
        audit=audit,
        observer=observer,
        bank=bank,
        mesh=mesh,
        planner=planner,
        leadership=leadership,
        follower=follower,
        loop=loop,
    )
    stack.push_async_callback(_last_words, agent)
    await receiver.start()
    stack.push_async_callback(receiver.stop)
    api = AgentApi(agent)
    url = await api.start(settings.host, settings.port)
    stack.push_async_callback(api.stop)
    await asyncio.to_thread(_announce, directory, url)
    stack.callback(_withdraw, directory)
    log.info("agent.ready", url=url, telemetry=str(settings.socket), playbooks=len(playbooks), mode=str(settings.mode))
    return agent


async def _guarded(name: str, work: Any) -> None:
    """Run one endless work; its end is an error."""
    try:
        await work()
    except FibrinError:
        raise
    except Exception as error:
        metrics.FAILURES.labels(name).inc()
        log.exception("agent.task_failed", task=name)
        raise Broken(f"the agent's task {name} failed: {error}", hint="see the log; restart the agent") from error
    raise Broken(f"the agent's task {name} ended", hint="restart the agent; this is a defect")


async def _start_audit(audit: AuditLog) -> str:
    """Open the audit log; return why it cannot be used.

    The agent still sees then, and every action is refused until a record can be written.
    """
    try:
        await audit.start()
    except Broken as error:
        metrics.AUDIT_FAILED.inc()
        log.warning("audit.unusable", error=error.message, hint=error.hint)
        return error.message
    return ""


async def _restore(store: Store, bank: DetectorBank, planner: PlaybookPlanner) -> bool:
    """Take up baselines and ledger; return whether the baselines can be relied on."""
    if ledger := await store.recall("ledger"):
        planner.restore(ledger)
    state = await store.recall("normal")
    if state is None:
        return False
    try:
        head, _, learnt = state.partition(b"\n")
        if time.time() - float(json.loads(head)["at"]) > STALE_NORMAL_S:
            return False
        bank.restore(learnt)
    except (ValueError, KeyError, TypeError, InvalidInput) as error:
        metrics.STORE_FAILED.inc()
        log.warning("baselines.unreadable", error=str(error), hint="they are learnt anew")
        return False
    return True


async def _last_words(agent: Agent) -> None:
    with contextlib.suppress(Broken):
        await agent.remember()


async def _holder(store: Store) -> str:
    """Return this agent's name at the fence; the same after a restart, so that it takes its own fence again at once."""
    known = await store.recall("holder")
    if known is not None:
        return known.decode()
    name = f"agent-{secrets.token_hex(4)}"
    await store.remember("holder", name.encode())
    return name


async def _token(path: Path) -> str:
    """Return a token the control plane wrote, waiting a while for it to appear."""
    deadline = time.monotonic() + TOKEN_WAIT_S
    while True:
        text = ""
        try:
            text = (await asyncio.to_thread(path.read_text, encoding="utf-8")).strip()
        except FileNotFoundError:
            log.debug("agent.waits", missing=str(path))
        except OSError as error:
            raise Broken(f"cannot read {path}: {error.strerror}", hint="is this state directory yours?") from error
        if text:
            return text
        if time.monotonic() >= deadline:
            raise Unavailable(
                f"{path} is missing: the control plane makes it", hint="start `fibrin control` on this state directory"
            )
        await asyncio.sleep(0.1)


def _control_url(directory: Path) -> str:
    """Return where the control plane of this state directory said it is, else its usual address."""
    try:
        return str(json.loads((directory / "control.json").read_text(encoding="utf-8"))["url"])
    except (OSError, ValueError, KeyError, TypeError):
        return DEFAULT_CONTROL_URL


def _make_directory(directory: Path) -> None:
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise Broken(f"cannot make the state directory {directory}: {error.strerror}", hint="choose another") from error


@asynccontextmanager
async def _only_one(directory: Path) -> AsyncIterator[None]:
    """Hold the state directory for this agent alone; the kernel lets go of it however the process ends."""
    place = directory / "agent.lock"
    try:
        handle = os.open(place, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise Broken(f"cannot open {place}: {error.strerror}", hint="is this state directory yours?") from error
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            pid = os.pread(handle, 32, 0).decode("ascii", "replace").strip()
            raise Broken(
                f"another agent (pid {pid or 'unknown'}) runs on {directory}",
                hint="stop it, or give this one its own state directory",
            ) from error
        os.ftruncate(handle, 0)
        os.pwrite(handle, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(handle)


def _read_playbooks(settings: AgentSettings) -> tuple[Playbook, ...]:
    """Load the shipped library and the operator's files; two of one name are an error."""
    texts: dict[str, str] = {}
    for place in settings.playbooks:
        files = sorted([*place.glob("*.yaml"), *place.glob("*.yml")]) if place.is_dir() else [place]
        for file in files:
            try:
                texts[str(file)] = file.read_text(encoding="utf-8")
            except (OSError, UnicodeDecodeError) as error:
                raise InvalidInput(
                    f"cannot read the playbook {file}: {error}", hint="check the agent's settings"
                ) from error
    own = load(texts) if texts else ()
    names = {playbook.name for playbook in own}
    shipped = tuple(p for p in library() if p.name not in names) if settings.library else ()
    return (*own, *shipped)


def _announce(directory: Path, url: str) -> None:
    place = directory / "agent.json"
    text = json.dumps({"url": url, "pid": os.getpid(), "started_at": time.time()})
    temporary = place.with_suffix(".tmp")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(place)


def _withdraw(directory: Path) -> None:
    (directory / "agent.json").unlink(missing_ok=True)


def _version() -> str:
    try:
        return version("fibrin")
    except PackageNotFoundError:
        return "unknown"
