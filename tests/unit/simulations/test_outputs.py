"""Where results cannot be written, nothing is started, and people read why."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest
from click.testing import CliRunner

from fibrin.cli import cli
from models.errors import InvalidInput
from simulations import outputs


@pytest.mark.parametrize(
    "command",
    [
        ["demo", "--headless", "--keep-logs", "/proc/x"],
        ["demo", "--headless", "--certify", "/proc/x"],
        ["drill", "run", "bad-version", "--report", "/proc/x"],
        ["drill", "run", "bad-version", "--record", "/proc/x/y"],
        ["drill", "schedule", "FILE", "--report", "/proc/x"],
    ],
)
def test_a_command_says_at_once_where_it_cannot_write(
    tmp_path: Path, command: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder or file that cannot be made is a usage error with a next step, before any process starts."""
    monkeypatch.setattr("simulations.demo.run.scratch", None)  # whoever gets as far as this fails loudly
    monkeypatch.setattr("fibrin.cli.drill._stoppable", None)
    shipped = Path(__file__).parents[3] / "simulations/drills/library/bad-version.yaml"
    text = shipped.read_text(encoding="utf-8").replace("\nspec:\n", "\nspec:\n  schedule: {cron: '0 4 * * 1'}\n", 1)
    (tmp_path / "due.yaml").write_text(text, encoding="utf-8")
    asked = [str(tmp_path / "due.yaml") if word == "FILE" else word for word in command]
    done = CliRunner().invoke(cli, ["--state-dir", str(tmp_path), *asked])
    assert "/proc/x" in done.output
    assert "No such file or directory" in done.output
    assert "hint: name another f" in done.output
    assert done.exit_code == 2


def test_files_and_folders_are_looked_at_without_a_trace(tmp_path: Path) -> None:
    """A folder is made, a file is not; what is in the way is named."""
    outputs.folder(tmp_path / "a" / "b")
    assert list((tmp_path / "a" / "b").iterdir()) == []
    assert outputs.file_argument(str(tmp_path / "c")) == tmp_path / "c"
    assert not (tmp_path / "c").exists()
    (tmp_path / "c").write_text("kept")
    outputs.file(tmp_path / "c")
    assert (tmp_path / "c").read_text() == "kept"
    with pytest.raises(InvalidInput, match="it is not a folder"):
        outputs.folder(tmp_path / "c")
    with pytest.raises(argparse.ArgumentTypeError, match="Is a directory"):
        outputs.file_argument(str(tmp_path))
