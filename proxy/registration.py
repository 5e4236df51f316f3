"""Tell the control plane about this instance: the few lines of HTTP that a sidecar needs of the control API.

`PUT /v1/instances/{id}`, `:heartbeat`, `:drain`, `DELETE`. The answers a caller must tell apart are exceptions: `NotFound` (register
again: the control plane forgot us), `Unavailable` (try again later), `Refused` (the token is wrong: trying again does not help).
"""

from __future__ import annotations

from types import TracebackType
from typing import Final, Self
from urllib.parse import quote

import aiohttp

from models.errors import FibrinError, InvalidInput, NotFound, Refused, Unavailable
from proxy.reasons import reason
from proxy.spec import SidecarSpec

_DEADLINE_S: Final = 2.0
_QUOTE: Final = 300  # characters of an answer worth showing


class Registration:
    """Speaks for one instance to the control API at `url`; use as an async context manager."""

    def __init__(self, spec: SidecarSpec, url: str, *, deadline_s: float = _DEADLINE_S) -> None:
        self._spec = spec
        self._base = url.rstrip("/")
        self._instance = f"/v1/instances/{quote(spec.id, safe='')}"
        self._timeout = aiohttp.ClientTimeout(total=deadline_s)
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        """Open; connects to nothing yet."""
        headers = {"Authorization": f"Bearer {self._spec.token}"}
        self._session = aiohttp.ClientSession(headers=headers, timeout=self._timeout)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    @property
    def id(self) -> str:
        """Id of the instance this speaks for."""
        return self._spec.id

    async def register(self) -> None:
        """Make this instance known, or known anew (idempotent)."""
        spec = self._spec
        body = {
            "service": spec.service,
            "version": spec.version,
            "zone": spec.zone,
            "address": spec.address,
            "port": spec.inbound_port,
            "labels": dict(spec.labels),
        }
        await self._call("PUT", "", body)

    async def heartbeat(self, *, healthy: bool, detail: str = "") -> None:
        """Say that the sidecar lives, and whether its application does. Raises NotFound when we are not registered."""
        await self._call("POST", ":heartbeat", {"healthy": healthy, "detail": detail})

    async def drain(self) -> None:
        """Ask that no new request be sent here."""
        await self._call("POST", ":drain", {})

    async def deregister(self) -> None:
        """Make this instance unknown; one that is unknown already is fine."""
        try:
            await self._call("DELETE", "", None)
        except NotFound:
            return

    async def _call(self, method: str, verb: str, body: dict[str, object] | None) -> None:
        if self._session is None:
            raise Unavailable("the control API client is closed")
        url = f"{self._base}{self._instance}{verb}"
        try:
            async with self._session.request(method, url, json=body) as response:
                if response.ok:
                    return
                status, text = response.status, (await response.text())[:_QUOTE].strip()
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise Unavailable(
                f"the control plane at {self._base} does not answer: {reason(error)}",
                hint="is `fibrin control` running?",
            ) from error
        raise _error(status, f"{method} {url}: {status} {text}")


def _error(status: int, message: str) -> FibrinError:
    match status:
        case 401 | 403:
            return Refused(message, hint="the proxy token must be the one in the control plane's proxy.token")
        case 404:
            return NotFound(message)
        case 400 | 409 | 413 | 422:
            return InvalidInput(message, hint="the control plane refused what this sidecar says of itself")
        case _:
            return Unavailable(message)
