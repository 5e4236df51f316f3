"""Who a sidecar is and where it lives: the one value that the rest of `proxy/` is a function of.

Everything a person may get wrong (an address that is none, the same port twice, a socket path longer than the kernel
takes) is found here, before a file is written or a port is bound.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from models.errors import InvalidInput, Problem

_NAME: Final = re.compile(r"[a-z0-9]([a-z0-9.-]{0,61}[a-z0-9])?")
_SOCKET_PATH_BYTES: Final = 107  # sun_path is 108 bytes with its terminating zero
_PORTS: Final = 65535


@dataclass(frozen=True, slots=True)
class SidecarSpec:
    """One sidecar.

    `id` is the instance's id and the xDS node id, `address` the address both listeners bind, `app_address:app_port`
    where the application serves plain HTTP. `listen` gives a service a local port of its own (explicit listener).
    `state_dir` is this sidecar's own directory (`S/proxies/<id>`); it holds a secret and is kept at mode 0700.
    `token` is the proxy token that authenticates towards control plane and agent. `probe_path` is what the
    application answers 2xx or 3xx on while it is well; an empty one means that accepting a connection is enough.
    """

    id: str
    service: str
    version: str
    zone: str
    address: str
    xds_socket: Path
    otlp_socket: Path
    state_dir: Path
    token: str = field(repr=False)
    inbound_port: int = 15006
    outbound_port: int = 15001
    app_address: str = ""  # "" is the sidecar's own address
    app_port: int = 8080
    listen: Mapping[str, int] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    concurrency: int = 1
    probe_path: str = "/healthz"
    max_connections: int = 20_000
    log_level: str = "warning"
    metrics_port: int = 0  # 0: the supervisor's counters are not served

    @property
    def application(self) -> tuple[str, int]:
        """Address and port of the application."""
        return (self.app_address or self.address, self.app_port)

    @property
    def admin_socket(self) -> Path:
        """Where Envoy's admin interface listens."""
        return self.state_dir / "admin.sock"

    @property
    def bootstrap_file(self) -> Path:
        """Where the bootstrap is written (mode 0600: it holds the token)."""
        return self.state_dir / "bootstrap.json"

    @property
    def log_file(self) -> Path:
        """Where Envoy's own log goes."""
        return self.state_dir / "envoy.log"

    @property
    def listeners(self) -> Mapping[str, tuple[str, int]]:
        """Names of the listeners the control plane must send, and where they bind."""
        ports = {"inbound": self.inbound_port, "outbound": self.outbound_port}
        ports |= {f"explicit|{name}": port for name, port in sorted(self.listen.items())}
        return {name: (self.address, port) for name, port in ports.items()}


def check(spec: SidecarSpec) -> None:
    """Refuse a spec that cannot work.

    Raises:
        InvalidInput: with one problem per fault, the field named as on the command line.
    """
    problems = (*_names(spec), *_addresses(spec), *_ports(spec), *_paths(spec), *_limits(spec))
    if problems:
        listed = "; ".join(str(problem) for problem in problems)
        raise InvalidInput(
            f"sidecar {spec.id!r} cannot be started: {listed}",
            hint="correct the flags of `fibrin proxy run` named above",
            problems=problems,
        )


def _names(spec: SidecarSpec) -> Iterator[Problem]:
    wanted = "small letters, digits, '-' and '.', at most 63 characters"
    for name, value in (("id", spec.id), ("service", spec.service), ("version", spec.version), ("zone", spec.zone)):
        if not _NAME.fullmatch(value):
            yield Problem(f"{value!r} is not a name", field=name, hint=wanted)
    for service in spec.listen:
        if not _NAME.fullmatch(service):
            yield Problem(f"{service!r} is not the name of a service", field="listen", hint=wanted)
    if not spec.token or not spec.token.isascii() or not spec.token.isprintable():
        yield Problem("the proxy token is empty or not printable ASCII", field="token", hint="see proxy.token")


def _addresses(spec: SidecarSpec) -> Iterator[Problem]:
    for name, value in (("address", spec.address), ("app-address", spec.app_address or "127.0.0.1")):
        try:
            ipaddress.ip_address(value)
        except ValueError:
            yield Problem(f"{value!r} is not an IP address", field=name, hint="such as 127.0.0.1")


def _ports(spec: SidecarSpec) -> Iterator[Problem]:
    taken: dict[tuple[str, int], str] = {}
    named = [("inbound-port", spec.address, spec.inbound_port), ("outbound-port", spec.address, spec.outbound_port)]
    named += [(f"listen {name}", spec.address, port) for name, port in sorted(spec.listen.items())]
    named.append(("app-port", *spec.application))
    named += [("metrics-port", spec.address, spec.metrics_port)] if spec.metrics_port else []
    for name, address, port in named:
        if not 1 <= port <= _PORTS:
            yield Problem(f"{port} is not a port", field=name, hint=f"1 to {_PORTS}")
        elif other := taken.get((address, port)):
            yield Problem(f"{address}:{port} is already the port of {other}", field=name, hint="give each its own")
        taken.setdefault((address, port), name)


def _paths(spec: SidecarSpec) -> Iterator[Problem]:
    for name, path in (("state-dir", spec.admin_socket), ("xds-socket", spec.xds_socket), ("otlp", spec.otlp_socket)):
        if (length := len(bytes(path))) > _SOCKET_PATH_BYTES:
            yield Problem(
                f"the Unix socket {path} would have a path of {length} bytes",
                field=name,
                hint=f"the kernel takes {_SOCKET_PATH_BYTES}; choose a shorter state directory",
            )
    if spec.probe_path and not spec.probe_path.startswith("/"):
        yield Problem(f"{spec.probe_path!r} is not a path", field="probe-path", hint="such as /healthz")


def _limits(spec: SidecarSpec) -> Iterator[Problem]:
    if spec.concurrency < 1:
        yield Problem(f"{spec.concurrency} worker threads cannot serve", field="concurrency", hint="1 or more")
    if spec.max_connections < 1:
        yield Problem(f"{spec.max_connections} connections cannot serve", field="max-connections", hint="1 or more")
