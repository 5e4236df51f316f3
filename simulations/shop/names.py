"""Looking up names as programs do: questions to a name server over UDP, answers that hold for a while.

Only what the shop needs of RFC 1035: one question for one IPv4 address (type A, class IN), and its answer. In the mesh an
application needs one name, its sidecar's; whoever cannot look it up opens no new connection, and keeps those it has.
"""

from __future__ import annotations

import asyncio
import random
import socket
import struct
from dataclasses import dataclass
from typing import Final

from aiohttp.abc import AbstractResolver, ResolveResult

TTL_S: Final = 5
"""How long an answer holds, seconds."""

ANSWER_S: Final = 1.0
"""How long a question waits before it is asked again, seconds."""

TRIES: Final = 2

NO_ERROR: Final = 0
SERVER_FAILURE: Final = 2
UNKNOWN: Final = 3

_HEADER: Final = struct.Struct(">6H")
_TYPE_A_IN: Final = struct.pack(">2H", 1, 1)
_QUERY: Final = 0x0100  # recursion desired
_REPLY: Final = 0x8180
_CODE: Final = 0x000F
_SAME_NAME: Final = b"\xc0\x0c"  # a pointer to the question
_LABEL_BYTES: Final = 63


def sidecar(instance: str) -> str:
    """Return the name under which an instance's sidecar is looked up."""
    return f"{instance}.sidecar.shop"


@dataclass(frozen=True, slots=True)
class Question:
    """One question: its number, the name, and its bytes as they were asked."""

    number: int
    name: str
    asked: bytes


def question(number: int, name: str) -> bytes:
    """Return a query for the address of `name`."""
    labels = [label.encode("ascii") for label in name.split(".")]
    if not all(0 < len(label) <= _LABEL_BYTES for label in labels):
        raise ValueError(f"`{name}` is no host name")
    packed = b"".join(bytes([len(label)]) + label for label in labels)
    return _HEADER.pack(number, _QUERY, 1, 0, 0, 0) + packed + b"\0" + _TYPE_A_IN


def read_question(packet: bytes) -> Question:
    """Read a query. Raises ValueError for anything else."""
    try:
        number, flags, questions, *_ = _HEADER.unpack_from(packet)
        labels, at = [], _HEADER.size
        while size := packet[at]:
            labels.append(packet[at + 1 : at + 1 + size].decode("ascii"))
            at += 1 + size
    except (struct.error, IndexError, UnicodeDecodeError) as error:
        raise ValueError(f"not a query: {error}") from error
    end = at + 1 + len(_TYPE_A_IN)
    if questions != 1 or flags & 0x8000 or packet[at + 1 : end] != _TYPE_A_IN:
        raise ValueError("not a query for one address")
    return Question(number, ".".join(labels), packet[_HEADER.size : end])


def answer(to: Question, address: str, code: int = NO_ERROR) -> bytes:
    """Return the answer to a question: the address, or with another code than `NO_ERROR` none."""
    if code != NO_ERROR:
        return _HEADER.pack(to.number, _REPLY | code, 1, 0, 0, 0) + to.asked
    record = _SAME_NAME + _TYPE_A_IN + struct.pack(">IH", TTL_S, 4) + socket.inet_aton(address)
    return _HEADER.pack(to.number, _REPLY, 1, 1, 0, 0) + to.asked + record


def read_answer(packet: bytes, asked: bytes) -> str:
    """Return the address in the answer to the query `asked`. Raises OSError when there is none."""
    _, flags, _, answers, *_ = _HEADER.unpack_from(packet)
    if code := flags & _CODE:
        raise OSError(f"the name server answers with code {code}")
    record = packet[len(asked) :]
    if not answers or not record.startswith(_SAME_NAME + _TYPE_A_IN):
        raise OSError("the name server's answer has no address")
    return socket.inet_ntoa(record[-4:])


class _Asking(asyncio.DatagramProtocol):
    """Waits for the answer to one query."""

    def __init__(self, asked: bytes) -> None:
        self._asked = asked
        self.answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    def datagram_received(self, data: bytes, addr: object) -> None:
        """Take the answer that bears the query's number."""
        del addr
        if data[:2] == self._asked[:2] and not self.answer.done():
            self.answer.set_result(data)

    def error_received(self, exc: Exception) -> None:
        """Nobody listens there."""
        if not self.answer.done():
            self.answer.set_exception(exc)


class Resolver(AbstractResolver):
    """Asks one name server, as a program's resolver does: again after a second, then gives up with OSError."""

    def __init__(self, server: tuple[str, int]) -> None:
        self._server = server
        self._random = random.Random()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """Return the address of `host`. Raises OSError when the name server has or gives none."""
        del family  # the shop's addresses are IPv4
        asked = question(self._random.randrange(1 << 16), host)
        for _ in range(TRIES):
            transport, asking = await asyncio.get_running_loop().create_datagram_endpoint(
                lambda: _Asking(asked), remote_addr=self._server
            )
            try:
                transport.sendto(asked)
                async with asyncio.timeout(ANSWER_S):
                    address = read_answer(await asking.answer, asked)
            except TimeoutError:
                continue
            finally:
                transport.close()
            return [ResolveResult(hostname=host, host=address, port=port, family=socket.AF_INET, proto=0, flags=0)]
        raise OSError(f"no answer from the name server about {host}")

    async def close(self) -> None:
        """Nothing is held between questions."""
