"""A process with a wrong clock."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path


def test_a_module_runs_with_a_wrong_clock_and_its_own_arguments(tmp_path: Path) -> None:
    """What it imports and asks sees the shifted calendar time, in seconds and nanoseconds; durations are as they were."""
    text = "import sys, time\nfrom time import time as now\nprint(now(), time.time_ns() // 10**9, time.monotonic(), *sys.argv[1:])\n"
    (tmp_path / "asks.py").write_text(text, encoding="utf-8")
    root = Path(__file__).parents[3]
    done = subprocess.run(
        [sys.executable, "-m", "simulations.shifted", "-3600", "asks", "--flag"],
        env={"PYTHONPATH": f"{root}:{tmp_path}"},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    seconds, whole, monotonic, flag = done.stdout.split()
    assert -3660 < float(seconds) - time.time() < -3590
    assert abs(int(whole) - float(seconds)) < 2
    assert abs(float(monotonic) - time.monotonic()) < 60
    assert flag == "--flag"
