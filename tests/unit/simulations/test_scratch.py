"""The folder of a mesh started for one occasion: removed on every way out, or told of."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from models.errors import Broken
from simulations.scratch import scratch


@pytest.mark.parametrize("error", [None, asyncio.CancelledError, KeyboardInterrupt, ValueError])
async def test_a_folder_that_nobody_will_read_goes(error: type[BaseException] | None) -> None:
    """A success, Ctrl-C and an error that names no log leave nothing, and say nothing."""
    said: list[str] = []
    path = Path()

    async def occasion() -> None:
        nonlocal path
        async with scratch(said.append) as folder:
            path = folder.path
            (path / "logs").mkdir()
            if error is not None:
                raise error

    if error is None:
        await occasion()
    else:
        with pytest.raises(error):
            await occasion()
    assert path.name.startswith("fibrin-")
    assert not path.exists()
    assert said == []


async def test_a_folder_that_is_needed_stays_and_is_told_of() -> None:
    """An error that names logs, or a reason that was given, keeps the folder; both are said, with the place."""
    said: list[str] = []
    kept: list[Path] = []

    async def occasion(reason: str) -> None:
        async with scratch(said.append) as folder:
            kept.append(folder.path)
            folder.kept = reason
            if not reason:
                raise Broken("the agent ended")

    with pytest.raises(Broken):
        await occasion("")
    await occasion("drill bad-version")
    assert said == [
        f"state and logs are left in {kept[0]}, because of the error",
        f"state and logs are left in {kept[1]}, because of drill bad-version",
    ]
    for path in kept:
        path.rmdir()
