"""The currency of the room: a resource serialised once, tables of them, and the snapshot of one sidecar.

A table has two layers: what every sidecar gets (shared, one object for the whole mesh) and what only this one gets.
A thousand services times two thousand sidecars is then two thousand small dictionaries and one large one, and the
difference between two worlds is computed once and not per sidecar.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from control.xds.protos import DiscoveryResource, Message, packed

_PREFIX: Final = "type.googleapis.com/"
CDS: Final = _PREFIX + "envoy.config.cluster.v3.Cluster"
EDS: Final = _PREFIX + "envoy.config.endpoint.v3.ClusterLoadAssignment"
LDS: Final = _PREFIX + "envoy.config.listener.v3.Listener"
SRDS: Final = _PREFIX + "envoy.config.route.v3.ScopedRouteConfiguration"
RDS: Final = _PREFIX + "envoy.config.route.v3.RouteConfiguration"
SDS: Final = _PREFIX + "envoy.extensions.transport_sockets.tls.v3.Secret"

PUSH_ORDER: Final = (CDS, EDS, LDS, SRDS, RDS, SDS)
"""Make before break: what is pointed at goes before what points at it; removals go after all of it, backwards."""

SHORT: Final[Mapping[str, str]] = {CDS: "cds", EDS: "eds", LDS: "lds", SRDS: "srds", RDS: "rds", SDS: "sds"}


@dataclass(frozen=True, slots=True, eq=False)
class Resource:
    """One Envoy resource, ready for the wire.

    `version` is a hash of the content: the same on every control plane and after every restart. `wire` are the bytes
    of a `DeltaDiscoveryResponse` holding just this resource (field 2, with tag and length): concatenating the `wire`
    of several resources gives the response that holds them all.
    """

    name: str
    version: str
    wire: bytes = field(repr=False)

    def message(self) -> Message:
        """Parse the resource back (for tests and people, not for the hot path)."""
        parsed = DiscoveryResource.FromString(_strip_length(self.wire))
        return parsed.resource


def resource(name: str, message: Message, version: str = "") -> Resource:
    """Serialise `message`; `version` "" stands for the hash of its content."""
    anything = packed(message)
    version = version or hashlib.blake2b(anything.value, digest_size=9).hexdigest()
    body = DiscoveryResource(name=name, version=version, resource=anything).SerializeToString(deterministic=True)
    return Resource(name, version, b"\x12" + varint(len(body)) + body)


def varint(value: int) -> bytes:
    """Encode a length as protobuf does."""
    out = bytearray()
    while value > 0x7F:  # noqa: PLR2004 - seven bits to a byte
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _strip_length(wire: bytes) -> bytes:
    k = 1
    while wire[k] & 0x80:
        k += 1
    return wire[k + 1 :]


Layer = Mapping[str, Resource]
EMPTY: Final[Layer] = {}


class Table(Mapping[str, Resource]):
    """All resources of one type for one sidecar: the shared layer with the sidecar's own on top."""

    __slots__ = ("own", "shared")

    def __init__(self, shared: Layer = EMPTY, own: Layer = EMPTY) -> None:
        self.shared = shared
        self.own = own

    def __getitem__(self, name: str) -> Resource:
        found = self.own.get(name)
        return found if found is not None else self.shared[name]

    def __iter__(self) -> Iterator[str]:
        yield from self.shared
        yield from (name for name in self.own if name not in self.shared)

    def __len__(self) -> int:
        return len(self.shared) + sum(name not in self.shared for name in self.own)


@dataclass(frozen=True, slots=True, eq=False)
class Snapshot:
    """Everything one sidecar should have (secrets apart): type URL → table."""

    tables: Mapping[str, Table]

    def __getitem__(self, type_url: str) -> Table:
        """Return the table of a type (empty when there is none)."""
        return self.tables.get(type_url) or Table()


@dataclass(frozen=True, slots=True)
class Difference:
    """What leads from one layer to another: names to send (new or other content) and names that are gone."""

    changed: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()


def difference(old: Layer, new: Layer) -> Difference:
    """Compare two layers by content version. Names come out sorted."""
    if old is new:
        return Difference()
    changed = []
    for name, wanted in new.items():
        had = old.get(name)
        if had is not wanted and (had is None or had.version != wanted.version):
            changed.append(name)
    return Difference(tuple(sorted(changed)), tuple(sorted(name for name in old if name not in new)))
