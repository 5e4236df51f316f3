"""The agent API for programs: what the command line and the demo read incidents, signals and events with."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

import aiohttp
from pydantic import ValidationError

from agent.canaries.record import CANARY, CanaryView, Command
from agent.codec import EVENT, INCIDENT, Event
from agent.incidents import Incident, Verb
from agent.objectives.view import OBJECTIVE, ObjectiveView
from models.errors import Broken, Conflict, FibrinError, InvalidInput, NotFound, Refused, Unavailable

_KINDS: dict[str, type[FibrinError]] = {
    kind.__name__: kind for kind in (InvalidInput, NotFound, Conflict, Refused, Unavailable, Broken)
}


class AgentClient:
    """A connection to one agent; use as `async with`.

    Every call raises errors of our tree; away is `Unavailable`. Reads need no `token`; orders carry `actor`'s name.
    """

    def __init__(self, url: str, *, token: str = "", actor: str = "", timeout_s: float = 5.0) -> None:
        self._url = url.rstrip("/")
        self._headers = {"authorization": f"Bearer {token}"} if token else {}
        if actor:
            self._headers["x-fibrin-actor"] = actor
        self._timeout_s = timeout_s
        self._session: aiohttp.ClientSession | None = None

    @classmethod
    def from_state_dir(cls, state_dir: Path, *, timeout_s: float = 5.0) -> Self:
        """Return a client for the agent that runs on `state_dir`.

        Raises:
            Unavailable: no agent has been started on this state directory.
            Broken: its `agent.json` cannot be read.
        """
        place = state_dir / "agent.json"
        try:
            url = json.loads(place.read_text(encoding="utf-8"))["url"]
        except FileNotFoundError as error:
            raise Unavailable(
                f"no agent runs on {state_dir}: {place} is missing", hint="start one with `fibrin up`"
            ) from error
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise Broken(f"{place} cannot be used: {error}", hint="is this state directory yours?") from error
        return cls(str(url), timeout_s=timeout_s)

    @property
    def url(self) -> str:
        """Where the agent is."""
        return self._url

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(headers=self._headers)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def healthy(self) -> bool:
        """Return whether the agent answers; raises nothing."""
        try:
            await self._ask("/healthz")
        except FibrinError:
            return False
        return True

    async def ready(self) -> bool:
        """Return whether the agent sees and can act; raises nothing."""
        try:
            await self._ask("/readyz")
        except FibrinError:
            return False
        return True

    async def status(self) -> dict[str, Any]:
        """Return `/v1/status`."""
        return dict(await self._ask("/v1/status"))

    async def incidents(self, limit: int = 100) -> list[dict[str, Any]]:
        """Return incident summaries, newest first."""
        return list((await self._ask(f"/v1/incidents?limit={limit}"))["incidents"])

    async def incident(self, name: str) -> Incident:
        """Return one incident's whole story, or raise NotFound. An unambiguous beginning of the id will do."""
        found = await self._ask(f"/v1/incidents/{quote(name, safe='')}")
        known = INCIDENT.json_schema()["properties"]
        try:
            return INCIDENT.validate_python({key: value for key, value in found.items() if key in known})
        except ValidationError as error:
            raise Unavailable(
                f"the agent at {self._url} tells incidents in a form this program does not know: {error.errors()[0]['msg']}",
                hint="use the same version of Fibrin on both sides",
            ) from error

    async def events(self, since: int = 0, wait_s: float = 0.0) -> tuple[Event, ...]:
        """Return timeline lines after sequence `since`; wait up to `wait_s` seconds for the first."""
        found = await self._ask(f"/v1/events?since={since}&wait={wait_s}", timeout_s=self._timeout_s + wait_s)
        return tuple(EVENT.validate_python(item) for item in found["events"])

    async def signals(self, window_s: float = 10.0) -> dict[str, Any]:
        """Return golden signals: `services`, `edges`, `versions`, `instances`."""
        return dict(await self._ask(f"/v1/signals?window={window_s}"))

    async def audit(self, limit: int = 100) -> list[dict[str, Any]]:
        """Return the last audit records, newest last."""
        return list((await self._ask(f"/v1/audit?limit={limit}"))["records"])

    async def playbooks(self) -> list[dict[str, Any]]:
        """Return the playbooks in use."""
        return list((await self._ask("/v1/playbooks"))["playbooks"])

    async def order(self, verb: Verb, name: str, reason: str = "") -> dict[str, Any]:
        """Give an order about an incident; return its summary. Conflict when the order makes no sense there."""
        path = f"/v1/incidents/{quote(name, safe='')}/{verb}"
        return dict((await self._ask(path, order={"reason": reason}))["incident"])

    async def stop_acting(self, reason: str = "") -> None:
        """Throw the kill switch."""
        await self._ask("/v1/stop-acting", order={"reason": reason})

    async def rotate_key(self, reason: str) -> str:
        """Let a new key sign the audit log from now on; return its id. Needs the operator's token."""
        return str((await self._ask("/v1/audit/rotate-key", order={"reason": reason}))["key"])

    async def resume_acting(self, reason: str = "") -> None:
        """Take the kill switch back."""
        await self._ask("/v1/resume-acting", order={"reason": reason})

    async def canaries(self) -> tuple[CanaryView, ...]:
        """Return the canaries, by name."""
        return tuple(CANARY.validate_python(item) for item in (await self._ask("/v1/canaries"))["canaries"])

    async def canary(self, name: str) -> CanaryView:
        """Return one canary, or raise NotFound."""
        return CANARY.validate_python(await self._ask(f"/v1/canaries/{quote(name, safe='')}"))

    async def objectives(self) -> tuple[ObjectiveView, ...]:
        """Return the objectives, by name."""
        return tuple(OBJECTIVE.validate_python(item) for item in (await self._ask("/v1/objectives"))["objectives"])

    async def objective(self, name: str) -> ObjectiveView:
        """Return one objective, or raise NotFound."""
        return OBJECTIVE.validate_python(await self._ask(f"/v1/objectives/{quote(name, safe='')}"))

    async def tell_canary(self, name: str, command: Command) -> CanaryView:
        """Tell a canary what to do; it is done when this returns. Needs the operator's token.

        Raises:
            NotFound: there is no such canary. InvalidInput: it is over already. Refused: the token is not the operator's.
        """
        return CANARY.validate_python(await self._ask(f"/v1/canaries/{quote(name, safe='')}/{command}", order={}))

    async def _ask(self, path: str, *, timeout_s: float | None = None, order: Mapping[str, str] | None = None) -> Any:
        """Ask, or give an order (its body is `order`)."""
        if self._session is None:
            raise RuntimeError("AgentClient is used outside its `async with`")
        timeout = aiohttp.ClientTimeout(total=timeout_s or self._timeout_s)
        try:
            method = "GET" if order is None else "POST"
            async with self._session.request(method, self._url + path, json=order, timeout=timeout) as response:
                text = await response.text()
                status = response.status
        except (aiohttp.ClientError, TimeoutError) as error:
            raise Unavailable(
                f"the agent at {self._url} cannot be reached: {str(error) or 'no answer in time'}",
                hint="is it running? `fibrin check` tells; traffic flows on without it",
            ) from error
        try:
            data = json.loads(text)
        except ValueError as error:
            raise Unavailable(
                f"{self._url} does not speak the agent API (HTTP {status})", hint="does another program use this port?"
            ) from error
        if status >= 400:  # noqa: PLR2004  # HTTP's own boundary
            raise _error(status, data)
        return data


def _error(status: int, data: Any) -> FibrinError:
    try:
        failure = data["error"]
        return _KINDS.get(failure["code"], Broken)(str(failure["message"]), hint=str(failure.get("hint", "")))
    except (KeyError, TypeError):
        return Unavailable(f"the agent answered HTTP {status} without a reason", hint="see its log")
