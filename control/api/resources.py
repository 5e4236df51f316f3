"""Routes of the declared resources."""

from __future__ import annotations

from typing import Any

from aiohttp import web

from control import wire
from control.api.routing import OPERATOR, Call, endpoint, reply
from control.api.schemas import ApplyBody


@endpoint(
    "POST",
    "/v1/resources:apply",
    "Apply YAML manifests, all or nothing.",
    roles=OPERATOR,
    body=ApplyBody,
    answer=wire.APPLY_RESULT,
)
async def apply(call: Call[ApplyBody]) -> web.StreamResponse:
    """Apply manifests."""
    texts = [(manifest.source, manifest.text) for manifest in call.body.manifests]
    result = await call.plane.apply(texts, actor=call.who.actor, dry_run=call.body.dry_run)
    return reply(wire.APPLY_RESULT.dump_python(result, mode="json"))


@endpoint("GET", "/v1/resources", "List declared resources.", answer=wire.RESOURCE, key="resources", many=True)
async def every(call: Call[Any]) -> web.StreamResponse:
    """List all resources."""
    return _list(call.plane.declared.resources())


@endpoint(
    "GET",
    "/v1/resources/{kind}",
    "List declared resources of one kind.",
    answer=wire.RESOURCE,
    key="resources",
    many=True,
)
async def of_kind(call: Call[Any]) -> web.StreamResponse:
    """List the resources of a kind."""
    return _list(call.plane.declared.resources(call.path("kind")))


@endpoint("GET", "/v1/resources/{kind}/{name}", "Read one declared resource.", answer=wire.RESOURCE)
async def one(call: Call[Any]) -> web.StreamResponse:
    """Read one resource."""
    found = call.plane.declared.resource(call.path("kind"), call.path("name"))
    return reply(wire.RESOURCE.dump_python(found, mode="json"))


@endpoint(
    "GET",
    "/v1/canaries",
    "List declared canaries as the agent drives them.",
    answer=wire.ROLLOUT,
    key="canaries",
    many=True,
)
async def canaries(call: Call[Any]) -> web.StreamResponse:
    """List canaries."""
    return reply({"canaries": [wire.ROLLOUT.dump_python(item, mode="json") for item in call.plane.declared.rollouts()]})


@endpoint(
    "GET",
    "/v1/objectives",
    "List declared objectives as the agent counts them.",
    answer=wire.OBJECTIVE,
    key="objectives",
    many=True,
)
async def objectives(call: Call[Any]) -> web.StreamResponse:
    """List objectives."""
    found = call.plane.declared.objectives()
    return reply({"objectives": [wire.OBJECTIVE.dump_python(item, mode="json") for item in found]})


@endpoint("DELETE", "/v1/resources/{kind}/{name}", "Delete one declared resource.", roles=OPERATOR)
async def delete(call: Call[Any]) -> web.StreamResponse:
    """Delete one resource."""
    await call.plane.delete_resource(call.path("kind"), call.path("name"), actor=call.who.actor)
    return reply({})


def _list(found: tuple[wire.Resource, ...]) -> web.Response:
    return reply({"resources": [wire.RESOURCE.dump_python(item, mode="json") for item in found]})


ENDPOINTS = (apply, every, of_kind, one, canaries, objectives, delete)
