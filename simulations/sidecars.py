"""Many sidecars, one runner: real Envoys, each supervised as `fibrin proxy run` would, in a single Python process.

`fibrin proxy run` costs a Python process per sidecar, which is right beside an application in a container and wasteful for
eighteen of them on one machine. `python -m simulations.sidecars SPEC.json` runs the same supervisors side by side.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import structlog
from pydantic import TypeAdapter, ValidationError

from models.errors import FibrinError
from proxy.run import supervise
from proxy.spec import SidecarSpec
from proxy.stopping import Stop
from proxy.supervisor import Timing

_START_TOGETHER = 6  # more Envoys at once only make each of them late

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Sidecar:
    """One sidecar of the fleet; the ports are the mesh's usual ones on its own address."""

    id: str
    service: str
    version: str
    zone: str
    address: str
    probe_path: str = "/healthz"


@dataclass(frozen=True, slots=True)
class Fleet:
    """What to run: the state directory and control API they share, and the sidecars. `otlp_socket` "": the agent's own."""

    state_dir: str
    api_url: str
    drain_deadline_s: float
    sidecars: tuple[Sidecar, ...]
    otlp_socket: str = ""

    def encode(self) -> str:
        """Render as JSON."""
        return json.dumps(asdict(self))


FLEET: TypeAdapter[Fleet] = TypeAdapter(Fleet)


def spec(fleet: Fleet, sidecar: Sidecar, token: str) -> SidecarSpec:
    """Return the sidecar's spec, as `fibrin proxy run` builds it from flags."""
    state = Path(fleet.state_dir)
    return SidecarSpec(
        id=sidecar.id,
        service=sidecar.service,
        version=sidecar.version,
        zone=sidecar.zone,
        address=sidecar.address,
        xds_socket=state / "xds.sock",
        otlp_socket=Path(fleet.otlp_socket) if fleet.otlp_socket else state / "otlp.sock",
        state_dir=state / "proxies" / sidecar.id,
        token=token,
        probe_path=sidecar.probe_path,
    )


async def run(fleet: Fleet, token: str) -> None:
    """Run the fleet until SIGTERM or SIGINT; a second signal hastens. Raises the first error of any sidecar."""
    stop = Stop()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    gate = asyncio.Semaphore(_START_TOGETHER)
    timing = Timing(drain_deadline_s=fleet.drain_deadline_s, probe_interval_s=0.5)

    async def one(sidecar: Sidecar) -> None:
        ready = asyncio.Event()
        await gate.acquire()
        released = asyncio.create_task(_release(gate, ready), name=f"gate of {sidecar.id}")
        try:
            await supervise(spec(fleet, sidecar, token), fleet.api_url, stop, timing=timing, on_ready=ready.set)
        finally:
            released.cancel()

    async with asyncio.TaskGroup() as group:
        for sidecar in fleet.sidecars:
            group.create_task(one(sidecar), name=f"sidecar {sidecar.id}")


async def _release(gate: asyncio.Semaphore, ready: asyncio.Event) -> None:
    """Let the next sidecar start when this one is ready, or after a second: a late one must not hold up the others."""
    try:
        async with asyncio.timeout(1.0):
            await ready.wait()
    except TimeoutError:
        log.debug("sidecars.slow_start")
    finally:
        gate.release()


def main() -> None:
    """Run until told to stop; an unusable file or a broken machine is a clear error with exit code 1."""
    parser = argparse.ArgumentParser(prog="simulations.sidecars", description="Run many sidecars in one process.")
    parser.add_argument("fleet", type=Path, help="JSON file that names them")
    path = parser.parse_args().fleet
    try:
        fleet = FLEET.validate_json(path.read_bytes())
        token = (Path(fleet.state_dir) / "proxy.token").read_text(encoding="utf-8").strip()
    except (OSError, ValidationError) as error:
        sys.exit(f"sidecars: cannot use {path}: {error}")
    try:
        asyncio.run(run(fleet, token))
    except* FibrinError as errors:
        sys.exit("\n".join(f"sidecars: {error} ({error.hint})" for error in _leaves(errors)))


def _leaves(group: BaseExceptionGroup[FibrinError]) -> list[FibrinError]:
    found: list[FibrinError] = []
    for error in group.exceptions:
        found.extend(_leaves(error) if isinstance(error, BaseExceptionGroup) else [error])
    return found


if __name__ == "__main__":
    main()
