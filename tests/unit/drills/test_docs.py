"""docs/drills.md is held to the program: its commands are run as they stand there, its drill is the example."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from fibrin.cli import cli

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "drills.md").read_text(encoding="utf-8")


def test_every_command_of_the_page_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each command in the page ends well from the project's folder, and breaks nothing."""
    monkeypatch.chdir(ROOT)
    block = re.search(r"^```console\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    assert block is not None
    commands = [line.removeprefix("$ fibrin ").split() for line in block.group(1).splitlines()]
    assert len(commands) >= 5
    for command in commands:
        done = CliRunner().invoke(cli, ["--state-dir", str(tmp_path / "state"), *command])
        assert done.exit_code == 0, (command, done.output)
        assert done.output.strip()
    assert not (tmp_path / "state").exists()


def test_the_drill_of_the_page_is_the_example() -> None:
    """The drill shown is docs/examples/drill.yaml, word for word."""
    block = re.search(r"^```yaml\n# drill.yaml\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    assert block is not None
    example = (ROOT / "docs" / "examples" / "drill.yaml").read_text(encoding="utf-8")
    assert example.split("\n", 1)[1] == block.group(1)
