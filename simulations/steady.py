"""A steady stream of single requests that never waits, and remembers when each was sent and answered.

Made for kill tests: what may be lost is what was in flight at the moment of the kill, so every request's two moments are
kept. Open-loop: `rate` requests per second go out whatever becomes of the earlier ones.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import aiohttp

from simulations.shop.trouble import INSTANCE

OK = 200
GIVE_UP_S = 10.0


@dataclass(slots=True)
class Sent:
    """One request. Moments are monotonic seconds, `seen` infinite while in flight; `status` 0 is no answer, see `note`."""

    sent: float
    seen: float = math.inf
    status: int = 0
    note: str = ""
    instance: str = ""

    @property
    def lost(self) -> bool:
        """Whether it ended without a good answer."""
        return self.seen < math.inf and self.status != OK

    def in_flight(self, began: float, ended: float) -> bool:
        """Whether it was on its way at any moment between `began` and `ended`."""
        return self.sent <= ended and self.seen >= began


class Steady:
    """Sends `GET url` through `proxy` at `rate` per second from `__aenter__` to `__aexit__`."""

    def __init__(self, url: str, proxy: str, rate: float) -> None:
        self._url = url
        self._proxy = proxy
        self._rate = rate
        self._stop = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self.requests: list[Sent] = []

    async def __aenter__(self) -> Self:
        """Begin to send."""
        self._task = asyncio.create_task(self._send(), name="steady load")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Send no more; wait for what is in flight."""
        self._stop.set()
        if self._task is not None:
            await self._task

    @property
    def answered(self) -> int:
        """How many good answers came so far."""
        return sum(1 for request in self.requests if request.status == OK)

    def since(self, moment: float) -> list[Sent]:
        """Return what was sent after `moment`."""
        return [request for request in self.requests if request.sent > moment]

    def lost(self) -> list[Sent]:
        """Return everything that was lost so far."""
        return [request for request in self.requests if request.lost]

    async def _send(self) -> None:
        timeout = aiohttp.ClientTimeout(total=GIVE_UP_S)
        connector = aiohttp.TCPConnector(limit=0)
        async with (
            aiohttp.ClientSession(timeout=timeout, connector=connector) as session,
            asyncio.TaskGroup() as group,
        ):
            due = time.monotonic()
            while not self._stop.is_set():
                group.create_task(self._one(session))
                due += 1 / self._rate
                try:
                    async with asyncio.timeout(due - time.monotonic()):
                        await self._stop.wait()
                except TimeoutError:
                    continue

    async def _one(self, session: aiohttp.ClientSession) -> None:
        request = Sent(time.monotonic())
        self.requests.append(request)
        try:
            async with session.get(self._url, proxy=self._proxy) as response:
                text = await response.text()
            request.status, request.instance = response.status, response.headers.get(INSTANCE, "")
            request.note = "" if response.status == OK else text[:200]
        except (aiohttp.ClientError, TimeoutError) as error:
            request.note = f"{type(error).__name__}: {error}"
        request.seen = time.monotonic()


def tally(requests: Iterable[Sent]) -> Counter[str]:
    """Count requests by status and what was said, for a person who reads a failure."""
    return Counter(f"{request.status} {request.note}".strip() for request in requests)
