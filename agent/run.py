"""The agent process: ordered start, a group of named tasks, ordered stop within a deadline.

Start: settings → state directory (one agent at a time) → database → playbooks → audit log → API port → telemetry socket
→ the loop. A missing control plane does not keep the agent from starting: it sees, says so, and acts once it may.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Any

import structlog
from prometheus_client import REGISTRY

from agent import metrics
from agent.actuators.control import ControlActuator
from agent.actuators.hooks import HookActuator
from agent.actuators.recorded import RecordedActuator
from agent.actuators.switched import SwitchedActuator
from agent.api import AgentApi
from agent.audit import AuditLog, Keeping
from agent.backend import Agent
from agent.canaries.api import CanaryRoutes
from agent.canaries.controller import CanaryController
from agent.canaries.tap import Tap
from agent.canaries.ties import Ties
from agent.canaries.tools import CanaryTools
from agent.certificates import certify
from agent.chronicle import Chronicle
from agent.decision import Decisions
from agent.escalation import WebhookPager
from agent.following import Follower
from agent.leadership import Leadership
from agent.loop import HealingLoop
from agent.mesh import MeshView
from agent.objectives.alerts import Alerts, AlertTools
from agent.objectives.api import ObjectiveRoutes
from agent.objectives.keeper import KeeperTools, ObjectiveKeeper
from agent.observe import Observer
from agent.place import announce, control_url, make_directory, only_one, own_name, token, withdraw
from agent.planner import PlaybookPlanner
from agent.remembering import take_up
from agent.scribe import Tools
from agent.senses import Senses
from agent.settings import AgentSettings
from agent.sources import read_sources
from agent.store import Store
from agent.switch import FILE as STOP_FILE
from agent.switch import KillSwitch
from agent.telemetry.receiver import OtlpReceiver
from agent.thinking import MeshLocaliser
from agent.timeline import KEPT, Timeline
from agent.witness import Witness
from control.client import ControlClient
from models.detect import DetectorBank, FalseAlarmBudget
from models.errors import Broken, FibrinError
from playbooks.guards import Limits
from playbooks.schema import Mode

log = structlog.get_logger(__name__)


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


async def _assemble(settings: AgentSettings, stack: AsyncExitStack) -> Agent:  # noqa: PLR0915 - one part after another
    """Start everything in order; `stack` stops it in the reverse order."""
    directory = settings.state_dir
    await asyncio.to_thread(make_directory, directory)
    await stack.enter_async_context(only_one(directory))
    sources = await asyncio.to_thread(read_sources, settings)
    playbooks = await asyncio.to_thread(sources.playbooks)
    store = await _store(settings, stack)
    timeline = await _timeline(store)
    holder = await _holder(store)
    audit, chronicle = await _recording(settings, holder, stack)
    own_token = settings.token or await token(directory / "agent.token")
    address = settings.control_url or await asyncio.to_thread(control_url, directory)
    client = await stack.enter_async_context(ControlClient(address, own_token, actor="agent"))
    mesh, observer = MeshView(), Observer()
    pager = WebhookPager(settings.webhook, settings.channels, playbooks, lambda: mesh.topology)
    await pager.start()
    stack.push_async_callback(pager.stop)
    REGISTRY.register(observer.exposition)
    stack.callback(REGISTRY.unregister, observer.exposition)
    bank = DetectorBank(FalseAlarmBudget(ticks_per_s=1 / settings.tick_s))
    limits = settings.limits
    certification = await certify(directory, playbooks, settings)
    planner = PlaybookPlanner(playbooks, limits)
    decisions = Decisions(chronicle, sources, limits, lambda: audit.part)
    leadership = Leadership(client, holder, settings.fence_ttl_s, time.monotonic)
    hooks = HookActuator(ControlActuator(client), settings.hooks)
    await hooks.start()
    stack.push_async_callback(hooks.stop)
    switch = await _switch(settings, store)
    actuator = RecordedActuator(SwitchedActuator(hooks, lambda: switch.stopped), chronicle, time.time)
    witness = Witness(chronicle, store)
    await witness.begin()
    receiver = OtlpReceiver(
        settings.socket, observer.receive, resolve=mesh.resolve, token=await token(directory / "proxy.token")
    )

    def on_topology() -> None:
        receiver.forget()
        observer.expect((instance.id for instance in mesh.topology.instances), time.time())

    follower = Follower(client, actuator, mesh, timeline, clock=time.time, on_topology=on_topology, witness=witness)
    seen = Tap(observer)

    async def remark(name: str, text: str) -> None:
        await loop.remark(name, text)

    alerts = Alerts(AlertTools(pager, timeline, store, mesh, lambda: loop.incidents, remark))
    objectives = ObjectiveKeeper(
        KeeperTools(client.objectives, seen, observer.take_rules, mesh, store, time.time, alerts)
    )
    tools = Tools(
        settings,
        time.time,
        store,
        timeline,
        chronicle,
        decisions,
        actuator,
        planner,
        leadership,
        pager,
        switch,
        uncertified=certification.lacking,
        budgets=objectives.budgets,
    )
    tap = Tap(seen)
    senses = Senses(tap, bank, MeshLocaliser(bank, mesh), mesh)
    loop = HealingLoop(senses, tools)
    ties = Ties(planner, store, mesh, pager)
    canaries = CanaryController(_canary_tools(tools, client, tap, loop, ties, hold=_hold(limits, objectives)))
    loop.remembers_normal = await take_up(store, bank, planner, time.time())
    await loop.start()
    agent = Agent(
        settings,
        store=store,
        timeline=timeline,
        audit=audit,
        chronicle=chronicle,
        observer=observer,
        bank=bank,
        mesh=mesh,
        planner=planner,
        certification=certification,
        leadership=leadership,
        follower=follower,
        loop=loop,
        switch=switch,
        canaries=canaries,
        objectives=objectives,
    )
    stack.push_async_callback(_last_words, agent)
    await receiver.start()
    stack.push_async_callback(receiver.stop)
    routes = (*CanaryRoutes(canaries, directory / "operator.token").routes(), *ObjectiveRoutes(objectives).routes())
    api = AgentApi(agent, directory / "operator.token", routes)
    url = await _serve(api, settings, stack)
    log.info("agent.ready", url=url, telemetry=str(settings.socket), playbooks=len(playbooks), mode=str(settings.mode))
    return agent


async def _serve(api: AgentApi, settings: AgentSettings, stack: AsyncExitStack) -> str:
    """Start the API and tell the machine where; return its URL."""
    url = await api.start(settings.host, settings.port)
    stack.push_async_callback(api.stop)
    await asyncio.to_thread(announce, settings.state_dir, url)
    stack.callback(withdraw, settings.state_dir)
    return url


def _hold(limits: Limits, objectives: ObjectiveKeeper) -> Callable[[str, float], str]:
    """Return what says why a service may not take a risk now: a freeze of the whole mesh, or its error budget is spent."""

    def why(service: str, now: float) -> str:
        freeze = next((str(window) for window in limits.freeze if window.holds(now)), "")
        return f"a freeze of the mesh holds: {freeze}" if freeze else objectives.spent(service)

    return why


def _canary_tools(
    tools: Tools, client: ControlClient, tap: Tap, loop: HealingLoop, ties: Ties, *, hold: Callable[[str, float], str]
) -> CanaryTools:
    """Give the canary controller the loop's own tools: one fence, one actuator, one audit log, one ledger."""
    return CanaryTools(
        source=client.canaries,
        tap=tap,
        mesh=ties.mesh,
        incidents=lambda: loop.incidents,
        actuator=tools.actuator,
        fence=tools.fence,
        chronicle=tools.chronicle,
        store=tools.store,
        timeline=tools.timeline,
        clock=tools.clock,
        lease_s=tools.settings.lease_s,
        stopped=lambda: tools.switch.stopped,
        hold=hold,
        observe_only=tools.settings.observe_only or tools.settings.mode is Mode.SHADOW,
        ties=ties,
    )


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


async def _store(settings: AgentSettings, stack: AsyncExitStack) -> Store:
    """Open the database: the file in the state directory, or the one that replicas share."""
    place = settings.database or settings.state_dir / "agent.db"
    agent = await asyncio.to_thread(own_name, settings.state_dir) if settings.database else ""
    store = Store(place, agent)
    await store.open()
    stack.push_async_callback(store.close)
    return store


async def _switch(settings: AgentSettings, store: Store) -> KillSwitch:
    """Return the kill switch as the previous process left it."""
    place = settings.stop_file or settings.state_dir / STOP_FILE
    switch = KillSwitch(store, place, time.time, flag=settings.stop_acting)
    await switch.poll()
    return switch


async def _timeline(store: Store) -> Timeline:
    """Return the timeline of the previous process, to be continued."""
    timeline = Timeline()
    last = await store.last_sequence()
    timeline.resume(await store.events(max(0, last - KEPT), KEPT), last)
    return timeline


async def _recording(settings: AgentSettings, holder: str, stack: AsyncExitStack) -> tuple[AuditLog, Chronicle]:
    """Open the audit log and the way to it."""
    keeping = Keeping(
        anchors=settings.audit_anchors,
        file_bytes=settings.audit_file_bytes,
        keep_s=settings.audit_keep_s,
        redact=settings.audit_redact,
    )
    audit = AuditLog(settings.state_dir / "audit.log", keeping)
    stack.push_async_callback(audit.stop)
    chronicle = Chronicle(audit, time.time, name=holder, required=settings.audit_required)
    stack.push_async_callback(chronicle.close)
    chronicle.broken = await _start_audit(audit)
    return audit, chronicle


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


async def _last_words(agent: Agent) -> None:
    with contextlib.suppress(Broken):
        await agent.remember()


async def _holder(store: Store) -> str:
    """Return this agent's name at the fence; the same after a restart, so that it takes its own fence again at once."""
    if store.shared:
        return store.agent
    known = await store.recall("holder")
    if known is not None:
        return known.decode()
    name = f"agent-{secrets.token_hex(4)}"
    await store.remember("holder", name.encode())
    return name
