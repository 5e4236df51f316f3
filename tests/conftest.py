"""What holds for every test: property tests draw the same examples in every run, so that a failure is everybody's."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("repeatable", derandomize=True, database=None, deadline=None)
settings.load_profile("repeatable")


def binaries() -> Path | None:
    """Return where PostgreSQL's programs are, None without one."""
    found = shutil.which("initdb")
    packaged = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    return Path(found).parent if found else packaged[-1].parent if packaged else None


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Run a PostgreSQL of our own on a Unix socket, as an ordinary user; give the start of its URL."""
    programs = binaries()
    if programs is None:
        pytest.skip("PostgreSQL is not installed (Debian: apt-get install postgresql)")
    home = tmp_path_factory.mktemp("pg")
    data, user, group = home / "data", None, None
    if os.geteuid() == 0:  # initdb refuses to run as root
        user, group = "nobody", "nogroup"
        for place in (home, *home.parents):  # pytest keeps its folders to itself
            if place.is_relative_to(tempfile.gettempdir()) and place != Path(tempfile.gettempdir()):
                place.chmod(0o755)
        shutil.chown(home, "nobody", "nogroup")

    def run(program: str, *arguments: str) -> None:
        command = [str(programs / program), *arguments]
        done = subprocess.run(
            command, cwd=home, check=False, capture_output=True, text=True, timeout=120, user=user, group=group
        )
        assert done.returncode == 0, done.stdout + done.stderr

    run("initdb", "-D", str(data), "-A", "trust", "-U", "fibrin", "-N", "--no-locale", "-E", "UTF8")
    log = str(home / "log")
    options = f"-c listen_addresses= -c unix_socket_directories={home} -c fsync=off"
    run("pg_ctl", "-D", str(data), "-o", options, "-l", log, "-w", "start")
    yield f"postgresql://fibrin@/{{}}?host={home}"
    run("pg_ctl", "-D", str(data), "-m", "immediate", "stop")
