"""Routes that tell what is: topology, changes, services, sidecars."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from typing import Any

from aiohttp import web

from control import wire
from control.api.routing import WRITERS, Call, endpoint, reply
from control.api.schemas import EdgesBody
from control.api.streams import stream
from control.wire import TopologyView
from models.domain import Edge
from models.errors import NotFound

_LONGEST_WAIT_S = 60.0


@endpoint(
    "GET",
    "/v1/topology",
    "Who exists and who calls whom; `?watch=1` streams the whole topology after every change.",
    answer=wire.TOPOLOGY,
    query={"watch": "1 streams one JSON object per line"},
)
async def topology(call: Call[Any]) -> web.StreamResponse:
    """Read or watch the topology."""
    latest = call.plane.topology
    if call.flag("watch"):
        return await stream(call.request, "topology", _topologies(latest.read()))
    return reply(wire.topology_json(latest.value.topology, latest.value.generation))


@endpoint("PUT", "/v1/edges", "Report edges that have carried traffic.", roles=WRITERS, body=EdgesBody)
async def edges(call: Call[EdgesBody]) -> web.StreamResponse:
    """Remember edges."""
    await call.plane.add_edges(Edge(edge.caller, edge.callee) for edge in call.body.edges)
    return reply({})


@endpoint(
    "GET",
    "/v1/changes",
    "Change events after `since`; waits up to `wait` seconds for the first.",
    answer=wire.CHANGES,
    query={"since": "the `next` of the last answer", "wait": "seconds, up to 60"},
)
async def changes(call: Call[Any]) -> web.StreamResponse:
    """Read change events."""
    since, wait_s = call.whole("since"), call.number("wait", 0.0, most=_LONGEST_WAIT_S)
    log = call.plane.changes
    found = await log.wait(since, wait_s) if wait_s else log.since(since)
    return reply(wire.CHANGES.dump_python(found, mode="json"))


@endpoint("GET", "/v1/services", "List services.", answer=wire.SERVICE, key="services", many=True)
async def services(call: Call[Any]) -> web.StreamResponse:
    """List services."""
    return reply({"services": [wire.SERVICE.dump_python(view, mode="json") for view in call.plane.services()]})


@endpoint("GET", "/v1/services/{name}", "Read one service: declared, effective, instances.", answer=wire.SERVICE)
async def service(call: Call[Any]) -> web.StreamResponse:
    """Read one service."""
    return reply(wire.SERVICE.dump_python(call.plane.service(call.path("name")), mode="json"))


@endpoint(
    "GET", "/v1/proxies", "List sidecars as the xDS server sees them.", answer=wire.PROXY, key="proxies", many=True
)
async def proxies(call: Call[Any]) -> web.StreamResponse:
    """List sidecars."""
    return reply({"proxies": [wire.PROXY.dump_python(view, mode="json") for view in call.plane.proxies()]})


@endpoint("GET", "/v1/proxies/{id}", "Read one sidecar as the xDS server sees it.", answer=wire.PROXY)
async def proxy(call: Call[Any]) -> web.StreamResponse:
    """Read one sidecar."""
    name = call.path("id")
    for view in call.plane.proxies():
        if view.id == name:
            return reply(wire.PROXY.dump_python(view, mode="json"))
    raise NotFound(f"no sidecar `{name}` has connected", hint="`fibrin get proxies` lists those that have")


async def _topologies(views: AsyncGenerator[TopologyView, None]) -> AsyncGenerator[Mapping[str, Any], None]:
    async for view in views:
        yield wire.topology_json(view.topology, view.generation)


ENDPOINTS = (topology, edges, changes, services, service, proxies, proxy)
