"""Routes of the overlays and of the writer's fence."""

from __future__ import annotations

import uuid
from collections.abc import AsyncGenerator, Mapping
from typing import Any

from aiohttp import web

from control import wire
from control.api.routing import WRITERS, Call, endpoint, reply
from control.api.schemas import REASON_CHARACTERS, FenceBody, OverlayBody, RenewBody
from control.api.streams import stream
from control.overlays import Wanted
from control.wire import OverlayEvent


@endpoint("POST", "/v1/fence", "Take or renew the writer's fence.", roles=WRITERS, body=FenceBody, answer=wire.FENCE)
async def fence(call: Call[FenceBody]) -> web.StreamResponse:
    """Take the fence."""
    found = await call.plane.acquire_fence(call.body.holder, call.body.ttl_s)
    return reply(wire.FENCE.dump_python(found, mode="json"))


@endpoint(
    "POST",
    "/v1/overlays",
    "Lay an overlay; durable and on its way to the sidecars when answered. With `dry_run` it is only judged.",
    roles=WRITERS,
    body=OverlayBody,
    answer=wire.OVERLAY,
    status=201,
)
async def create(call: Call[OverlayBody]) -> web.StreamResponse:
    """Lay an overlay."""
    body = call.body
    wanted = Wanted(
        id=body.id or f"ov-{uuid.uuid4().hex[:12]}",
        change=body.change,
        reason=body.reason,
        lease_s=body.lease_s,
        owner=call.who.owner,
        actor=call.who.actor,
        incident=body.incident,
        fence=body.fence,
    )
    overlay = await call.plane.lay(wanted, dry_run=body.dry_run)
    if body.dry_run:
        return reply(wire.OVERLAY.dump_python(overlay, mode="json"), status=201)
    return reply(wire.overlay_json(call.plane.overlay_status(overlay)), status=201)


@endpoint(
    "POST", "/v1/overlays/{id}:renew", "Renew an overlay's lease.", roles=WRITERS, body=RenewBody, answer=wire.OVERLAY
)
async def renew(call: Call[RenewBody]) -> web.StreamResponse:
    """Renew an overlay."""
    overlay = await call.plane.renew(call.path("id"), call.body.lease_s, owner=call.who.owner, fence=call.body.fence)
    return reply(wire.overlay_json(call.plane.overlay_status(overlay)))


@endpoint(
    "DELETE",
    "/v1/overlays/{id}",
    "Remove an overlay.",
    roles=WRITERS,
    query={
        "fence": "the agent's fence",
        "reason": f"why, up to {REASON_CHARACTERS} characters; stands in the change log",
    },
)
async def delete(call: Call[Any]) -> web.StreamResponse:
    """Remove an overlay."""
    await call.plane.remove(
        call.path("id"),
        owner=call.who.owner,
        fence=call.whole("fence"),
        actor=call.who.actor,
        reason=call.text("reason", most=REASON_CHARACTERS),
    )
    return reply({})


@endpoint(
    "GET",
    "/v1/overlays",
    "List overlays with their propagation, or watch them (`?watch=1`: one JSON object per line).",
    answer=wire.OVERLAY_STATUS,
    key="overlays",
    many=True,
    query={"watch": "1 streams all overlays and then every change"},
)
async def every(call: Call[Any]) -> web.StreamResponse:
    """List or watch overlays."""
    book = call.plane.overlays
    if call.flag("watch"):
        now = call.plane.clock.wall()
        events = book.events.read(*(OverlayEvent("snapshot", overlay, now) for overlay in book.all))
        return await stream(call.request, "overlays", _events(events))
    return reply({"overlays": [wire.overlay_json(call.plane.overlay_status(overlay)) for overlay in book.all]})


@endpoint("GET", "/v1/overlays/{id}", "Read one overlay with its propagation.", answer=wire.OVERLAY_STATUS)
async def one(call: Call[Any]) -> web.StreamResponse:
    """Read one overlay."""
    overlay = call.plane.overlays.get(call.path("id"))
    return reply(wire.overlay_json(call.plane.overlay_status(overlay)))


async def _events(events: AsyncGenerator[OverlayEvent, None]) -> AsyncGenerator[Mapping[str, Any], None]:
    async for event in events:
        yield wire.OVERLAY_EVENT.dump_python(event, mode="json")


ENDPOINTS = (fence, create, renew, delete, every, one)
