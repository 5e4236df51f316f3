"""What `fibrin proxy run` calls: one sidecar, from its spec to its end."""

from __future__ import annotations

import asyncio
import fcntl
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from models.errors import Broken
from proxy import envoy, ports
from proxy.admin import Admin
from proxy.exposition import exposed
from proxy.registration import Registration
from proxy.spec import SidecarSpec, check
from proxy.stopping import Stop
from proxy.supervisor import Supervisor, Timing

_PORT_GRACE_S: Final = 1.0  # a predecessor that was just killed needs a moment to give its ports back


async def run_sidecar(
    spec: SidecarSpec,
    api_url: str,
    *,
    drain_deadline_s: float = 10.0,
    binary: Path | None = None,
    on_ready: Callable[[], None] = lambda: None,
) -> int:
    """Run one sidecar until SIGTERM or SIGINT, drain it, and return the exit code 0. A second signal hastens.

    `api_url` is the control API's. `on_ready` is called once, when Envoy has its configuration and the application was
    well (or is late). Must run on the main thread.

    Raises:
        InvalidInput: the spec cannot work.
        Broken: Envoy missing or not able to run, port in use, state directory not writable or in use.
    """
    stop = Stop()
    loop = asyncio.get_running_loop()
    numbers = (signal.SIGTERM, signal.SIGINT)
    for number in numbers:
        loop.add_signal_handler(number, stop)
    try:
        check(spec)
        async with exposed(spec):
            await supervise(
                spec, api_url, stop, timing=Timing(drain_deadline_s=drain_deadline_s), binary=binary, on_ready=on_ready
            )
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)
    return 0


async def supervise(
    spec: SidecarSpec,
    api_url: str,
    stop: Stop,
    *,
    timing: Timing,
    binary: Path | None = None,
    on_ready: Callable[[], None] = lambda: None,
) -> None:
    """Run one sidecar until `stop`; several may share a process (one state directory each). Raises as `run_sidecar`."""
    check(spec)
    found = envoy.find(binary)
    with _claimed(spec):
        await _ports_free(spec)
        async with Registration(spec, api_url) as registration, Admin(spec.admin_socket) as admin:
            supervisor = Supervisor(
                spec,
                registration,
                admin,
                binary=found,
                timing=timing,
                on_ready=on_ready,
            )
            await supervisor.run(stop)


async def _ports_free(spec: SidecarSpec) -> None:
    give_up = time.monotonic() + _PORT_GRACE_S
    while True:
        try:
            await asyncio.to_thread(ports.require_free, spec.listeners)
        except Broken:
            if time.monotonic() >= give_up:
                raise
            await asyncio.sleep(0.05)
        else:
            return


@contextmanager
def _claimed(spec: SidecarSpec) -> Iterator[None]:
    """Hold the state directory: a second runner of the same sidecar would fight over the admin socket."""
    lock = spec.state_dir / "lock"
    try:
        spec.state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle = os.open(lock, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise Broken(
            f"cannot write the sidecar's files in {spec.state_dir}: {error.strerror}",
            hint="free space there or choose another state directory",
        ) from error
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        holder = os.pread(handle, 32, 0).decode("ascii", errors="replace").strip() or "unknown"
        os.close(handle)
        raise Broken(
            f"sidecar {spec.id} already runs here: {spec.state_dir} is held by pid {holder}",
            hint="stop that one, or give this one another id",
        ) from error
    try:
        os.ftruncate(handle, 0)
        os.pwrite(handle, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(handle)  # the kernel releases the lock, after a kill -9 too
