"""Watch streams: one JSON object per line, an empty line when nothing happens, an orderly end at shutdown."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Mapping
from typing import Any, Final

from aiohttp import web

from control import metrics

SILENCE_S: Final = 5.0


async def stream(
    request: web.Request, name: str, lines: AsyncGenerator[Mapping[str, Any], None], *, silence_s: float = SILENCE_S
) -> web.StreamResponse:
    """Write `lines` to the caller until they end or the caller leaves."""
    response = web.StreamResponse(
        headers={"content-type": "application/x-ndjson", "cache-control": "no-store", "x-accel-buffering": "no"}
    )
    await response.prepare(request)
    gauge = metrics.STREAMS.labels(name)
    gauge.inc()
    line: asyncio.Task[Mapping[str, Any]] | None = None
    try:
        while True:
            line = line or asyncio.create_task(_next(lines), name=f"api.watch:{name}")
            done, _ = await asyncio.wait({line}, timeout=silence_s)
            if not done:
                await response.write(b"\n")
                continue
            try:
                data = line.result()
            except _EndError:
                break
            finally:
                line = None
            await response.write(json.dumps(data, separators=(",", ":"), ensure_ascii=False).encode() + b"\n")
        await response.write_eof()
    except ConnectionError:
        pass  # the caller left
    finally:
        gauge.dec()
        if line is not None:
            line.cancel()
            await asyncio.wait({line})
        await lines.aclose()
    return response


class _EndError(Exception):
    """The lines have ended (a task cannot raise StopAsyncIteration)."""


async def _next(lines: AsyncGenerator[Mapping[str, Any], None]) -> Mapping[str, Any]:
    try:
        return await anext(lines)
    except StopAsyncIteration:
        raise _EndError from None
