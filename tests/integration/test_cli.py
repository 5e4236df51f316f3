from __future__ import annotations

import getpass
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from simulations.addresses import free_subnet

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[2]
SHOP = ROOT / "docs" / "examples" / "shop.yaml"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Mesh:
    """A control plane and an agent on a state directory of their own, driven by the command line alone."""

    def __init__(self, state: Path) -> None:
        self.state = state
        self.env = {
            **os.environ,
            "FIBRIN_CONTROL_PORT": str(_free_port()),
            "FIBRIN_AGENT_PORT": str(_free_port()),
            "FIBRIN_STATE_DIR": str(state),
        }

    def run(self, *arguments: str, code: int = 0, stdin: str = "") -> str:
        """Run one verb, hold its exit code, return stdout (stderr when it failed)."""
        done = subprocess.run(
            [sys.executable, "-m", "fibrin", *arguments],
            env=self.env,
            cwd=ROOT,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == code, f"{arguments}: {done.stdout}{done.stderr}"
        assert "Traceback" not in done.stderr
        return done.stdout if code == 0 else done.stderr

    def processes(self) -> list[int]:
        """Return the pids of every process that names this state directory."""
        found = []
        for entry in Path("/proc").iterdir():
            try:
                command = (entry / "cmdline").read_bytes() if entry.name.isdigit() else b""
            except OSError:
                continue
            if str(self.state).encode() in command:
                found.append(int(entry.name))
        return found


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    """One mesh for the module, started with `up -d` and stopped with `down`."""
    mesh = Mesh(tmp_path_factory.mktemp("cli") / "s")
    assert "mesh is up" in mesh.run("up", "-d")
    yield mesh
    mesh.run("down")
    deadline = time.monotonic() + 10
    while mesh.processes() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert mesh.processes() == []


@pytest.mark.parametrize("name", ["cli", "canary", "objectives"])
def test_every_command_of_a_page_runs(tmp_path: Path, name: str) -> None:
    """The console block of the page works as written, on a fresh state directory."""
    page = (ROOT / "docs" / f"{name}.md").read_text(encoding="utf-8")
    commands = re.findall(r"^\$ fibrin (.+)$", page, re.MULTILINE)
    assert len(commands) >= 5
    fresh = Mesh(tmp_path / "s")
    for command in commands:
        fresh.run(*command.split())
    assert fresh.processes() == []


def test_the_mesh_of_ones_own_in_the_readme_carries_a_request(tmp_path: Path) -> None:
    """The README's block, run as it stands (on addresses that are free), answers its curl through two sidecars and leaves nothing."""
    text = (ROOT / "README.md").read_text(encoding="utf-8").split("## A mesh of your own\n")[1]
    (block,) = re.findall(r"^```sh\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    asked = sorted(set(re.findall(r"127\.0\.0\.\d+", block)))
    assert len(asked) == 2
    for written, free in zip(asked, free_subnet(asked, random.Random()).values(), strict=True):
        block = block.replace(written, free)
    fresh = Mesh(tmp_path / "s")
    fresh.env["PATH"] = f"{Path(sys.executable).parent}:{fresh.env['PATH']}"
    with (tmp_path / "told").open("w+", encoding="utf-8") as told:
        shell = subprocess.Popen(
            ["bash", "-e", "-c", block], env=fresh.env, cwd=ROOT, stdout=told, stderr=told, start_new_session=True
        )
        try:
            code = shell.wait(120)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(shell.pid, signal.SIGTERM)
            if fresh.processes():  # the block did not come as far as its own end
                fresh.run("down")
        told.seek(0)
        said = told.read()
    assert code == 0, said
    assert "Directory listing for /" in said
    assert re.search(r"^catalog +", said, re.MULTILINE), said
    deadline = time.monotonic() + 20
    while fresh.processes() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert fresh.processes() == []


def test_apply_get_describe_delete(mesh: Mesh) -> None:
    """What is applied can be listed in every format, described, and deleted; a dry run changes nothing."""
    assert "virtualservice/catalog created (dry run)" in mesh.run("apply", "-f", str(SHOP), "--dry-run")
    assert mesh.run("get", "vs", "-o", "name") == ""
    mesh.run("apply", "-f", str(SHOP))
    assert "unchanged" in mesh.run("apply", "-f", "-", stdin=SHOP.read_text(encoding="utf-8"))
    assert mesh.run("get", "vs", "-o", "name") == "virtualservice/catalog\n"
    assert mesh.run("get", "virtualservices").splitlines()[0].split() == ["NAME", "GENERATION", "AGE"]
    assert json.loads(mesh.run("get", "vs", "catalog", "-o", "json"))["manifest"]["spec"]["hosts"] == ["catalog"]
    assert "v1=90,v2=10" in mesh.run("get", "svc")
    assert "Effective policy:" in mesh.run("describe", "svc/catalog")
    assert "kind: DestinationRule" in mesh.run("describe", "dr", "catalog")
    assert "not found" in mesh.run("get", "vs", "nothing", code=1)
    assert "would be deleted" in mesh.run("delete", "-f", str(SHOP), "--dry-run")
    assert "deleted" in mesh.run("delete", "vs", "catalog")
    assert "deleted" in mesh.run("delete", "dr", "catalog")
    assert mesh.run("get", "dr", "-o", "name") == ""


def test_an_invalid_manifest_is_refused_whole(mesh: Mesh) -> None:
    """One wrong field refuses the whole file with its line; nothing of it is applied."""
    text = SHOP.read_text(encoding="utf-8").replace("weight: 10", "wieght: 10")
    told = mesh.run("apply", "-f", "-", code=2, stdin=text)
    assert re.search(r"stdin:\d+:\d+: .*wieght", told)
    assert "weight" in told
    assert mesh.run("get", "dr", "-o", "name") == ""


def test_overlays_by_hand(mesh: Mesh) -> None:
    """An overlay on a service that nobody serves is refused, and a dry run refuses it just so."""
    dry = ("overlay", "timeout", "catalog", "2", "--reason", "try")
    assert mesh.run(*dry, "--dry-run", code=2) == mesh.run(*dry, code=2)
    assert "catalog" in mesh.run("overlay", "eject", "catalog", "catalog-9", "--reason", "try", code=2)
    assert "No overlays found" in mesh.run("overlay", "delete", "nothing", code=1) or mesh.run("overlay", "list") == ""


def test_check_incidents_and_audit(mesh: Mesh) -> None:
    """A quiet mesh is in order, has no incidents, and its audit log verifies."""
    assert mesh.run("check").splitlines()[-1].startswith("Status: in order")
    assert json.loads(mesh.run("check", "-o", "json"))["findings"]
    assert mesh.run("incidents", "-o", "json") == '{\n  "items": []\n}\n'
    assert "chain unbroken" in mesh.run("audit", "verify")
    assert "there is no incident" in mesh.run("explain", "incident/none", code=1)


def test_what_a_person_applies_stands_in_the_audit_log(mesh: Mesh) -> None:
    """The log names who applied what; it is written by the agent, which follows the control plane's changes."""
    mesh.run("apply", "-f", str(SHOP))
    deadline = time.monotonic() + 20
    while "VirtualService/catalog applied" not in (told := mesh.run("audit", "list", "--kind", "person")):
        assert time.monotonic() < deadline, told
        time.sleep(0.1)
    assert getpass.getuser() in told
    assert "signed by" in mesh.run("audit", "verify")
    mesh.run("delete", "vs", "catalog")
    mesh.run("delete", "dr", "catalog")


def test_the_kill_switch_by_command(mesh: Mesh) -> None:
    """Thrown and taken back over the agent's API; `check` says by whom and why; the order is on disk."""
    assert "changes nothing" in mesh.run("stop-acting", "--reason", "deploying")
    told = mesh.run("check")
    assert f"stopped by {getpass.getuser()}: deploying" in told
    assert "fibrin resume-acting" in told
    assert json.loads((mesh.state / "stop-acting").read_text())["stopped"] is True
    mesh.run("resume-acting")
    assert "kill switch" not in mesh.run("check")
    assert "no incident inc-0 is open" in mesh.run("approve", "inc-0", code=1)


def test_a_second_mesh_on_the_same_state_is_refused(mesh: Mesh) -> None:
    """Two meshes never share a state directory."""
    assert "up on" in mesh.run("up", code=1)
    assert "hint:" in mesh.run("control", "--port", "0", code=1)
