"""`make demo ARGS="--hold"`: the mesh stays up for visitors, and what they kill comes back as under any supervisor."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Final

from models.errors import Broken
from simulations.cluster import Cluster
from simulations.demo.story import Story
from simulations.demo.watch import DemoWatch
from simulations.processes import Processes
from simulations.shop.spec import PLACEMENTS

Start = Callable[[], Awaitable[None]]

LOOK_S: Final = 0.2

BACK_S: Final = 5.0
"""How long after its end a process is started again: long enough to see the mesh do without it."""


async def hold(cluster: Cluster, watch: DemoWatch, story: Story) -> None:
    """Keep the mesh up, with an agent that acts and users who shop, until a signal or `fibrin down` ends it."""
    await cluster.restart_agent(observe_only=False)
    watch.follow_users(await cluster.start_users())
    story.state.healing = True
    story.phase(f"the mesh stays up (Ctrl-C ends it); try `fibrin --state-dir {cluster.state_dir} get services`")

    async def users() -> None:
        watch.follow_users(await cluster.start_users())

    starts: dict[str, Start] = {
        "control": cluster.start_control,
        "agent": partial(cluster.start_agent, observe_only=False),
        "load": users,
        **{each.id: partial(cluster.start_application, each.id) for each in PLACEMENTS},
    }
    supervisor = Supervisor(cluster.processes, starts, partial(story.tell, "demo"))
    try:
        while not any(cluster.processes.exit_code(name) == 0 for name in ("agent", "control")):  # 0: told to stop
            await supervisor.look()
            await asyncio.sleep(LOOK_S)
    except asyncio.CancelledError:
        task = asyncio.current_task()
        assert task is not None, "the demo runs in a task"
        task.uncancel()  # an ordered end: the results decide the exit code
    story.phase("told to stop")


class Supervisor:
    """Starts again what ended, `back_s` later, by name; tells of both."""

    def __init__(
        self, processes: Processes, starts: Mapping[str, Start], tell: Callable[[str], None], back_s: float = BACK_S
    ) -> None:
        self._processes = processes
        self._starts = starts
        self._tell = tell
        self._back_s = back_s
        self._due: dict[str, float] = {}

    async def look(self) -> None:
        """Notice what ended, and start what is due. Raises Broken when nobody knows how it is started."""
        ended = self._processes.ended()
        for name, how in ended.items():
            if name not in self._starts:
                self._processes.require_running([name])
            if name not in self._due:
                self._due[name] = time.monotonic() + self._back_s
                self._tell(f"{name} ended ({how}); it is started again in {self._back_s:.0f} s")
        for name, at in list(self._due.items()):
            if time.monotonic() < at:
                continue
            del self._due[name]
            if name in ended:
                await self._start(name)

    async def _start(self, name: str) -> None:
        try:
            await self._starts[name]()
        except Broken as error:  # killed again while it started, or the machine is busy: the next look sees it
            self._tell(f"{name} does not start yet: {error.message.splitlines()[0]}")
        else:
            self._tell(f"{name} runs again")
