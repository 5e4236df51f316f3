"""What one sidecar's supervisor counts, for a Prometheus to scrape: `GET /metrics` on a port of its own, when asked for."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from models.exposition import PROXY, Own
from proxy import ports
from proxy.spec import SidecarSpec


@asynccontextmanager
async def exposed(spec: SidecarSpec) -> AsyncIterator[None]:
    """Serve `/metrics` on the sidecar's address while the context lasts; without a metrics port serve nothing.

    Raises:
        Broken: the port cannot be bound; the message names who has it.
    """
    if not spec.metrics_port:
        yield
        return
    await asyncio.to_thread(ports.require_free, {"metrics": (spec.address, spec.metrics_port)})
    app = web.Application()
    app.add_routes([web.get("/metrics", _metrics)])
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.5)
    await runner.setup()
    try:
        await web.TCPSite(runner, spec.address, spec.metrics_port).start()
        yield
    finally:
        await runner.cleanup()


async def _metrics(_: web.Request) -> web.Response:
    return web.Response(body=generate_latest(Own(PROXY)), headers={"content-type": CONTENT_TYPE_LATEST})
