from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager

from control.xds.protos import DeltaDiscoveryRequest, DeltaDiscoveryResponse, Message
from control.xds.resources import CDS, EDS, LDS, RDS, SDS, SHORT, SRDS, Resource, Table, resource
from control.xds.status import Nack
from control.xds.stream import Stream
from control.xds.subscription import Batch, Memory, Subscription
from control.xds.world import Node

NODE = Node("shop-1", "shop")


def made(name: str, version: str) -> Resource:
    """A resource whose content is its version."""
    return resource(name, DeltaDiscoveryRequest(type_url=version), version)


class World:
    """A source whose tables the test sets; it notes what it is told."""

    def __init__(self, **tables: Mapping[str, str]) -> None:
        self.generation = 0
        self.nacks: list[Nack] = []
        self.resumed: dict[str, str] = {}
        self.stream: Stream | None = None
        self._tables: dict[str, Table] = {kind: Table() for kind in SHORT}
        self.set(**tables)

    def set(self, **tables: Mapping[str, str]) -> None:
        """Put tables in force: short type → name → version."""
        for short, content in tables.items():
            kind = next(kind for kind, name in SHORT.items() if name == short)
            self._tables[kind] = Table({name: made(name, version) for name, version in content.items()})
        self.generation += 1
        if self.stream is not None:
            self.stream.ring()

    def tables(self, _node: Node) -> tuple[int, float, dict[str, Table]]:
        """Return what is in force."""
        return self.generation, 0.0, dict(self._tables)

    def resendable(self, _node: Node) -> Table:
        """Return secrets with content."""
        self._tables[SDS] = Table({"leaf": made("leaf", "issued-anew")})
        return self._tables[SDS]

    def resume(self, _node: Node, versions: dict[str, str]) -> None:
        """Take over what the sidecar says it holds, without content."""
        self.resumed = versions
        self._tables[SDS] = Table({"leaf": Resource("leaf", versions["leaf"], b"")})

    def progressed(self, _stream: Stream) -> None:
        """Hear of progress."""

    def refused(self, _stream: Stream, nack: Nack) -> None:
        """Note a refusal."""
        self.nacks.append(nack)


class Sidecar:
    """The other end of a stream, by hand."""

    def __init__(self, world: World) -> None:
        self.inbox: asyncio.Queue[Message] = asyncio.Queue()
        ticks = itertools.count()
        self.stream = Stream(NODE, world, Memory(), self._send, now=lambda: 7.0, monotonic=lambda: next(ticks) / 1000)
        world.stream = self.stream

    async def _send(self, data: bytes) -> None:
        self.inbox.put_nowait(DeltaDiscoveryResponse.FromString(data))

    def ask(self, kind: str, *names: str, drop: tuple[str, ...] = (), held: dict[str, str] | None = None) -> None:
        """Subscribe and unsubscribe."""
        self.stream.receive(
            DeltaDiscoveryRequest(
                type_url=kind,
                resource_names_subscribe=names,
                resource_names_unsubscribe=drop,
                initial_resource_versions=held or {},
            )
        )

    async def take(self, *, answer: bool = True, refuse: str = "") -> tuple[str, dict[str, str], tuple[str, ...]]:
        """Receive one response, and answer it: (type, name → version, removed)."""
        response = await asyncio.wait_for(self.inbox.get(), 5)
        if answer:
            self.reply(response, refuse)
        found = {r.name: r.version for r in response.resources}
        return SHORT[response.type_url], found, tuple(response.removed_resources)

    def reply(self, response: Message, refuse: str = "") -> None:
        """ACK, or NACK with a message."""
        request = DeltaDiscoveryRequest(type_url=response.type_url, response_nonce=response.nonce)
        if refuse:
            request.error_detail.message = refuse
        self.stream.receive(request)

    async def settled(self, generation: int) -> None:
        """Wait until the stream has nothing more to say for a generation."""
        await reached(lambda: self.stream.acked_generation >= generation)
        assert self.inbox.empty()


async def reached(condition: Callable[[], bool]) -> None:
    """Give other tasks their turn until a condition holds."""
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0)


@asynccontextmanager
async def talking(world: World) -> AsyncIterator[Sidecar]:
    """A sidecar on a running stream."""
    sidecar = Sidecar(world)
    task = asyncio.create_task(sidecar.stream.run())
    try:
        yield sidecar
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_only_what_changed_is_sent() -> None:
    """After the first table only changed resources go out, and only those that were asked for."""
    world = World(cds={"a": "1", "b": "1"}, rds={"a": "1", "b": "1"})
    async with talking(world) as sidecar:
        sidecar.ask(CDS)
        assert await sidecar.take() == ("cds", {"a": "1", "b": "1"}, ())
        sidecar.ask(RDS, "a")
        assert await sidecar.take() == ("rds", {"a": "1"}, ())
        world.set(rds={"a": "1", "b": "2"})
        await sidecar.settled(2)
        world.set(rds={"a": "3", "b": "2"})
        assert await sidecar.take() == ("rds", {"a": "3"}, ())


async def test_slow_sidecar_skips_worlds() -> None:
    """Worlds that come while a sidecar is busy collapse into the newest one."""
    world = World(cds={"a": "1"})
    async with talking(world) as sidecar:
        sidecar.ask(CDS)
        await sidecar.take()
        for version in "234":
            world.set(cds={"a": version})
        assert await sidecar.take() == ("cds", {"a": "4"}, ())
        await sidecar.settled(4)


async def test_make_before_break() -> None:
    """Types go out in push order, and what is gone goes last, backwards."""
    old = {"a": "1"}
    world = World(cds=old, eds=old, lds=old, srds=old, rds=old)
    async with talking(world) as sidecar:
        for kind, names in ((CDS, ()), (EDS, ("a", "b")), (LDS, ()), (SRDS, ()), (RDS, ("a", "b"))):
            sidecar.ask(kind, *names)
        for _ in range(7):  # five tables, and that endpoints and routes of b are not there
            await sidecar.take()
        new = {"b": "1"}
        world.set(cds=new, eds=new, lds=new, srds=new, rds=new)
        order = [await sidecar.take() for _ in range(10)]
        assert [kind for kind, found, _ in order if found] == ["cds", "eds", "lds", "srds", "rds"]
        assert [kind for kind, _, gone in order if gone] == ["rds", "srds", "lds", "eds", "cds"]
        await sidecar.settled(2)


async def test_endpoints_follow_every_change_of_their_cluster() -> None:
    """Endpoints are sent again after their cluster changed, though they are the same."""
    world = World(cds={"a": "1", "b": "1"}, eds={"a": "1", "b": "1"})
    async with talking(world) as sidecar:
        sidecar.ask(CDS)
        await sidecar.take()
        sidecar.ask(EDS, "a", "b")
        await sidecar.take()
        world.set(cds={"a": "2", "b": "1"})
        assert await sidecar.take() == ("cds", {"a": "2"}, ())
        assert await sidecar.take() == ("eds", {"a": "1"}, ())


async def test_routes_wait_for_new_clusters() -> None:
    """A table that may point at a new cluster goes out after the cluster's endpoints were confirmed."""
    world = World(cds={"a": "1"}, eds={"a": "1"}, rds={"a": "1"})
    async with talking(world) as sidecar:
        sidecar.ask(CDS)
        await sidecar.take()
        sidecar.ask(EDS, "a")
        await sidecar.take()
        sidecar.ask(RDS, "a")
        await sidecar.take()
        world.set(cds={"a": "1", "b": "1"}, eds={"a": "1", "b": "1"}, rds={"a": "2"})
        assert await sidecar.take() == ("cds", {"b": "1"}, ())
        for _ in range(20):
            await asyncio.sleep(0)
        assert sidecar.inbox.empty(), "routes were sent before the cluster was warm"
        sidecar.ask(EDS, "b")
        assert await sidecar.take() == ("eds", {"b": "1"}, ())
        assert await sidecar.take() == ("rds", {"a": "2"}, ())


async def test_unknown_name_is_answered_and_comes_later() -> None:
    """A name that is not there is answered as removed, and sent when it comes to be."""
    world = World(rds={"a": "1"})
    async with talking(world) as sidecar:
        sidecar.ask(RDS, "ghost")
        assert await sidecar.take() == ("rds", {}, ("ghost",))
        world.set(rds={"a": "1", "ghost": "1"})
        assert await sidecar.take() == ("rds", {"ghost": "1"}, ())


async def test_name_asked_for_again_is_sent_again() -> None:
    """A sidecar that dropped a name and asks anew gets it, though it did not change."""
    world = World(rds={"a": "1", "b": "1"})
    async with talking(world) as sidecar:
        sidecar.ask(RDS, "a", "b")
        await sidecar.take()
        sidecar.ask(RDS, drop=("a",))
        sidecar.ask(RDS, "a")
        assert await sidecar.take() == ("rds", {"a": "1"}, ())


async def test_reconnect_brings_only_the_difference() -> None:
    """A sidecar that says what it holds gets what differs and hears what is gone; of the rest not a byte."""
    world = World(cds={"a": "1", "b": "2"}, rds={"a": "1"})
    async with talking(world) as sidecar:
        sidecar.ask(CDS, "*", held={"a": "1", "b": "1", "c": "1"})
        assert await sidecar.take() == ("cds", {"b": "2"}, ())
        assert await sidecar.take() == ("cds", {}, ("c",))
        sidecar.ask(RDS, "a", held={"a": "1"})
        await sidecar.settled(1)
        world.set(rds={"a": "2"})
        assert await sidecar.take() == ("rds", {"a": "2"}, ())


async def test_refused_bundle_is_tried_one_by_one_and_once() -> None:
    """Good tables that came with a bad one go through alone; the bad one waits until it changes."""
    world = World(rds={"a": "1", "b": "1"})
    async with talking(world) as sidecar:
        sidecar.ask(RDS, "a", "b")
        await sidecar.take()
        world.set(rds={"a": "2", "b": "2"})
        await sidecar.take(refuse="bad regex")
        assert await sidecar.take(refuse="bad regex") == ("rds", {"a": "2"}, ())
        assert await sidecar.take() == ("rds", {"b": "2"}, ())
        await sidecar.settled(2)
        assert [nack.resources for nack in world.nacks] == [("a", "b"), ("a",)]
        assert dict(sidecar.stream.status().types["rds"].rejected) == {"a": "2"}
        world.set(rds={"a": "2", "b": "3"})
        assert await sidecar.take() == ("rds", {"b": "3"}, ())
        world.set(rds={"a": "4", "b": "3"})
        assert await sidecar.take() == ("rds", {"a": "4"}, ())
        await sidecar.settled(4)
        assert sidecar.stream.status().in_sync


async def test_refused_cluster_is_the_one_named() -> None:
    """Envoy says which cluster of a bundle it refused; only that one counts as refused."""
    world = World(cds={"alpha": "1", "beta": "1"})
    async with talking(world) as sidecar:
        sidecar.ask(CDS)
        await sidecar.take(refuse="Error adding/updating cluster(s) beta: no such policy")
        await sidecar.settled(1)
        assert world.nacks[0].resources == ("beta",)
        assert dict(sidecar.stream.status().types["cds"].rejected) == {"beta": "1"}


async def test_generation_is_reached_when_answered() -> None:
    """A generation counts as reached when all of it was answered, at once when there was nothing to send."""
    world = World(cds={"a": "1"})
    async with talking(world) as sidecar:
        sidecar.ask(CDS)
        response = await asyncio.wait_for(sidecar.inbox.get(), 5)
        await reached(lambda: sidecar.stream.sent_generation == 1)
        assert sidecar.stream.acked_generation == 0
        assert sidecar.stream.status().pending == ("cds",)
        sidecar.reply(response)
        assert sidecar.stream.acked_generation == 1
        world.set(rds={"x": "1"})
        await sidecar.settled(2)


async def test_sidecars_are_sent_the_same_bytes() -> None:
    """Two sidecars at the same point get one change as the same bytes, and each answers for itself."""
    world, memory = World(cds={"a": "1"}), Memory()
    sent = [Subscription(CDS, memory), Subscription(CDS, memory)]
    for one in sent:
        one.update(DeltaDiscoveryRequest(type_url=CDS))
        one.plan(world.tables(NODE)[2][CDS])
    world.set(cds={"a": "2"})
    table = world.tables(NODE)[2][CDS]
    batches = [one.plan(table) for one in sent]
    assert batches[0].payload is batches[1].payload is not None
    first, second = (one.respond(batch, 2) for one, batch in zip(sent, batches, strict=True))
    assert first == second
    assert sent[0].answer("cds-1", None) is not None
    assert not sent[0].outstanding
    assert sent[1].outstanding
    assert sent[1].plan(table) == Batch()


async def test_secret_that_is_not_there_is_waited_for() -> None:
    """A certificate that cannot be given yet is not answered as removed; it follows."""
    world = World(cds={"a": "1"})
    async with talking(world) as sidecar:
        sidecar.ask(SDS, "leaf")
        await sidecar.settled(1)
        world.set(sds={"leaf": "1"})
        assert await sidecar.take() == ("sds", {"leaf": "1"}, ())


async def test_resumed_secret_is_issued_anew_when_asked_for_again() -> None:
    """A leaf the sidecar holds is not sent; when it asks for it after all, one with content is."""
    world = World(cds={"a": "1"})
    async with talking(world) as sidecar:
        sidecar.ask(SDS, "leaf", held={"leaf": "old"})
        await sidecar.settled(1)
        assert world.resumed == {"leaf": "old"}
        sidecar.ask(SDS, drop=("leaf",))
        sidecar.ask(SDS, "leaf")
        assert await sidecar.take() == ("sds", {"leaf": "issued-anew"}, ())
