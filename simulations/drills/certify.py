"""A drill that passed certifies the playbooks that name it, on the very content that healed it."""

from __future__ import annotations

from collections.abc import Iterable

from playbooks.certificates import Certificate, digest
from playbooks.schema import Playbook
from simulations.drills.schema import Outcome
from simulations.drills.verdict import Verdict


def earned(verdict: Verdict, books: Iterable[Playbook], now: float) -> Certificate | None:
    """Return the certificate that a drill earns for the playbook that healed it (`now`: Unix s), None for none.

    The drill passed by healing, the playbook taken is among `books`, and it names this drill as its proof.
    """
    incident, detected, mitigated = verdict.incident, verdict.detected_s, verdict.mitigated_s
    if not verdict.passed or verdict.outcome is not Outcome.HEALED or incident is None:
        return None
    book = next((each for each in books if each.name == incident.playbook), None)
    if book is None or book.drill != verdict.seen.drill.name or detected is None or mitigated is None:
        return None
    return Certificate(book.name, digest(book), book.drill, round(now), round(detected, 3), round(mitigated, 3))
