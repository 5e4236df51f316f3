"""The name server of a drill's mesh: applications look their sidecars up here, and drills decide what they are told."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Final, Literal, TypeAlias

from simulations.shop.names import NO_ERROR, SERVER_FAILURE, UNKNOWN, answer, read_question, sidecar

How: TypeAlias = Literal["silent", "failing", "unknown"]
"""No answer; SERVFAIL; NXDOMAIN."""

_CODES: Final[Mapping[How, int]] = {"failing": SERVER_FAILURE, "unknown": UNKNOWN}


class NameServer(asyncio.DatagramProtocol):
    """Knows where every instance's sidecar listens (`addresses`: instance → IPv4). `trouble`: instance → what is wrong with it."""

    def __init__(self, addresses: Mapping[str, str]) -> None:
        self._known = {sidecar(instance): (instance, address) for instance, address in addresses.items()}
        self._transport: asyncio.DatagramTransport | None = None
        self.trouble: dict[str, How] = {}
        self.asked = 0

    async def start(self, address: str) -> int:
        """Listen on a port of the system's choice, and return it."""
        loop = asyncio.get_running_loop()
        self._transport, _ = await loop.create_datagram_endpoint(lambda: self, local_addr=(address, 0))
        return int(self._transport.get_extra_info("sockname")[1])

    def stop(self) -> None:
        """Listen no more."""
        if self._transport is not None:
            self._transport.close()

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        """Answer one question; what is none is dropped, as name servers do."""
        self.asked += 1
        try:
            question = read_question(data)
        except ValueError:
            return
        instance, address = self._known.get(question.name, ("", ""))
        how = self.trouble.get(instance, None if instance else "unknown")
        if how == "silent" or self._transport is None:
            return
        self._transport.sendto(answer(question, address, _CODES[how] if how else NO_ERROR), addr)
