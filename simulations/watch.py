"""Keeps an eye on a running cluster: the agent's events, every overlay that is ever laid, the users' journal.

Each follower reconnects by itself: an agent that is being restarted, or a control plane that went away, makes the picture old,
never the watcher fall.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import structlog

from agent.client import AgentClient
from agent.codec import Event
from agent.incidents import Incident
from models.errors import FibrinError
from models.overlay import Overlay, Owner
from simulations.alongside import alongside
from simulations.cluster import Cluster
from simulations.journal import Record, Tail

_AGAIN_S = 0.2
_TAIL_S = 0.1
_WAIT_S = 5.0
_MOST = 1000

log = structlog.get_logger(__name__)


class Watch:
    """Follows one cluster while its `async with` block runs. `told` hears the agent's events.

    `overlays` are all that were ever seen by id, `in_force` those that lie now.
    """

    def __init__(self, cluster: Cluster, told: Callable[[Event], None] = lambda _: None) -> None:
        self._cluster = cluster
        self._told = told
        self._sequence = 0
        self.tail: Tail | None = None
        self.overlays: dict[str, Overlay] = {}
        self.in_force: dict[str, Overlay] = {}

    @property
    def records(self) -> list[Record]:
        """Return what users saw since `tail` was set."""
        return self.tail.records if self.tail else []

    @asynccontextmanager
    async def following(self) -> AsyncIterator[None]:
        """Follow until the block ends."""
        works = {
            "watch events": self.again(self._events),
            "watch overlays": self.again(self._overlays),
            "watch users": self._users(),
        }
        async with alongside(works):
            yield

    def agent(self) -> AgentClient:
        """Return a client of the agent, to be used as `async with`."""
        return AgentClient(self._cluster.agent_url)

    async def incidents(self, since: float) -> tuple[Incident, ...]:
        """Return the whole incidents opened at or after `since` (Unix s), oldest first."""
        async with self.agent() as agent:
            found = await agent.incidents(_MOST)
            whole = [await agent.incident(i["id"]) for i in found if i["opened_at"] >= since]
        return tuple(sorted(whole, key=lambda i: i.opened_at))

    def agent_overlays(self) -> tuple[Overlay, ...]:
        """Return every overlay an agent ever laid, oldest first."""
        laid = (o for o in self.overlays.values() if o.owner is Owner.AGENT)
        return tuple(sorted(laid, key=lambda o: o.created_at))

    async def again(self, follow: Callable[[], Awaitable[None]]) -> None:
        """Run `follow` again whenever its other side goes away (an endless work)."""
        while True:
            try:
                await follow()
            except FibrinError as error:
                log.debug("watch.follow_again", error=str(error))
            await asyncio.sleep(_AGAIN_S)

    async def _events(self) -> None:
        async with self.agent() as agent:
            while True:
                for event in await agent.events(since=self._sequence, wait_s=_WAIT_S):
                    self._sequence = event.sequence
                    self._told(event)

    async def _overlays(self) -> None:
        async with self._cluster.control() as control:
            async for event in control.watch_overlays():
                if event.event in ("deleted", "expired"):
                    self.in_force.pop(event.overlay.id, None)
                else:
                    self.in_force[event.overlay.id] = event.overlay
                    self.overlays.setdefault(event.overlay.id, event.overlay)

    async def _users(self) -> None:
        while True:
            if self.tail is not None:
                await asyncio.to_thread(self.tail.read)
            await asyncio.sleep(_TAIL_S)
