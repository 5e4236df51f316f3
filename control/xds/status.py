"""What can be read of the sidecars' configuration: status by sidecar, propagation by generation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Nack:
    """A refusal: which resources of which type, why (Envoy's words), when (Unix s), in which generation."""

    type: str
    message: str
    at: float
    generation: int
    resources: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class TypeStatus:
    """One resource type (`cds`, `eds`, …) of one sidecar: what was sent, what it confirmed, what it refused."""

    subscribed: int  # names asked for; -1: all
    resources: int
    sent_nonce: str
    acked_nonce: str
    pending: int  # responses without an answer
    rejected: Mapping[str, str]  # resource name → version it refused and was not replaced since


@dataclass(frozen=True, slots=True)
class ProxyStatus:
    """One sidecar. Times are Unix seconds; generations count from 1, 0 means none yet."""

    id: str
    service: str
    version: str
    zone: str
    connected: bool
    since: float
    generation_sent: int
    generation_acked: int
    types: Mapping[str, TypeStatus] = field(default_factory=dict)
    pending: tuple[str, ...] = ()
    last_nack: Nack | None = None
    certificate_until: float = 0.0
    disconnected_at: float = 0.0

    @property
    def in_sync(self) -> bool:
        """True when everything sent was confirmed and nothing is refused."""
        return self.connected and not self.pending and not any(t.rejected for t in self.types.values())


@dataclass(frozen=True, slots=True)
class Propagation:
    """How far a generation got: of `sidecars` connected ones, which have confirmed, refused, not answered.

    `words` is what those that refused said last.
    """

    generation: int
    sidecars: int
    acked: int
    nacked: tuple[str, ...] = ()
    pending: tuple[str, ...] = ()
    words: Mapping[str, str] = field(default_factory=dict)

    @property
    def complete(self) -> bool:
        """True when every connected sidecar has confirmed."""
        return not self.nacked and not self.pending


class Observer(Protocol):
    """Who wants to know; called in the event loop, must return at once."""

    def connected(self, proxy: ProxyStatus) -> None:
        """A sidecar opened its stream."""

    def disconnected(self, proxy: ProxyStatus) -> None:
        """A sidecar's last stream ended."""

    def nacked(self, proxy: ProxyStatus, nack: Nack) -> None:
        """A sidecar refused a response; it goes on with its last good configuration."""


class Silent:
    """An observer that does nothing."""

    def connected(self, proxy: ProxyStatus) -> None:
        """Ignore it."""

    def disconnected(self, proxy: ProxyStatus) -> None:
        """Ignore it."""

    def nacked(self, proxy: ProxyStatus, nack: Nack) -> None:
        """Ignore it."""
