"""The xDS server: delta ADS over gRPC, one Unix socket for the sidecars of this machine (and TCP when asked).

`set_world` is the only way configuration enters. It compiles what is shared, counts the generation up and rings every
stream; the streams do the rest. The server holds no configuration of its own: after a restart sidecars say what they
have, versions are hashes of content, and nothing that is the same is sent again.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import grpc
import structlog

from control.identity.leaves import Leaves
from control.xds import metrics
from control.xds.protos import DeltaDiscoveryRequest
from control.xds.resources import SDS, Resource, Table
from control.xds.secrets import leaf_secret, roots_secret
from control.xds.snapshot import Compiler
from control.xds.status import Nack, Observer, Propagation, ProxyStatus, Silent
from control.xds.stream import Stream
from control.xds.subscription import Memory
from control.xds.tls import LEAF, ROOTS
from control.xds.world import MeshOptions, Node, World, spiffe_id
from models.errors import Broken

log = structlog.get_logger(__name__)

SERVICE: Final = "envoy.service.discovery.v3.AggregatedDiscoveryService"
_EOF: Any = grpc.aio.EOF  # type: ignore[attr-defined]  # the stubs do not know it
REMEMBERED: Final = 4096  # sidecars that left and are still shown
WAITERS: Final = 32
OPTIONS: Final = (
    ("grpc.max_receive_message_length", 64 << 20),
    ("grpc.max_send_message_length", -1),
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
    ("grpc.so_reuseport", 0),
)


@dataclass(slots=True, eq=False)
class _Waiter:
    generation: int
    remaining: set[Stream]
    done: asyncio.Event = field(default_factory=asyncio.Event)
    since: float = 0.0
    measured: bool = True  # False: somebody waits for it


class AdsServer:
    """Serves every sidecar of the mesh.

    Args:
        path: the Unix socket (mode 0600 once open).
        identity: the leaves; renewed here for connected sidecars.
        options: mesh-wide settings of the generated configuration.
        authenticate: says whether a stream with this gRPC metadata may be served.
        observer: hears of connects, disconnects and refusals.
        tcp: a second address `host:port` to listen on, plain; "" for none.
        clock: Unix seconds.
        monotonic: monotonic seconds.
    """

    def __init__(
        self,
        path: Path,
        identity: Leaves,
        *,
        options: MeshOptions | None = None,
        authenticate: Callable[[Mapping[str, str]], bool] = lambda _: True,
        observer: Observer | None = None,
        tcp: str = "",
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._path = path
        self._identity = identity
        self._authenticate = authenticate
        self._observer: Observer = observer or Silent()
        self._tcp = tcp
        self._clock = clock
        self._monotonic = monotonic
        self._compiler = Compiler(options or MeshOptions())
        self._memory = Memory()
        self._world: World | None = None
        self._generation = 0
        self._set_at = 0.0
        self._streams: dict[Stream, None] = {}
        self._gone: OrderedDict[str, ProxyStatus] = OrderedDict()
        self._waiters: list[_Waiter] = []
        self._leaves: dict[str, Table] = {}  # secrets of each sidecar
        self._roots: tuple[bytes, Table] = (b"", Table())
        self._warned: set[str] = set()
        self._server: Any = None
        self._rotation: asyncio.Task[None] | None = None

    # Life

    async def start(self) -> None:
        """Open the socket and begin to renew certificates.

        Raises:
            Broken: an address cannot be bound.
        """
        handler = grpc.stream_stream_rpc_method_handler(
            self._serve, request_deserializer=DeltaDiscoveryRequest.FromString, response_serializer=None
        )
        server = grpc.aio.server(options=OPTIONS)
        server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler(SERVICE, {"DeltaAggregatedResources": handler}),)
        )
        addresses = [f"unix:{self._path}", *([self._tcp] if self._tcp else [])]
        for address in addresses:
            try:
                bound = server.add_insecure_port(address)
            except RuntimeError as error:
                raise _unbound(address) from error
            if not bound:
                raise _unbound(address)
        await server.start()
        self._path.chmod(0o600)
        self._server = server
        self._rotation = asyncio.create_task(self._renew(), name="xds.renew")
        log.info("xds.listening", addresses=addresses)

    async def stop(self, grace_s: float = 0.2) -> None:
        """End all streams and close the socket; sidecars go on with what they have."""
        if self._rotation is not None:
            self._rotation.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._rotation
        if self._server is not None:
            await self._server.stop(grace_s)
            self._server = None

    # Configuration

    @property
    def generation(self) -> int:
        """The generation in force; 0 before the first world."""
        return self._generation

    @property
    def world(self) -> World | None:
        """The world in force."""
        return self._world

    def set_world(self, world: World) -> int:
        """Put a world in force and return its generation. Returns at once; see `wait_acked`."""
        begun = self._monotonic()
        self._compiler.shared(world)
        metrics.BUILD.observe(self._monotonic() - begun)
        self._world = world
        self._generation += 1
        self._set_at = begun
        metrics.GENERATION.set(self._generation)
        self.ring()
        self._await(_Waiter(self._generation, set(self._streams), since=begun))  # nobody can have a new generation yet
        return self._generation

    def refresh(self) -> int:
        """Put the same world in force again under a new generation (what else goes out, secrets, has changed).

        Returns 0 when there is no world yet.
        """
        return self.set_world(self._world) if self._world is not None else 0

    def ring(self) -> None:
        """Make every stream compare what it sent with what is in force."""
        for stream in self._streams:
            stream.ring()

    async def wait_acked(self, generation: int, timeout_s: float) -> Propagation:
        """Wait until every sidecar connected now has answered `generation`, or the time is over."""
        behind = {stream for stream in self._streams if stream.acked_generation < generation}
        waiter = _Waiter(generation, behind, since=self._monotonic(), measured=False)
        self._await(waiter)
        try:
            async with asyncio.timeout(timeout_s):
                await waiter.done.wait()
        except TimeoutError:
            pass
        finally:
            self._waiters = [w for w in self._waiters if w is not waiter]
        return self.propagation(generation)

    def propagation(self, generation: int) -> Propagation:
        """Return how far `generation` got with the sidecars connected now."""
        words, pending, acked = dict[str, str](), set[str](), 0
        for stream in self._streams:
            if stream.acked_generation < generation:
                pending.add(stream.node.id)
            elif stream.rejects:
                words[stream.node.id] = stream.last_nack.message if stream.last_nack else "refused"
            else:
                acked += 1
        return Propagation(generation, len(self._streams), acked, tuple(sorted(words)), tuple(sorted(pending)), words)

    # Reading

    def proxies(self) -> tuple[ProxyStatus, ...]:
        """Return every sidecar that is connected or was lately, by id."""
        found = dict(self._gone)
        for stream in self._streams:  # in order of connection: the newest stream of a sidecar is what is shown
            found[stream.node.id] = self._status(stream)
        return tuple(found[key] for key in sorted(found))

    def proxy(self, node: str) -> ProxyStatus | None:
        """Return one sidecar's status, or None when it was never seen."""
        streams = [stream for stream in self._streams if stream.node.id == node]
        return self._status(streams[-1]) if streams else self._gone.get(node)

    def _status(self, stream: Stream) -> ProxyStatus:
        held = self._identity.peek(stream.node.id)
        return stream.status(held.not_after if held else 0.0)

    # What streams ask (stream.Source)

    def tables(self, node: Node) -> tuple[int, float, dict[str, Table]]:
        """Return the newest generation, when it was set, and every table of the sidecar."""
        assert self._world is not None
        snapshot = self._compiler.build(self._world, node)
        return self._generation, self._set_at, {**snapshot.tables, SDS: self._secrets(node)}

    def resendable(self, node: Node) -> Table:
        """Return the sidecar's secrets with their content."""
        if self._registered(node):
            self._identity.with_key(node.id, spiffe_id(node.service))
        return self._secrets(node)

    def resume(self, node: Node, versions: dict[str, str]) -> None:
        """Let a reconnecting sidecar keep its leaf when it is still good."""
        if LEAF in versions:
            self._identity.resume(node.id, spiffe_id(node.service), versions[LEAF])

    def progressed(self, stream: Stream) -> None:
        """Note that a stream may have reached what somebody waits for."""
        reached = stream.acked_generation if self._waiters else 0
        for waiter in tuple(self._waiters):
            if reached >= waiter.generation and stream in waiter.remaining:
                waiter.remaining.discard(stream)
                self._settle(waiter)

    def refused(self, stream: Stream, nack: Nack) -> None:
        """Hand a refusal on to the observer."""
        self._observer.nacked(self._status(stream), nack)

    def _secrets(self, node: Node) -> Table:
        """Return the sidecar's secrets: the same object for as long as they are the same."""
        bundle = self._identity.authority.bundle
        if self._roots[0] is not bundle and self._roots[0] != bundle:
            self._roots = (bundle, Table({ROOTS: roots_secret(bundle)}))
        roots = self._roots[1]
        if not self._registered(node):
            return roots
        held = self._identity.current(node.id, spiffe_id(node.service))
        known = self._leaves.get(node.id)
        if known is not None and known.shared is roots.shared:
            made = known[LEAF]
            if made.version == held.version and (made.wire or held.leaf is None):
                return known
        leaf = held.leaf
        made = (
            leaf_secret(leaf.certificate_pem, leaf.key_pem, held.version)
            if leaf is not None
            else Resource(LEAF, held.version, b"")  # the sidecar has it, we do not: never to be sent
        )
        self._leaves[node.id] = Table(roots.shared, {LEAF: made})
        return self._leaves[node.id]

    def _registered(self, node: Node) -> bool:
        """A certificate is only for the service under which the sidecar's instance is registered."""
        instance = self._world.instance(node.id) if self._world else None
        if instance is not None and instance.service == node.service:
            return True
        if self._world is not None and node.id not in self._warned:
            self._warned.add(node.id)
            metrics.UNREGISTERED.inc()
            log.warning(
                "xds.no_leaf",
                proxy=node.id,
                claims=node.service,
                registered=instance.service if instance else None,
                hint="the certificate follows as soon as the instance is registered for this service",
            )
        return False

    # Streams

    async def _serve(self, _requests: object, context: Any) -> None:
        """Serve one stream from its first request to its end."""
        metadata = {str(key): str(value) for key, value in context.invocation_metadata() or ()}
        if not self._authenticate(metadata):
            metrics.REFUSED.labels("token").inc()
            log.warning("xds.refused", reason="token", proxy=metadata.get("x-fibrin-node", ""))
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, "the proxy token is missing or wrong")
        first = await context.read()
        if first is _EOF:
            return
        try:
            node = Node.from_message(first.node)
        except ValueError as error:
            metrics.REFUSED.labels("node").inc()
            log.warning("xds.refused", reason="node", message=str(error))
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
            return
        claimed = metadata.get("x-fibrin-node", node.id)
        if claimed != node.id:
            metrics.REFUSED.labels("node").inc()
            log.warning("xds.refused", reason="node", proxy=node.id, claimed=claimed)
            text = f"the stream is for {claimed}, its node says {node.id}"
            await context.abort(grpc.StatusCode.PERMISSION_DENIED, text)
        stream = Stream(node, self, self._memory, context.write, now=self._clock, monotonic=self._monotonic)
        self._streams[stream] = None
        metrics.STREAMS.set(len(self._streams))
        log.info("xds.connected", proxy=node.id, service=node.service)
        self._observer.connected(self._status(stream))
        try:
            await self._converse(stream, first, context)
        finally:
            self._left(stream)

    async def _converse(self, stream: Stream, first: Any, context: Any) -> None:
        """Read until the sidecar ends the stream; the writer runs beside."""
        writer = asyncio.create_task(self._write(stream, context), name=f"xds.write:{stream.node.id}")
        try:
            request = first
            while request is not _EOF:
                stream.receive(request)
                request = await context.read()
        finally:
            writer.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await writer

    async def _write(self, stream: Stream, context: Any) -> None:
        """Outermost rim of the writer: an error ends this stream only, and the sidecar comes back for a new one."""
        try:
            await stream.run()
        except (grpc.aio.UsageError, grpc.aio.InternalError):
            log.debug("xds.write_after_end", proxy=stream.node.id)
        except Exception:
            metrics.FAILURES.inc()
            log.exception("xds.stream_failed", proxy=stream.node.id)
            context.cancel()

    def _left(self, stream: Stream) -> None:
        del self._streams[stream]
        metrics.STREAMS.set(len(self._streams))
        for waiter in tuple(self._waiters):
            waiter.remaining.discard(stream)
            self._settle(waiter)
        node = stream.node.id
        if any(other.node.id == node for other in self._streams):
            return  # a hot restart: the younger process goes on
        status = replace(self._status(stream), connected=False, disconnected_at=self._clock())
        self._gone.pop(node, None)
        self._gone[node] = status
        if len(self._gone) > REMEMBERED:
            self._gone.popitem(last=False)
        self._identity.forget(node)
        self._leaves.pop(node, None)
        self._warned.discard(node)
        log.info("xds.disconnected", proxy=node)
        self._observer.disconnected(status)

    # Waiting, renewing

    def _await(self, waiter: _Waiter) -> None:
        if not waiter.remaining:
            waiter.done.set()
            return
        measuring = [w for w in self._waiters if w.measured]
        if len(measuring) >= WAITERS:
            self._waiters.remove(measuring[0])
        self._waiters.append(waiter)

    def _settle(self, waiter: _Waiter) -> None:
        if not waiter.remaining and not waiter.done.is_set():
            waiter.done.set()
            if waiter.measured:
                metrics.CONVERGENCE.observe(self._monotonic() - waiter.since)
            self._waiters = [w for w in self._waiters if w is not waiter]

    async def _renew(self) -> None:
        """Look for leaves near the middle of their life, and have them replaced."""
        while True:
            await asyncio.sleep(self._identity.patience_s)
            due = set(self._identity.due())
            for stream in self._streams:
                if stream.node.id in due:
                    metrics.ROTATIONS.inc()
                    stream.ring()


def _unbound(address: str) -> Broken:
    return Broken(
        f"the xDS server cannot listen on {address}",
        hint="is another control plane running on this state directory? A socket path has at most 107 bytes",
    )
