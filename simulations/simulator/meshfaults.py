"""What can break in the mesh itself: what its sidecars tell, its control plane, its agent. No service is at fault then.

`world` knows how each of these is done to a simulated mesh.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Spoiling(StrEnum):
    """What may happen to reports on their way to the agent."""

    DROPPED = "dropped"  # none arrives
    FROZEN = "frozen"  # the last one arrives again and again
    LATE = "late"  # each arrives late
    MISDATED = "misdated"  # each arrives in time, dated by a clock that is wrong


@dataclass(frozen=True, slots=True)
class TelemetrySpoiled:
    """Reports of one service's sidecars ("": of all sidecars) are spoiled. `by_s`: how late, or how far ahead, seconds."""

    how: Spoiling
    service: str = ""
    by_s: float = 0.0


@dataclass(frozen=True, slots=True)
class ControlAway:
    """The control plane answers nobody. Sidecars go on with what they have."""


@dataclass(frozen=True, slots=True)
class ControlLate:
    """Changes reach the sidecars `by_s` seconds late."""

    by_s: float


@dataclass(frozen=True, slots=True)
class ControlRefused:
    """Sidecars refuse every change (NACK) and stay as they are."""


@dataclass(frozen=True, slots=True)
class ControlFlaky:
    """Half of the calls to the control plane fail, every second of them after it was done: the answer is lost."""


@dataclass(frozen=True, slots=True)
class AgentKilled:
    """The agent's process is killed, and starts again when the fault is over, from what it stored."""


@dataclass(frozen=True, slots=True)
class AgentClock:
    """The agent's clock is `by_s` seconds ahead (negative: behind). `restarts`: it is killed and comes back like that."""

    by_s: float
    restarts: bool = False


MeshFault = TelemetrySpoiled | ControlAway | ControlLate | ControlRefused | ControlFlaky | AgentKilled | AgentClock
