"""What has worked: how often each step of each playbook helped, by kind of cause and service.

Used for one thing only: of several playbooks that apply with the same priority and specificity, the one whose first step is
estimated to help more often is tried first. The estimate is the mean of a Beta posterior. For a kind of cause as a whole
the prior is Beta(1, 1): never tried counts as one half. For one service the prior has the weight of two tries and the mean that the
step has for this kind on all other services, so that what worked elsewhere counts until the service speaks for itself.

A memory is a value: `learn` returns a new one. It holds the `MOST` results that were used last.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

MOST: Final = 500
WEIGHT: Final = 2.0
"""Tries that the prior of a service is worth."""


@dataclass(frozen=True, slots=True)
class Result:
    """How often one step ended well or badly for causes of `kind` in `service`; `at` is when it last ended (Unix s)."""

    kind: str
    service: str
    playbook: str
    step: str
    helped: int = 0
    failed: int = 0
    at: float = 0.0


@dataclass(frozen=True, slots=True)
class Estimate:
    """How probably a step helps (0–1), with the tries on this service and, for the same kind, on all others behind it."""

    probability: float
    helped: int = 0
    tried: int = 0
    helped_elsewhere: int = 0
    tried_elsewhere: int = 0

    @property
    def known(self) -> bool:
        """Tell whether the step was ever tried for such a cause."""
        return bool(self.tried or self.tried_elsewhere)

    def __str__(self) -> str:
        """Render for people: `helped 3 of 4 times here and 7 of 9 elsewhere (estimated 76%)`."""
        if not self.known:
            return f"never tried (estimated {self.probability:.0%})"
        here = f"helped {self.helped} of {self.tried} times here"
        return (
            f"{here} and {self.helped_elsewhere} of {self.tried_elsewhere} elsewhere (estimated {self.probability:.0%})"
        )


@dataclass(frozen=True, slots=True)
class Memory:
    """All results, in the order of their names."""

    results: tuple[Result, ...] = ()

    def learn(self, result: Result, *, helped: bool) -> Memory:
        """Add one end of a step; `result` says of which, and when."""
        found = next((r for r in self.results if _place(r) == _place(result)), replace(result, helped=0, failed=0))
        after = replace(found, helped=found.helped + helped, failed=found.failed + (not helped), at=result.at)
        others = sorted((r for r in self.results if _place(r) != _place(result)), key=lambda r: (-r.at, _place(r)))
        return Memory(tuple(sorted((*others[: MOST - 1], after), key=_place)))

    def estimate(self, kind: str, service: str, playbook: str, step: str) -> Estimate:
        """Return how probably a step helps for a cause of `kind` in `service`."""
        same = [r for r in self.results if (r.kind, r.playbook, r.step) == (kind, playbook, step)]
        here = next((r for r in same if r.service == service), Result(kind, service, playbook, step))
        helped = sum(r.helped for r in same if r.service != service)
        tried = sum(r.helped + r.failed for r in same if r.service != service)
        prior = (helped + 1) / (tried + 2)
        tries = here.helped + here.failed
        probability = (here.helped + WEIGHT * prior) / (tries + WEIGHT)
        return Estimate(round(probability, 9), here.helped, tries, helped, tried)


def _place(result: Result) -> tuple[str, str, str, str]:
    return result.kind, result.service, result.playbook, result.step
