from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np
import pytest
from click.testing import CliRunner

from fibrin.cli import cli
from fibrin.cli.output import Column, age, counted, dump, milliseconds, percent, plain, plural, show, table, text
from models.domain import Edge, Health, Instance

COLUMNS = (
    Column("NAME", lambda i: i.id),
    Column("ZONE", lambda i: i.zone),
    Column("PORT", lambda i: i.port, wide=True),
)
ROWS = (
    Instance("catalog-v1-1", "catalog", "v1", "a", "127.0.0.2", 15006),
    Instance("ads-1", "ads", "v1", "", "127.0.0.3", 15006),
)


def _shown(capsys: pytest.CaptureFixture[str], output: str, rows: Sequence[Instance] = ROWS) -> str:
    show(rows, COLUMNS, output, kind="instance", name=lambda i: str(i.id), single=len(rows) == 1)
    return capsys.readouterr().out


def test_tables_look_like_kubectl(capsys: pytest.CaptureFixture[str]) -> None:
    """NAME first, three spaces between columns, `<none>` for nothing; wide columns only in wide."""
    assert _shown(capsys, "table") == "NAME           ZONE\ncatalog-v1-1   a\nads-1          <none>\n"
    assert _shown(capsys, "wide").splitlines()[0] == "NAME           ZONE     PORT"


def test_names_json_and_yaml(capsys: pytest.CaptureFixture[str]) -> None:
    """`-o name` is kind/name, JSON holds a list under items, one asked-for object stands alone."""
    assert _shown(capsys, "name") == "instance/catalog-v1-1\ninstance/ads-1\n"
    assert [i["id"] for i in json.loads(_shown(capsys, "json"))["items"]] == ["catalog-v1-1", "ads-1"]
    assert json.loads(_shown(capsys, "json", ROWS[:1]))["health"] == "healthy"
    assert _shown(capsys, "yaml", ROWS[:1]).startswith("id: catalog-v1-1\n")


def test_nothing_found_goes_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    """An empty list prints no table; stdout stays empty for pipes."""
    show([], COLUMNS, "table", kind="instance", name=str)
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "No instances found.\n")
    assert [plural(noun) for noun in ("canary", "slo")] == ["canaries", "service level objectives"]
    assert (counted(1, "drill"), counted(0, "drill")) == ("1 drill", "0 drills")


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(0, "0s"), (89, "89s"), (119, "119s"), (120, "2m"), (7200, "2h"), (86400 * 3, "3d"), (-5, "0s")],
)
def test_ages(seconds: float, shown: str) -> None:
    """Ages are short and never negative."""
    assert age(1000, 1000 + seconds) == shown


def test_cells() -> None:
    """Ratios, durations and unknowns have one form each."""
    assert (percent(0.123), percent(None), percent(float("nan"))) == ("12.3%", "-", "-")
    assert (milliseconds(0.0421), milliseconds(None)) == ("42ms", "-")
    assert (text(None), text(0), text(0.5)) == ("<none>", "0", "0.5")
    assert table(["A"], [["b"]]) == "A\nb"


def test_plain_reduces_everything_to_json() -> None:
    """Dataclasses, enums, sets and arrays become what JSON can hold."""
    value = {"e": frozenset({Edge("b", "c"), Edge("a", "c")}), "h": Health.LOST, "a": np.arange(2), "t": (1, None)}
    assert json.loads(dump(plain(value), "json")) == {
        "e": [{"caller": "a", "callee": "c"}, {"caller": "b", "callee": "c"}],
        "h": "lost",
        "a": [0, 1],
        "t": [1, None],
    }


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["get", "service"], 1, "no control plane runs on"),
        (["incidents"], 1, "no agent runs on"),
        (["gte", "services"], 2, "No such command 'gte'. Did you mean 'get'?"),
        (["get", "gadget"], 2, "there is no kind 'gadget'"),
        (["get", "service", "-l", "a=b"], 2, "service has no labels"),
        (["get", "instance", "-l", "a"], 2, "expected KEY=VALUE"),
        (["describe", "service"], 2, "which one?"),
        (["delete"], 2, "delete: what?"),
        (["delete", "change", "1"], 2, "cannot be deleted"),
        (["apply", "-f", "/nowhere.yaml"], 2, "cannot read /nowhere.yaml"),
        (["overlay", "shift", "catalog", "v1", "--reason", "r"], 2, "is not VERSION=WEIGHT"),
        (["overlay", "limit", "catalog", "--reason", "r"], 2, "nothing to limit"),
        (["overlay", "eject", "catalog", "c-1"], 2, "Missing option '--reason'"),
        (["explain", "service/x"], 2, "cannot explain a service"),
        (["audit", "verify"], 1, "there is no state directory"),
        (["down"], 1, "nothing runs on"),
        (["proxy", "run", "--id", "a", "--service", "b"], 1, "no control plane has run"),
        (["--config", "/nowhere.yaml", "control"], 2, "cannot read the settings file"),
    ],
)
def test_mistakes_are_told_with_a_next_step(
    arguments: list[str], code: int, message: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Every mistake ends with its exit code, a message and no traceback; stdout stays empty."""
    state = tmp_path_factory.mktemp("state") / "none"
    done = CliRunner().invoke(cli, ["--state-dir", str(state), *arguments])
    assert done.exit_code == code
    assert message in done.stderr
    assert done.stdout == ""
    assert "hint:" in done.stderr or "Try '" in done.stderr
