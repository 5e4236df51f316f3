"""The kill switch from the terminal while no agent answers: the order waits where the agent looks first."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

import pytest
from click.testing import CliRunner

from agent.incidents import Verb, Weighed
from agent.switch import FILE, read_file
from fibrin.cli import cli
from fibrin.cli.context import Target
from fibrin.cli.incidents import considered


def test_without_an_agent_the_order_waits_in_the_state_directory(tmp_path: Path) -> None:
    """Stop and resume both leave the newest word for the next process, and say so."""
    for verb, stopped in (("stop-acting", True), ("resume-acting", False)):
        done = CliRunner().invoke(cli, ["--state-dir", str(tmp_path), verb, "--reason", "deploying"])
        assert done.exit_code == 0, done.output
        assert "the order waits in" in done.output
        order = read_file(tmp_path / FILE)
        assert order is not None
        assert (order.stopped, order.why) == (stopped, "deploying")


def test_orders_about_incidents_need_an_agent(tmp_path: Path) -> None:
    """Nobody is there to carry them out: told, exit code 1."""
    done = CliRunner().invoke(cli, ["--state-dir", str(tmp_path), "approve", "inc-1"])
    assert done.exit_code == 1
    assert "no agent runs on" in done.output


@pytest.mark.parametrize("waiting", ["", "approved, but the agent is stopped by bob"])
def test_an_approval_that_does_nothing_yet_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, waiting: str
) -> None:
    """What holds the step back is told beside the approval, with the way out; nothing more where nothing does."""

    class Agent:
        async def order(self, verb: Verb, name: str, reason: str) -> dict[str, str]:
            assert (verb, reason) == (Verb.APPROVE, "")
            return {"id": name, "waiting": waiting}

    monkeypatch.setattr(Target, "agent", lambda _: nullcontext(Agent()))
    done = CliRunner().invoke(cli, ["--state-dir", str(tmp_path), "approve", "inc-1"])
    assert done.stdout == "incident/inc-1 approved\n"
    hint = f"nothing is done yet: {waiting}\nhint: `fibrin resume-acting` takes the kill switch back\n"
    assert done.stderr == (hint if waiting else "")


def test_the_kill_switch_of_no_mesh(tmp_path: Path) -> None:
    """A state directory that does not exist is no mesh: nothing is left there, and the hint says what to do."""
    place = tmp_path / "typo"
    done = CliRunner().invoke(cli, ["--state-dir", str(place), "stop-acting"])
    assert done.exit_code == 1
    assert f"error: there is no mesh on {place}" in done.output
    assert "--state-dir" in done.output
    assert not place.exists()


def test_equal_reasons_are_told_once() -> None:
    """What speaks against all playbooks is one line with their number; what was chosen keeps its own."""
    same = [Weighed(f"book-{k}", accepted=False, reason="telemetry-trust: too few") for k in range(19)]
    told = considered([Weighed("mine", accepted=True, reason="first match"), *same])
    assert told == [
        "  √ mine: first match",
        "  - 19 playbooks (book-0, book-1, book-2, …): telemetry-trust: too few",
    ]
