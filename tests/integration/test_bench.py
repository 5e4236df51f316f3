"""Every measurement of `make bench` runs, tells what it measured as JSON, and leaves nothing behind."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.integration


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder with a short path: Unix sockets lie below it."""
    path = Path(tempfile.mkdtemp(prefix="b-"))
    yield path
    shutil.rmtree(path)


async def bench(folder: Path, *arguments: str) -> asyncio.subprocess.Process:
    """Start the benchmark with `folder` as the place of its temporary files."""
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "simulations.bench", *arguments),
        env={**os.environ, "TMPDIR": str(folder)},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )


@pytest.mark.parametrize("name", ["overhead", "propagation", "simulated", "agent", "decisions", "memory"])
async def test_a_measurement_runs_and_tells_as_json(folder: Path, name: str) -> None:
    """A quick run ends with 0, prints one JSON object with figures, judges nothing and removes its files."""
    process = await bench(folder, name, "--quick", "-o", "json")
    out, err = await asyncio.wait_for(process.communicate(), 120)
    assert process.returncode == 0, err.decode()
    table = json.loads(out)[name]
    assert all(len(row) == len(table["columns"]) for row in table["rows"])
    assert not table["judged"]
    assert all(target["held"] is None and target["figure"] > 0 for target in table["targets"])
    assert list(folder.iterdir()) == []


async def test_sigterm_leaves_nothing(folder: Path) -> None:
    """A benchmark ended by SIGTERM stops its processes, removes its files and says so by its exit code."""
    process = await bench(folder, "memory", "--quick")
    give_up = time.monotonic() + 60
    while not (files := list(folder.glob("fibrin-bench-*/control.json"))):
        assert time.monotonic() < give_up, "it did not start"
        await asyncio.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    out, err = await asyncio.wait_for(process.communicate(), 60)
    assert (process.returncode, out) == (128 + signal.SIGTERM, b""), err.decode()
    assert list(folder.iterdir()) == []
    state = str(files[0].parent).encode()
    assert not [p for p in Path("/proc").glob("[0-9]*/cmdline") if state in _read(p)]


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""  # ended meanwhile
