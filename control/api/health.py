"""Routes about the control plane itself; open to everyone who can reach it."""

from __future__ import annotations

from typing import Any

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from control.api.routing import Call, endpoint, reply
from models.errors import Unavailable
from models.exposition import CONTROL, Own


@endpoint("GET", "/healthz", "Whether the process lives.")
async def healthz(_: Call[Any]) -> web.StreamResponse:
    """Say that the process lives."""
    return reply({"status": "ok"})


@endpoint("GET", "/readyz", "Whether the control plane serves.")
async def readyz(call: Call[Any]) -> web.StreamResponse:
    """Say whether the control plane serves."""
    if not call.plane.ready:
        raise Unavailable("the control plane is starting or stopping", hint="ask again in a second")
    return reply({"status": "ready", "generation": call.plane.topology.value.generation})


@endpoint("GET", "/metrics", "Prometheus metrics.")
async def metrics(call: Call[Any]) -> web.StreamResponse:
    """Give the metrics."""
    call.plane.count()
    return web.Response(body=generate_latest(Own(CONTROL)), headers={"content-type": CONTENT_TYPE_LATEST})


ENDPOINTS = (healthz, readyz, metrics)
OPEN = frozenset(endpoint.path for endpoint in ENDPOINTS)
