"""Whatever a person gets wrong: one clear error with its place and the next step, the right exit code, nothing half-applied."""

from __future__ import annotations

import json
import os
import re
import resource
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from click.testing import CliRunner

from fibrin.cli import cli
from simulations.addresses import free_port

pytestmark = pytest.mark.integration

HEAD = """apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: catalog}
spec:
  hosts: [catalog]
  http:
"""
SUBSETS = """apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: catalog}
spec: {host: catalog, subsets: [{name: v1, labels: {version: v1}}, {name: v2, labels: {version: v2}}]}
---
"""


class Mesh:
    """A control plane and an agent on a state directory of their own."""

    def __init__(self, state: Path) -> None:
        self.state = state
        self.port = free_port()
        self.env = {
            "FIBRIN_STATE_DIR": str(state),
            "FIBRIN_CONTROL_PORT": str(self.port),
            "FIBRIN_AGENT_PORT": str(free_port()),
            "NO_COLOR": "1",
        }

    def tell(self, *arguments: str, stdin: str = "") -> tuple[int, str, str]:
        """Run a verb; return exit code, stdout and stderr."""
        result = CliRunner(env=self.env).invoke(cli, list(arguments), input=stdin)
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
        return result.exit_code, result.stdout, result.stderr

    def process(self, *arguments: str, limit_bytes: int = 0) -> tuple[int, str]:
        """Run a verb as a process of its own, its files at most `limit_bytes` long; return exit code and stderr."""
        done = subprocess.run(
            [sys.executable, "-m", "fibrin", *arguments],
            env={**os.environ, **self.env},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            preexec_fn=(lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes,) * 2)) if limit_bytes else None,
        )
        assert "Traceback" not in done.stderr
        return done.returncode, done.stderr

    def declared(self) -> str:
        """Return the names of everything that is declared or laid."""
        return "".join(self.tell("get", kind, "-o", "name")[1] for kind in ("vs", "dr", "overlay"))

    def send(self, method: str, path: str, body: bytes) -> tuple[int, Mapping[str, str]]:
        """Send raw bytes to the control API as its operator; return status and error."""
        token = (self.state / "operator.token").read_text(encoding="utf-8").strip()
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", body, method=method)
        request.add_header("content-type", "application/json")
        request.add_header("authorization", f"Bearer {token}")
        with pytest.raises(urllib.error.HTTPError) as caught:
            urllib.request.urlopen(request, timeout=10)
        with caught.value as answer:
            return answer.code, json.load(answer)["error"]


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    """One mesh for the module."""
    mesh = Mesh(tmp_path_factory.mktemp("bad") / "s")
    assert mesh.process("up", "-d")[0] == 0
    yield mesh
    assert mesh.process("down")[0] == 0


@pytest.mark.parametrize(
    ("text", "place", "found", "next_step"),
    [
        pytest.param(
            "kind: VirtualService\nspec:\n  hosts: [catalog\n  http: 1\n",
            "stdin:4:7",
            "not YAML: did not find expected ',' or ']'",
            "that begins at 3:10",
            id="broken YAML",
        ),
        pytest.param(
            HEAD + "  - route:\n    - {destination: {host: catalog}, wieght: 10}\n",
            "stdin:8:38",
            "spec.http[0].route[0].wieght: unknown field",
            "did you mean `weight`?",
            id="unknown field",
        ),
        pytest.param(
            HEAD + "  - route:\n    - {destination: {host: catalog, subset: v9}}\n",
            "stdin:8:37",
            "the subset `v9` of `catalog` is declared in no DestinationRule",
            "declare it in a DestinationRule",
            id="dangling reference",
        ),
        pytest.param(
            SUBSETS
            + HEAD
            + "  - route:\n    - {destination: {host: catalog, subset: v1}, weight: 0}\n"
            + "    - {destination: {host: catalog, subset: v2}, weight: 0}\n",
            "stdin:12:5",
            "the weights add up to 0",
            "give one of them a weight",
            id="weights of 0",
        ),
        pytest.param(
            SUBSETS.replace("{version: v2}", "{}"),
            "stdin:4:",
            "spec.subsets[1].labels.version",
            "required field is missing",
            id="empty selector",
        ),
        pytest.param(
            SUBSETS + HEAD + "  - timeout: [1]\n    route:\n    - {destination: {host: catalog}}\n",
            "stdin:12:5",
            "spec.http[0].timeout: must be a duration",
            "such as 250ms",
            id="wrong type",
        ),
        pytest.param("# nothing\n", "", "there is no resource in stdin", "is the file empty?", id="empty"),
        pytest.param(
            "# " + "x" * 10_000_000, "", "stdin has more than the 1048576 bytes accepted", "split it", id="10 MB"
        ),
    ],
)
def test_a_bad_file_is_refused_whole(mesh: Mesh, text: str, place: str, found: str, next_step: str) -> None:
    """File, line, column, field, what was found and what to do; exit code 2; no document of it is applied."""
    code, out, told = mesh.tell("apply", "-f", "-", stdin=text)
    assert (code, out) == (2, "")
    assert told.startswith("error: ")
    assert place in told
    assert found in told
    assert next_step in told
    lines = told.splitlines()
    assert len(lines) == len(set(lines))
    assert told.count(next_step) == 1, "nothing is said twice"
    assert mesh.declared() == ""


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (("overlay", "eject", "catalog", "", "--reason", "x"), 2, "there is no service `catalog`"),
        (("overlay", "eject", "", "a", "--reason", "x"), 2, "must name a service; empty never means all"),
        (("overlay", "shift", "catalog", "v1=ten", "--reason", "x"), 2, "'v1=ten' is not VERSION=WEIGHT"),
        (("get", "services", "-l", ""), 2, "expected KEY=VALUE"),
        (("get", "nonsense"), 2, "known: service, instance"),
        (("describe", "svc/none"), 1, "there is no service `none`"),
        (("apply", "-f", "/nowhere.yaml"), 2, "cannot read /nowhere.yaml: No such file or directory"),
        (("proxy", "run", "--id", "A_1", "--service", "a", "--app-port", "0"), 2, "id: 'A_1' is not a name"),
        (("proxy", "run", "--id", "a", "--service", "a", "--envoy", "/no/envoy"), 1, "Envoy is missing: /no/envoy"),
    ],
)
def test_a_bad_command_says_what_is_wrong(mesh: Mesh, arguments: tuple[str, ...], code: int, told: str) -> None:
    """Exit code 2 for what a person wrote, 1 for what is not there; always with a hint; nothing is changed."""
    found, _, words = mesh.tell(*arguments)
    assert found == code
    assert told in words
    assert "hint: " in words
    assert mesh.declared() == ""


@pytest.mark.parametrize(
    ("place", "body", "status", "message"),
    [
        (
            "PUT /v1/instances/a",
            b'{"service": "catalog", "port": "15006"}',
            400,
            'found "15006"',
        ),
        ("POST /v1/overlays", b"[]", 400, "Input should be an object"),
        ("POST /v1/overlays", b"{broken", 400, "the body is not JSON"),
        ("POST /v1/overlays", b"x" * 10_000_000, 413, "the body is larger than the 1048576 bytes accepted"),
    ],
    ids=["wrong type", "no object", "no JSON", "10 MB"],
)
def test_a_bad_body_is_refused(mesh: Mesh, place: str, body: bytes, status: int, message: str) -> None:
    """The API names the field, what it found and where to read on; nothing is registered or laid."""
    method, path = place.split()
    code, error = mesh.send(method, path, body)
    assert code == status
    assert message in json.dumps(error).replace('\\"', '"')
    assert error["hint"]
    assert mesh.declared() == ""
    assert mesh.tell("get", "instances", "-o", "name")[1] == ""


def test_a_port_in_use_is_named(tmp_path: Path) -> None:
    """`up`, in the foreground or detached, says which port is taken; nothing of it stays behind."""
    mesh = Mesh(tmp_path / "s")
    with socket.create_server(("127.0.0.1", mesh.port)):
        for arguments in (("control",), ("up",), ("up", "-d")):
            code, told = mesh.process(*arguments)
            assert code == 1
            assert f"error: {'the mesh did not start: ' if arguments[-1] == '-d' else ''}the control API" in told
            assert f"cannot listen on 127.0.0.1:{mesh.port}: the port is in use" in told
            assert "FIBRIN_CONTROL_PORT" in told
    assert not (mesh.state / "control.json").exists()
    assert not (mesh.state / "up.json").exists()


def test_a_disk_that_takes_nothing_stops_a_start_with_a_clear_word(tmp_path: Path) -> None:
    """Control plane and agent both end with 1, name the file, and say what to do; there is no address of a dead process."""
    for name in ("control", "agent"):
        mesh = Mesh(tmp_path / name)
        mesh.state.mkdir(mode=0o700)
        for token in ("operator", "agent", "proxy"):
            (mesh.state / f"{token}.token").write_text("x" * 20)
        code, told = mesh.process(name, limit_bytes=1)
        assert code == 1, told
        assert re.search(rf"^error: .*{mesh.state}", told, re.MULTILINE), told
        assert re.search(r"^hint: ", told, re.MULTILINE), told
        assert not (mesh.state / f"{name}.json").exists()


def test_check_tells_of_a_disk_about_to_be_full(mesh: Mesh, monkeypatch: pytest.MonkeyPatch) -> None:
    """`check` fails while there is less room than wanted, though everything still answers."""
    monkeypatch.setattr("fibrin.cli.check._ROOM_BYTES", 2**60)
    code, out, _ = mesh.tell("check")
    assert code == 1
    assert "× disk: " in out
    assert "make room on this disk" in out
    assert "Status: 1 failed" in out
