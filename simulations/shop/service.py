"""One instance of one shop service: waits and computes as its spec says, calls whom its spec names.

The instance knows nothing of the mesh beyond what any program knows of an HTTP proxy: it asks for
`http://catalog/products` through `http://ADDRESS:15001`. It is a strict caller: a call that fails fails the request (502),
unless the spec calls it optional.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import math
import random
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import aiohttp
from aiohttp import web

from simulations.shop import goods, names, trouble
from simulations.shop.fault import FaultControl
from simulations.shop.spec import Call, Operation, Service, Work
from simulations.shop.strain import Strain

CALL_TIMEOUT_S = 2.0
"""How long a caller waits for a callee: an application's own belt, above the mesh's time-outs."""

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(frozen=True, slots=True)
class Config:
    """How one instance runs.

    `proxy` is the URL of the sidecar's outbound listener; "" calls `direct[callee]` (base URLs) without a mesh.
    `name_server` (address, port) is asked for the host in it, None asks the system.
    `fault_control` is the private socket for injected faults, None for none. `seed` makes the service times repeat.
    """

    service: str
    version: str
    instance: str
    address: str
    port: int
    proxy: str = ""
    name_server: tuple[str, int] | None = None
    direct: Mapping[str, str] | None = None
    fault_control: Path | None = None
    seed: int = 0


@dataclass(frozen=True, slots=True)
class _Answer:
    ok: bool
    blame: frozenset[str]
    detail: str = ""


class ShopService:
    """The running application of one instance."""

    def __init__(self, config: Config, spec: Service) -> None:
        self._config = config
        self._spec = spec
        self._random = random.Random(f"{config.seed}:{config.instance}")
        self._strain = Strain()
        self.faults = FaultControl(self._strain.apply)
        self._session: aiohttp.ClientSession | None = None
        self._timeout = aiohttp.ClientTimeout(total=CALL_TIMEOUT_S)

    def application(self) -> web.Application:
        """Build the web application: `/healthz` and the operations of the spec."""
        app = web.Application()
        app.router.add_get("/healthz", self._healthz)
        for operation in self._spec.operations:
            app.router.add_route(operation.method, operation.path, self._handler(operation))
        app.cleanup_ctx.append(self._client)
        return app

    async def _client(self, _: web.Application) -> AsyncIterator[None]:
        server = self._config.name_server
        resolver = names.Resolver(server) if server is not None else None
        connector = aiohttp.TCPConnector(
            limit=0, keepalive_timeout=30, resolver=resolver, ttl_dns_cache=names.TTL_S, family=socket.AF_INET
        )
        async with aiohttp.ClientSession(connector=connector, timeout=self._timeout) as session:
            self._session = session
            yield

    async def _healthz(self, _: web.Request) -> web.Response:
        return web.json_response({"service": self._config.service, "instance": self._config.instance, "ok": True})

    def _handler(self, operation: Operation) -> Handler:
        async def handle(request: web.Request) -> web.StreamResponse:
            return await self._serve(operation, request)

        return handle

    async def _serve(self, operation: Operation, request: web.Request) -> web.StreamResponse:
        fault = self.faults.fault
        blame: set[str] = {self._config.instance} if fault.spoils else set()
        async with self._strain.served():
            await self._work(self._spec.work, fault.slow_factor)
        if fault.error_ratio and self._random.random() < fault.error_ratio:
            return self._answer(500, {"error": f"{self._config.service} failed"}, {*blame, self._config.instance})
        failed = ""
        for stage in operation.stages:
            answers = await asyncio.gather(*(self._call(call, request) for call in stage))
            for call, answer in zip(stage, answers, strict=True):
                blame |= answer.blame
                if not answer.ok and not call.optional:
                    failed = failed or answer.detail
            if failed:
                return self._answer(502, {"error": failed}, blame)
        body = goods.body(self._config.service, request.match_info.get("id", ""))
        if fault.corrupt_ratio and self._random.random() < fault.corrupt_ratio:
            return await self._broken_off(request, body)
        return self._answer(200, body, blame)

    async def _broken_off(self, request: web.Request, body: goods.Json) -> web.StreamResponse:
        """Begin a good answer and end the connection in the middle of its body."""
        whole = json.dumps(body).encode()
        name = self._config.instance
        headers = {trouble.INSTANCE: name, trouble.TROUBLE: name, "content-type": "application/json"}
        response = web.StreamResponse(headers=headers)
        response.content_length = len(whole)
        await response.prepare(request)
        await response.write(whole[: len(whole) // 2])
        if request.transport is not None:
            request.transport.abort()
        return response

    async def _work(self, work: Work, slow_factor: float) -> None:
        wait = self._random.lognormvariate(math.log(work.median_s), work.sigma)
        digest = b"fibrin"
        for _ in range(work.rounds):
            digest = hashlib.sha256(digest).digest()
        await asyncio.sleep(wait * slow_factor)

    async def _call(self, call: Call, request: web.Request) -> _Answer:
        path = call.path.replace("{id}", request.match_info.get("id", "0"))
        direct = self._config.direct
        base = f"http://{call.callee}" if direct is None else direct[call.callee]
        session = self._session
        assert session is not None, "the application is running"
        try:
            async with session.request(
                call.method, base + path, proxy=self._config.proxy or None, headers=_passed_on(request)
            ) as response:
                await response.read()
                blame = trouble.of_answer(call.callee, response.status, response.headers)
                ok = response.status < trouble.SERVER_ERROR
                return _Answer(ok, blame, "" if ok else f"{call.callee} answered {response.status}")
        except (aiohttp.ClientError, TimeoutError) as error:
            return _Answer(
                ok=False,
                blame=frozenset({call.callee}),
                detail=f"{call.callee} is not reachable: {type(error).__name__}",
            )

    def _answer(self, status: int, body: goods.Json, blame: set[str]) -> web.Response:
        headers = {trouble.INSTANCE: self._config.instance}
        if blame:
            headers[trouble.TROUBLE] = trouble.header(blame)
        return web.json_response(body, status=status, headers=headers)


def _passed_on(request: web.Request) -> dict[str, str]:
    """Return the headers every hop passes on: the request id and the user, as a well-behaved service does."""
    return {name: request.headers[name] for name in ("x-request-id", "x-user") if name in request.headers}
