"""Routes of the agent's API about canaries. Reads are open on loopback; commands need the operator's token."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from aiohttp import web
from pydantic_core import to_json

from agent.api.desk import operator
from agent.canaries.controller import CanaryController
from agent.canaries.record import Command
from models.errors import InvalidInput
from models.manifest import suggest


class CanaryRoutes:
    """`token` is the file with the token that commands need."""

    def __init__(self, controller: CanaryController, token: Path) -> None:
        self._controller = controller
        self._token = token

    def routes(self) -> list[web.RouteDef]:
        """Return the routes."""
        return [
            web.get("/v1/canaries", self._all),
            web.get("/v1/canaries/{name}", self._one),
            web.post("/v1/canaries/{name}/{command}", self._command),
        ]

    async def _all(self, _: web.Request) -> web.Response:
        await self._controller.look()
        return _json({"canaries": [dataclasses.asdict(view) for view in self._controller.views()]})

    async def _one(self, request: web.Request) -> web.Response:
        await self._controller.look()
        return _json(dataclasses.asdict(self._controller.view(request.match_info["name"])))

    async def _command(self, request: web.Request) -> web.Response:
        who = await operator(request, self._token)
        word = request.match_info["command"]
        if word not in set(Command):
            known = [str(command) for command in Command]
            raise InvalidInput(f"`{word}` is no command to a canary", hint=suggest(word, known))
        await self._controller.look()
        view = await self._controller.command(request.match_info["name"], Command(word), who)
        return _json(dataclasses.asdict(view))


def _json(data: object) -> web.Response:
    return web.Response(body=to_json(data, inf_nan_mode="null"), content_type="application/json")
