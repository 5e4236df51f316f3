"""The least an xDS server on this gRPC library can do: `python -m simulations.bench.reference SOCKET`.

No API, no store, no snapshots, no subscriptions: it reads what comes, and for each line on stdin (`true` or `false`, an open
breaker or none) writes one response, serialised long before, to every stream. What this takes to reach the last client
no control plane on the same library undercuts.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from typing import Any

import grpc.aio

from control.xds.protos import DeltaDiscoveryResponse, packed
from control.xds.routes import route_configuration
from models.policy import Breaker, ServicePolicy
from simulations.bench.clients import METHOD, ROUTES
from simulations.bench.rig import CALLEE

_EOF: Any = grpc.aio.EOF  # type: ignore[attr-defined]  # missing in the stubs


class Reference:
    """All its streams, and the two responses."""

    def __init__(self) -> None:
        self._streams: set[Any] = set()
        self._responses = {is_open: _response(is_open=is_open) for is_open in (False, True)}

    async def serve(self, _: object, context: Any) -> None:
        """Send the first routes; then read until the client goes."""
        await context.write(self._responses[False])
        self._streams.add(context)
        try:
            while await context.read() is not _EOF:
                pass
        finally:
            self._streams.discard(context)

    async def push(self, *, is_open: bool) -> None:
        """Write to every stream, each in a task of its own: none waits for another."""
        response = self._responses[is_open]
        async with asyncio.TaskGroup() as group:
            for context in self._streams:
                group.create_task(context.write(response))


def _response(*, is_open: bool) -> bytes:
    policy = ServicePolicy(CALLEE, breakers=(Breaker("", 100, "fail-fast"),) if is_open else ())
    response = DeltaDiscoveryResponse(type_url=ROUTES, nonce="1")
    response.resources.add(name=CALLEE, version=str(is_open), resource=packed(route_configuration(policy)))
    data: bytes = response.SerializeToString()
    return data


async def run(path: str) -> None:
    """Serve until stdin closes."""
    reference = Reference()
    service, _, method = METHOD.strip("/").partition("/")
    handler = grpc.stream_stream_rpc_method_handler(reference.serve)
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {method: handler}),))
    server.add_insecure_port(f"unix:{path}")
    await server.start()
    print("ready", flush=True)
    lines = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    while line := await lines.readline():
        await reference.push(is_open=json.loads(line))
    await server.stop(0)


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(prog="simulations.bench.reference")
    parser.add_argument("socket")
    asyncio.run(run(parser.parse_args().socket))


if __name__ == "__main__":
    main()
