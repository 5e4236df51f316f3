from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from agent.settings import AgentSettings
from fibrin import settings
from models.errors import InvalidInput


@dataclass(frozen=True, slots=True)
class Shape:
    state_dir: Path
    host: str = "127.0.0.1"
    port: int = 15080
    lease_s: float = 10.0
    observe_only: bool = False


def test_precedence_is_flag_environment_file_default(tmp_path: Path) -> None:
    """A flag beats the environment, which beats the file, which beats the default."""
    config = tmp_path / "fibrin.yaml"
    config.write_text("control:\n  host: 127.0.0.2\n  port: 1\n  lease_s: 3\n")
    env = {"FIBRIN_CONTROL_PORT": "2", "FIBRIN_CONTROL_LEASE_S": "4", "FIBRIN_AGENT_PORT": "9"}
    flags = {"lease_s": 5.0, "port": None, "state_dir": str(tmp_path)}
    got = settings.read("control", Shape, flags=flags, env=env, config=config)
    assert got == Shape(state_dir=tmp_path, host="127.0.0.2", port=2, lease_s=5.0)


def test_every_wrong_value_is_named_with_its_source(tmp_path: Path) -> None:
    """Wrong types and unknown keys are all reported, each with where it came from."""
    env = {"FIBRIN_CONTROL_PORT": "many", "FIBRIN_CONTROL_OBSERVE_ONLY": "perhaps"}
    with pytest.raises(InvalidInput) as caught:
        settings.read("control", Shape, flags={"state_dir": tmp_path}, env=env)
    assert {(p.source, p.field) for p in caught.value.problems} == {
        ("environment", "control.port"),
        ("environment", "control.observe_only"),
    }
    with pytest.raises(InvalidInput) as caught:
        settings.read("control", Shape, flags={"state_dir": tmp_path}, env={"FIBRIN_CONTROL_PROT": "1"})
    assert "did you mean port" in str(caught.value.problems[0])


@pytest.mark.parametrize(
    ("text", "message"),
    [("- a\n", "expected sections"), ("controll: {}\n", "unknown section controll"), ("control: [", "is not YAML")],
)
def test_a_broken_file_is_refused(tmp_path: Path, text: str, message: str) -> None:
    """A settings file that is not a mapping of known sections is refused by name."""
    config = tmp_path / "f.yaml"
    config.write_text(text)
    with pytest.raises(InvalidInput, match=message):
        settings.read("control", Shape, flags={"state_dir": tmp_path}, env={}, config=config)


@pytest.mark.parametrize("text", ['["a.yaml", "b"]', "[a.yaml, b]"])
def test_the_environment_can_say_lists(tmp_path: Path, text: str) -> None:
    """A setting with several values is written as in the file, in one line; text that is no list is told from it."""
    got = settings.read("agent", AgentSettings, flags={"state_dir": tmp_path}, env={"FIBRIN_AGENT_PLAYBOOKS": text})
    assert got.playbooks == (Path("a.yaml"), Path("b"))
    with pytest.raises(InvalidInput) as caught:
        settings.read("agent", AgentSettings, flags={"state_dir": tmp_path}, env={"FIBRIN_AGENT_PLAYBOOKS": "[a"})
    assert [problem.source for problem in caught.value.problems] == ["environment"]


@pytest.mark.parametrize(
    ("text", "wanted"), [("nope.yaml", '["nope.yaml"]'), ("a, b.yaml", '["a", "b.yaml"]'), ("[a", '["a"]')]
)
def test_one_word_where_a_list_belongs_is_answered_with_the_list_to_write(
    tmp_path: Path, text: str, wanted: str
) -> None:
    """The environment's notation is a JSON list, quoted for the shell; the file's is a list."""
    with pytest.raises(InvalidInput) as caught:
        settings.read("agent", AgentSettings, flags={"state_dir": tmp_path}, env={"FIBRIN_AGENT_PLAYBOOKS": text})
    (problem,) = caught.value.problems
    assert (problem.field, problem.hint) == ("agent.playbooks", f"write a JSON list: '{wanted}'")
    assert repr(text) in problem.message
    config = tmp_path / "f.yaml"
    config.write_text("agent: {playbooks: nope.yaml}\n")
    with pytest.raises(InvalidInput) as caught:
        settings.read("agent", AgentSettings, flags={"state_dir": tmp_path}, env={}, config=config)
    assert caught.value.problems[0].hint == 'write a list: ["nope.yaml"]'


def test_the_state_directory_comes_from_flag_then_environment() -> None:
    """`--state-dir` beats `FIBRIN_STATE_DIR`; both are made absolute."""
    assert settings.state_dir("x", {"FIBRIN_STATE_DIR": "/y"}) == Path("x").absolute()
    assert settings.state_dir(None, {"FIBRIN_STATE_DIR": "/y"}) == Path("/y")
