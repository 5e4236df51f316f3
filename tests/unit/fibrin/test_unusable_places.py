"""A state directory that cannot be used, a disk that is full: told in the house's words, and no process dies of its log."""

from __future__ import annotations

import errno
import io
from pathlib import Path

import pytest
from click.testing import CliRunner

from agent.place import announce, make_directory, only_one
from fibrin import up
from fibrin.cli import cli
from fibrin.logs import LOST, Sink
from models.errors import Broken


@pytest.mark.parametrize("detach", [[], ["-d"]])
def test_up_on_an_unusable_state_directory(tmp_path: Path, detach: list[str]) -> None:
    """A file, and a place where nothing can be made: the same message with and without `-d`, exit code 1."""
    file = tmp_path / "file"
    file.write_text("mine")
    wanted = {
        f"{file}": ("it is a file, not a directory", "name another --state-dir, or move the file away"),
        f"{file}/below": (f"{file} is a file, not a directory", "name another --state-dir, or move the file away"),
        "/proc/x": ("No such file or directory", "make it writable for this user, or name another --state-dir"),
    }
    for place, (reason, hint) in wanted.items():
        done = CliRunner().invoke(cli, ["--state-dir", place, "up", *detach])
        assert done.exit_code == 1
        assert f"error: the state directory {place} cannot be used: {reason}" in done.output
        assert f"hint: {hint}" in done.output


def test_an_agent_says_that_its_state_directory_is_a_file(tmp_path: Path) -> None:
    """The agent's words are the control plane's."""
    (tmp_path / "file").write_text("mine")
    with pytest.raises(Broken, match="it is a file, not a directory"):
        make_directory(tmp_path / "file")


async def test_a_full_disk_is_named_with_the_room_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The agent's pid, its address and the supervisor's file: path, reason, free space, next step."""

    def full(*_: object, **__: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.pwrite", full)
    monkeypatch.setattr(Path, "write_text", full)
    told = []
    with pytest.raises(Broken) as caught:
        async with only_one(tmp_path):
            pass
    told.append(caught.value)
    with pytest.raises(Broken) as caught:
        announce(tmp_path, "http://127.0.0.1:1")
    told.append(caught.value)
    with pytest.raises(Broken) as caught:
        await up.up(tmp_path, (), lambda: None)
    told.append(caught.value)
    for error, name in zip(told, ("agent.lock", "agent.json", "up.json"), strict=True):
        assert f"{tmp_path / name} cannot be written: No space left on device; " in error.message
        assert f"KiB are free in {tmp_path}" in error.message
        assert "make room" in error.hint


class _Disk(io.StringIO):
    full = False

    def write(self, text: str) -> int:
        if self.full:
            raise OSError(errno.ENOSPC, "No space left on device")
        return super().write(text)


def test_a_log_that_cannot_be_written_is_counted() -> None:
    """Lines are lost while the disk is full; the first one after it says how many."""
    disk = _Disk()
    sink = Sink(disk)
    before = LOST._value.get()
    sink.write("one\n")
    disk.full = True
    sink.write("two\n")
    sink.write("three\n")
    disk.full = False
    sink.write("four\n")
    assert LOST._value.get() - before == 2
    assert disk.getvalue() == "one\n2 log lines before this one could not be written\nfour\n"
