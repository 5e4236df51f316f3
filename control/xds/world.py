"""What a snapshot is built from: the world (the same for all sidecars) and the node (one sidecar)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from control.xds import telemetry
from control.xds.protos import Message
from models.domain import Instance
from models.policy import ServicePolicy

TRUST_DOMAIN = "fibrin.local"


def spiffe_id(service: str, trust_domain: str = TRUST_DOMAIN) -> str:
    """Return the SPIFFE id of a service, `spiffe://fibrin.local/ns/default/sa/<service>`."""
    name, _, namespace = service.partition(".")
    return f"spiffe://{trust_domain}/ns/{namespace or 'default'}/sa/{name}"


@dataclass(frozen=True, slots=True)
class AccessLogs:
    """The stats access loggers of each place where a request is seen (Envoy `AccessLog` messages)."""

    client: tuple[Message, ...] = ()
    attempt: tuple[Message, ...] = ()
    server: tuple[Message, ...] = ()

    @classmethod
    def standard(cls) -> AccessLogs:
        """Return the loggers whose records the agent decodes."""
        return cls(
            client=tuple(telemetry.client_access_log()),
            attempt=tuple(telemetry.attempt_access_log()),
            server=tuple(telemetry.server_access_log()),
        )


@dataclass(frozen=True, eq=False)
class MeshOptions:
    """Mesh-wide settings of the generated configuration. Times are seconds. Compared by identity.

    `max_connection_s` bounds the life of a connection between sidecars, so that a new certificate takes: connections
    older than this are drained without failing a request. `idle_s` closes unused connections. `fetch_timeout_s`
    bounds how long a sidecar waits for a first answer before it goes live without it.
    """

    max_connection_s: float = 3600.0
    idle_s: float = 900.0
    fetch_timeout_s: float = 5.0
    drain_s: float = 5.0
    access_logs: AccessLogs = field(default_factory=AccessLogs.standard)


@dataclass(frozen=True, eq=False)
class World:
    """The whole mesh at one moment. Immutable; compared by identity, so that work on it can be remembered.

    A service exists when it has a policy or an instance; one without a policy gets `ServicePolicy(name)`.
    """

    policies: Mapping[str, ServicePolicy] = field(default_factory=dict)
    instances: tuple[Instance, ...] = ()

    def instance(self, node: str) -> Instance | None:
        """Return the registered instance with this id, or None."""
        return self._by_id().get(node)

    def _by_id(self) -> Mapping[str, Instance]:
        index: dict[str, Instance] | None = self.__dict__.get("_index")
        if index is None:
            index = {instance.id: instance for instance in self.instances}
            self.__dict__["_index"] = index
        return index


@dataclass(frozen=True, slots=True)
class Node:
    """One sidecar, as it introduces itself (the proxy's node metadata)."""

    id: str
    service: str
    version: str = ""
    zone: str = ""
    address: str = "127.0.0.1"
    inbound_port: int = 15006
    outbound_port: int = 15001
    app_address: str = "127.0.0.1"
    app_port: int = 8080
    listen: tuple[tuple[str, int], ...] = ()

    @classmethod
    def from_message(cls, node: Message) -> Node:
        """Read Envoy's `Node` message.

        Raises:
            ValueError: the id or the service is missing, or a port is not a number from 0 to 65535.
        """
        metadata = node.metadata.fields
        if not node.id or not node.cluster:
            raise ValueError("the node introduces itself without id or cluster (its service)")

        def text(name: str, default: str) -> str:
            return metadata[name].string_value or default if name in metadata else default

        def port(name: str, default: int) -> int:
            return _port(name, metadata[name].number_value) if name in metadata else default

        listen = metadata["listen"].struct_value.fields if "listen" in metadata else {}
        address = text("address", "127.0.0.1")
        return cls(
            id=node.id,
            service=node.cluster,
            version=text("version", ""),
            zone=node.locality.zone or text("zone", ""),
            address=address,
            inbound_port=port("inbound_port", 15006),
            outbound_port=port("outbound_port", 15001),
            app_address=text("app_address", address),
            app_port=port("app_port", 8080),
            listen=tuple(sorted((name, _port(f"listen.{name}", v.number_value)) for name, v in listen.items())),
        )


def _port(name: str, value: float) -> int:
    if value != int(value) or not 0 < value < 65536:  # noqa: PLR2004 - sixteen bits
        raise ValueError(f"{name}: {value:g} is not a port (1 to 65535)")
    return int(value)
