"""Many simulated sidecars on one process: `python -m simulations.bench.clients STATE COUNT`.

Each is a delta ADS stream with a node of its own that acknowledges everything. Lines on stdout: `ready` when all have
their first configuration and it has been quiet for a while; then, for every line `watch` on stdin, the monotonic time at
which the last client had received a push.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from pathlib import Path
from typing import Any

import grpc.aio
from envoy.service.discovery.v3 import discovery_pb2

_messages: Any = discovery_pb2  # generated at import: invisible to the type checker

METHOD = "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources"
ROUTES = "type.googleapis.com/envoy.config.route.v3.RouteConfiguration"
_PREFIX = "type.googleapis.com/envoy."
TYPES = (
    _PREFIX + "config.cluster.v3.Cluster",
    _PREFIX + "config.listener.v3.Listener",
    ROUTES,
)
_QUIET_S = 1.0
_PER_CHANNEL = 50


_END: Any = grpc.aio.EOF  # type: ignore[attr-defined]  # missing in the stubs


class Clients:
    """All the streams; `routes_at` is when each client last received routes (monotonic seconds)."""

    def __init__(self, count: int) -> None:
        self.routes_at = [0.0] * count

    async def one(self, k: int, channel: grpc.aio.Channel, token: str) -> None:
        """Keep one client's stream until cancelled."""
        ident = f"sim-{k:04d}"
        metadata = (("x-fibrin-node", ident), ("authorization", f"Bearer {token}"))
        open_stream: Any = channel.stream_stream(
            METHOD,
            request_serializer=lambda m: m.SerializeToString(),
            response_deserializer=_messages.DeltaDiscoveryResponse.FromString,
        )
        call = open_stream(metadata=metadata)
        for number, kind in enumerate(TYPES):
            request = _messages.DeltaDiscoveryRequest(type_url=kind)
            if number == 0:
                _describe(request.node, ident, k)
            # routes are asked for by name, as an Envoy does that knows its listeners
            names = ["*"] if kind != ROUTES else ["svc"]
            request.resource_names_subscribe.extend(names)
            await call.write(request)
        while (response := await call.read()) is not _END:
            if response.type_url == ROUTES:
                self.routes_at[k] = time.monotonic()
            await call.write(_messages.DeltaDiscoveryRequest(type_url=response.type_url, response_nonce=response.nonce))
        raise RuntimeError(f"{ident}: the control plane ended the stream: {await call.details()}")

    async def all_since(self, began: float) -> float:
        """Wait until every client has received routes after `began`; return when the last did."""
        while min(self.routes_at) <= began:  # noqa: ASYNC110 - many streams write it
            await asyncio.sleep(0.002)
        return max(self.routes_at)


def _describe(node: Any, ident: str, k: int) -> None:
    node.id, node.cluster, node.locality.zone = ident, "caller", "local"
    address = f"127.200.{k // 200}.{k % 200 + 1}"
    node.metadata.update(
        {
            "service": "caller",
            "version": "v1",
            "zone": "local",
            "address": address,
            "inbound_port": 15006,
            "outbound_port": 15001,
            "app_address": address,
            "app_port": 8080,
            "listen": {},
            "mesh": {},
        }
    )


async def run(state: Path, count: int) -> None:
    """Connect all clients and answer the parent's questions until its pipe closes."""
    token = (state / "proxy.token").read_text(encoding="utf-8").strip()
    clients = Clients(count)
    local = (("grpc.use_local_subchannel_pool", 1),)
    channels = [
        grpc.aio.insecure_channel(f"unix:{state}/xds.sock", options=local) for _ in range(0, count, _PER_CHANNEL)
    ]
    lines = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    async with asyncio.TaskGroup() as group:
        streams = [
            group.create_task(clients.one(k, channels[k // _PER_CHANNEL], token), name=f"client {k}")
            for k in range(count)
        ]
        await clients.all_since(0.0)
        while time.monotonic() - max(clients.routes_at) < _QUIET_S:  # noqa: ASYNC110 - quiet is the absence of an event
            await asyncio.sleep(0.05)
        print("ready", flush=True)
        while line := await lines.readline():
            print(await clients.all_since(float(line)), flush=True)
        for stream in streams:
            stream.cancel()
    for channel in channels:
        await channel.close(0)


def main() -> None:
    """Run until stdin closes."""
    parser = argparse.ArgumentParser(prog="simulations.bench.clients")
    parser.add_argument("state", type=Path)
    parser.add_argument("count", type=int)
    chosen = parser.parse_args()
    asyncio.run(run(chosen.state, chosen.count))


if __name__ == "__main__":
    main()
