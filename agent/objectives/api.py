"""Routes of the agent's API about objectives. Reads are open on loopback; objectives are declared at the control plane."""

from __future__ import annotations

from aiohttp import web
from pydantic_core import to_json

from agent.objectives.keeper import ObjectiveKeeper
from agent.objectives.view import OBJECTIVE


class ObjectiveRoutes:
    """What the API shows of objectives."""

    def __init__(self, keeper: ObjectiveKeeper) -> None:
        self._keeper = keeper

    def routes(self) -> list[web.RouteDef]:
        """Return the routes."""
        return [web.get("/v1/objectives", self._all), web.get("/v1/objectives/{name}", self._one)]

    async def _all(self, _: web.Request) -> web.Response:
        await self._keeper.look()
        return _json({"objectives": [OBJECTIVE.dump_python(one, mode="json") for one in self._keeper.views()]})

    async def _one(self, request: web.Request) -> web.Response:
        await self._keeper.look()
        return _json(OBJECTIVE.dump_python(self._keeper.view(request.match_info["name"]), mode="json"))


def _json(data: object) -> web.Response:
    return web.Response(body=to_json(data, inf_nan_mode="null"), content_type="application/json")
