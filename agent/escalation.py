"""Calling people: a line in log and timeline always, a webhook when there is one."""

from __future__ import annotations

import asyncio
from typing import Final

import aiohttp
import structlog

from agent import metrics
from agent.codec import summary
from agent.incidents import Incident

log = structlog.get_logger(__name__)

ATTEMPTS: Final = 3
PAUSE_S: Final = 1.0


class WebhookPager:
    """Posts a page as JSON `{"text", "incident"}`; tries three times, then counts and logs the loss.

    `start` and `stop` bracket its use; pages that are under way when it stops are given `deadline_s`.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._session: aiohttp.ClientSession | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Open the connection pool (only if there is a webhook)."""
        if self._url:
            self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=5.0))

    async def stop(self, deadline_s: float = 2.0) -> None:
        """Let pages under way finish, then close."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=deadline_s)
        for task in self._tasks:
            task.cancel()
        if self._session is not None:
            await self._session.close()

    def page(self, incident: Incident, message: str) -> None:
        """Call a person; never blocks, never raises."""
        metrics.PAGES.inc()
        log.warning("agent.page", incident=incident.id, text=message)
        if self._session is not None:
            task = asyncio.create_task(self._send(incident, message), name=f"page {incident.id}")
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _send(self, incident: Incident, message: str) -> None:
        assert self._session is not None
        body = {"text": f"Fibrin {incident.id}: {message}", "incident": summary(incident)}
        for attempt in range(ATTEMPTS):
            try:
                async with self._session.post(self._url, json=body) as response:
                    response.raise_for_status()
                    return
            except (aiohttp.ClientError, TimeoutError) as error:
                if attempt == ATTEMPTS - 1:
                    metrics.PAGES_FAILED.inc()
                    log.warning("page.failed", incident=incident.id, error=str(error), hint="check the webhook setting")
                else:
                    await asyncio.sleep(PAUSE_S)
