"""The control plane put together: what is declared, who is there and what is overlaid become one world for the sidecars.

Level-triggered: whatever changes only marks the world as stale; one loop computes it anew from everything there is and
hands it over when it differs. A change is stored while it is being pushed and acknowledged once it is on the disk.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine, Iterable, Mapping
from dataclasses import dataclass, field, replace

import structlog

from control import metrics
from control.changes import ChangeLog
from control.clock import Clock, SystemClock
from control.declared import DeclaredSet
from control.effective import Effective, effective
from control.fencing import Fences
from control.identity.authority import Authority
from control.identity.leaves import Leaves
from control.interlocks import NO_SERVICE_HINT, check
from control.observer import Refusals, progress, view
from control.overlays import OverlayBook, Wanted
from control.registry import Registry
from control.settings import ControlSettings
from control.statedir import Tokens
from control.store import Contents, Put, Store, Write
from control.topology import alike, topology_of
from control.watch import Latest
from control.wire import ApplyResult, Fence, OverlayStatus, ProxyView, ServiceView, TopologyView
from control.xds.server import AdsServer
from control.xds.world import MeshOptions, World
from models.domain import Edge, Instance, Topology
from models.errors import Broken, FibrinError, InvalidInput, NotFound
from models.manifest import suggest
from models.overlay import Overlay, Owner, in_force, target
from models.policy import ServicePolicy

log = structlog.get_logger(__name__)

_BEARER = "Bearer "
_EDGES_MAX = 100_000


@dataclass(slots=True)
class _Pushed:
    """What the sidecars were last told."""

    effective: Effective = field(default_factory=Effective)
    instances: tuple[Instance, ...] = ()
    generation: int = 0


class ControlPlane:
    """Everything but the HTTP API. `start`, use, `stop`; methods run in one event loop.

    The state directory must be taken (locked) by the caller for as long as the plane lives.
    """

    def __init__(self, settings: ControlSettings, tokens: Tokens, *, clock: Clock | None = None) -> None:
        self.settings = settings
        self.tokens = tokens
        self.clock: Clock = clock or SystemClock()
        self._store = Store(settings.state_dir / "control.db")
        self.changes = ChangeLog(self.clock, keep=settings.keep_changes)
        self.fences = Fences(self.clock)
        self.overlays = OverlayBook(self.clock, self.changes, self.fences, settings)
        self.registry = Registry(self.clock, self.changes, settings)
        self.declared = DeclaredSet(self.clock, self.changes, self._store)
        self.topology: Latest[TopologyView] = Latest(TopologyView(Topology(), 0))
        self._edges: set[Edge] = set()
        self._pushed = _Pushed()
        self._generations: dict[str, int] = {}  # overlay id → first generation that has it
        self._ads: AdsServer | None = None
        self._stale = asyncio.Event()
        self._stale_since = 0.0
        self._current = asyncio.Condition()
        self._tasks: list[asyncio.Task[None]] = []
        self.ready = False

    # Life

    async def start(self) -> None:
        """Take back what is stored, open the xDS socket, compute the first world.

        Raises:
            Broken: the database, the CA or the socket cannot be used.
        """
        self._restore(await self._store.open())
        authority = await asyncio.to_thread(Authority.open, self.settings.state_dir / "ca", self.clock.wall)
        leaves = Leaves(authority, self.clock.wall, self.settings.leaf_lifetime_s)
        self._ads = AdsServer(
            self.settings.socket,
            leaves,
            options=MeshOptions(max_connection_s=self.settings.max_connection_s),
            authenticate=self._may_stream,
            observer=Refusals(self.changes, lambda writes: self._store.write_soon(*writes)),
        )
        self._sweep()
        self._reconcile(first=True)
        await self._ads.start()
        self._tasks = [
            asyncio.create_task(self._guard(self._reconciling()), name="control.reconcile"),
            asyncio.create_task(self._guard(self._sweeping()), name="control.sweep"),
        ]
        self.ready = True

    async def stop(self) -> None:
        """Let watchers go, close the sockets, then the store. What is not started is not stopped."""
        self.ready = False
        self.release_watchers()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._ads is not None:
            await self._ads.stop()
        await self._store.close()

    def release_watchers(self) -> None:
        """End every watch stream and long poll."""
        self.changes.close()
        self.overlays.events.close()
        self.topology.close()

    async def failed(self) -> None:
        """Wait until a task of the plane has ended, which it should not, and raise why."""
        done, _ = await asyncio.wait(self._tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
        raise Broken("a task of the control plane has ended", hint="see the log; start it again")

    # Declared resources

    async def apply(self, texts: list[tuple[str, str]], *, actor: str, dry_run: bool) -> ApplyResult:
        """Apply manifests, see DeclaredSet.apply."""
        result = await self.declared.apply(texts, services=self.registry.services, actor=actor, dry_run=dry_run)
        await self._take_effect()
        return result

    async def delete_resource(self, kind: str, name: str, *, actor: str) -> None:
        """Delete a resource, see DeclaredSet.delete."""
        await self.declared.delete(kind, name, actor=actor)
        await self._take_effect()

    # Overlays

    async def acquire_fence(self, holder: str, ttl_s: float) -> Fence:
        """Give out or renew the writer's fence; durable when this returns."""
        fence, writes = self.fences.acquire(holder, ttl_s)
        await self._store.write(*writes)
        return fence

    async def lay(self, wanted: Wanted, *, dry_run: bool = False) -> Overlay:
        """Lay an overlay: pushed at once, durable and part of the world when this returns; with `dry_run` only judged.

        Raises:
            Refused, Conflict, InvalidInput: see OverlayBook.propose and interlocks.check. Broken: it cannot be stored;
            it was taken back.
        """
        try:
            overlay = self.overlays.propose(wanted)
            if overlay is None:
                return self.overlays.get(wanted.id)
            check(
                overlay,
                self.declared.policies,
                self.overlays.all,
                self.registry.instances,
                floor=self.settings.floor,
            )
        except FibrinError as error:
            if not dry_run:
                metrics.REFUSALS.labels(type(error).__name__).inc()
            raise
        if dry_run:
            return overlay
        writes = self.overlays.lay(overlay)
        try:
            await self._durably(*writes)
        except Broken:
            self.overlays.withdraw(overlay)
            self._mark()
            raise
        return overlay

    async def renew(self, name: str, lease_s: float, *, owner: Owner, fence: int) -> Overlay:
        """Renew an overlay, see OverlayBook.renew."""
        overlay, writes = self.overlays.renew(name, lease_s, owner=owner, fence=fence)
        await self._store.write(*writes)
        return overlay

    async def remove(self, name: str, *, owner: Owner, fence: int, actor: str, reason: str = "") -> None:
        """Remove an overlay, see OverlayBook.delete."""
        _, writes = self.overlays.delete(name, owner=owner, fence=fence, actor=actor, reason=reason)
        await self._durably(*writes)

    def overlay_status(self, overlay: Overlay) -> OverlayStatus:
        """Return an overlay with whether it is in force and how far it has come."""
        winner = self.overlays.winner(overlay)
        generation = self._generations.get(overlay.id, 0)
        status = OverlayStatus(
            overlay,
            in_force=winner.id == overlay.id and overlay.id not in self._pushed.effective.held_back,
            superseded_by=winner.id if winner.id != overlay.id else "",
            held_back=self._pushed.effective.held_back.get(overlay.id, ""),
        )
        if self._ads is None or not generation:
            return status
        return replace(status, propagation=progress(self._ads.propagation(generation)))

    # Instances and edges

    async def register(self, instance: Instance) -> Instance:
        """Take an instance in; durable when this returns."""
        await self._changed(self.registry.register(instance))
        return self.registry.get(instance.id) or instance

    async def heartbeat(self, name: str, *, healthy: bool, detail: str) -> Instance:
        """Note a heartbeat, see Registry.heartbeat."""
        instance, writes = self.registry.heartbeat(name, healthy=healthy, detail=detail)
        if writes:
            self._store.write_soon(*writes)
            self._mark()
        return instance

    async def drain(self, name: str) -> Instance:
        """Drain an instance, see Registry.drain."""
        instance, writes = self.registry.drain(name)
        await self._changed(writes)
        return instance

    async def deregister(self, name: str) -> None:
        """Forget an instance, see Registry.remove."""
        await self._changed(self.registry.remove(name))

    async def add_edges(self, edges: Iterable[Edge]) -> None:
        """Remember edges that have carried traffic.

        Raises:
            InvalidInput: there would be more than can be true.
        """
        new = {edge for edge in edges if edge.caller and edge.callee} - self._edges
        if len(self._edges) + len(new) > _EDGES_MAX:
            raise InvalidInput(f"more than {_EDGES_MAX} edges", hint="are service names made up per request?")
        if new:
            self._edges |= new
            self._tell_topology()
            writes = (Put("edges", str(e), {"caller": e.caller, "callee": e.callee}) for e in sorted(new))
            self._store.write_soon(*writes)

    # Reading

    def proxies(self) -> tuple[ProxyView, ...]:
        """Return every sidecar the xDS server has seen."""
        return tuple(view(proxy) for proxy in self._ads.proxies()) if self._ads is not None else ()

    def services(self) -> tuple[ServiceView, ...]:
        """Return every service that is declared or has instances."""
        names = sorted({*self.declared.policies, *self.registry.services})
        return tuple(self.service(name) for name in names)

    def service(self, name: str) -> ServiceView:
        """Return one service, or raise NotFound."""
        members = tuple(i for i in self.registry.instances if i.service == name)
        known = {*self.declared.policies, *self.registry.services}
        if name not in known:
            raise NotFound(f"there is no service `{name}`", hint=suggest(name, sorted(known)) or NO_SERVICE_HINT)
        declared = self.declared.policies.get(name, ServicePolicy(name))
        own = [overlay for overlay in in_force(self.overlays.all) if target(overlay.change) == name]
        held_back = self._pushed.effective.held_back
        return ServiceView(
            name=name,
            declared=declared,
            effective=self._pushed.effective.policies.get(name, declared),
            instances=members,
            overlays=tuple(overlay.id for overlay in own if overlay.id not in held_back),
            adjustments=tuple(f"{o.id} is held back: {held_back[o.id]}" for o in own if o.id in held_back),
        )

    def count(self) -> None:
        """Write the gauges that tell what there is; done when somebody reads them."""
        self.declared.count()
        self.overlays.count()
        self.registry.count()
        metrics.SERVICES.set(len({*self.declared.policies, *self.registry.services}))

    # The loop

    def _restore(self, contents: Contents) -> None:
        try:
            self.changes.restore(contents.of("changes"))
            self.fences.restore(contents.of("fences"))
            self.registry.restore(contents.of("instances"), contents.of("versions"))
            self.declared.restore(contents.of("resources"))
            self.overlays.restore(contents.of("overlays"))
            self._edges = {Edge(str(e["caller"]), str(e["callee"])) for e in contents.of("edges").values()}
        except (ValueError, KeyError, InvalidInput) as error:
            raise Broken(
                f"what is stored in {self.settings.state_dir}/control.db cannot be read: {error}",
                hint="start the version that wrote it, or move the file away and apply your YAML again",
            ) from error

    def _may_stream(self, metadata: Mapping[str, str]) -> bool:
        token = metadata.get("authorization", "")
        return token.startswith(_BEARER) and self.tokens.role(token.removeprefix(_BEARER)) == "proxy"

    async def _changed(self, writes: tuple[Write, ...]) -> None:
        if writes:
            await self._durably(*writes)

    async def _durably(self, *writes: Write) -> None:
        """Store while the world is being pushed; return when both are done."""
        self._mark()
        await self._store.write(*writes)
        await self._take_effect(mark=False)

    async def _take_effect(self, *, mark: bool = True) -> None:
        """Wait until no change is waiting to be pushed."""
        if mark:
            self._mark()
        async with self._current:
            await self._current.wait_for(lambda: not self._stale.is_set())

    def _mark(self) -> None:
        if not self._stale.is_set():
            self._stale_since = time.perf_counter()
            self._stale.set()

    async def _reconciling(self) -> None:
        while True:
            await self._stale.wait()
            await asyncio.sleep(0)  # changes of the same turn of the event loop go together
            self._stale.clear()
            try:
                self._reconcile()
            except Exception:  # the rim of one round: the sidecars keep what they have, the next change tries again
                metrics.FAILURES.labels("reconcile").inc()
                log.exception("control.reconcile-failed")
            async with self._current:
                self._current.notify_all()

    def _reconcile(self, *, first: bool = False) -> None:
        """Compute the world and hand it over when it differs from the last one."""
        assert self._ads is not None
        instances = self.registry.instances
        found = effective(self.declared.policies, self.overlays.all, instances, floor=self.settings.floor)
        same = found.policies == self._pushed.effective.policies and alike(instances, self._pushed.instances)
        if first or not same:
            generation = self._ads.set_world(World(found.policies, instances))
            self._pushed = _Pushed(found, instances, generation)
            metrics.GENERATION.set(generation)
            self._tell_topology()
        else:
            self._pushed.effective = found
        ids = {overlay.id for overlay in self.overlays.all}
        self._generations = {name: self._generations.get(name, self._pushed.generation) for name in ids}
        metrics.RECONCILES.labels("unchanged" if same else "pushed").inc()
        if self._stale_since:
            metrics.RECONCILE_SECONDS.observe(time.perf_counter() - self._stale_since)
        metrics.ADJUSTMENTS.set(len(found.held_back))

    async def _sweeping(self) -> None:
        while True:
            await asyncio.sleep(self.settings.sweep_s)
            if self._sweep():
                self._mark()

    def _sweep(self) -> bool:
        """End what ran out, find who is lost; return whether anything changed."""
        writes = (*self.overlays.sweep(), *self.registry.sweep())
        self._store.write_soon(*writes)
        return bool(writes)

    async def _guard(self, work: Coroutine[None, None, None]) -> None:
        """The rim of a task of the plane: an error nobody foresaw ends the process, and says why."""
        try:
            await work
        except Exception:
            metrics.FAILURES.labels("plane").inc()
            log.exception("control.task-failed")
            raise

    def _tell_topology(self) -> None:
        pushed = self._pushed
        found = topology_of(pushed.effective.policies, pushed.instances, self._edges, self.declared.policies)
        self.topology.set(TopologyView(found, pushed.generation))
