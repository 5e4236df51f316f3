"""One drill on the real shop, from the command line to the report: real Envoys, real users, a real fault, a real heal."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from agent.certificates import read
from agent.telemetry.decode import Decoder
from simulations.drills import report
from simulations.drills.tap import frames

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[2]
DRILL = """
apiVersion: fibrin.dev/v1
kind: Drill
metadata: {name: bad-version, labels: {class: version}}
spec:
  description: The canary of catalog fails three fifths of its requests.
  mesh: {rate: 40, warmUp: 6s}
  steadyState:
  - {users: true, good: 90%}
  faults:
  - inject:
      abort: {service: catalog, version: v2, share: 60%}
  lasts: 60s
  stopWhenHealed: true
  expect:
    outcome: healed
    detectedWithin: 30s
    cause: {kind: [version], service: catalog, subject: [v2]}
    playbook: bad-version
"""


def test_a_drill_heals_reports_records_and_certifies(tmp_path: Path) -> None:
    """The drill passes, the page tells it, the recording is what sidecars said, and the playbook has its certificate."""
    (tmp_path / "drill.yaml").write_text(DRILL, encoding="utf-8")
    state, folder = tmp_path / "s", tmp_path / "report"
    command = [sys.executable, "-m", "fibrin", "--state-dir", str(state), "--log-level", "warning", "drill", "run"]
    options = ["--report", str(folder), "--record", str(tmp_path / "kept"), "-o", "json"]
    done = subprocess.run(
        [*command, str(tmp_path / "drill.yaml"), *options],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (told,) = report.read(folder)
    assert json.loads(done.stdout)[0]["name"] == told.name == "bad-version"
    assert told.passed
    assert told.detected_s is not None
    assert told.users.requests > 100
    assert told.served[0].values
    assert told.errors
    assert "<svg" in (folder / "index.html").read_text(encoding="utf-8")
    kept = list(frames(tmp_path / "kept" / "bad-version.telemetry.gz"))
    assert len({frame.node for frame in kept}) == 18
    first = kept[0]
    assert Decoder(first.node, lambda _: None).decode(first.payload, first.at).sent_at <= first.at
    assert [certificate.playbook for certificate in read(state)] == ["bad-version"]
