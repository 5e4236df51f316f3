"""Playbooks tried on recorded decisions, and certificates that come and go under a running agent."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path

import pytest
import structlog
from click.testing import CliRunner

import playbooks
from agent.backtest import backtest
from agent.certificates import Certification, read, write
from agent.settings import AgentSettings
from fibrin.cli import cli
from playbooks.certificates import Certificate, digest

from .test_replay import record

TIMID = """
apiVersion: fibrin.dev/v1
kind: Playbook
metadata: {name: timid}
spec:
  description: Bounds the wait before it moves anything.
  when: {cause: [version], services: {names: [catalog]}}
  mode: auto
  priority: 900
  guard: {maxTrafficShare: 100%}
  steps:
  - {name: wait less, action: {setTimeout: {timeout: 1s}}, verify: {deadline: 5s}, undo: automatic}
"""


async def test_recorded_decisions_are_made_again_with_other_playbooks(tmp_path: Path) -> None:
    """The same library decides as it did; another playbook shows what it would have done instead, and why."""
    log = await record(tmp_path)
    (same,) = backtest(log, tmp_path / "agent.db", playbooks.library(), 10)
    assert (same.then, same.then_steps, same.differs) == ("bad-version", ("shift-traffic",), False)
    assert same.ended == "resolved"
    (other,) = backtest(log, tmp_path / "agent.db", (*playbooks.library(), *playbooks.load({"t": TIMID})), 10)
    assert (other.now, other.now_steps, other.differs) == ("timid", ("set-timeout",), True)
    assert "first match by priority (900)" in other.why


async def test_the_command_shows_then_and_now(tmp_path: Path) -> None:
    """`playbook backtest` reads the state directory alone and tells decision by decision what would differ."""
    await record(tmp_path)
    (tmp_path / "timid.yaml").write_text(TIMID)
    done = CliRunner().invoke(
        cli, ["--state-dir", str(tmp_path), "playbook", "backtest", str(tmp_path / "timid.yaml"), "-o", "json"]
    )
    assert done.exit_code == 0, done.output
    (item,) = json.loads(done.stdout)["items"]
    assert (item["then"]["playbook"], item["then"]["ended"]) == ("bad-version", "resolved")
    assert (item["now"]["playbook"], item["now"]["changes"], item["differs"]) == ("timid", ["set-timeout"], True)
    assert "1 decisions, 1 would be others now" in done.stderr
    table = CliRunner().invoke(cli, ["--state-dir", str(tmp_path), "playbook", "backtest"])
    assert "bad-version (shift-traffic)   resolved" in table.stdout
    empty = CliRunner().invoke(cli, ["--state-dir", str(tmp_path / "none"), "playbook", "backtest"])
    assert (empty.exit_code, "there is no state directory" in empty.stderr) == (1, True)


async def test_a_drill_that_passes_counts_at_once_and_not_for_ever(tmp_path: Path) -> None:
    """Without a certificate `auto` asks, loudly and once; with a fresh one it acts; a changed or old one is none."""
    (timid,) = playbooks.load(
        {"t": TIMID.replace("{name: timid}", "{name: timid, annotations: {fibrin.dev/drill: slow}}")}
    )
    now = time.time()
    certification = Certification(tmp_path, (timid,), 3600.0, required=True)
    with structlog.testing.capture_logs() as logs:
        await certification.load()
        await certification.load()
    assert [entry["event"] for entry in logs] == ["playbook.not_certified"]
    assert certification.lacking(now) == {"timid": "its drill slow never passed here"}
    passed = Certificate("timid", digest(timid), "slow", now, 0.5, 1.5)
    write(tmp_path, passed)
    await certification.load()
    assert certification.lacking(now + 1) == {}
    assert "passed 120 min ago" in certification.lacking(now + 7200)["timid"]
    write(tmp_path, replace(passed, digest="another"))
    await certification.load()
    assert certification.lacking(now + 2) == {"timid": "it was changed since its drill slow passed"}
    assert Certification(tmp_path, (timid,), 3600.0, required=False).lacking(now) == {}


def test_an_unreadable_certificate_is_none(tmp_path: Path) -> None:
    """Garbage in the folder keeps nothing from working; it is named in the log."""
    (tmp_path / "certificates").mkdir()
    (tmp_path / "certificates" / "x.json").write_text("{")
    with structlog.testing.capture_logs() as logs:
        assert read(tmp_path) == ()
    assert logs[0]["event"] == "certificate.unreadable"


@pytest.mark.parametrize("words", ["description", "escalate", "mode"])
def test_words_do_not_need_a_new_drill(words: str) -> None:
    """The fingerprint is of what a playbook does; a changed step or guard changes it, a changed description does not."""
    (timid,) = playbooks.load({"t": TIMID})
    other = {"description": "x" * 70, "mode": playbooks.library()[0].spec.mode, "escalate": timid.spec.escalate}
    same = timid.model_copy(update={"spec": timid.spec.model_copy(update={words: other[words]})})
    assert digest(same) == digest(timid)
    (changed,) = playbooks.load({"t": TIMID.replace("1s", "2s")})
    assert digest(changed) != digest(timid)


def test_every_shipped_playbook_that_acts_alone_is_certified(tmp_path: Path) -> None:
    """Out of the box nobody is asked for a drill: the shipped certificates are of the shipped content."""
    settings = AgentSettings(tmp_path)
    certification = Certification(tmp_path, playbooks.library(), settings.certificate_fresh_s, required=True)
    assert settings.require_certificates
    assert certification.lacking(time.time() + 10 * 365 * 86_400) == {}
