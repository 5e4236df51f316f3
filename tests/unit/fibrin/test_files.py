"""What people name with `-f`: devices, pipes and endless files are refused, never waited for or read whole."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from click.testing import CliRunner

from control.resources.loading import load
from fibrin.cli import cli
from fibrin.cli.resources import MOST_WARNINGS, shortened
from models.errors import InvalidInput
from models.placed import MAX_BYTES


@pytest.mark.parametrize("verb", [["apply", "-f"], ["playbook", "lint"]])
def test_only_regular_files_are_read(tmp_path: Path, verb: list[str]) -> None:
    """A device without end, a pipe that nobody writes, and a file too large: exit code 2, at once."""
    pipe = tmp_path / "pipe.yaml"
    os.mkfifo(pipe)
    large = tmp_path / "large.yaml"
    large.write_bytes(b"#" * (MAX_BYTES + 1))
    for place, told in (
        ("/dev/zero", "/dev/zero is no regular file"),
        (str(pipe), f"{pipe} is no regular file"),
        (str(large), f"{large} has more than the {MAX_BYTES} bytes accepted"),
    ):
        done = CliRunner().invoke(cli, ["--state-dir", str(tmp_path), *verb, place])
        assert (done.exit_code, told in done.output) == (2, True), done.output


def test_stdin_is_read_no_further_than_the_limit(tmp_path: Path) -> None:
    """`-f -` takes text, and refuses more of it than is accepted."""
    done = CliRunner().invoke(cli, ["--state-dir", str(tmp_path), "apply", "-f", "-"], input="#" * (MAX_BYTES + 1))
    assert (done.exit_code, "stdin has more than" in done.output) == (2, True)
    done = CliRunner().invoke(cli, ["--state-dir", str(tmp_path), "apply", "-f", "-"], input="a: 1")
    assert (done.exit_code, "no control plane runs" in done.output) == (1, True)


def test_a_resource_without_kind_is_told_the_kinds_that_apply_takes() -> None:
    """Not those that only other verbs take."""
    with pytest.raises(InvalidInput) as caught:
        load([("a.yaml", "metadata: {name: x}\nspec: {}\n")])
    hints = {problem.field: problem.hint for problem in caught.value.problems}
    assert hints["kind"] == "one of VirtualService, DestinationRule, Canary, ServiceLevelObjective"
    assert hints["apiVersion"] == "one of networking.istio.io/v1, fibrin.dev/v1"


def test_many_warnings_are_shortened() -> None:
    """The first twenty as people count, then how many more."""
    assert shortened(["b", "a"]) == ["a", "b"]
    told = shortened(f"svc-{k}" for k in range(MOST_WARNINGS + 5, 0, -1))
    assert told[:3] == ["svc-1", "svc-2", "svc-3"]
    assert told[MOST_WARNINGS:] == ["and 5 more"]
