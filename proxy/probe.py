"""Is the application well? Asked actively, so that a dead application is found without a single user request.

One bad answer proves nothing and one good answer heals nothing: the verdict changes after two of a kind in a row. A refused
connection is no answer: nobody listens, and every request would fail; one is enough.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Final

import aiohttp

from proxy.reasons import reason

_GOOD: Final = range(200, 400)


@dataclass(frozen=True, slots=True)
class Finding:
    """Outcome of one probe; `detail` says what was wrong, `absent` that nobody listens there."""

    good: bool
    detail: str = ""
    absent: bool = False


@dataclass(slots=True)
class Hysteresis:
    """Turns findings into a verdict that does not flap.

    `healthy` is None until the first finding, which decides alone: at a start there is nothing to protect from flapping.
    """

    to_unhealthy: int = 2
    to_healthy: int = 2
    healthy: bool | None = None
    _against: int = 0

    def observe(self, good: bool, *, certain: bool = False) -> bool:
        """Take one finding in; return whether the verdict changed by it. A `certain` one needs no second."""
        if self.healthy is None:
            self.healthy = good
            return True
        if good is self.healthy:
            self._against = 0
            return False
        self._against += 1
        if not certain and self._against < (self.to_healthy if good else self.to_unhealthy):
            return False
        self.healthy, self._against = good, 0
        return True


async def probe(session: aiohttp.ClientSession, address: str, port: int, path: str, timeout_s: float) -> Finding:
    """Ask the application once; never raises for an application that is unwell.

    2xx and 3xx on `path` are well. With an empty `path` an accepted connection is.
    """
    host = f"[{address}]" if ":" in address else address
    try:
        async with asyncio.timeout(timeout_s):
            if not path:
                _, writer = await asyncio.open_connection(address, port)
                writer.close()
                return Finding(good=True)
            async with session.get(f"http://{host}:{port}{path}", allow_redirects=False) as response:
                if response.status in _GOOD:
                    return Finding(good=True)
                return Finding(good=False, detail=f"{path} answered {response.status}")
    except TimeoutError:
        return Finding(good=False, detail=f"no answer from {host}:{port}{path} within {timeout_s:g} s")
    except (aiohttp.ClientError, OSError) as error:
        absent = isinstance(error, ConnectionRefusedError) or (
            isinstance(error, aiohttp.ClientConnectorError) and isinstance(error.os_error, ConnectionRefusedError)
        )
        return Finding(good=False, detail=f"cannot reach {host}:{port}: {reason(error)}", absent=absent)
