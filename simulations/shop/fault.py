"""Injected faults of one instance, set at run time through a private Unix socket.

The socket exists only when the instance was started with `--fault-control PATH`; it speaks one JSON object a line:
`{"error_ratio": 0.2, "slow_factor": 1.0}` in, the whole fault back, `{"error": …}` when it was refused.
"""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Final


@dataclass(frozen=True, slots=True)
class Fault:
    """What is wrong with an instance.

    `error_ratio` of its requests fail and `corrupt_ratio` of its answers break off (0–1), `slow_factor` (≥ 1) stretches
    its service time. It leaks `leak_mib_s` (MiB per second) and dies at `leak_most_mib`, is busy with nothing for
    `burn` of its time (0–0.95), and serves `workers` at a time (0: any number).
    """

    error_ratio: float = 0.0
    slow_factor: float = 1.0
    corrupt_ratio: float = 0.0
    leak_mib_s: float = 0.0
    leak_most_mib: float = 400.0
    burn: float = 0.0
    workers: float = 0.0

    @property
    def active(self) -> bool:
        """Whether anything is wrong."""
        return self != Fault(leak_most_mib=self.leak_most_mib)

    @property
    def spoils(self) -> bool:
        """Whether a request that takes long may blame this instance."""
        return bool(self.slow_factor > 1 or self.leak_mib_s or self.burn or self.workers)

    def encode(self) -> bytes:
        """Render as one line of JSON."""
        return json.dumps(asdict(self)).encode() + b"\n"


_RANGES: Final = {
    "error_ratio": (0.0, 1.0),
    "slow_factor": (1.0, math.inf),
    "corrupt_ratio": (0.0, 1.0),
    "leak_mib_s": (0.0, 500.0),
    "leak_most_mib": (1.0, 2000.0),
    "burn": (0.0, 0.95),
    "workers": (0.0, 1000.0),
}


def decode(line: bytes) -> Fault:
    """Read a fault from one line of JSON. Raises ValueError that says what is wrong with it."""
    data = json.loads(line)
    if not isinstance(data, dict):
        raise ValueError("a fault is a JSON object")  # noqa: TRY004  (one error type for whatever is wrong with the line)
    known = [field.name for field in fields(Fault)]
    unknown = data.keys() - set(known)
    if unknown:
        raise ValueError(f"unknown field {min(unknown)!r}; known are {', '.join(known)}")
    values: dict[str, float] = {}
    for name, value in data.items():
        try:
            values[name] = float(value)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{name} is a number") from error
        low, high = _RANGES[name]
        if not math.isfinite(values[name]) or not low <= values[name] <= high:
            raise ValueError(f"{name} must be within {low:g}–{high:g}, is {value}")
    return Fault(**values)


class FaultControl:
    """Serves the private socket and holds the fault in force. `changed` hears of every new one."""

    def __init__(self, changed: Callable[[Fault], None] = lambda _: None) -> None:
        self.fault = Fault()
        self._changed = changed

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
                    self._changed(self.fault)
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
