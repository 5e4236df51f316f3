"""Hear of an application's death when it happens, not at the next probe.

The processes that listen on the application's port are watched by a pidfd each; when one ends, `on_end` is called. That
proves nothing yet (a server of many workers may have lost one), so what follows is a probe. Nothing is asked of the application,
not even a connection. Where its processes cannot be seen (another user, another container) the regular probes remain.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from types import TracebackType
from typing import Self

import structlog

from proxy import ports

_log = structlog.get_logger(__name__)


class Vigil:
    """Watches the processes behind one address; use as a context manager, in one event loop."""

    def __init__(self, address: str, port: int, on_end: Callable[[], None]) -> None:
        self._address = address
        self._port = port
        self._on_end = on_end
        self._watched: set[int] = set()

    def __enter__(self) -> Self:
        """Watch nobody yet."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Let go."""
        self._let_go()

    async def renew(self) -> None:
        """Watch whoever listens now, instead of whom we watched before."""
        pids = await asyncio.to_thread(ports.holders, self._port, self._address)
        self._let_go()
        loop = asyncio.get_running_loop()
        for pid in pids:
            try:
                handle = os.pidfd_open(pid)
            except OSError as error:  # it ended meanwhile: the next probe tells
                _log.debug("proxy.not_watched", pid=pid, error=error.strerror)
                continue
            self._watched.add(handle)
            loop.add_reader(handle, self._ended, handle)
        _log.debug("proxy.application_watched", pids=pids)

    def _ended(self, handle: int) -> None:
        self._release(handle)
        self._on_end()

    def _let_go(self) -> None:
        for handle in tuple(self._watched):
            self._release(handle)

    def _release(self, handle: int) -> None:
        asyncio.get_running_loop().remove_reader(handle)
        os.close(handle)
        self._watched.discard(handle)
