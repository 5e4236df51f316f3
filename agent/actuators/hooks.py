"""The way outside the mesh: hooks that the operator declared by name, and nothing else. No shell.

A hook's overlay is its record: laid first (fenced, durable, exclusive), then the hook is called with the overlay's id as
idempotency key, so that a call repeated after a crash is the same call. Taking it back calls the hook that undoes it
before the overlay goes. An overlay whose lease ends because every agent died is not taken back by anybody: a hook must be
harmless to leave standing.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import ssl
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal

import aiohttp
import structlog

from agent.actuators.base import Actuator, Order, Propagation
from models.errors import InvalidInput, Refused, Unavailable
from models.manifest import suggest
from models.overlay import Overlay, RunHook

log = structlog.get_logger(__name__)

_EXISTS: Final = 409
_BAD_REQUEST: Final = 400
_SERVER_ERROR: Final = 500


@dataclass(frozen=True, slots=True)
class Hook:
    """One declared hook.

    `webhook`: a POST of what is asked, as JSON, to `url`. `job`: the Kubernetes Job of `manifest` (a JSON file) is created
    at the API server `url` in `namespace`; what is asked stands in its environment as `FIBRIN_<NAME>`. `token_file` holds
    a bearer token, `ca_file` the authority to trust. Times are seconds.
    """

    name: str
    url: str
    kind: Literal["webhook", "job"] = "webhook"
    token_file: Path | None = None
    ca_file: Path | None = None
    manifest: Path | None = None
    namespace: str = "default"
    timeout_s: float = 10.0


class HookActuator:
    """Wraps an actuator and runs hooks beside it. `start` and `stop` bracket its use."""

    def __init__(self, inner: Actuator, hooks: Iterable[Hook]) -> None:
        self._inner = inner
        self._hooks = {hook.name: hook for hook in hooks}
        self._session: aiohttp.ClientSession | None = None

    async def start(self) -> None:
        """Open the connection pool (only if there are hooks)."""
        if self._hooks:
            self._session = aiohttp.ClientSession()

    async def stop(self) -> None:
        """Close it."""
        if self._session is not None:
            await self._session.close()

    async def lay(self, order: Order) -> Overlay:
        """Lay an overlay; for a hook, then call it. A call that fails leaves no overlay."""
        change = order.change
        if not isinstance(change, RunHook):
            return await self._inner.lay(order)
        hook = self._declared(change.hook)
        if change.undo:
            self._declared(change.undo)
        laid = await self._inner.lay(order)
        try:
            await self._call(hook, order.id, change.parameters, order)
        except (Unavailable, Refused):
            await self._inner.remove(order.id, order.fence)
            raise
        return laid

    async def renew(self, overlay: str, lease_s: float, fence: int) -> bool:
        """Prolong an overlay; False when it no longer exists."""
        return await self._inner.renew(overlay, lease_s, fence)

    async def remove(self, overlay: str, fence: int) -> bool:
        """Undo an overlay; for a hook, call first what takes it back. False when it was gone already."""
        found = next((each for each in await self._inner.overlays() if each.id == overlay), None)
        if found is not None and isinstance(found.change, RunHook) and found.change.undo:
            change = found.change
            order = Order(f"{overlay}-undo", change, found.reason, found.lease_s, found.incident, fence)
            await self._call(self._declared(change.undo), order.id, change.undo_parameters, order)
        return await self._inner.remove(overlay, fence)

    async def overlays(self) -> tuple[Overlay, ...]:
        """Return every overlay that exists, people's included."""
        return await self._inner.overlays()

    async def propagation(self, overlay: str) -> Propagation:
        """Return how far an overlay has come (everything acked when it is gone)."""
        return await self._inner.propagation(overlay)

    def _declared(self, name: str) -> Hook:
        hook = self._hooks.get(name)
        if hook is None:
            raise Refused(
                f"there is no hook `{name}`: only hooks that the settings declare are run",
                hint=suggest(name, sorted(self._hooks)) or "declare it under agent.hooks",
            )
        return hook

    async def _call(self, hook: Hook, key: str, parameters: Mapping[str, str], order: Order) -> None:
        assert self._session is not None, "start() comes first"
        url, body = await asyncio.to_thread(_request, hook, key, parameters, order)
        headers = {"idempotency-key": key, **await asyncio.to_thread(_authorization, hook)}
        trusted = await asyncio.to_thread(_trusted, hook)
        timeout = aiohttp.ClientTimeout(total=hook.timeout_s)
        try:
            async with self._session.post(url, json=body, headers=headers, ssl=trusted, timeout=timeout) as response:
                status, text = response.status, (await response.text())[:200]
        except (aiohttp.ClientError, TimeoutError) as error:
            raise Unavailable(
                f"the hook {hook.name} does not answer: {str(error) or 'timeout'}", hint=f"is {url} up?"
            ) from error
        if hook.kind == "job" and status == _EXISTS:
            return  # this very job was created before
        if status >= _SERVER_ERROR:
            raise Unavailable(f"the hook {hook.name} answered {status}: {text}", hint=f"see the log of {url}")
        if status >= _BAD_REQUEST:
            raise Refused(
                f"the hook {hook.name} refused with {status}: {text}", hint="see its declaration in the settings"
            )
        log.info("hook.called", hook=hook.name, key=key, status=status)


def _request(hook: Hook, key: str, parameters: Mapping[str, str], order: Order) -> tuple[str, Mapping[str, Any]]:
    """Return where to post and what."""
    if hook.kind == "webhook":
        body = {
            "hook": hook.name,
            "key": key,
            "parameters": dict(parameters),
            "incident": order.incident,
            "reason": order.reason,
        }
        return hook.url, body
    url = f"{hook.url.rstrip('/')}/apis/batch/v1/namespaces/{hook.namespace}/jobs"
    return url, _job(hook, key, parameters)


def _job(hook: Hook, key: str, parameters: Mapping[str, str]) -> Mapping[str, Any]:
    """Return the declared Job under a name that follows from the key, with what is asked in every environment."""
    try:
        assert hook.manifest is not None
        job: dict[str, Any] = json.loads(hook.manifest.read_text(encoding="utf-8"))
        containers = job["spec"]["template"]["spec"]["containers"]
    except (AssertionError, OSError, ValueError, KeyError, TypeError) as error:
        raise Refused(
            f"the hook {hook.name} has no Kubernetes Job in {hook.manifest}: {error!r}",
            hint="agent.hooks[].manifest names a JSON file with kind Job",
        ) from error
    told = [{"name": f"FIBRIN_{name.upper().replace('-', '_')}", "value": value} for name, value in parameters.items()]
    for container in containers:
        container["env"] = [*container.get("env", []), *told]
    job["metadata"] = {
        **job.get("metadata", {}),
        "name": f"fibrin-{hook.name}-{hashlib.sha256(key.encode()).hexdigest()[:12]}",
    }
    return job


def _authorization(hook: Hook) -> Mapping[str, str]:
    if hook.token_file is None:
        return {}
    try:
        return {"authorization": f"Bearer {hook.token_file.read_text(encoding='utf-8').strip()}"}
    except OSError as error:
        raise Refused(
            f"cannot read {hook.token_file} of the hook {hook.name}: {error}", hint="check agent.hooks"
        ) from error


def _trusted(hook: Hook) -> ssl.SSLContext | bool:
    if hook.ca_file is None:
        return True
    try:
        return ssl.create_default_context(cafile=str(hook.ca_file))
    except (OSError, ssl.SSLError) as error:
        raise Refused(
            f"cannot use {hook.ca_file} of the hook {hook.name}: {error}", hint="check agent.hooks"
        ) from error


def declared(hooks: Iterable[Hook]) -> tuple[Hook, ...]:
    """Return hooks that can work.

    Raises:
        InvalidInput: two of one name, no address, or a job without manifest.
    """
    found: dict[str, Hook] = {}
    for hook in hooks:
        if hook.name in found:
            raise InvalidInput(f"two hooks are named `{hook.name}`", hint="rename one under agent.hooks")
        if not hook.url.startswith(("http://", "https://")):
            raise InvalidInput(f"the hook `{hook.name}` has no http address: `{hook.url}`", hint="give it a `url`")
        if hook.kind == "job" and hook.manifest is None:
            raise InvalidInput(f"the hook `{hook.name}` is a job without `manifest`", hint="name a JSON file")
        found[hook.name] = replace(hook)
    return tuple(found.values())
