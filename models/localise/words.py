"""Evidence in sentences: each carries the numbers it rests on."""

from __future__ import annotations

from models.incident import CauseKind, Signal
from models.localise.evidence import Sight
from models.localise.hypotheses import Part
from models.localise.tallies import Tally


def sentences(
    sight: Sight, signal: Signal, part: Part, *, passed: float, seen: dict[str, Sight], onset: float
) -> tuple[str, ...]:
    """Return what speaks for `part` of the service being the cause, most telling first."""
    what = "failed" if signal is Signal.ERRORS else "were slower than its baseline allows"
    said = [f"{_name(sight.service, part)}: {_counts(part.bad)} {what} (normally {part.bad.normal:.2%})."]
    if part.subject and part.rest.total:
        said.append(f"The rest of {sight.service} is well: {_counts(part.rest)} {what}.")
    elif not part.subject and len(sight.members) > 1:
        said.append(f"All parts of {sight.service} are affected alike ({len(sight.members)} seen).")
    said.append(_callees(sight, passed))
    victims = sorted(name for name, other in seen.items() if sight.service in other.asked and other.own.excess >= 1)
    if victims:
        said.append(f"Its callers show the same: {', '.join(victims)}.")
    if part.kind is CauseKind.DEPENDENCY and part.bad.unreachable:
        said.append(f"{part.bad.unreachable:.0f} attempts could not reach it at all.")
    said += [
        f"{onset - change.at:.1f} s before the onset: {change.kind} of {change.subject} ({change.message})."
        for change in part.changes
    ]
    return tuple(said)


def _name(service: str, part: Part) -> str:
    match part.kind:
        case CauseKind.VERSION:
            return f"{service} version {part.subject}"
        case CauseKind.ZONE:
            return f"{service} in zone {part.subject}"
        case CauseKind.INSTANCE:
            return f"{service} instance {part.subject}"
        case _:
            return service


def _counts(counts: Tally) -> str:
    return f"{counts.bad:.0f} of {counts.total:.0f} requests ({counts.ratio:.1%})"


def _callees(sight: Sight, passed: float) -> str:
    if not sight.asked:
        return f"{sight.service} calls no other service."
    if passed <= 0.01:  # noqa: PLR2004
        return f"Its callees are well: {', '.join(sorted(sight.asked))}."
    return f"Its callees explain at most {passed:.1%} of its requests."
