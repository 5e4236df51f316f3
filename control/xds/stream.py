"""One sidecar's stream: it reads what the sidecar says, and closes the difference to what it should have.

Level-triggered: anything that happens (a new world, a subscription, a renewed certificate) only rings the bell; the
next pass compares the newest state with what was sent. A slow sidecar holds up nobody, it merely skips worlds.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Final, Protocol

import structlog

from control.xds import metrics
from control.xds.clusters import INBOUND_APP
from control.xds.protos import Message
from control.xds.resources import CDS, EDS, PUSH_ORDER, RDS, SDS, SHORT, Table
from control.xds.status import Nack, ProxyStatus, TypeStatus
from control.xds.subscription import Batch, Memory, Subscription, blamed
from control.xds.world import Node

log = structlog.get_logger(__name__)

WARMING_S: Final = 1.0
"""How long routes wait for new clusters to be confirmed. A route to a warming cluster is a 503."""


# looked up once: a label costs more than the count
_COUNTERS: Final = {
    kind: (metrics.PUSHES.labels(short), metrics.RESOURCES.labels(short), metrics.BYTES.labels(short))
    for kind, short in SHORT.items()
}


class Source(Protocol):
    """What a stream needs to know, asked anew at each pass."""

    @property
    def generation(self) -> int:
        """The newest generation; 0 while there is none."""

    def tables(self, node: Node) -> tuple[int, float, dict[str, Table]]:
        """Return the newest generation, when it was set (monotonic s), and every table of the sidecar."""

    def resendable(self, node: Node) -> Table:
        """Return the secrets of the sidecar with their content (a resumed leaf is replaced by a new one)."""

    def resume(self, node: Node, versions: dict[str, str]) -> None:
        """Learn which secrets a reconnecting sidecar holds."""

    def progressed(self, stream: Stream) -> None:
        """Hear that a stream has confirmed, refused or reached a generation."""

    def refused(self, stream: Stream, nack: Nack) -> None:
        """Hear of a refusal."""


class Stream:
    """The state of one stream. `send` writes one serialised response and returns when flow control lets it."""

    def __init__(
        self,
        node: Node,
        source: Source,
        memory: Memory,
        send: Callable[[bytes], Awaitable[None]],
        *,
        now: Callable[[], float],
        monotonic: Callable[[], float],
    ) -> None:
        self.node = node
        self.since = now()
        self.last_nack: Nack | None = None
        self.sent_generation = 0
        self._source = source
        self._memory = memory
        self._send = send
        self._now = now
        self._monotonic = monotonic
        self._bell = asyncio.Event()
        self._types: dict[str, Subscription] = {}

    def ring(self) -> None:
        """Ask for a pass."""
        self._bell.set()

    def receive(self, request: Message) -> None:
        """Take in one request: a subscription, an ACK, a NACK, or several of these at once."""
        kind = request.type_url
        if kind not in SHORT:
            return  # a type that we have nothing of: Envoy goes on after its fetch timeout
        subscription = self._types.get(kind)
        if subscription is None:
            subscription = self._types[kind] = Subscription(kind, self._memory)
            if kind == SDS and request.initial_resource_versions:
                self._source.resume(self.node, dict(request.initial_resource_versions))
        asks = request.resource_names_subscribe or request.resource_names_unsubscribe
        if asks or not subscription.started:
            subscription.update(request)
            self._bell.set()
        if request.response_nonce:
            self._answered(subscription, request)

    def _answered(self, subscription: Subscription, request: Message) -> None:
        message = (request.error_detail.message or "no reason given") if request.HasField("error_detail") else None
        sent = subscription.answer(request.response_nonce, message)
        if sent is None:
            return
        if message is not None:
            kind = SHORT[subscription.kind]
            nack = Nack(kind, message, self._now(), sent.generation, blamed(sent, message))
            self.last_nack = nack
            metrics.NACKS.labels(kind).inc()
            log.warning(
                "xds.nack",
                proxy=self.node.id,
                type=kind,
                resources=nack.resources[:10],
                generation=sent.generation,
                message=message,
            )
            self._source.refused(self, nack)
        if subscription.singles or subscription.kind in (CDS, EDS):
            self._bell.set()
        self._source.progressed(self)

    async def run(self) -> None:
        """Close the difference for ever; ends with the stream."""
        while True:
            await self._bell.wait()
            self._bell.clear()
            if self._source.generation:
                await self._pass()

    async def _pass(self) -> None:
        generation, set_at, tables = self._source.tables(self.node)
        removals: list[tuple[Subscription, tuple[str, ...]]] = []
        wrote = False
        for kind in PUSH_ORDER:
            subscription = self._types.get(kind)
            if subscription is None:
                continue
            before = subscription.sent
            batch = await self._push(subscription, tables[kind], generation)
            wrote = wrote or bool(batch.names)
            if batch.removed:
                removals.append((subscription, batch.removed))
            if kind == CDS and batch.names:
                await self._clusters_went(batch, before, tables, generation, removals)
        for subscription, names in reversed(removals):
            await self._respond(subscription, Batch(removed=names), generation)
        if generation > self.sent_generation:
            self.sent_generation = generation
            if wrote or removals:
                metrics.PUSH.observe(self._monotonic() - set_at)
        self._source.progressed(self)

    async def _push(self, subscription: Subscription, table: Table, generation: int) -> Batch:
        if subscription.kind == SDS and subscription.fresh:
            unheld = {name for name in subscription.fresh if name not in subscription.held}
            if any(name in table and not table[name].wire for name in unheld):
                table = self._source.resendable(self.node)
        batch = subscription.plan(table)
        if batch.names:
            await self._respond(subscription, replace(batch, removed=()) if batch.removed else batch, generation)
        if subscription.singles:
            # All are awaited before the first is sent, or the generation would look answered in between.
            batches = subscription.retries()
            for single, data in zip(batches, [subscription.respond(b, generation) for b in batches], strict=True):
                await self._write(subscription.kind, single, data)
        return batch

    async def _respond(self, subscription: Subscription, batch: Batch, generation: int) -> None:
        await self._write(subscription.kind, batch, subscription.respond(batch, generation))

    async def _write(self, kind: str, batch: Batch, data: bytes) -> None:
        pushes, resources, sent_bytes = _COUNTERS[kind]
        pushes.inc()
        resources.inc(len(batch.names))
        sent_bytes.inc(len(data))
        await self._send(data)

    async def _clusters_went(
        self,
        batch: Batch,
        before: Table,
        tables: dict[str, Table],
        generation: int,
        removals: list[tuple[Subscription, tuple[str, ...]]],
    ) -> None:
        """After clusters: send the endpoints of those that changed again, wait until those that are new are warm."""
        endpoints = self._types.get(EDS)
        if endpoints is None:
            return
        endpoints.forced |= {name for name in batch.names if name in endpoints.names}
        added = {name for name in batch.names if name not in before and name != INBOUND_APP and name in tables[EDS]}
        if not added or RDS not in self._types:
            return  # a sidecar that starts asks for routes after its clusters are warm
        deadline = self._monotonic() + WARMING_S
        while not self._warm(added):
            for kind in (EDS, SDS):
                if (subscription := self._types.get(kind)) is not None:
                    more = await self._push(subscription, tables[kind], generation)
                    if more.removed:
                        removals.append((subscription, more.removed))
            try:
                async with asyncio.timeout(deadline - self._monotonic()):
                    await self._bell.wait()
            except TimeoutError:
                metrics.WARMING.inc()
                log.warning("xds.warming_timeout", proxy=self.node.id, clusters=sorted(added)[:10])
                break
            self._bell.clear()
        self._bell.set()  # what rang meanwhile may be about other types

    def _warm(self, added: set[str]) -> bool:
        clusters, endpoints = self._types[CDS], self._types[EDS]
        if any(added & sent.versions.keys() for sent in clusters.outstanding.values()):
            return False
        alive = {name for name in added if name not in clusters.rejected}
        waiting = endpoints.fresh | endpoints.forced
        asked = all(name in endpoints.names and name not in waiting for name in alive)
        return asked and not any(alive & sent.versions.keys() for sent in endpoints.outstanding.values())

    @property
    def acked_generation(self) -> int:
        """The newest generation of which everything was answered."""
        reached = self.sent_generation
        for subscription in self._types.values():  # plain loops: asked for at every answer of every sidecar
            for sent in subscription.outstanding.values():
                reached = min(reached, sent.generation - 1)
            if subscription.singles:
                reached = min(reached, self.sent_generation - 1)
        return reached

    @property
    def rejects(self) -> bool:
        """True while the sidecar refuses something that it should have."""
        return any(s.rejected or s.singles for s in self._types.values())

    def status(self, certificate_until: float = 0.0) -> ProxyStatus:
        """Return what can be read of this sidecar."""
        kinds = {SHORT[kind]: self._types[kind] for kind in PUSH_ORDER if kind in self._types}
        return ProxyStatus(
            id=self.node.id,
            service=self.node.service,
            version=self.node.version,
            zone=self.node.zone,
            connected=True,
            since=self.since,
            generation_sent=self.sent_generation,
            generation_acked=self.acked_generation,
            types={
                short: TypeStatus(
                    subscribed=-1 if s.wildcard else len(s.names),
                    resources=len(s.sent) if s.wildcard else sum(name in s.sent for name in s.names),
                    sent_nonce=s.sent_nonce,
                    acked_nonce=s.acked_nonce,
                    pending=len(s.outstanding),
                    rejected=dict(s.rejected),
                )
                for short, s in kinds.items()
            },
            pending=tuple(short for short, s in kinds.items() if s.outstanding),
            last_nack=self.last_nack,
            certificate_until=certificate_until,
        )
