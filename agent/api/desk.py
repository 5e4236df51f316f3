"""Where people's orders come in: everything about the agent's API that changes something.

Writes need the operator's token, which the control plane makes in the state directory; `x-fibrin-actor` names the person.
The token file is read with every order, so a changed token holds at once.
"""

from __future__ import annotations

import asyncio
import hmac
from pathlib import Path
from typing import Any, Final, Protocol

from aiohttp import hdrs, web
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import to_json

from agent.codec import summary
from agent.incidents import Incident, Verb
from models.errors import InvalidInput, Problem, Refused

ACTOR_LENGTH: Final = 100


class Orders(Protocol):
    """Who carries orders out."""

    async def order(self, verb: Verb, name: str, who: str, why: str) -> Incident:
        """Carry out an order about an incident."""
        ...

    async def stop_acting(self, *, stop: bool, who: str, why: str) -> None:
        """Throw the kill switch or take it back."""
        ...

    async def rotate_key(self, *, who: str, why: str) -> str:
        """Let a new key sign the audit log from now on; return its id."""
        ...


class Reason(BaseModel):
    """The body of every order."""

    model_config = ConfigDict(extra="forbid", strict=True)
    reason: str = Field(default="", max_length=500)


class Desk:
    """Takes orders for `orders`. `token` is the file with the operator's token."""

    def __init__(self, orders: Orders, token: Path) -> None:
        self._orders = orders
        self._token = token

    def routes(self) -> list[web.RouteDef]:
        """Return the routes."""
        verbs = "|".join(Verb)
        return [
            web.post(f"/v1/incidents/{{id}}/{{verb:{verbs}}}", self._order),
            web.post("/v1/stop-acting", self._stop),
            web.post("/v1/resume-acting", self._resume),
            web.post("/v1/audit/rotate-key", self._rotate_key),
        ]

    async def _order(self, request: web.Request) -> web.Response:
        who = await operator(request, self._token)
        verb = Verb(request.match_info["verb"])
        incident = await self._orders.order(verb, request.match_info["id"], who, (await _body(request)).reason)
        return _json({"incident": summary(incident)})

    async def _stop(self, request: web.Request) -> web.Response:
        who = await operator(request, self._token)
        await self._orders.stop_acting(stop=True, who=who, why=(await _body(request)).reason)
        return _json({"stopped": True})

    async def _resume(self, request: web.Request) -> web.Response:
        who = await operator(request, self._token)
        await self._orders.stop_acting(stop=False, who=who, why=(await _body(request)).reason)
        return _json({"stopped": False})

    async def _rotate_key(self, request: web.Request) -> web.Response:
        who = await operator(request, self._token)
        why = (await _body(request)).reason.strip()
        if not why:
            raise InvalidInput("a new key needs a reason: it stands in the log", hint='send {"reason": "why"}')
        return _json({"key": await self._orders.rotate_key(who=who, why=why)})


async def operator(request: web.Request, token: Path) -> str:
    """Return who gives an order; `token` is the file with the operator's token.

    Raises:
        Refused: without the operator's token nobody gives orders.
    """
    scheme, _, given = request.headers.get(hdrs.AUTHORIZATION, "").partition(" ")
    try:
        wanted = (await asyncio.to_thread(token.read_text, encoding="utf-8")).strip()
    except OSError as error:
        raise Refused(f"orders need {token}, which is missing", hint="the control plane makes it") from error
    right = wanted and scheme.lower() == "bearer" and hmac.compare_digest(given.strip().encode(), wanted.encode())
    if not right:
        hint = "send Authorization: Bearer <the content of operator.token>"
        raise Refused("an order to the agent needs the operator's token", hint=hint)
    actor = request.headers.get("x-fibrin-actor", "")[:ACTOR_LENGTH].strip()
    return actor if actor and actor.isprintable() else "operator"


async def _body(request: web.Request) -> Reason:
    text = await request.read()
    if not text:
        return Reason()
    try:
        return Reason.model_validate_json(text)
    except ValidationError as error:
        problems = tuple(Problem(e["msg"], field=".".join(map(str, e["loc"]))) for e in error.errors())
        hint = 'send {"reason": "why"} or nothing'
        raise InvalidInput("the order's body cannot be read", hint=hint, problems=problems) from error


def _json(data: Any) -> web.Response:
    return web.Response(body=to_json(data, inf_nan_mode="null"), content_type="application/json")
