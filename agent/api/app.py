"""Routes, errors and life of the agent's HTTP API."""

from __future__ import annotations

import asyncio
import dataclasses
import errno
import json
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

import structlog
from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, Counter, generate_latest
from pydantic_core import to_json

from agent.api.desk import Desk, Orders
from agent.api.openapi import document
from agent.codec import Event, full, summary
from agent.incidents import Incident
from models.errors import Broken, Conflict, FibrinError, InvalidInput, NotFound, Problem, Refused, Unavailable
from models.exposition import AGENT, Own

log = structlog.get_logger(__name__)

MAX_BODY: Final = 1 << 20
MAX_WAIT_S: Final = 60.0
MAX_LIMIT: Final = 10_000
STATUS: Final[tuple[tuple[type[FibrinError], int], ...]] = (
    (InvalidInput, 400),
    (NotFound, 404),
    (Conflict, 409),
    (Refused, 403),
    (Unavailable, 503),
    (Broken, 500),
)
REQUESTS: Final = Counter("fibrin_agent_api_requests_total", "Requests to the agent's API", ["route", "code"])


@dataclass(frozen=True, slots=True)
class Status:
    """How the agent is. `fence` None: not held, `why_not` says why. `blind` are sidecars without telemetry to trust.

    `unsolved` are incidents that were left to people and whose symptoms are still seen.
    """

    version: str
    started_at: float
    mode: str
    observe_only: bool
    holder: str
    fence: int | None
    why_not: str
    control_up: bool
    warm: bool
    blind: tuple[str, ...]
    reporters: int
    anomalies: int
    open_incidents: int
    playbooks: tuple[str, ...]
    audit_broken: str = ""
    audit_waiting: int = 0
    stopped: str = ""
    unsolved: tuple[str, ...] = ()


class Backend(Orders, Protocol):
    """What the API shows and takes."""

    def status(self) -> Status:
        """Return how the agent is."""
        ...

    def ready(self) -> str:
        """Return why the agent is not ready yet ("" when it is)."""
        ...

    async def incidents(self, limit: int) -> tuple[Incident, ...]:
        """Return incidents, newest first."""
        ...

    async def incident(self, name: str) -> Incident | None:
        """Return one incident by its id or an unambiguous beginning of it."""
        ...

    async def events(self, since: int, wait_s: float) -> tuple[Event, ...]:
        """Return timeline lines after `since`, waiting up to `wait_s` for the first."""
        ...

    def signals(self, window_s: float) -> object:
        """Return the golden signals (a dataclass)."""
        ...

    async def audit(self, limit: int) -> list[Any]:
        """Return the last audit records, newest last."""
        ...

    def playbooks(self) -> list[dict[str, Any]]:
        """Return the playbooks in use."""
        ...


class AgentApi:
    """The HTTP server. `start` returns the URL it answers on; `token` is the file with the operator's token, `more` are the
    routes of other parts of the agent.
    """

    def __init__(self, backend: Backend, token: Path, more: Iterable[web.RouteDef] = ()) -> None:
        self._backend = backend
        self._desk = Desk(backend, token)
        self._more = tuple(more)
        self._runner: web.AppRunner | None = None

    def app(self) -> web.Application:
        """Return the application (for tests and for `start`)."""
        app = web.Application(middlewares=[_errors], client_max_size=MAX_BODY)
        app.add_routes(
            [
                web.get("/healthz", self._healthz),
                web.get("/readyz", self._readyz),
                web.get("/metrics", self._metrics),
                web.get("/openapi.json", self._openapi),
                web.get("/v1/status", self._status),
                web.get("/v1/incidents", self._incidents),
                web.get("/v1/incidents/{id}", self._incident),
                web.get("/v1/signals", self._signals),
                web.get("/v1/events", self._events),
                web.get("/v1/audit", self._audit),
                web.get("/v1/playbooks", self._playbooks),
                *self._desk.routes(),
                *self._more,
            ]
        )
        return app

    async def start(self, host: str, port: int) -> str:
        """Listen on `host:port` (0: any free port); raises Broken when the port is taken."""
        runner = web.AppRunner(self.app(), access_log=None, shutdown_timeout=1.0)
        await runner.setup()
        try:
            await web.TCPSite(runner, host, port).start()
        except OSError as error:
            await runner.cleanup()
            what = "is in use" if error.errno == errno.EADDRINUSE else f"cannot be bound: {error.strerror}"
            raise Broken(
                f"the agent's address {host}:{port} {what}", hint="stop the other process or set another agent port"
            ) from error
        self._runner = runner
        chosen = runner.addresses[0][1]
        return f"http://{host}:{chosen}"

    async def stop(self) -> None:
        """Stop listening; requests under way get a second."""
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def _healthz(self, _: web.Request) -> web.Response:
        return web.json_response({"status": "ok"})

    async def _readyz(self, _: web.Request) -> web.Response:
        if why := self._backend.ready():
            raise Unavailable(f"the agent is not ready: {why}", hint="ask again in a moment")
        return web.json_response({"status": "ready"})

    async def _metrics(self, _: web.Request) -> web.Response:
        return web.Response(body=generate_latest(Own(AGENT)), headers={"content-type": CONTENT_TYPE_LATEST})

    async def _openapi(self, _: web.Request) -> web.Response:
        return _json(document())

    async def _status(self, _: web.Request) -> web.Response:
        return _json(dataclasses.asdict(self._backend.status()))

    async def _incidents(self, request: web.Request) -> web.Response:
        found = await self._backend.incidents(int(_number(request, "limit", 100, 1, MAX_LIMIT)))
        return _json({"incidents": [summary(incident) for incident in found]})

    async def _incident(self, request: web.Request) -> web.Response:
        name = request.match_info["id"]
        found = await self._backend.incident(name)
        if found is None:
            raise NotFound(f"there is no incident {name}", hint="`fibrin incidents` lists them")
        return _json(full(found))

    async def _signals(self, request: web.Request) -> web.Response:
        return _json(self._backend.signals(_number(request, "window", 10.0, 0.2, 120.0)))

    async def _events(self, request: web.Request) -> web.Response:
        since = int(_number(request, "since", 0, 0, 2**53))
        wait_s = _number(request, "wait", 0.0, 0.0, MAX_WAIT_S)
        events = await self._backend.events(since, wait_s)
        return _json({"events": events, "next": events[-1].sequence if events else since})

    async def _audit(self, request: web.Request) -> web.Response:
        return _json({"records": await self._backend.audit(int(_number(request, "limit", 100, 1, MAX_LIMIT)))})

    async def _playbooks(self, _: web.Request) -> web.Response:
        return _json({"playbooks": self._backend.playbooks()})


def _json(data: object) -> web.Response:
    return web.Response(body=to_json(data, inf_nan_mode="null"), content_type="application/json")


def _number(request: web.Request, name: str, default: float, low: float, high: float) -> float:
    """Return a numeric query parameter, or raise InvalidInput saying what was wanted."""
    text = request.query.get(name)
    if text is None:
        return default
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not low <= value <= high:
        wanted = f"a number from {low:g} to {high:g}"
        problem = Problem(f"found {text!r}, wanted {wanted}", field=name)
        raise InvalidInput(f"the query parameter {name} must be {wanted}", problems=(problem,))
    return value


@web.middleware
async def _errors(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    resource = request.match_info.route.resource
    route = resource.canonical if resource is not None else "unknown"
    try:
        response = await handler(request)
    except FibrinError as error:
        response = _failure(error)
    except web.HTTPException as error:
        code, why, hint = "InvalidInput", error.reason, "GET /openapi.json lists what there is"
        if isinstance(error, web.HTTPNotFound):
            code = "NotFound"
        elif isinstance(error, web.HTTPRequestEntityTooLarge):
            why, hint = f"the body is larger than the {MAX_BODY} bytes accepted", "send less"
        message = f"{request.method} {request.path}: {why}"
        body = {"error": {"code": code, "message": message, "hint": hint, "problems": []}}
        response = web.json_response(body, status=error.status)
    except asyncio.CancelledError:
        raise
    except Exception:
        log.exception("api.failed", route=route)
        body = {
            "error": {
                "code": "Broken",
                "message": "the agent failed to answer; see its log",
                "hint": "",
                "problems": [],
            }
        }
        response = web.json_response(body, status=500)
    REQUESTS.labels(route, str(response.status)).inc()
    return response


def _failure(error: FibrinError) -> web.Response:
    status = next((code for kind, code in STATUS if isinstance(error, kind)), 500)
    problems = [dataclasses.asdict(problem) for problem in error.problems]
    body = {"error": {"code": type(error).__name__, "message": error.message, "hint": error.hint, "problems": problems}}
    return web.Response(text=json.dumps(body), status=status, content_type="application/json")
