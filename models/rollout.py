"""What a canary is declared to be: which version replaces which, in which steps, judged how.

`kind: Canary` is read in the control plane (`control/resources/canary.py`) into a `Rollout`; the agent's canary controller
drives it. Times are seconds, shares 0–1, weights percent of the service's traffic.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from models.canary.margins import Margins, Risk
from models.overlay import HeaderIs

DAY_S = 86_400


@dataclass(frozen=True, slots=True)
class RolloutStep:
    """One step: the canary gets `weight` percent for at least `least_s`; `approval`: a person lets it go on afterwards.

    `conditions`: only of the requests that fulfil all of them. `mirror`: as copies, whose answers nobody gets.
    """

    weight: int
    least_s: float = 60.0
    approval: bool = False
    mirror: bool = False
    conditions: tuple[HeaderIs, ...] = ()

    @property
    def rank(self) -> int:
        """Return how much of the users' traffic this kind of step touches: none, some users', any."""
        return 0 if self.mirror else 1 if self.conditions else 2

    def __str__(self) -> str:
        """Render for people."""
        which = " of what matches" if self.conditions else ""
        return f"{self.weight} %{which}{' mirrored' if self.mirror else ''}"


@dataclass(frozen=True, slots=True)
class Freeze:
    """A time every week in which no canary goes a step further: UTC weekdays (0 is Monday), seconds of the day.

    `until_s` ≤ `from_s` reaches into the next day.
    """

    days: tuple[int, ...]
    from_s: int
    until_s: int

    def holds(self, at: float) -> bool:
        """Return whether Unix time `at` lies in it.

        >>> Freeze((4,), 18 * 3600, 6 * 3600).holds(1_700_258_400.0)  # Friday, 17 November 2023, 22:00
        True
        """
        day, second = divmod(int(at), DAY_S)
        weekday = (day + 3) % 7  # 1 January 1970 was a Thursday
        if self.until_s > self.from_s:
            return weekday in self.days and self.from_s <= second < self.until_s
        return (weekday in self.days and second >= self.from_s) or (
            (weekday - 1) % 7 in self.days and second < self.until_s
        )


@dataclass(frozen=True, slots=True)
class Rollout:
    """A declared canary. `created_at` (Unix s) and `generation`, which counts the changes of the declaration, tell one from the
    next: a new one begins anew.

    `automatic`: after the last step the canary takes everything by itself. `inconclusive_after_s`: a step that is neither
    proven good nor bad for so long ends as `inconclusive` says.
    """

    name: str
    generation: int
    service: str
    canary: str
    stable: str
    steps: tuple[RolloutStep, ...]
    automatic: bool = True
    margins: Margins = field(default_factory=Margins)
    risk: Risk = field(default_factory=Risk)
    least_requests: int = 50
    inconclusive_after_s: float = 3600.0
    inconclusive: Literal["hold", "promote", "rollback"] = "hold"
    freezes: tuple[Freeze, ...] = ()
    created_at: float = 0.0

    def frozen(self, at: float) -> bool:
        """Return whether a freeze window holds at Unix time `at`."""
        return any(freeze.holds(at) for freeze in self.freezes)
