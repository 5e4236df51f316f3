"""The control API for programs: types of `models` in and out, errors of `models.errors` raised.

The agent, the command line and the demo reach the control plane through this class only. Every call either returns
what it says or raises an error of our tree; a control plane that is away is `Unavailable`, never a hang.
"""

from __future__ import annotations

import asyncio
import io
import json
import uuid
from collections.abc import AsyncIterator, Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Literal, Self
from urllib.parse import quote

import aiohttp
from pydantic import ValidationError

from control import wire
from control.wire import (
    Applied,
    ApplyResult,
    Changes,
    Fence,
    InstanceView,
    OverlayEvent,
    OverlayStatus,
    Propagation,
    ProxyView,
    Resource,
    ServiceView,
    TopologyView,
)
from models.domain import Edge, Instance, Topology
from models.errors import Broken, Conflict, FibrinError, InvalidInput, NotFound, Refused, Unavailable
from models.objective import Objective
from models.overlay import Change, Overlay
from models.rollout import Rollout

__all__ = [
    "Applied",
    "ApplyResult",
    "Changes",
    "ControlClient",
    "Fence",
    "InstanceView",
    "OverlayEvent",
    "OverlayStatus",
    "Propagation",
    "ProxyView",
    "Resource",
    "ServiceView",
    "TopologyView",
]

Role = Literal["operator", "agent", "proxy"]

_STREAM_SILENCE_S: Final = 15.0  # the server writes an empty line every 5 s into a silent stream
_ERRORS: Final[Mapping[str, type[FibrinError]]] = {
    "InvalidInput": InvalidInput,
    "NotFound": NotFound,
    "Conflict": Conflict,
    "Refused": Refused,
    "Unavailable": Unavailable,
    "Broken": Broken,
    "TooLarge": InvalidInput,
    "Unauthenticated": Refused,
}


class ControlClient:
    """A connection to one control plane; use as `async with`.

    `url` such as `http://127.0.0.1:15080`, `token` a bearer token (reads need none), `actor` the name shown beside
    what this client changes, `timeout_s` the longest a plain call may take.
    """

    def __init__(self, url: str, token: str = "", *, actor: str = "", timeout_s: float = 5.0) -> None:
        self._url = url.rstrip("/")
        self._timeout_s = timeout_s
        self._headers = {"authorization": f"Bearer {token}"} if token else {}
        if actor:
            self._headers["x-fibrin-actor"] = actor
        self._session: aiohttp.ClientSession | None = None

    @classmethod
    def from_state_dir(
        cls, state_dir: Path, role: Role = "operator", *, actor: str = "", timeout_s: float = 5.0
    ) -> Self:
        """Return a client for the control plane that runs on `state_dir`, with that role's token.

        Raises:
            Unavailable: no control plane has been started on this state directory.
            Broken: its files cannot be read.
        """
        place = state_dir / "control.json"
        try:
            url = json.loads(place.read_text(encoding="utf-8"))["url"]
            token = (state_dir / f"{role}.token").read_text(encoding="utf-8").strip()
        except FileNotFoundError as error:
            raise Unavailable(
                f"no control plane has been started on {state_dir}: {error.filename} is missing",
                hint="start one with `fibrin up`, or name another --state-dir",
            ) from error
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise Broken(f"{place} cannot be used: {error}", hint="is this state directory yours?") from error
        return cls(str(url), token, actor=actor, timeout_s=timeout_s)

    @property
    def url(self) -> str:
        """Where the control plane is."""
        return self._url

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(headers=self._headers, read_bufsize=2**18)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close all connections; calls in flight fail."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    # Declared resources

    async def apply(self, manifests: Mapping[str, str], *, dry_run: bool = False) -> ApplyResult:
        """Apply YAML texts by source name (`{"routes.yaml": text}`): all of it or, on any error, nothing.

        Raises:
            InvalidInput: its `problems` name file, line, column and field of every finding.
        """
        sizes = {source: len(text.encode()) for source, text in manifests.items()}
        if (total := sum(sizes.values())) > wire.BODY_LIMIT:
            largest = max(sizes, key=lambda source: sizes[source])
            message = (
                f"{largest} has {sizes[largest]} bytes, all together {total}: {wire.BODY_LIMIT} are accepted at once"
            )
            raise InvalidInput(message, hint="split it, or apply fewer files at a time")
        body = {"manifests": [{"source": s, "text": t} for s, t in manifests.items()], "dry_run": dry_run}
        return wire.APPLY_RESULT.validate_python(await self._call("POST", "/v1/resources:apply", body))

    async def resources(self, kind: str = "") -> tuple[Resource, ...]:
        """Return the declared resources, of one kind or of all, by kind and name."""
        path = f"/v1/resources/{_q(kind)}" if kind else "/v1/resources"
        found = await self._call("GET", path)
        return tuple(wire.RESOURCE.validate_python(item) for item in found["resources"])

    async def resource(self, kind: str, name: str) -> Resource:
        """Return one declared resource, or raise NotFound."""
        return wire.RESOURCE.validate_python(await self._call("GET", f"/v1/resources/{_q(kind)}/{_q(name)}"))

    async def canaries(self) -> tuple[Rollout, ...]:
        """Return the declared canaries, by name."""
        found = await self._call("GET", "/v1/canaries")
        return tuple(wire.ROLLOUT.validate_python(item) for item in found["canaries"])

    async def objectives(self) -> tuple[Objective, ...]:
        """Return the declared objectives, by name."""
        found = await self._call("GET", "/v1/objectives")
        return tuple(wire.OBJECTIVE.validate_python(item) for item in found["objectives"])

    async def delete_resource(self, kind: str, name: str) -> None:
        """Delete one declared resource; NotFound when there is none, InvalidInput when another one needs it."""
        await self._call("DELETE", f"/v1/resources/{_q(kind)}/{_q(name)}")

    # Overlays

    async def acquire_fence(self, holder: str, ttl_s: float) -> Fence:
        """Take the writer's fence for `ttl_s` seconds, or renew it; Conflict while another holder is alive."""
        found = await self._call("POST", "/v1/fence", {"holder": holder, "ttl_s": float(ttl_s)})
        return wire.FENCE.validate_python(found)

    async def create_overlay(
        self,
        change: Change,
        *,
        reason: str,
        lease_s: float,
        incident: str = "",
        fence: int = 0,
        overlay_id: str = "",
        dry_run: bool = False,
    ) -> Overlay:
        """Lay an overlay; it is durable and on its way to the sidecars when this returns.

        `overlay_id` makes the call idempotent: the same id with the same change gives back the overlay there is. An
        agent gives its `fence`; a person's overlays have none. `dry_run`: everything is judged, nothing is laid.

        Raises:
            Refused: an interlock forbids the change. Conflict: the fence is stale, or the id has another change.
            InvalidInput: no such service, instance or version, or values out of range.
        """
        body = {
            "id": overlay_id or f"ov-{uuid.uuid4().hex[:12]}",
            "change": wire.CHANGE.dump_python(change, mode="json"),
            "reason": reason,
            "lease_s": float(lease_s),
            "incident": incident,
            "fence": fence,
            **({"dry_run": True} if dry_run else {}),
        }
        return wire.OVERLAY.validate_python(await self._call("POST", "/v1/overlays", body))

    async def renew_overlay(self, overlay_id: str, *, lease_s: float, fence: int = 0) -> Overlay:
        """Make an overlay expire `lease_s` seconds from now; NotFound when it has expired already."""
        path = f"/v1/overlays/{_q(overlay_id)}:renew"
        found = await self._call("POST", path, {"lease_s": float(lease_s), "fence": fence})
        return wire.OVERLAY.validate_python(found)

    async def delete_overlay(self, overlay_id: str, *, fence: int = 0, reason: str = "") -> None:
        """Remove an overlay: what people declared holds again; `reason` stands in the change log. NotFound when it is gone."""
        why = f"&reason={_q(reason)}" if reason else ""
        await self._call("DELETE", f"/v1/overlays/{_q(overlay_id)}?fence={fence}{why}")

    async def overlays(self) -> tuple[Overlay, ...]:
        """Return all overlays that have not expired, by id."""
        return tuple(status.overlay for status in await self.overlay_statuses())

    async def overlay_statuses(self) -> tuple[OverlayStatus, ...]:
        """Return all overlays with whether they are in force and how far they have come."""
        found = await self._call("GET", "/v1/overlays")
        return tuple(wire.overlay_from(item) for item in found["overlays"])

    async def overlay(self, overlay_id: str) -> OverlayStatus:
        """Return one overlay with its propagation; NotFound when it is gone."""
        return wire.overlay_from(await self._call("GET", f"/v1/overlays/{_q(overlay_id)}"))

    async def watch_overlays(self) -> AsyncIterator[OverlayEvent]:
        """Yield all overlays, then every change of them, until the connection ends (Unavailable)."""
        async for item in self._stream("/v1/overlays?watch=1"):
            yield wire.OVERLAY_EVENT.validate_python(item)

    # Instances

    async def instances(self) -> tuple[Instance, ...]:
        """Return every registered instance, by id."""
        found = await self._call("GET", "/v1/instances")
        return tuple(wire.INSTANCE.validate_python(item) for item in found["instances"])

    async def register(self, instance: Instance) -> Instance:
        """Register an instance or change what is known of it; its heartbeats start now."""
        plain = wire.INSTANCE.dump_python(instance, mode="json")
        body = {key: plain[key] for key in ("service", "version", "zone", "address", "port", "labels")}
        found = await self._call("PUT", f"/v1/instances/{_q(instance.id)}", body)
        return wire.INSTANCE.validate_python(found)

    async def heartbeat(self, instance_id: str, *, healthy: bool = True, detail: str = "") -> Instance:
        """Say that an instance is there, and whether its application answers; NotFound: register again."""
        body = {"healthy": healthy, "detail": detail}
        found = await self._call("POST", f"/v1/instances/{_q(instance_id)}:heartbeat", body)
        return wire.INSTANCE.validate_python(found)

    async def drain(self, instance_id: str) -> Instance:
        """Let an instance finish what it has; it gets no new requests until it registers again."""
        found = await self._call("POST", f"/v1/instances/{_q(instance_id)}:drain", {})
        return wire.INSTANCE.validate_python(found)

    async def deregister(self, instance_id: str) -> None:
        """Forget an instance."""
        await self._call("DELETE", f"/v1/instances/{_q(instance_id)}")

    # What is

    async def topology(self) -> Topology:
        """Return who exists and who may call whom."""
        return wire.TOPOLOGY.validate_python(await self._call("GET", "/v1/topology"))

    async def watch_topology(self) -> AsyncIterator[Topology]:
        """Yield the whole topology now and after every change, until the connection ends (Unavailable)."""
        async for item in self._stream("/v1/topology?watch=1"):
            yield wire.TOPOLOGY.validate_python(item)

    async def report_edges(self, edges: Iterable[Edge]) -> None:
        """Tell the control plane which edges have carried traffic."""
        await self._call("PUT", "/v1/edges", {"edges": [wire.edge_json(edge) for edge in sorted(edges)]})

    async def changes(self, since: int = 0, wait_s: float = 0.0) -> Changes:
        """Return the change events after sequence `since`; wait up to `wait_s` seconds for the first."""
        path = f"/v1/changes?since={since}&wait={wait_s}"
        return wire.CHANGES.validate_python(await self._call("GET", path, timeout_s=self._timeout_s + wait_s))

    async def proxies(self) -> tuple[ProxyView, ...]:
        """Return every sidecar the xDS server has seen, by id."""
        found = await self._call("GET", "/v1/proxies")
        return tuple(wire.PROXY.validate_python(item) for item in found["proxies"])

    async def proxy(self, proxy_id: str) -> ProxyView:
        """Return one sidecar as the xDS server sees it, or raise NotFound."""
        return wire.PROXY.validate_python(await self._call("GET", f"/v1/proxies/{_q(proxy_id)}"))

    async def services(self) -> tuple[ServiceView, ...]:
        """Return every service that is declared or has instances, by name."""
        found = await self._call("GET", "/v1/services")
        return tuple(wire.SERVICE.validate_python(item) for item in found["services"])

    async def service(self, name: str) -> ServiceView:
        """Return one service, or raise NotFound."""
        return wire.SERVICE.validate_python(await self._call("GET", f"/v1/services/{_q(name)}"))

    async def healthy(self) -> bool:
        """Return whether the control plane answers and is ready; raises nothing."""
        try:
            await self._call("GET", "/readyz")
        except FibrinError:
            return False
        return True

    # The wire

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            raise RuntimeError("ControlClient is used outside its `async with`")
        return self._session

    async def _call(
        self, method: str, path: str, body: Mapping[str, object] | None = None, *, timeout_s: float | None = None
    ) -> Any:
        """Send one request; every request of this API may safely be sent twice, so a dropped connection is tried again."""
        timeout = aiohttp.ClientTimeout(total=timeout_s or self._timeout_s)
        text = b"" if body is None else json.dumps(body, separators=(",", ":")).encode()
        headers = {} if body is None else {"content-type": "application/json"}
        for last in (False, True):
            data = io.BytesIO(text) if text else None
            try:
                async with self._open().request(
                    method, self._url + path, data=data, headers=headers, timeout=timeout
                ) as response:
                    return await self._answer(response)
            except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError) as error:
                if last or isinstance(error, aiohttp.ClientConnectorError):
                    raise self._away(error) from error
            except (aiohttp.ClientError, TimeoutError) as error:
                raise self._away(error) from error
        raise AssertionError  # both rounds above return or raise

    async def _answer(self, response: aiohttp.ClientResponse) -> Any:
        text = await response.text()
        try:
            data = json.loads(text) if text else {}
        except ValueError as error:
            raise Unavailable(
                f"{self._url} does not speak the control API (HTTP {response.status})",
                hint="does another program use this port?",
            ) from error
        if response.status >= 400:  # noqa: PLR2004 - HTTP's own boundary
            raise _error(response.status, data)
        return data

    async def _stream(self, path: str) -> AsyncIterator[Any]:
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=self._timeout_s, sock_read=_STREAM_SILENCE_S)
        try:
            async with self._open().get(self._url + path, timeout=timeout) as response:
                if response.status != 200:  # noqa: PLR2004 - HTTP's own number
                    await self._answer(response)
                buffer = b""
                async for chunk in response.content.iter_any():
                    *lines, buffer = (buffer + chunk).split(b"\n")
                    for line in filter(None, lines):
                        yield json.loads(line)
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            raise self._away(error) from error
        raise Unavailable(f"the control plane at {self._url} ended the stream", hint="ask again")

    def _away(self, error: BaseException) -> Unavailable:
        what = "does not answer in time" if isinstance(error, TimeoutError | asyncio.TimeoutError) else str(error)
        return Unavailable(
            f"the control plane at {self._url} cannot be reached: {what}",
            hint="is it running? `fibrin check` tells; traffic flows on without it",
        )


def _error(status: int, data: Any) -> FibrinError:
    """Return the error that an error answer carries."""
    try:
        failure = wire.FAILURE.validate_python(data["error"])
    except (ValidationError, KeyError, TypeError):
        return Unavailable(f"the control plane answered HTTP {status} without a reason", hint="see its log")
    kind = _ERRORS.get(failure.code, Broken if status >= 500 else InvalidInput)  # noqa: PLR2004 - HTTP's boundary
    return kind(failure.message, hint=failure.hint, problems=failure.problems)


def _q(part: str) -> str:
    return quote(part, safe="")
