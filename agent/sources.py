"""Where the agent's playbooks come from, as text: what is loaded at the start, and what a replay loads again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from agent.settings import AgentSettings
from models.errors import InvalidInput
from playbooks import load
from playbooks.loading import library_texts
from playbooks.schema import Playbook


@dataclass(frozen=True, slots=True)
class Sources:
    """The operator's playbooks and the shipped library: source name → YAML. Of one name the operator's counts."""

    own: Mapping[str, str] = field(default_factory=dict)
    library: Mapping[str, str] = field(default_factory=dict)

    def playbooks(self) -> tuple[Playbook, ...]:
        """Return the playbooks.

        Raises:
            InvalidInput: one is wrong; file, line and column are named.
        """
        own = load(self.own) if self.own else ()
        names = {playbook.name for playbook in own}
        shipped = tuple(p for p in load(self.library) if p.name not in names) if self.library else ()
        return (*own, *shipped)


def read_sources(settings: AgentSettings) -> Sources:
    """Read the playbook files that the settings name.

    Raises:
        InvalidInput: one cannot be read.
    """
    texts: dict[str, str] = {}
    for place in settings.playbooks:
        files = sorted([*place.glob("*.yaml"), *place.glob("*.yml")]) if place.is_dir() else [place]
        for file in files:
            try:
                texts[str(file)] = file.read_text(encoding="utf-8")
            except (OSError, UnicodeDecodeError) as error:
                raise InvalidInput(
                    f"cannot read the playbook {file}: {error}", hint="check the agent's settings"
                ) from error
    return Sources(texts, library_texts() if settings.library else {})
