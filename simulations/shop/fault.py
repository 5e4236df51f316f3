"""Injected faults of one instance, set at run time through a private Unix socket.

The socket exists only when the instance was started with `--fault-control PATH`; it speaks one JSON object a line:
`{"error_ratio": 0.2, "slow_factor": 1.0}` in, the same object back, `{"error": …}` when it was refused.
"""

from __future__ import annotations

import asyncio
import json
import math
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Fault:
    """What is wrong with an instance: share of requests that fail (0–1), factor on its service time (≥ 1)."""

    error_ratio: float = 0.0
    slow_factor: float = 1.0

    @property
    def active(self) -> bool:
        """Whether anything is wrong."""
        return self.error_ratio > 0 or self.slow_factor > 1

    def encode(self) -> bytes:
        """Render as one line of JSON."""
        return json.dumps({"error_ratio": self.error_ratio, "slow_factor": self.slow_factor}).encode() + b"\n"


def decode(line: bytes) -> Fault:
    """Read a fault from one line of JSON. Raises ValueError that says what is wrong with it."""
    data = json.loads(line)
    if not isinstance(data, dict):
        raise ValueError("a fault is a JSON object")  # noqa: TRY004  (one error type for whatever is wrong with the line)
    unknown = data.keys() - {"error_ratio", "slow_factor"}
    if unknown:
        raise ValueError(f"unknown field {min(unknown)!r}; known are error_ratio and slow_factor")
    try:
        ratio, factor = float(data.get("error_ratio", 0.0)), float(data.get("slow_factor", 1.0))
    except TypeError as error:
        raise ValueError("error_ratio and slow_factor are numbers") from error
    if not 0 <= ratio <= 1:
        raise ValueError(f"error_ratio must be within 0–1, is {ratio}")
    if not math.isfinite(factor) or factor < 1:
        raise ValueError(f"slow_factor must be finite and ≥ 1, is {factor}")
    return Fault(ratio, factor)


class FaultControl:
    """Serves the private socket and holds the fault in force."""

    def __init__(self) -> None:
        self.fault = Fault()

    async def serve(self, path: Path) -> asyncio.Server:
        """Open the socket at `path`, readable by its owner only; the caller closes the server."""
        server = await asyncio.start_unix_server(self._client, path)
        await asyncio.to_thread(path.chmod, 0o600)
        return server

    async def _client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while line := await reader.readline():
                try:
                    self.fault = decode(line)
                except ValueError as error:
                    writer.write(json.dumps({"error": str(error)}).encode() + b"\n")
                else:
                    writer.write(self.fault.encode())
                await writer.drain()
        except ConnectionError:
            return  # whoever set the fault hung up; the fault stays in force
        finally:
            writer.close()


async def set_fault(path: Path, fault: Fault) -> None:
    """Put `fault` in force at the instance behind `path`. Raises ValueError if it refuses, OSError if it is not there."""
    reader, writer = await asyncio.open_unix_connection(path)
    try:
        writer.write(fault.encode())
        await writer.drain()
        answer = json.loads(await reader.readline() or b"{}")
    finally:
        writer.close()
    if "error" in answer:
        raise ValueError(answer["error"])
