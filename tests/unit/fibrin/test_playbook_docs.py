"""The newcomer's path and the reference, held to the program: every command of the page is run as it stands there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from fibrin.cli import cli
from playbooks.reference import json_schema, markdown

DOCS = Path(__file__).parents[3] / "docs"


def test_every_command_of_the_newcomers_path_does_what_the_page_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files are saved as the page shows them, commands run in its order; each shown line and exit code is real."""
    monkeypatch.chdir(tmp_path)
    page = (DOCS / "playbooks.md").read_text(encoding="utf-8")
    ran = []
    for kind, body in re.findall(r"^```(yaml|console)\n(.*?)^```", page, re.MULTILINE | re.DOTALL):
        if kind == "yaml":
            name = re.match(r"# (\S+)\n", body)
            assert name is not None, "a file's first line names it"
            Path(name.group(1)).write_text(body, encoding="utf-8")
            continue
        command, *shown = body.rstrip("\n").split("\n")
        *lines, code = shown
        done = CliRunner().invoke(
            cli, ["--state-dir", str(tmp_path / "state"), *command.removeprefix("$ fibrin ").split()]
        )
        assert code == f"[exit {done.exit_code}]", (command, done.output)
        missing = [line for line in lines if line not in {"…", *done.output.split("\n")}]
        assert not missing, (command, done.output)
        assert "…" in lines or lines == [line for line in done.stdout.splitlines() if line], (
            f"{command}: mark with … what is left out"
        )
        ran.append(" ".join(command.split()[2:4]))
    wanted = ["playbook lint"] * 2 + ["explain playbook"] + ["playbook test"] * 2 + ["playbook list"]
    assert ran == wanted


def test_the_reference_is_current() -> None:
    """docs/playbook-reference.md is what the schema says now (write it anew with `python -m playbooks.reference`)."""
    assert (DOCS / "playbook-reference.md").read_text(encoding="utf-8") == markdown()


def test_every_field_of_the_reference_has_a_meaning() -> None:
    """No field is left without words, in tables or in the schema that editors show."""
    rows = re.findall(r"^\| \*{0,2}`(\w+)`.*\| (.*?) \|$", markdown(), re.MULTILINE)
    assert len(rows) > 100
    assert [name for name, text in rows if not text.strip()] == []
    assert json_schema()["$id"]
