"""The control plane as a process: everything in its order up, everything in its order down.

Up: settings checked, state directory locked, store read, xDS socket open, API port bound, and only then `control.json`
written, which is how others know that all of it is there. Down: no new requests, watchers let go, sidecars let go (they
run on with what they have), store closed, directory released.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

import structlog
from aiohttp import web

from control import metrics
from control.api.app import make_app
from control.clock import Clock, SystemClock
from control.core import ControlPlane
from control.settings import ControlSettings
from control.statedir import StateDir
from models.errors import Broken

__all__ = ["ControlPlane", "ControlSettings", "run", "serving"]

log = structlog.get_logger(__name__)


async def run(settings: ControlSettings) -> None:
    """Run the control plane until SIGTERM, SIGINT or cancellation.

    Raises:
        InvalidInput: the settings cannot work. Conflict: another control plane runs on this state directory.
        Broken: a part of this machine fails us: port in use, disk full, database corrupt.
    """
    stop = asyncio.Event()
    with _signals(stop):
        async with serving(settings) as (plane, _):
            waiting = asyncio.create_task(stop.wait(), name="control.signal")
            failing = asyncio.create_task(plane.failed(), name="control.watchdog")
            try:
                done, _ = await asyncio.wait({waiting, failing}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for task in (waiting, failing):
                    task.cancel()
                await asyncio.gather(waiting, failing, return_exceptions=True)
            if failing in done:
                failing.result()


@asynccontextmanager
async def serving(settings: ControlSettings, *, clock: Clock | None = None) -> AsyncIterator[tuple[ControlPlane, str]]:
    """Serve while the context lasts; gives the plane and the URL of its API.

    Raises:
        InvalidInput, Conflict, Broken: see `run`.
    """
    settings.check()
    clock = clock or SystemClock()
    directory = await asyncio.to_thread(StateDir.take, settings.state_dir)
    try:
        tokens = await asyncio.to_thread(directory.tokens)
        plane = ControlPlane(settings, tokens, clock=clock)
        runner = web.AppRunner(make_app(plane), access_log=None, shutdown_timeout=settings.shutdown_s / 2)
        try:
            await plane.start()
            url = await _listen(runner, settings)
            await asyncio.to_thread(directory.announce, url, clock.wall())
            log.info("control.ready", url=url, xds=str(settings.socket), services=len(plane.services()))
            yield plane, url
        finally:
            await _down(plane, runner, settings)
    finally:
        await asyncio.to_thread(directory.release)


async def _listen(runner: web.AppRunner, settings: ControlSettings) -> str:
    await runner.setup()
    try:
        await web.TCPSite(runner, settings.host, settings.port).start()
    except OSError as error:
        taken = error.errno == errno.EADDRINUSE
        raise Broken(
            f"the control API cannot listen on {settings.host}:{settings.port}: "
            f"{'the port is in use' if taken else error.strerror}",
            hint="stop what uses it, or choose another --port (FIBRIN_CONTROL_PORT)",
        ) from error
    host, port, *_ = runner.addresses[0]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


async def _down(plane: ControlPlane, runner: web.AppRunner, settings: ControlSettings) -> None:
    """Stop in order; what takes longer than its share of `shutdown_s` is named and left."""
    plane.ready = False
    plane.release_watchers()
    for name, work in (("api", runner.cleanup), ("plane", plane.stop)):
        try:
            async with asyncio.timeout(settings.shutdown_s):
                await work()
        except TimeoutError:
            metrics.FAILURES.labels("shutdown").inc()
            log.warning("control.stop-overdue", part=name, seconds=settings.shutdown_s)
    log.info("control.stopped")


@contextmanager
def _signals(stop: asyncio.Event) -> Iterator[None]:
    """Set `stop` on SIGTERM and SIGINT, where this thread may (the main one)."""
    loop = asyncio.get_running_loop()
    taken = []
    for number in (signal.SIGTERM, signal.SIGINT):
        with contextlib.suppress(ValueError, RuntimeError, NotImplementedError):
            loop.add_signal_handler(number, stop.set)
            taken.append(number)
    try:
        yield
    finally:
        for number in taken:
            loop.remove_signal_handler(number)
