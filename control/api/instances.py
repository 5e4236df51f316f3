"""Routes of the registry: sidecars register, say they live, and leave."""

from __future__ import annotations

import ipaddress
from typing import Any

from aiohttp import web
from pydantic import TypeAdapter, ValidationError

from control import wire
from control.api.routing import SIDECARS, BadRequest, Call, endpoint, reply
from control.api.schemas import EmptyBody, HeartbeatBody, InstanceBody, Name
from models.domain import Instance
from models.errors import Problem

_NAME: TypeAdapter[str] = TypeAdapter(Name)


@endpoint(
    "PUT",
    "/v1/instances/{id}",
    "Register an instance; it gets requests from its first healthy heartbeat.",
    roles=SIDECARS,
    body=InstanceBody,
    answer=wire.INSTANCE,
)
async def register(call: Call[InstanceBody]) -> web.StreamResponse:
    """Register an instance."""
    body = call.body
    try:
        _NAME.validate_python(call.path("id"))
    except ValidationError as error:
        raise _bad("id", "must be letters, digits, `-`, `_` and `.`, at most 128") from error
    try:
        ipaddress.ip_address(body.address)
    except ValueError as error:
        raise _bad("address", f"`{body.address}` is not an IP address") from error
    instance = Instance(
        id=call.path("id"),
        service=body.service,
        version=body.version,
        zone=body.zone,
        address=body.address,
        port=body.port,
        labels=dict(body.labels),
    )
    return _one(await call.plane.register(instance))


@endpoint(
    "POST",
    "/v1/instances/{id}:heartbeat",
    "Say that an instance lives and how its application is; every second.",
    roles=SIDECARS,
    body=HeartbeatBody,
    answer=wire.INSTANCE,
)
async def heartbeat(call: Call[HeartbeatBody]) -> web.StreamResponse:
    """Note a heartbeat."""
    return _one(await call.plane.heartbeat(call.path("id"), healthy=call.body.healthy, detail=call.body.detail))


@endpoint(
    "POST",
    "/v1/instances/{id}:drain",
    "Give an instance no new requests.",
    roles=SIDECARS,
    body=EmptyBody,
    answer=wire.INSTANCE,
)
async def drain(call: Call[EmptyBody]) -> web.StreamResponse:
    """Drain an instance."""
    return _one(await call.plane.drain(call.path("id")))


@endpoint("DELETE", "/v1/instances/{id}", "Forget an instance.", roles=SIDECARS)
async def deregister(call: Call[Any]) -> web.StreamResponse:
    """Forget an instance."""
    await call.plane.deregister(call.path("id"))
    return reply({})


@endpoint("GET", "/v1/instances", "List instances.", answer=wire.INSTANCE_VIEW, key="instances", many=True)
async def every(call: Call[Any]) -> web.StreamResponse:
    """List instances."""
    return reply({"instances": [wire.instance_json(view) for view in call.plane.registry.views()]})


def _one(instance: Instance) -> web.Response:
    return reply(wire.INSTANCE.dump_python(instance, mode="json"))


def _bad(field: str, message: str) -> BadRequest:
    return BadRequest(f"{field}: {message}", problems=(Problem(message, field=field),))


ENDPOINTS = (register, heartbeat, drain, deregister, every)
