"""Many simulated sidecars in one process: `python -m simulations.bench.clients SOCKET TOKEN_FILE FIRST COUNT`.

Each has a connection and a delta ADS stream of its own, as an Envoy has, asks for what an Envoy asks for, and
acknowledges everything. Nothing is parsed but the type, the nonce and whether the routes hold an open breaker: that is
how a client tells the change from a late push of the one before.

Prints `ready` when all have their first routes. Then, for each line on stdin (`true`: the breaker is open, `false`: it is
not), it prints the list of monotonic times at which each client's routes became so. A time is taken when the kernel
says that bytes are there, before any of them is read.
"""

from __future__ import annotations

import argparse
import json
import select
import socket
import sys
import time
from pathlib import Path
from typing import Any

from envoy.service.discovery.v3 import discovery_pb2

from models.errors import Broken
from models.telemetry import BREAKER_SUFFIX
from simulations.bench import frames
from simulations.bench.rig import CALLEE

METHOD = "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources"
_PREFIX = "type.googleapis.com/envoy.config."
ROUTES = _PREFIX + "route.v3.RouteConfiguration"
SUBSCRIPTIONS = (
    (_PREFIX + "cluster.v3.Cluster", "*"),
    (_PREFIX + "endpoint.v3.ClusterLoadAssignment", CALLEE),
    (_PREFIX + "listener.v3.Listener", "*"),
    (_PREFIX + "route.v3.ScopedRouteConfiguration", "*"),
    (ROUTES, CALLEE),
)
_MARK = BREAKER_SUFFIX.encode()
_MESSAGES: Any = discovery_pb2  # generated at import: invisible to the type checker
_START_S = 60.0
_ARRIVAL_S = 20.0
_TYPE, _NONCE = 4, 5  # fields of a DeltaDiscoveryResponse


class Client:
    """One simulated sidecar. `open` is whether its routes hold an open breaker (None: no routes yet)."""

    def __init__(self, number: int, path: str, token: str) -> None:
        self.open: bool | None = None
        self.at = 0.0
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.connect(path)
        ident = f"sim-{number:04d}"
        self._reader = frames.Reader()
        self.socket.sendall(
            frames.opening(METHOD, {"x-fibrin-node": ident, "authorization": f"Bearer {token}"})
            + b"".join(frames.message(request) for request in _requests(ident, number))
        )

    def take(self, now: float) -> None:
        """Read what is there, note a change, acknowledge.

        Raises:
            Broken: the server ended the stream.
        """
        data = self.socket.recv(1 << 20)
        if not data:
            raise Broken("the server closed a connection", hint="see the control plane's log")
        answers = []
        for body in self._reader.feed(data):
            found = dict(frames.fields(body))
            kind = found[_TYPE]
            if kind == _ROUTES:
                is_open = _MARK in body
                if is_open != self.open:
                    self.open, self.at = is_open, now
            answers.append(frames.message(b"".join((_field(2, kind), _field(6, found[_NONCE])))))
        reply = b"".join((self._reader.answers, *answers))
        self._reader.answers = b""
        if reply:
            self.socket.sendall(reply)


_ROUTES = ROUTES.encode()


def _field(number: int, data: bytes) -> bytes:
    """A length-delimited field of less than 128 bytes."""
    return bytes((number << 3 | 2, len(data))) + data


def _requests(ident: str, number: int) -> list[bytes]:
    """Return the subscriptions of a sidecar that knows its listeners."""
    wanted = []
    for k, (kind, name) in enumerate(SUBSCRIPTIONS):
        request = _MESSAGES.DeltaDiscoveryRequest(type_url=kind, resource_names_subscribe=[name])
        if k == 0:
            _describe(request.node, ident, f"127.200.{number // 200}.{number % 200 + 1}")
        wanted.append(request.SerializeToString())
    return wanted


def _describe(node: Any, ident: str, address: str) -> None:
    node.id, node.cluster, node.locality.zone = ident, "caller", "local"
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


class Clients:
    """All of a process, on one epoll."""

    def __init__(self, path: str, token: str, numbers: range) -> None:
        self._poll = select.epoll()
        self._clients: dict[int, Client] = {}
        for number in numbers:
            client = Client(number, path, token)
            self._clients[client.socket.fileno()] = client
            self._poll.register(client.socket, select.EPOLLIN)
            self._serve(0.0)

    def _serve(self, timeout_s: float) -> None:
        found = self._poll.poll(timeout_s, len(self._clients))
        now = time.monotonic()
        for descriptor, _ in found:
            self._clients[descriptor].take(now)

    def until(self, wanted: bool | None, within_s: float) -> list[float]:
        """Serve until every client's breaker is `wanted` (None: it has routes at all); return when each became so.

        Raises:
            Broken: some did not, in time.
        """
        deadline = time.monotonic() + within_s
        while left := sum(c.open is None if wanted is None else c.open != wanted for c in self._clients.values()):
            if time.monotonic() > deadline:
                raise Broken(f"{left} clients did not get the change in {within_s:g} s", hint="see the control's log")
            self._serve(0.5)
        return [client.at for client in self._clients.values()]

    def idle(self, descriptor: int) -> None:
        """Serve until there is something to read on `descriptor` (a late push is acknowledged meanwhile)."""
        while not select.select([descriptor, self._poll.fileno()], [], [])[0].count(descriptor):
            self._serve(0.0)


def main() -> None:
    """Run until stdin closes."""
    parser = argparse.ArgumentParser(prog="simulations.bench.clients")
    parser.add_argument("socket")
    parser.add_argument("token", type=Path)
    parser.add_argument("first", type=int)
    parser.add_argument("count", type=int)
    chosen = parser.parse_args()
    numbers = range(chosen.first, chosen.first + chosen.count)
    try:
        clients = Clients(chosen.socket, chosen.token.read_text(encoding="utf-8").strip(), numbers)
        clients.until(None, _START_S)
        print("ready", flush=True)
        while True:
            clients.idle(sys.stdin.fileno())
            line = sys.stdin.readline()
            if not line:
                return
            print(json.dumps(clients.until(json.loads(line), _ARRIVAL_S)), flush=True)
    except Broken as error:
        sys.exit(f"clients {chosen.first}…: {error} ({error.hint})")


if __name__ == "__main__":
    main()
