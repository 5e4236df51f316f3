"""One resource type on one stream: what the sidecar asked for, what it was sent, what it said to that.

The state is small on purpose. What was sent is a reference to the table it was sent from, so that two thousand
streams share one; the names asked for are interned, since sidecars ask for the same ones.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from control.xds.protos import Message
from control.xds.resources import SDS, SHORT, Difference, Layer, Table, difference, varint

WILDCARD: Final = "*"


@dataclass(frozen=True, slots=True)
class Batch:
    """Resources to send and to take away, in one type."""

    names: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    payload: bytes | None = None  # the serialised resources and
    versions: Mapping[str, str] | None = None  # their versions, when they are known already


@dataclass(frozen=True, slots=True)
class Sent:
    """A response without an answer yet."""

    generation: int
    versions: Mapping[str, str]
    removed: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Step:
    """What leads from one layer to another: the changed names, their bytes and their versions; the removed names."""

    changed: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    payload: bytes = b""
    versions: Mapping[str, str] = field(default_factory=dict)


_STAY: Final = Step()
_NOTHING: Final = Batch()


class Memory:
    """What streams share: differences between layers with their bytes, and sets of names. Bounded."""

    __slots__ = ("_names", "_steps")
    SIZE: Final = 64

    def __init__(self) -> None:
        self._steps: OrderedDict[tuple[int, int], tuple[Layer, Layer, Step]] = OrderedDict()
        self._names: dict[frozenset[str], frozenset[str]] = {}

    def step(self, old: Layer, new: Layer) -> Step:
        """Return what leads from `old` to `new`; the same object for all that ask."""
        if old is new:
            return _STAY
        key = (id(old), id(new))
        known = self._steps.get(key)
        if known is None:  # the entry keeps both layers alive, so their ids stay theirs
            found = difference(old, new)
            payload = b"".join(new[name].wire for name in found.changed)
            versions = {name: new[name].version for name in found.changed}
            known = (old, new, Step(found.changed, found.removed, payload, versions))
            self._steps[key] = known
            if len(self._steps) > self.SIZE:
                self._steps.popitem(last=False)
        return known[2]

    def intern(self, names: frozenset[str]) -> frozenset[str]:
        """Return an equal set that others hold already."""
        if len(self._names) > self.SIZE:
            self._names.clear()
        return self._names.setdefault(names, names)


@dataclass(slots=True)
class Subscription:
    """The state of one type on one stream."""

    kind: str
    memory: Memory
    wildcard: bool = False
    names: frozenset[str] = frozenset()
    sent: Table = field(default_factory=Table)
    started: bool = False
    fresh: set[str] = field(default_factory=set)  # asked for since the last batch: answered in any case
    forced: set[str] = field(default_factory=set)  # to be sent again though unchanged
    singles: list[str] = field(default_factory=list)  # refused as a bundle: to be tried one by one
    held: dict[str, str] = field(default_factory=dict)  # what a reconnecting sidecar has: name → version
    outstanding: dict[str, Sent] = field(default_factory=dict)
    rejected: dict[str, str] = field(default_factory=dict)
    sent_nonce: str = ""
    acked_nonce: str = ""
    count: int = 0

    def update(self, request: Message) -> None:
        """Take in a request's subscriptions."""
        added = frozenset(request.resource_names_subscribe)
        dropped = frozenset(request.resource_names_unsubscribe)
        if not self.started:
            self.wildcard = not added or WILDCARD in added
            self.held = dict(request.initial_resource_versions)
        elif WILDCARD in added and not self.wildcard:
            self.wildcard, self.sent = True, Table()
        if WILDCARD in dropped:
            self.wildcard = False
        added -= {WILDCARD}
        if added or dropped:
            self.names = self.memory.intern((self.names | added) - dropped)
            self.fresh |= added
            self.fresh -= dropped
        self.started = True

    def wants(self, name: str) -> bool:
        """True when the sidecar asked for this name."""
        return self.wildcard or name in self.names

    def plan(self, table: Table) -> Batch:
        """Return what has to be sent for `table` to be in force, and count it as sent."""
        if table is self.sent and not (self.fresh or self.forced or self.held):
            return _NOTHING
        shared = self.memory.step(self.sent.shared, table.shared)
        own = difference(self.sent.own, table.own) if self.sent.own is not table.own else Difference()
        simple = not (own.changed or own.removed or table.own or self.fresh or self.forced or self.held)
        if simple and (self.wildcard or self.names.issuperset(shared.changed)):
            self.sent = table
            removed = tuple(name for name in shared.removed if self.wants(name))
            return Batch(shared.changed, removed, shared.payload, shared.versions)
        changed = {name for name in shared.changed if name not in table.own} | set(own.changed)
        changed |= {name for name in own.removed if name in table.shared}
        gone = {name for name in (*shared.removed, *own.removed) if name not in table}
        if not self.wildcard:
            changed &= self.names
            gone &= self.names
        asked = {name for name in self.fresh | self.forced if self.wants(name)}
        changed |= {name for name in asked if name in table}
        # A secret that is not there yet comes later; taking it away would make no difference to Envoy.
        gone |= {name for name in self.fresh if name not in table} if self.kind != SDS else set()
        if self.held:
            changed = {n for n in changed if n in self.forced or self.held.get(n) != table[n].version}
            gone |= {name for name in self.held if name not in table and self.wants(name) and self.kind != SDS}
        self.fresh, self.forced, self.held, self.sent = set(), set(), {}, table
        return Batch(tuple(sorted(changed)), tuple(sorted(gone)))

    def respond(self, batch: Batch, generation: int) -> bytes:
        """Serialise a `DeltaDiscoveryResponse` for `batch`, and await its answer."""
        self.count += 1
        nonce = f"{SHORT[self.kind]}-{self.count}"
        payload = batch.payload
        if payload is None:
            payload = b"".join(self.sent[name].wire for name in batch.names)
        self.sent_nonce = nonce
        versions = batch.versions
        if versions is None:
            versions = {name: self.sent[name].version for name in batch.names}
        self.outstanding[nonce] = Sent(generation, versions, batch.removed)
        parts = [payload, _TYPE_FIELD[self.kind], _field(5, nonce)]
        parts += [_field(6, name) for name in batch.removed]
        return b"".join(parts)

    def answer(self, nonce: str, refused: str | None) -> Sent | None:
        """Take in an ACK (`refused` None) or a NACK with its message; None when the nonce is not known."""
        sent = self.outstanding.pop(nonce, None)
        if sent is None:
            return None
        if refused is None:
            self.acked_nonce = nonce
            for name in (*sent.versions, *sent.removed) if self.rejected else ():
                self.rejected.pop(name, None)
        elif len(sent.versions) > 1 and self.kind in _ALL_OR_NOTHING:
            self.singles.extend(sent.versions)
        else:
            named = _named(sent.versions, refused)
            self.rejected.update({name: sent.versions[name] for name in named})
        return sent

    def retries(self) -> list[Batch]:
        """Return what was refused as a bundle, one by one."""
        batches = [Batch((name,)) for name in self.singles if name in self.sent and self.wants(name)]
        self.singles.clear()
        return batches


def blamed(sent: Sent, message: str) -> tuple[str, ...]:
    """Return the resources a refusal is about: those its message names, else all of the response."""
    return _named(sent.versions, message)


# Envoy takes clusters and listeners of a response one by one and says which it refused; of the other types it stops
# at the first bad one and leaves the rest unapplied.
_ALL_OR_NOTHING: Final = frozenset(kind for kind, short in SHORT.items() if short in {"eds", "srds", "rds", "sds"})


def _named(names: Iterable[str], message: str) -> tuple[str, ...]:
    every = tuple(sorted(names))
    return tuple(name for name in every if name in message) or every


def _field(number: int, text: str) -> bytes:
    data = text.encode()
    return bytes((number << 3 | 2,)) + varint(len(data)) + data


_TYPE_FIELD: Final = {kind: _field(4, kind) for kind in SHORT}
