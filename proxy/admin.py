"""A small client of Envoy's admin interface, over its Unix socket.

Reads what the supervisor decides by (is it live, which listeners are active, how many requests are in flight) and gives
the one order it has: drain. Every call has a deadline; an Envoy that does not answer is `Unavailable`.
"""

from __future__ import annotations

import json
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import aiohttp

from models.errors import Unavailable
from proxy.reasons import reason

_DEADLINE_S: Final = 1.0
_OK: Final = 200
_OWN: Final = "http.admin."  # the question itself is a request in flight


class Admin:
    """Talks to the Envoy whose admin socket is at `socket`; use as an async context manager."""

    def __init__(self, socket: Path, *, deadline_s: float = _DEADLINE_S) -> None:
        self._socket = socket
        self._timeout = aiohttp.ClientTimeout(total=deadline_s)
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        """Open; connects to nothing yet."""
        connector = aiohttp.UnixConnector(str(self._socket), force_close=True)  # a restarted Envoy is a new socket
        self._session = aiohttp.ClientSession(connector=connector, timeout=self._timeout)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def live(self) -> bool:
        """Tell whether the server is past initialisation and not draining; an absent one is not live."""
        try:
            status, _ = await self._call("GET", "/ready")
        except Unavailable:
            return False
        return status == _OK

    async def listeners(self) -> frozenset[str]:
        """Return the names of the active listeners: those that have all they need and are bound."""
        answer = json.loads(await self._get("/listeners?format=json"))
        return frozenset(status["name"] for status in answer.get("listener_statuses", ()))

    async def refused(self) -> tuple[str, ...]:
        """Return what Envoy said about listeners it was sent and could not take (`name: reason`)."""
        answer = json.loads(await self._get("/config_dump?resource=dynamic_listeners"))
        found = ((config["name"], config.get("error_state", {})) for config in answer.get("configs", ()))
        return tuple(f"{name}: {state['details']}" for name, state in found if state.get("details"))

    async def stats(self, pattern: str) -> dict[str, int]:
        """Return counters and gauges whose name matches the regular expression `pattern`."""
        answer = json.loads(await self._get("/stats", format="json", filter=pattern))
        return {stat["name"]: int(stat["value"]) for stat in answer["stats"] if "value" in stat}

    async def in_flight(self) -> int:
        """Return the number of requests, in and out, that are not answered yet."""
        active = await self.stats(r"^http\..*\.downstream_rq_active$")
        return sum(count for name, count in active.items() if not name.startswith(_OWN))

    async def config_dump(self) -> str:
        """Return Envoy's whole configuration as JSON text (private keys are redacted by Envoy)."""
        return await self._get("/config_dump")

    async def drain(self) -> None:
        """Ask callers to go elsewhere (GOAWAY, `connection: close`) and stop accepting after the drain time.

        Inbound only: what the application still has to ask for to finish its requests goes on working.
        """
        status, text = await self._call("POST", "/drain_listeners?inboundonly&graceful")
        if status != _OK:
            raise Unavailable(f"Envoy at {self._socket} does not drain: {status} {text.strip()}")

    async def _get(self, path: str, **query: str) -> str:
        status, text = await self._call("GET", path, query)
        if status != _OK:
            raise Unavailable(f"Envoy's admin at {self._socket} answered {path} with {status}: {text.strip()}")
        return text

    async def _call(self, method: str, path: str, query: dict[str, str] | None = None) -> tuple[int, str]:
        if self._session is None:
            raise Unavailable(f"the admin client of {self._socket} is closed")
        try:
            async with self._session.request(method, f"http://envoy{path}", params=query) as response:
                return response.status, await response.text()
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise Unavailable(
                f"Envoy's admin at {self._socket} does not answer: {reason(error)}",
                hint="see envoy.log beside the socket",
            ) from error
