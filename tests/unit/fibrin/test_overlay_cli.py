"""`fibrin overlay` before anything is sent: what its arguments mean and which exit code bad ones get."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from click.testing import CliRunner

from control.plane import ControlSettings, serving
from fibrin.cli import cli
from fibrin.cli.durations import Duration
from models.domain import Instance


@pytest.mark.parametrize(("text", "seconds"), [("1", 1.0), ("0.5", 0.5), ("500ms", 0.5), ("1m30s", 90.0)])
def test_durations_are_bare_seconds_or_have_units(text: str, seconds: float) -> None:
    """People may write what playbooks write."""
    assert Duration(0.001).convert(text, None, None) == seconds


@pytest.mark.parametrize(
    "words",
    [
        ["shift", "catalog", "v1=0", "v2=0"],
        ["shift", "catalog", "v1=-1"],
        ["zones", "catalog", "east=²"],
        ["timeout", "catalog", "soon"],
        ["timeout", "catalog", "nan"],
    ],
)
def test_bad_values_are_invalid_input(tmp_path: Path, words: list[str]) -> None:
    """Exit code 2, without asking a mesh."""
    done = CliRunner().invoke(cli, ["--state-dir", str(tmp_path), "overlay", *words, "--reason", "x"])
    assert done.exit_code == 2, done.output


async def test_a_dry_run_says_what_the_control_plane_says(tmp_path: Path) -> None:
    """A sentence when it may be laid, the real call's refusal when not."""
    async with serving(ControlSettings(tmp_path, port=0)) as (plane, _):
        await plane.register(Instance("a", "catalog", "v1", "z", "127.0.0.9", 15006))
        await plane.heartbeat("a", healthy=True, detail="")

        async def run(*words: str) -> tuple[int, str]:
            argv = ["--state-dir", str(tmp_path), "overlay", *words, "--reason", "x", "--dry-run"]
            done = await asyncio.to_thread(CliRunner().invoke, cli, argv)
            return done.exit_code, done.output

        assert await run("timeout", "catalog", "1s") == (
            0,
            "would set the timeout towards catalog to 1 s for 10 min (dry run)\n",
        )
        code, said = await run("timeout", "nobody", "1s")
        assert (code, "nobody" in said) == (2, True)
        code, said = await run("eject", "catalog", "nobody")
        assert (code, "nobody" in said) == (2, True)
        code, said = await run("eject", "catalog", "a")
        assert (code, "error: " in said) == (1, True)
        assert plane.overlays.all == ()
