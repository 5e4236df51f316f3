"""Is a port free, and who has it if not: asked before Envoy starts, because Envoy would share it in silence.

Envoy binds with SO_REUSEPORT, so that two sidecars of one user on one port would both run and each get half
of the connections. A bind without that option tells the truth.
"""

from __future__ import annotations

import errno
import ipaddress
import socket
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from models.errors import Broken

_LISTEN: Final = "0A"  # TCP_LISTEN in /proc/net/tcp


def require_free(wanted: Mapping[str, tuple[str, int]]) -> None:
    """Check that every `name: (address, port)` can be bound. Blocking, a few system calls.

    Raises:
        Broken: naming the first address and port that cannot, who holds it, and what to do.
    """
    for name, (address, port) in wanted.items():
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a port in TIME_WAIT is free
            try:
                probe.bind((address, port))
                probe.listen(1)
            except OSError as error:
                raise _refusal(name, address, port, error) from error


def _refusal(name: str, address: str, port: int, error: OSError) -> Broken:
    where = f"{address}:{port}"
    match error.errno:
        case errno.EADDRINUSE:
            holder = next((_named(pid) for pid in holders(port)), "")
            held = f" by {holder}" if holder else ""
            return Broken(
                f"{where}, wanted for the {name} listener, is in use{held}",
                hint=f"stop what listens there (`ss -ltnp 'sport = :{port}'` shows it), choose another port, or give this "
                "sidecar an address of its own (--address 127.0.0.2)",
            )
        case errno.EACCES:
            return Broken(
                f"{where}, wanted for the {name} listener, may not be bound by this user",
                hint="choose a port above 1023 or grant CAP_NET_BIND_SERVICE",
            )
        case errno.EADDRNOTAVAIL:
            return Broken(
                f"{where}, wanted for the {name} listener: {address} is not an address of this machine",
                hint="choose a local address (`ip address` lists them)",
            )
        case _:
            return Broken(
                f"{where}, wanted for the {name} listener, cannot be bound: {error.strerror}",
                hint="choose another address or port",
            )


def holders(port: int, address: str = "") -> tuple[int, ...]:
    """Return the processes that listen on `port` (of `address`, or of all; "" is any), as far as the kernel tells us.

    Blocking: it walks through /proc. A process of another user, or in another container, is not seen.
    """
    sockets = {f"socket:[{inode}]" for inode in _listening(port, address)}
    found = []
    for process in Path("/proc").glob("[0-9]*") if sockets else ():
        try:
            if any(str(handle.readlink()) in sockets for handle in (process / "fd").iterdir()):
                found.append(int(process.name))
        except OSError:
            continue  # ended meanwhile, or another user's
    return tuple(found)


def _listening(port: int, address: str) -> Iterator[str]:
    """Yield the inodes of the sockets that listen there; addresses stand in the kernel's tables as words of this machine."""
    wanted = _words(address) if address else ""
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        try:
            lines = Path(table).read_text(encoding="ascii").splitlines()[1:]
        except OSError:
            continue
        for fields in map(str.split, lines):
            local, _, number = fields[1].rpartition(":")
            if fields[3] == _LISTEN and int(number, 16) == port and (not wanted or local in {wanted, "0" * len(local)}):
                yield fields[9]


def _words(address: str) -> str:
    packed = ipaddress.ip_address(address).packed
    return "".join(f"{word:08X}" for (word,) in struct.iter_unpack("=I", packed))


def _named(pid: int) -> str:
    """Return `pid N (command)`, or "" when it is gone."""
    try:
        command = Path(f"/proc/{pid}/comm").read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""
    return f"pid {pid} ({command})"
