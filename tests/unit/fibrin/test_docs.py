from __future__ import annotations

import dataclasses
import re
from enum import Enum
from pathlib import Path

import click
import pytest

from agent.settings import AgentSettings
from control.settings import ControlSettings
from fibrin.cli import VERBS, cli, load
from fibrin.reference import objective_fields

DOCS = Path(__file__).parents[3] / "docs"


def _verbs(group: click.Group, prefix: str = "") -> set[str]:
    found: set[str] = set()
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        found |= _verbs(command, f"{prefix}{name} ") if isinstance(command, click.Group) else {f"{prefix}{name}"}
    return found


def test_verbs_are_found_where_they_are_said_to_be() -> None:
    """The table of verbs names each module's verbs, all of them, in order."""
    assert {module: tuple(load(module)) for module in VERBS} == VERBS


def test_cli_page_lists_every_verb_and_no_other() -> None:
    """The verbs in docs/cli.md are exactly the verbs there are."""
    text = (DOCS / "cli.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^\| `([a-z -]+)` \|", text, re.MULTILINE)) == _verbs(cli)


def test_the_fields_of_an_objective_are_current_and_explained() -> None:
    """docs/objectives.md ends with what the schema says now (write it anew with `python -m fibrin.reference`); every field has a meaning."""
    assert (DOCS / "objectives.md").read_text(encoding="utf-8").endswith(f"\n\n{objective_fields()}")
    rows = re.findall(r"^\| \*{0,2}`(\w+)`.*\| (.*?) \|$", objective_fields(), re.MULTILINE)
    assert len(rows) == 8
    assert [name for name, text in rows if not text.strip()] == []


@pytest.mark.parametrize(("section", "shape"), [("control", ControlSettings), ("agent", AgentSettings)])
def test_settings_page_lists_every_field_with_its_default(section: str, shape: type) -> None:
    """docs/settings.md names every setting of both processes with the default that holds."""
    text = (DOCS / "settings.md").read_text(encoding="utf-8").split(f"## {section}\n")[1].split("\n## ")[0]
    listed = dict(re.findall(r"^\| `(\w+)` \| (.+?) \|", text, re.MULTILINE))
    wanted = {}
    for field in dataclasses.fields(shape):
        default = field.default.value if isinstance(field.default, Enum) else field.default
        empty = default in (None, "", ()) or default is dataclasses.MISSING
        wanted[field.name] = "–" if empty else str(default)
    assert {name: value.strip('"') for name, value in listed.items()} == wanted
