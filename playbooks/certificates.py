"""Whether a playbook has earned the right to act alone: its drill passed, of late, on exactly this content.

A certificate is bound to what the playbook does (its conditions, guards and steps), not to its words: a changed step
needs a new drill, a changed description does not. The certificates of the shipped library come with it and hold as long
as its content is the shipped one; those that a drill earned here grow old. `auto` without one falls back to `approve`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from importlib import resources
from typing import Final

from pydantic import TypeAdapter, ValidationError

from models.errors import InvalidInput
from playbooks.deeds import Page
from playbooks.schema import Mode, Playbook
from playbooks.units import span

FRESH_S: Final = 30 * 86_400.0
"""How long a certificate earned here is fresh, seconds."""

AHEAD_S: Final = 300.0
"""A drill that passed later than this from now passed by a clock that was wrong: it proves nothing of late, seconds."""


@dataclass(frozen=True, slots=True)
class Certificate:
    """A drill that a playbook passed.

    `digest` is the playbook's content then (see `digest`), `passed_at` Unix s, `detect_s` and `mitigate_s` seconds from
    the onset of the drill's fault to its detection and to users being well again.
    """

    playbook: str
    digest: str
    drill: str
    passed_at: float
    detect_s: float
    mitigate_s: float


class State(StrEnum):
    """How a playbook stands."""

    SHIPPED = "shipped"  # certified by its release, content unchanged
    FRESH = "fresh"
    STALE = "stale"  # its drill passed too long ago
    CHANGED = "changed"  # its drill passed, on another content
    MISSING = "missing"  # its drill never passed here
    NO_DRILL = "no drill"  # it names none


@dataclass(frozen=True, slots=True)
class Standing:
    """How a playbook stands, why in one sentence, and on which certificate that rests."""

    state: State
    reason: str
    certificate: Certificate | None = None

    @property
    def certified(self) -> bool:
        """Tell whether it may act alone."""
        return self.state in {State.SHIPPED, State.FRESH}


def digest(playbook: Playbook) -> str:
    """Return a short fingerprint of what a playbook does: its conditions, guards, steps and drill.

    Only what is written counts, so that a new field of the language changes no fingerprint.
    """
    said = {"when", "guard", "steps"}
    spec = playbook.spec.model_dump(mode="json", by_alias=True, include=said, exclude_defaults=True)
    text = json.dumps({"name": playbook.name, "drill": playbook.drill, **spec}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def standing(playbook: Playbook, earned: Iterable[Certificate], now: float, fresh_s: float = FRESH_S) -> Standing:
    """Return how a playbook stands at `now` (Unix s), by the certificates earned here and those of the library."""
    own = digest(playbook)
    local = max((c for c in earned if c.playbook == playbook.name), key=lambda c: c.passed_at, default=None)
    if local is not None and local.digest == own and -AHEAD_S <= now - local.passed_at <= fresh_s:
        return Standing(
            State.FRESH, f"its drill {local.drill} passed {span(max(0.0, now - local.passed_at))} ago", local
        )
    release = next((c for c in shipped() if c.playbook == playbook.name and c.digest == own), None)
    if release is not None:
        return Standing(State.SHIPPED, f"its drill {release.drill} passed for this release", release)
    if not playbook.drill:
        return Standing(State.NO_DRILL, "it names no drill that proves it")
    known = local or next((c for c in shipped() if c.playbook == playbook.name), None)
    if known is None:
        return Standing(State.MISSING, f"its drill {playbook.drill} never passed here")
    if known.digest != own:
        return Standing(State.CHANGED, f"it was changed since its drill {known.drill} passed", known)
    when = f"{span(max(0.0, now - known.passed_at))} ago, {span(fresh_s)} is fresh"
    if known.passed_at > now + AHEAD_S:
        when = "by a clock that is ahead of this one"
    return Standing(State.STALE, f"its drill {known.drill} passed {when}", known)


def uncertified(
    playbooks: Iterable[Playbook], earned: Iterable[Certificate], now: float, fresh_s: float = FRESH_S
) -> Mapping[str, str]:
    """Return the playbooks that say `auto` and may not act alone, each with the reason."""
    certificates = tuple(earned)
    found = {
        playbook.name: standing(playbook, certificates, now, fresh_s)
        for playbook in playbooks
        if playbook.spec.mode is Mode.AUTO and acts(playbook)
    }
    return {name: how.reason for name, how in sorted(found.items()) if not how.certified}


def acts(playbook: Playbook) -> bool:
    """Tell whether a playbook ever does more than call a person."""
    return any(not isinstance(step.action.spec, Page) for step in playbook.spec.steps)


@lru_cache(maxsize=1)
def shipped() -> tuple[Certificate, ...]:
    """Return the certificates that come with the library."""
    place = resources.files("playbooks") / "library" / "certificates.json"
    return loads(place.read_text(encoding="utf-8"), "library/certificates.json") if place.is_file() else ()


def dumps(certificates: Iterable[Certificate]) -> str:
    """Return certificates as JSON for people to read, ending in a newline."""
    rows = _CERTIFICATES.dump_python(tuple(sorted(certificates, key=lambda c: c.playbook)), mode="json")
    return json.dumps(rows, indent=2) + "\n"


def loads(text: str, source: str) -> tuple[Certificate, ...]:
    """Read what `dumps` wrote.

    Raises:
        InvalidInput: the text is something else.
    """
    try:
        return _CERTIFICATES.validate_json(text)
    except ValidationError as error:
        hint = "remove the file and let the drill pass again"
        raise InvalidInput(f"{source} holds no certificates: {error.errors()[0]['msg']}", hint=hint) from error


_CERTIFICATES: Final = TypeAdapter(tuple[Certificate, ...])
