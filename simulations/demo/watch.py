"""The demo's eye on the mesh: what is watched goes to the story, and golden signals to the screen."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from agent.telemetry.views import SIGNALS
from simulations.alongside import alongside
from simulations.cluster import Cluster
from simulations.demo.story import Story
from simulations.journal import Tail
from simulations.watch import Watch

_SIGNALS_S = 0.5


class DemoWatch(Watch):
    """Follows one cluster while its `async with` block runs; tells the agent's events to the story."""

    def __init__(self, cluster: Cluster, story: Story) -> None:
        super().__init__(cluster, lambda event: story.tell(event.stage, event.message, event.at))
        self._story = story
        story.state.overlays = self.in_force

    def follow_users(self, tail: Tail | None) -> None:
        """Read this journal from now on."""
        self.tail = tail
        self._story.state.users = tail

    @asynccontextmanager
    async def following(self) -> AsyncIterator[None]:
        """Follow until the block ends."""
        async with super().following(), alongside({"watch signals": self.again(self._signals)}):
            yield

    async def _signals(self) -> None:
        async with self.agent() as agent:
            while True:
                found = SIGNALS.validate_python(await agent.signals())
                self._story.state.services = tuple(sorted(found.services, key=lambda s: s.service))
                await asyncio.sleep(_SIGNALS_S)
