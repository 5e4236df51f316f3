"""From YAML text to playbooks, or to every problem with its file, line and column.

A playbook that lint finds an error in does not load: what acts at night has no known mistakes. Documents of other kinds
in the same text are left alone, so that playbooks may live beside the resources they guard.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import resources

from playbooks.lint import check, refuse
from playbooks.schema import Playbook


def load(texts: Mapping[str, str]) -> tuple[Playbook, ...]:
    """Return the playbooks in `texts` (source name → YAML text), sorted by name.

    Raises:
        InvalidInput: with one Problem per finding; no playbook of any text is to be used then.
    """
    found, findings = check(texts)
    refuse(findings, hint="`fibrin playbook lint` lists everything that is wrong")
    return tuple(sorted(found, key=lambda playbook: playbook.name))


def library() -> tuple[Playbook, ...]:
    """Return the playbooks that Fibrin ships, sorted by name."""
    return load(library_texts())


def library_texts() -> Mapping[str, str]:
    """Return the YAML of the playbooks that Fibrin ships: source name → text."""
    folder = resources.files("playbooks") / "library"
    files = sorted((entry for entry in folder.iterdir() if entry.name.endswith(".yaml")), key=lambda entry: entry.name)
    return {f"library/{entry.name}": entry.read_text(encoding="utf-8") for entry in files}
