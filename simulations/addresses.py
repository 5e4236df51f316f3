"""A loopback subnet of our own: 127.x.y.0/24, where nobody else listens on the mesh's ports."""

from __future__ import annotations

import random
import socket
from collections.abc import Iterable, Mapping

from models.errors import Broken
from simulations.shop.spec import APP_PORT, INBOUND_PORT, OUTBOUND_PORT

_FIRST_HOST = 10
_TRIES = 50


def free_subnet(names: Iterable[str], rng: random.Random) -> Mapping[str, str]:
    """Give every name an address in one random subnet whose mesh ports are free.

    Raises:
        Broken: no subnet was free in many tries (or this machine has no loopback network 127.0.0.0/8).
    """
    wanted = tuple(names)
    for _ in range(_TRIES):
        net = f"127.{rng.randint(1, 254)}.{rng.randint(0, 254)}"
        addresses = {name: f"{net}.{_FIRST_HOST + k}" for k, name in enumerate(wanted)}
        ports = (APP_PORT, INBOUND_PORT, OUTBOUND_PORT)
        if all(_free(address, port) for address in addresses.values() for port in ports):
            return addresses
    raise Broken(
        f"found no loopback subnet with ports {APP_PORT}, {OUTBOUND_PORT} and {INBOUND_PORT} free in {_TRIES} tries",
        hint="stop other meshes on this machine (`ss -ltn` lists what listens)",
    )


def free_port(address: str = "127.0.0.1") -> int:
    """Return a TCP port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind((address, 0))
        return int(probe.getsockname()[1])


def _free(address: str, port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, port))
        except OSError:
            return False
    return True
