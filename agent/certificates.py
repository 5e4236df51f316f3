"""The certificates on disk: one file per playbook in the state directory, written by whoever ran its drill.

The agent reads them at its start and every few seconds, so that a drill that passes now counts now.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import structlog

from agent import metrics
from agent.settings import AgentSettings
from models.errors import Broken, InvalidInput
from playbooks.certificates import Certificate, dumps, loads, uncertified
from playbooks.schema import Playbook

log = structlog.get_logger(__name__)

FOLDER: Final = "certificates"
LOOK_S: Final = 5.0


def write(state_dir: Path, certificate: Certificate) -> Path:
    """Keep a certificate (atomically, replacing the playbook's last one) and return its file; Broken when the disk is."""
    place = state_dir / FOLDER / f"{certificate.playbook}.json"
    temporary = place.with_suffix(".tmp")
    try:
        place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        temporary.write_text(dumps((certificate,)), encoding="utf-8")
        temporary.replace(place)
    except OSError as error:
        raise Broken(f"cannot write {place}: {error.strerror}", hint="is there room, and is it yours?") from error
    return place


def read(state_dir: Path) -> tuple[Certificate, ...]:
    """Return every certificate there is. One that cannot be read counts as none, and is named in the log."""
    found: list[Certificate] = []
    for place in sorted((state_dir / FOLDER).glob("*.json")):
        try:
            found.extend(loads(place.read_text(encoding="utf-8"), str(place)))
        except (InvalidInput, OSError, UnicodeDecodeError) as error:
            log.warning("certificate.unreadable", file=str(place), error=str(error), hint="let the drill pass again")
    return tuple(found)


async def certify(state_dir: Path, playbooks: Sequence[Playbook], settings: AgentSettings) -> Certification:
    """Return what is certified by the state directory and the library, having said who is not."""
    made = Certification(state_dir, playbooks, settings.certificate_fresh_s, required=settings.require_certificates)
    await made.load()
    return made


class Certification:
    """What the planner asks: which playbooks say `auto` and have no fresh certificate.

    Without `required` none is asked for. Says loudly, once per change, who falls back to `approve`.
    """

    def __init__(self, state_dir: Path, playbooks: Sequence[Playbook], fresh_s: float, *, required: bool) -> None:
        self._state_dir = state_dir
        self._playbooks = tuple(playbooks)
        self._fresh_s = fresh_s
        self._required = required
        self._said: Mapping[str, str] = {}
        self.earned: tuple[Certificate, ...] = ()
        self._known: tuple[int, tuple[Certificate, ...], Mapping[str, str]] = (-1, (), {})

    async def load(self) -> None:
        """Read the certificates and say who has none."""
        self.earned = await asyncio.to_thread(read, self._state_dir)
        lacking = self.lacking(time.time())
        for name in sorted(lacking.keys() - self._said.keys()):
            metrics.UNCERTIFIED.inc()
            hint = "it asks a person instead; run its drill, or set agent.require_certificates to false"
            log.warning("playbook.not_certified", playbook=name, why=lacking[name], hint=hint)
        for name in sorted(self._said.keys() - lacking.keys()):
            log.info("playbook.certified", playbook=name)
        self._said = lacking

    async def follow(self) -> None:
        """Keep up with drills that pass (an endless work)."""
        while True:
            await asyncio.sleep(LOOK_S)
            await self.load()

    def lacking(self, now: float) -> Mapping[str, str]:
        """Return playbook → why it may not act alone (worked out once a second)."""
        if not self._required:
            return {}
        second = int(now)
        if self._known[:2] != (second, self.earned):
            self._known = (second, self.earned, uncertified(self._playbooks, self.earned, now, self._fresh_s))
        return self._known[2]
