"""The control API as an aiohttp application: routes from one table, one place where errors become answers."""

from __future__ import annotations

import ipaddress
import time
from collections.abc import Awaitable, Callable
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Final

import structlog
from aiohttp import hdrs, web

from control import metrics, wire
from control.api import health, instances, mesh, openapi, overlays, resources
from control.api.routing import BadRequest, Call, Endpoint, Principal, read_body, reply
from control.api.schemas import EmptyBody
from control.core import ControlPlane
from control.statedir import ROLES
from control.wire import BODY_LIMIT, Failure
from models.errors import Broken, Conflict, FibrinError, InvalidInput, NotFound, Refused, Unavailable

log = structlog.get_logger(__name__)

ENDPOINTS: Final[tuple[Endpoint, ...]] = (
    *health.ENDPOINTS,
    *resources.ENDPOINTS,
    *overlays.ENDPOINTS,
    *instances.ENDPOINTS,
    *mesh.ENDPOINTS,
)
_ACTOR_LENGTH: Final = 100
_RESERVED: Final = frozenset({*ROLES, "control"})
"""Names nobody else may write under: what a person does must not pass for the agent's own deed."""

_STATUS: Final[tuple[tuple[type[FibrinError], str, int], ...]] = (
    (BadRequest, "InvalidInput", 400),
    (InvalidInput, "InvalidInput", 422),
    (NotFound, "NotFound", 404),
    (Conflict, "Conflict", 409),
    (Refused, "Refused", 403),
    (Unavailable, "Unavailable", 503),
    (Broken, "Broken", 500),
)

Next = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Unauthenticated(FibrinError):
    """No token, or one that is not ours (HTTP 401)."""


def make_app(plane: ControlPlane) -> web.Application:
    """Return the application over `plane`."""
    app = web.Application(client_max_size=BODY_LIMIT, middlewares=[_counted, _errors])
    open_reads = _loopback(plane.settings.host)
    for item in ENDPOINTS:
        app.router.add_route(item.method, item.path, _handler(plane, item, open_reads=open_reads))
    described = openapi.document(ENDPOINTS, _version())

    async def describe(_: web.Request) -> web.Response:
        return reply(described)

    app.router.add_get("/openapi.json", describe)
    return app


def _handler(plane: ControlPlane, item: Endpoint, *, open_reads: bool) -> Callable[[web.Request], Awaitable[Any]]:
    async def handle(request: web.Request) -> web.StreamResponse:
        principal = _principal(plane, request)
        if item.roles is None:
            if principal is None and not open_reads and item.path not in health.OPEN:
                raise _anonymous()
        elif principal is None:
            raise _anonymous()
        elif principal.role not in item.roles:
            raise Refused(
                f"the {principal.role} token may not {item.method} {item.path}",
                hint=f"use the token of: {', '.join(sorted(item.roles))}",
            )
        if item.roles is not None and not plane.ready:
            raise Unavailable("the control plane is starting or stopping", hint="ask again in a second")
        body = await read_body(request, item.body) if item.body is not None else EmptyBody()
        return await item.handler(Call(plane, request, principal, body))

    return handle


def _principal(plane: ControlPlane, request: web.Request) -> Principal | None:
    header = request.headers.get(hdrs.AUTHORIZATION, "")
    if not header:
        return None
    scheme, _, token = header.partition(" ")
    role = plane.tokens.role(token.strip()) if scheme.lower() == "bearer" else None
    if role is None:
        raise Unauthenticated(
            "the token is not one of this control plane",
            hint=f"use a token file in {plane.settings.state_dir}",
        )
    actor = request.headers.get("x-fibrin-actor", "")[:_ACTOR_LENGTH].strip()
    honest = actor.isprintable() and actor and (actor == role or actor not in _RESERVED)
    return Principal(role, actor if honest else role)


def _anonymous() -> Unauthenticated:
    return Unauthenticated("a token is needed", hint="send Authorization: Bearer <the content of operator.token>")


@web.middleware
async def _counted(request: web.Request, handler: Next) -> web.StreamResponse:
    """Count every answer by its route; time those that are not streams."""
    started = time.perf_counter()
    response = await handler(request)
    resource = request.match_info.route.resource
    route = resource.canonical if resource is not None else "unmatched"
    metrics.REQUESTS.labels(route, request.method if resource else "any", str(response.status)).inc()
    if "watch" not in request.query and "wait" not in request.query:
        metrics.REQUEST_SECONDS.labels(route).observe(time.perf_counter() - started)
    return response


@web.middleware
async def _errors(request: web.Request, handler: Next) -> web.StreamResponse:  # noqa: PLR0911 - one per kind
    """Turn every error into the one shape that clients know."""
    try:
        return await handler(request)
    except Unauthenticated as error:
        return _failure("Unauthenticated", 401, error)
    except FibrinError as error:
        code, status = next((name, number) for kind, name, number in _STATUS if isinstance(error, kind))
        return _failure(code, status, error)
    except web.HTTPRequestEntityTooLarge:
        message = f"the body is larger than the {BODY_LIMIT} bytes accepted"
        return _failure("TooLarge", 413, InvalidInput(message, hint="apply fewer files at a time"))
    except web.HTTPMethodNotAllowed as error:
        allowed = ", ".join(sorted(error.allowed_methods))
        message = f"{request.path} does not take {request.method}"
        return _failure("InvalidInput", 405, InvalidInput(message, hint=f"it takes {allowed}"))
    except web.HTTPNotFound:
        hint = "GET /openapi.json describes every route"
        return _failure("NotFound", 404, NotFound(f"there is no route {request.path}", hint=hint))
    except Exception:
        metrics.FAILURES.labels("api").inc()
        log.exception("api.failed", method=request.method, path=request.path)
        hint = "see the control plane's log; this is a fault of Fibrin"
        return _failure("Broken", 500, Broken("the control plane failed on this request", hint=hint))


def _failure(code: str, status: int, error: FibrinError) -> web.Response:
    failure = Failure(code, error.message, error.hint, error.problems)
    return reply({"error": wire.FAILURE.dump_python(failure, mode="json")}, status=status)


def _loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _version() -> str:
    try:
        return version("fibrin")
    except PackageNotFoundError:
        return "0"
