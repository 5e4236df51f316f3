"""As much of HTTP/2 and gRPC as one client stream needs, by hand: bytes in, bytes out.

A gRPC library spends on each message of a client about what the control plane spends on sending it. A thousand such
clients on the cores of the control plane would measure themselves.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping

from models.errors import Broken

DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
ACK = END_STREAM = 1
_END_HEADERS = 4
_PADDED = 8
_HEAD = 9
_STREAM = 1
_WINDOW = 0x7FFF_FFFF
_DEFAULT_WINDOW = 65535
_INITIAL_WINDOW_SIZE = 4
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    """Return one frame."""
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def opening(path: str, headers: Mapping[str, str]) -> bytes:
    """Return what a client sends to open its connection and its one stream, a gRPC call of `path`.

    Windows are opened as wide as they go, so that nothing has to be granted later.
    """
    fields = {
        ":method": "POST",
        ":scheme": "http",
        ":path": path,
        ":authority": "localhost",
        "te": "trailers",
        "content-type": "application/grpc",
        **headers,
    }
    block = b"".join(b"\x00" + _text(name) + _text(value) for name, value in fields.items())
    return (
        _PREFACE
        + frame(SETTINGS, 0, 0, struct.pack(">HI", _INITIAL_WINDOW_SIZE, _WINDOW))
        + frame(WINDOW_UPDATE, 0, 0, struct.pack(">I", _WINDOW - _DEFAULT_WINDOW))
        + frame(HEADERS, _END_HEADERS, _STREAM, block)
    )


def message(body: bytes) -> bytes:
    """Return one gRPC message as a DATA frame."""
    return frame(DATA, 0, _STREAM, b"\x00" + struct.pack(">I", len(body)) + body)


def _text(value: str) -> bytes:
    """A string literal of HPACK, not compressed."""
    data = value.encode()
    if len(data) < 127:  # noqa: PLR2004 - seven bits, all set means more follow
        return bytes((len(data),)) + data
    rest, more = len(data) - 127, bytearray((127,))
    while rest > 127:  # noqa: PLR2004 - seven bits
        more.append(rest & 127 | 128)
        rest >>= 7
    more.append(rest)
    return bytes(more) + data


class Reader:
    """Takes apart what a server sends on the one stream. `answers` is what has to be sent back for it."""

    def __init__(self) -> None:
        self.answers = b""
        self._bytes = bytearray()
        self._data = bytearray()

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Take bytes from the socket; yields the gRPC messages that are complete.

        Raises:
            Broken: the server ended the stream or the connection.
        """
        self._bytes += data
        while len(self._bytes) >= _HEAD:
            size = int.from_bytes(self._bytes[:3], "big")
            if len(self._bytes) < _HEAD + size:
                break
            kind, flags = self._bytes[3], self._bytes[4]
            payload = bytes(self._bytes[_HEAD : _HEAD + size])
            del self._bytes[: _HEAD + size]
            self._take(kind, flags, payload)
        while len(self._data) >= 5:  # noqa: PLR2004 - the head of a gRPC message
            size = int.from_bytes(self._data[1:5], "big")
            if len(self._data) < 5 + size:
                break
            yield bytes(self._data[5 : 5 + size])
            del self._data[: 5 + size]

    def _take(self, kind: int, flags: int, payload: bytes) -> None:
        if kind == DATA and not flags & _PADDED:
            self._data += payload
        elif kind == SETTINGS and not flags & ACK:
            self.answers += frame(SETTINGS, ACK, 0, b"")
        elif kind == PING and not flags & ACK:
            self.answers += frame(PING, ACK, 0, payload)
        elif kind in {RST_STREAM, GOAWAY} or (flags & END_STREAM and kind in {DATA, HEADERS}):
            raise Broken("the server ended the stream", hint="see the control plane's log")


def fields(body: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield number and content of the length-delimited fields of a protobuf message, others skipped."""
    at = 0
    while at < len(body):
        tag, at = _varint(body, at)
        if tag & 7 == 2:  # noqa: PLR2004 - wire type: length-delimited
            size, at = _varint(body, at)
            yield tag >> 3, body[at : at + size]
            at += size
        elif tag & 7 == 0:
            _, at = _varint(body, at)
        else:
            at += 8 if tag & 7 == 1 else 4


def _varint(body: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = body[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:  # noqa: PLR2004 - the last one has its top bit clear
            return value, at
        shift += 7
