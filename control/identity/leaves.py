"""The leaf of every connected sidecar: issued on demand, renewed long before it ends, resumed after a restart.

A leaf is known by its version string, which says when it was issued, when it ends, who signed it and for whom. A
sidecar that reconnects to a new control plane tells the version it holds; if that leaf is still good it keeps it, and
nothing is sent. Keys never touch the disk of the control plane.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from control.identity.authority import Authority, Leaf

RENEW_AT: Final = 0.5  # of a leaf's life
JITTER: Final = 0.1  # of a leaf's life, so that a fleet started together does not renew together
SHORTEST_LIFE_S: Final = 5.0
DEFAULT_LIFE_S: Final = 86_400.0


@dataclass(frozen=True, slots=True)
class Held:
    """What one sidecar holds: `leaf` is None when it was issued by an earlier control plane."""

    uri: str
    version: str
    renew_at: float
    not_after: float
    signer: str
    leaf: Leaf | None


class Leaves:
    """Leaves by sidecar. In memory, for one event loop."""

    def __init__(
        self,
        authority: Authority,
        clock: Callable[[], float],
        life_s: float = DEFAULT_LIFE_S,
        rng: random.Random | None = None,
    ) -> None:
        self._authority = authority
        self._clock = clock
        self._life_s = max(life_s, SHORTEST_LIFE_S)
        self._rng = rng or random.Random()
        self._held: dict[str, Held] = {}

    @property
    def authority(self) -> Authority:
        """The authority that signs."""
        return self._authority

    @property
    def patience_s(self) -> float:
        """How often to look for leaves that are due, seconds."""
        return min(max(self._life_s / 50, 0.1), 10.0)

    def peek(self, node: str) -> Held | None:
        """Return what a sidecar holds, without issuing anything."""
        return self._held.get(node)

    def current(self, node: str, uri: str) -> Held:
        """Return what the sidecar `node` should hold for the identity `uri`, issuing or renewing when it is time."""
        held = self._held.get(node)
        if held is None or self._is_due(held, uri):
            leaf = self._authority.issue(uri, self._life_s)
            life = leaf.not_after - leaf.issued_at
            held = Held(uri, version_of(leaf), self._renewal(leaf.issued_at, life), leaf.not_after, leaf.signer, leaf)
            self._held[node] = held
        return held

    def with_key(self, node: str, uri: str) -> Held:
        """Like `current`, but never a resumed leaf: what it returns can be sent."""
        if (held := self._held.get(node)) is not None and held.leaf is None:
            del self._held[node]
        return self.current(node, uri)

    def resume(self, node: str, uri: str, version: str) -> bool:
        """Take over a leaf that the sidecar says it holds; False when it is unknown, near its end or of another root."""
        known = self._held.get(node)
        if known is not None and known.version == version:
            return not self._is_due(known, uri)
        parts = version.split(".")
        if len(parts) != 5 or parts[3] != _digest(uri):  # noqa: PLR2004 - the five parts of `version_of`
            return False
        try:
            issued_at, not_after = int(parts[0]) / 1000, int(parts[1]) / 1000
        except ValueError:
            return False
        held = Held(uri, version, self._renewal(issued_at, not_after - issued_at), not_after, parts[2], None)
        if not issued_at <= self._clock() + 1 or not_after - issued_at > 2 * self._life_s or self._is_due(held, uri):
            return False
        self._held[node] = held
        return True

    def due(self) -> tuple[str, ...]:
        """Return the sidecars whose leaf should be replaced now."""
        return tuple(node for node, held in self._held.items() if self._is_due(held, held.uri))

    def forget(self, node: str) -> None:
        """Drop what is known of a sidecar that left."""
        self._held.pop(node, None)

    def _is_due(self, held: Held, uri: str) -> bool:
        return held.uri != uri or held.signer != self._authority.signer or self._clock() >= held.renew_at

    def _renewal(self, issued_at: float, life_s: float) -> float:
        return issued_at + life_s * (RENEW_AT + self._rng.uniform(-JITTER, JITTER))


def version_of(leaf: Leaf) -> str:
    """Return `issued.ends.signer.subject.serial` (times in ms): all that is needed to resume a leaf unseen."""
    times = f"{round(leaf.issued_at * 1000)}.{round(leaf.not_after * 1000)}"
    return f"{times}.{leaf.signer}.{_digest(leaf.uri)}.{leaf.serial & 0xFFFF_FFFF:08x}"


def _digest(uri: str) -> str:
    return hashlib.blake2b(uri.encode(), digest_size=6).hexdigest()
