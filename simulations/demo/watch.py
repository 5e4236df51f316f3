"""Keeps an eye on the running mesh: the agent's events and signals, every overlay that is ever laid, the users' journal.

Each follower reconnects by itself: an agent that is being restarted, or a control plane that went away, makes the picture old,
never the demo fall.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import structlog
from pydantic import TypeAdapter

from agent.client import AgentClient
from agent.incidents import Incident
from agent.telemetry.views import SignalsView
from models.errors import FibrinError
from models.overlay import Overlay, Owner
from simulations.alongside import alongside
from simulations.cluster import Cluster
from simulations.demo.story import Story
from simulations.journal import Record, Tail

_AGAIN_S = 0.2
_SIGNALS_S = 0.5
_TAIL_S = 0.1
_WAIT_S = 5.0

SIGNALS: TypeAdapter[SignalsView] = TypeAdapter(SignalsView)

log = structlog.get_logger(__name__)


class Watch:
    """Follows one cluster while its `async with` block runs; tells the agent's events to the story."""

    def __init__(self, cluster: Cluster, story: Story) -> None:
        self._cluster = cluster
        self._story = story
        self._sequence = 0
        self._tail: Tail | None = None
        self.overlays: dict[str, Overlay] = {}

    def follow_users(self, tail: Tail | None) -> None:
        """Read this journal from now on."""
        self._tail = tail
        self._story.state.users = tail

    @property
    def records(self) -> list[Record]:
        """Return what users saw since `follow_users`."""
        return self._tail.records if self._tail else []

    @asynccontextmanager
    async def following(self) -> AsyncIterator[None]:
        """Follow until the block ends."""
        works = {
            "watch events": self._again(self._events),
            "watch overlays": self._again(self._overlays),
            "watch signals": self._again(self._signals),
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
            found = await agent.incidents()
            whole = [await agent.incident(i["id"]) for i in found if i["opened_at"] >= since]
        return tuple(sorted(whole, key=lambda i: i.opened_at))

    async def _again(self, follow: Callable[[], Awaitable[None]]) -> None:
        while True:
            try:
                await follow()
            except FibrinError as error:
                log.debug("demo.follow_again", error=str(error))
            await asyncio.sleep(_AGAIN_S)

    async def _events(self) -> None:
        async with self.agent() as agent:
            while True:
                for event in await agent.events(since=self._sequence, wait_s=_WAIT_S):
                    self._sequence = event.sequence
                    self._story.tell(event.stage, event.message, event.at)

    async def _overlays(self) -> None:
        async with self._cluster.control() as control:
            async for event in control.watch_overlays():
                current = self._story.state.overlays
                if event.event in ("deleted", "expired"):
                    current.pop(event.overlay.id, None)
                else:
                    current[event.overlay.id] = event.overlay
                    self.overlays.setdefault(event.overlay.id, event.overlay)

    async def _signals(self) -> None:
        async with self.agent() as agent:
            while True:
                found = SIGNALS.validate_python(await agent.signals())
                self._story.state.services = tuple(sorted(found.services, key=lambda s: s.service))
                await asyncio.sleep(_SIGNALS_S)

    async def _users(self) -> None:
        while True:
            if self._tail is not None:
                await asyncio.to_thread(self._tail.read)
            await asyncio.sleep(_TAIL_S)

    def agent_overlays(self) -> tuple[Overlay, ...]:
        """Return every overlay an agent ever laid, oldest first."""
        laid = (o for o in self.overlays.values() if o.owner is Owner.AGENT)
        return tuple(sorted(laid, key=lambda o: o.created_at))
