"""How a route of the API is described: one table from which aiohttp's routes and the OpenAPI document are both made."""

from __future__ import annotations

import json
import math
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar, cast

from aiohttp import hdrs, web
from pydantic import BaseModel, TypeAdapter, ValidationError

from control.core import ControlPlane
from control.statedir import Role
from models.errors import InvalidInput, Problem
from models.overlay import Owner

B = TypeVar("B", bound=BaseModel)

OPERATOR: Final = frozenset[Role]({"operator"})
WRITERS: Final = frozenset[Role]({"operator", "agent"})
SIDECARS: Final = frozenset[Role]({"operator", "proxy"})


@dataclass(frozen=True, slots=True)
class Principal:
    """Who calls: the role its token gives, and the name it goes by in change events."""

    role: Role
    actor: str

    @property
    def owner(self) -> Owner:
        """Whose overlays this caller lays."""
        return Owner.AGENT if self.role == "agent" else Owner.PERSON


class BadRequest(InvalidInput):
    """The request itself cannot be read (HTTP 400; what it asks for was not even looked at)."""


@dataclass(frozen=True, slots=True)
class Call(Generic[B]):
    """One request, authenticated and read."""

    plane: ControlPlane
    request: web.Request
    principal: Principal | None
    body: B

    @property
    def who(self) -> Principal:
        """The caller of a route that needs a token."""
        assert self.principal is not None
        return self.principal

    def path(self, name: str) -> str:
        """Return a part of the path."""
        return self.request.match_info[name]

    def whole(self, name: str, default: int = 0) -> int:
        """Return a whole number of the query, from 0.

        Raises:
            BadRequest: it is none.
        """
        text = self.request.query.get(name, str(default))
        if not text.isascii() or not text.isdigit():
            raise _query(name, text, "a whole number from 0")
        return int(text)

    def number(self, name: str, default: float, *, most: float) -> float:
        """Return a number of the query from 0 to `most`.

        Raises:
            BadRequest: it is none.
        """
        text = self.request.query.get(name, str(default))
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not 0 <= value <= most:
            raise _query(name, text, f"a number from 0 to {most:g}")
        return value

    def text(self, name: str, *, most: int) -> str:
        """Return a text of the query without surrounding space, "" when it was not given.

        Raises:
            BadRequest: it has more than `most` characters.
        """
        text = self.request.query.get(name, "").strip()
        if len(text) > most:
            raise _query(name, f"{text[:20]}…", f"a text of at most {most} characters")
        return text

    def flag(self, name: str) -> bool:
        """Return whether a switch of the query is on."""
        return self.request.query.get(name, "") in ("1", "true")


Handler = Callable[[Call[Any]], Awaitable[web.StreamResponse]]


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One route. `roles` None: a read, open on loopback. `answer`: the shape of its answer under `key`."""

    method: str
    path: str
    handler: Handler
    summary: str
    roles: frozenset[Role] | None = None
    body: type[BaseModel] | None = None
    answer: TypeAdapter[Any] | None = None
    key: str = ""
    many: bool = False
    status: int = 200
    query: Mapping[str, str] | None = None


def endpoint(
    method: str,
    path: str,
    summary: str,
    *,
    roles: frozenset[Role] | None = None,
    body: type[BaseModel] | None = None,
    answer: TypeAdapter[Any] | None = None,
    key: str = "",
    many: bool = False,
    status: int = 200,
    query: Mapping[str, str] | None = None,
) -> Callable[[Handler], Endpoint]:
    """Make a handler an Endpoint."""

    def decorate(handler: Handler) -> Endpoint:
        return Endpoint(method, path, handler, summary, roles, body, answer, key, many, status, query)

    return decorate


def reply(data: object, status: int = 200) -> web.Response:
    """Return an answer as compact JSON."""
    text = json.dumps(data, separators=(",", ":"), ensure_ascii=False)
    return web.Response(text=text, status=status, content_type="application/json")


async def read_body(request: web.Request, model: type[B]) -> B:
    """Read the JSON of a request strictly.

    Raises:
        BadRequest: it is not JSON, or not of the shape wanted; every finding names its field.
    """
    if request.headers.get(hdrs.CONTENT_TYPE, "application/json").partition(";")[0] != "application/json":
        raise BadRequest("the body must be application/json", hint="send Content-Type: application/json")
    data = await request.read()
    try:
        return model.model_validate_json(data or b"{}")
    except ValidationError as error:
        problems = tuple(_problem(cast("dict[str, Any]", detail)) for detail in error.errors(include_url=False))
        hint = problems[0].hint or "GET /openapi.json describes every body"
        raise BadRequest(f"{problems[0]}", hint=hint, problems=problems) from error


def _problem(detail: dict[str, Any]) -> Problem:
    kind, message = str(detail["type"]), str(detail["msg"])
    place = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in detail["loc"]).removeprefix(".")
    if kind in {"extra_forbidden", "unexpected_keyword_argument"}:
        message = "unknown field"
    elif kind == "missing":
        message = "required field is missing"
    elif kind == "json_invalid":
        message = f"the body is not JSON: {detail.get('ctx', {}).get('error', message)}"
    elif isinstance(detail.get("input"), str | int | float | bool):
        message = f"{message[:1].lower()}{message[1:]}, found {json.dumps(detail['input'])[:100]}"
    return Problem(message, field=place)


def _query(name: str, text: str, wanted: str) -> BadRequest:
    message = f"must be {wanted}, found {text[:100]!r}"
    return BadRequest(f"{name}: {message}", problems=(Problem(message, field=name),))
