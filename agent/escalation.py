"""Calling people: a line in log and timeline always, and every channel that is declared."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Final

import aiohttp
import structlog

from agent import metrics
from agent.channels import About, Channel, Message, about, body, message
from agent.incidents import Incident
from models.domain import Topology
from playbooks.schema import Playbook, Severity
from playbooks.view import View

log = structlog.get_logger(__name__)

ATTEMPTS: Final = 3
PAUSE_S: Final = 1.0


class WebhookPager:
    """Posts pages to channels; tries each three times, then counts and logs the loss.

    `url` is a channel of plain JSON. `playbooks` give a page its details, its urgency and the channels it goes to; a
    page to channels of which none is declared goes to all. `topology` is what their placeholders are filled from.
    `start` and `stop` bracket its use; pages that are under way when it stops are given `deadline_s`.
    """

    def __init__(
        self,
        url: str,
        channels: Iterable[Channel] = (),
        playbooks: Sequence[Playbook] = (),
        topology: Callable[[], Topology] = Topology,
    ) -> None:
        self._channels = (*([Channel("webhook", url)] if url else []), *channels)
        self._playbooks = {playbook.name: playbook for playbook in playbooks}
        self._topology = topology
        self._session: aiohttp.ClientSession | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Open the connection pool (only if there is a channel)."""
        if self._channels:
            self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=5.0))

    async def stop(self, deadline_s: float = 2.0) -> None:
        """Let pages under way finish, then close."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=deadline_s)
        for task in self._tasks:
            task.cancel()
        if self._session is not None:
            await self._session.close()

    def page(self, incident: Incident, text: str, *, urgent: bool = True) -> None:
        """Call a person, or tell them when it is not `urgent` (a warning at most); never blocks, never raises."""
        page = message(incident, text, self._playbooks, View(self._topology()))
        if not urgent and page.severity is Severity.CRITICAL:
            page = replace(page, severity=Severity.WARNING)
        log.warning("agent.page", incident=incident.id, text=text, severity=str(page.severity))
        self._post(about(incident), page)

    def alert(self, what: About, page: Message) -> None:
        """Call a person about something that is no incident; never blocks, never raises."""
        log.warning("agent.page", about=what.id, text=page.text, severity=str(page.severity))
        self._post(what, page)

    def _post(self, what: About, page: Message) -> None:
        metrics.PAGES.inc()
        if self._session is None:
            return
        meant = [channel for channel in self._channels if not page.to or channel.name in page.to]
        for channel in meant or self._channels:
            work = self._send(channel, what, page)
            task = asyncio.create_task(work, name=f"page {what.id} {channel.name}")
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _send(self, channel: Channel, what: About, page: Message) -> None:
        assert self._session is not None
        for attempt in range(ATTEMPTS):
            try:
                key = await asyncio.to_thread(_key, channel)
                async with self._session.post(channel.address, json=body(channel, what, page, key)) as response:
                    response.raise_for_status()
                    return
            except (aiohttp.ClientError, TimeoutError, OSError) as error:
                if attempt == ATTEMPTS - 1:
                    metrics.PAGES_FAILED.inc()
                    hint = "check agent.webhook and agent.channels"
                    log.warning("page.failed", about=what.id, channel=channel.name, error=str(error), hint=hint)
                else:
                    await asyncio.sleep(PAUSE_S)


def _key(channel: Channel) -> str:
    return channel.key_file.read_text(encoding="utf-8").strip() if channel.key_file else ""
