"""`playbook` on the command line: exit codes, streams, and what is said."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from fibrin.cli import cli

ROOT = Path(__file__).parents[3]
BAD = Path(__file__).parents[1] / "playbooks" / "golden" / "bad.yaml"
CANARY = ROOT / "docs" / "examples" / "canary.yaml"
CASE = """
apiVersion: fibrin.dev/v1
kind: PlaybookTest
metadata: {name: case}
spec:
  mesh: {catalog: {versions: {v1: 3, v2: 1}, callers: [shop]}, shop: {}}
  incident: {cause: version, service: catalog, subject: v2}
"""


def fibrin(directory: Path, *words: str) -> Result:
    """Run a command on an empty state directory."""
    return CliRunner().invoke(cli, ["--state-dir", str(directory), *words])


def test_lint_ends_with_three_on_findings(tmp_path: Path) -> None:
    """Each finding is a line with file, line and column on stdout; the count goes to stderr."""
    found = fibrin(tmp_path, "playbook", "lint", str(BAD))
    assert found.exit_code == 3
    assert len(found.stdout.splitlines()) == 33
    assert f"{BAD}:113:12: spec.when.expression" in found.stdout
    assert found.stderr == "1 file: 30 errors, 3 warnings\n"


@pytest.mark.parametrize(("verb", "what"), [(("playbook", "lint"), "playbook"), (("drill", "validate"), "drill")])
def test_a_file_without_one_is_a_finding(tmp_path: Path, verb: tuple[str, str], what: str) -> None:
    """An empty file, and one of other things, are told apart from one without faults; beside a good one the latter may stand."""
    (tmp_path / "empty.yaml").write_text("# nothing yet\n---\n")
    found = fibrin(tmp_path, *verb, str(tmp_path / "empty.yaml"))
    assert found.exit_code == 3
    assert f"empty.yaml: there is no {what} in it (is the file empty?)" in found.stdout
    assert found.stderr.endswith(": 0 errors, 1 warning\n")
    other = str(CANARY)
    found = fibrin(tmp_path, *verb, other)
    assert f"there is no {what} in it (its documents are of another kind)" in found.stdout
    good = str(ROOT / "playbooks/library/bad-version.yaml" if what == "playbook" else ROOT / "docs/examples/drill.yaml")
    assert "no findings" in fibrin(tmp_path, *verb, other, good).stderr


def test_backtest_tells_a_missing_directory_from_a_missing_log(tmp_path: Path) -> None:
    """A mistyped state directory is named as such."""
    found = fibrin(tmp_path / "nowhere", "playbook", "backtest")
    assert f"there is no state directory {tmp_path / 'nowhere'}" in found.stderr
    assert "there is no audit log at" in fibrin(tmp_path, "playbook", "backtest").stderr


def test_list_shows_the_library_and_its_certificates(tmp_path: Path) -> None:
    """Without a mesh the shipped playbooks are listed, with the figures of the drill that certified them."""
    found = fibrin(tmp_path, "playbook", "list", "-o", "json")
    rows = {row["name"]: row for row in json.loads(found.stdout)["items"]}
    assert (rows["bad-version"]["acts"], rows["bad-version"]["certified"]) == ("auto", "shipped")
    assert 0 < rows["bad-version"]["detect_s"] <= rows["bad-version"]["mitigate_s"]
    assert rows["bad-zone"]["certified"] == "missing"
    assert "playbook/unknown" in fibrin(tmp_path, "playbook", "list", "-o", "name").stdout


def test_own_playbooks_replace_shipped_ones_of_their_name(tmp_path: Path) -> None:
    """What the settings name is listed with its file; a changed copy of a shipped one lost its certificate."""
    copy = tmp_path / "mine.yaml"
    shipped = Path(__file__).parents[3] / "playbooks" / "library" / "bad-version.yaml"
    copy.write_text(shipped.read_text().replace("deadline: 10s", "deadline: 9s"))
    (tmp_path / "settings.yaml").write_text(f"agent:\n  playbooks: [{copy}]\n")
    found = CliRunner().invoke(
        cli,
        ["--state-dir", str(tmp_path), "--config", str(tmp_path / "settings.yaml"), "playbook", "list", "-o", "json"],
    )
    (row,) = [row for row in json.loads(found.stdout)["items"] if row["name"] == "bad-version"]
    assert (row["source"], row["certified"]) == (str(copy), "changed")
    assert row["acts"] == "approve (not certified)"


def test_a_written_incident_about_nothing_is_refused(tmp_path: Path) -> None:
    """A subject that the written mesh does not have is an error with its place, not an answer."""
    (tmp_path / "case.yaml").write_text(CASE.replace("subject: v2", "subject: v3"))
    found = fibrin(tmp_path, "playbook", "test", str(tmp_path / "case.yaml"), "--with-library")
    assert found.exit_code == 2
    assert "case.yaml:7:48: spec.incident.subject: catalog has no version `v3`" in found.stderr


def test_answers_without_expectation_are_only_shown(tmp_path: Path) -> None:
    """With nothing expected every answer is right."""
    (tmp_path / "case.yaml").write_text(CASE)
    found = fibrin(tmp_path, "playbook", "test", str(tmp_path / "case.yaml"), "--with-library", "-v")
    assert found.exit_code == 0
    assert "√ case: version catalog/v2 (errors): bad-version (mode auto)" in found.stdout
    assert "- bad-zone: is for zone, the cause is version" in found.stdout


@pytest.mark.parametrize("words", [("playbook", "bad-instance"), ("playbook/bad-instance",)])
def test_explain_tells_a_playbook_in_prose(tmp_path: Path, words: tuple[str, ...]) -> None:
    """Mode, certificate, conditions, limits, steps and escalation are all said."""
    found = fibrin(tmp_path, "explain", *words)
    assert found.exit_code == 0
    for part in (
        "It acts by itself (its drill bad-instance passed",
        "60% certainty",
        "15 s apart",
        "a person is called",
    ):
        assert part in found.stdout


def test_unknown_names_are_answered_with_a_near_one(tmp_path: Path) -> None:
    """A slip in a playbook's name is suggested."""
    found = fibrin(tmp_path, "explain", "playbook", "bad-instanse")
    assert (found.exit_code, "did you mean `bad-instance`?" in found.stderr) == (1, True)


def test_the_schema_is_json(tmp_path: Path) -> None:
    """Editors get a JSON schema with every action."""
    schema = json.loads(fibrin(tmp_path, "playbook", "schema").stdout)
    assert {"limitRate", "shiftZones", "drainInstance"} <= schema["$defs"]["Action"]["properties"].keys()
