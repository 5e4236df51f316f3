"""The life of one sidecar: start, ready, serve, crash and come back, drain, end.

    registered → start → live, with every listener it must have → healthy heartbeats (if the probes agree)
                   ↑                                                │
                   └── jittered back-off ← Envoy ended unasked ←────┤
                                                                    ↓ asked to stop
    deregister ← SIGTERM, SIGKILL ← nothing in flight, or deadline ← drain_listeners ← control plane told

The control plane may be down at any moment of this: Envoy keeps what it has, the supervisor keeps asking.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import aiohttp
import structlog

from models.errors import Broken, FibrinError, Unavailable
from proxy import bootstrap, envoy
from proxy.admin import Admin
from proxy.backoff import Backoff
from proxy.metrics import DRAINS, ENVOY_KILLS, PROBE_TURNS, RESTARTS, WAITS
from proxy.presence import Condition, Presence
from proxy.probe import Finding, Hysteresis, probe
from proxy.registration import Registration
from proxy.spec import SidecarSpec
from proxy.stopping import Stop
from proxy.vigil import Vigil

_COMPLAIN_MAX_S: Final = 60.0

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds. The defaults are the product's; tests shorten some."""

    drain_deadline_s: float = 10.0  # requests still in flight after this are cut
    settle_s: float = 0.3  # how long callers may need to learn that we drain
    heartbeat_s: float = 1.0
    probe_interval_s: float = 0.5
    probe_timeout_s: float = 1.0
    application_start_s: float = 10.0  # an application that is not well after this does not hold up `on_ready`
    poll_s: float = 0.02  # while waiting for Envoy or for requests in flight
    complain_s: float = 5.0  # until the first complaint about a configuration that does not come; then it doubles
    term_s: float = 2.0  # SIGTERM → SIGKILL
    farewell_s: float = 1.0  # for each of the last calls to the control plane
    hung_looks: int = 10  # times in a row that Envoy's admin does not answer (1 s each) before it is killed
    starts: int = 3  # Envoys that may end before one ever served; then it is broken, not unlucky


class Supervisor:
    """Supervises the Envoy of `spec`. One `run` per instance; needs the loop of the main thread."""

    def __init__(
        self,
        spec: SidecarSpec,
        registration: Registration,
        admin: Admin,
        *,
        binary: Path,
        timing: Timing,
        on_ready: Callable[[], None],
    ) -> None:
        self._spec = spec
        self._registration = registration
        self._admin = admin
        self._binary = binary
        self._timing = timing
        self._on_ready = on_ready
        self._condition = Condition()
        self._presence = Presence(registration, self._condition, interval_s=timing.heartbeat_s)
        self._envoy: envoy.Envoy | None = None
        self._served = asyncio.Event()  # once, ever
        self._well = asyncio.Event()  # the application was, once
        self._leaving = False
        self._silent = 0  # looks in a row that Envoy did not answer

    async def run(self, stop: Stop) -> None:
        """Run until `stop` is asked for and everything is ended and said good-bye to.

        Raises:
            Broken: Envoy cannot be run on this machine; nothing is left running.
        """
        try:
            await self._supervise(stop)
        finally:
            self._leaving = True
            if self._envoy is not None and not await self._envoy.stop(self._timing.term_s):
                ENVOY_KILLS.inc()
                _log.warning("proxy.envoy_killed", pid=self._envoy.pid, waited_s=self._timing.term_s)
            await self._say("deregister", self._registration.deregister())
        _log.info("proxy.stopped", id=self._spec.id)

    async def _supervise(self, stop: Stop) -> None:
        name = self._spec.id
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [
                    group.create_task(self._keep_envoy(), name=f"envoy of {name}"),
                    group.create_task(self._keep_probing(), name=f"probe of {name}"),
                    group.create_task(self._presence.keep(), name=f"presence of {name}"),
                    group.create_task(self._tell_ready(), name=f"readiness of {name}"),
                ]
                await stop.asked.wait()
                self._leaving = True  # an Envoy that ends from here on is not started again
                if self._condition.serving:
                    await self._drain(stop)
                for task in tasks:
                    task.cancel()
        except* FibrinError as errors:
            raise errors.exceptions[0] from None  # a group of one is noise to the person who reads it

    # --- Envoy ---------------------------------------------------------------------------------------------------

    async def _keep_envoy(self) -> None:
        """Have an Envoy running and serving until cancelled."""
        backoff = Backoff(base_s=0.1, cap_s=10.0)
        document = bootstrap.render(bootstrap.build(self._spec))
        drain_time_s = max(1, round(self._timing.drain_deadline_s / 2))
        while True:
            await asyncio.to_thread(envoy.prepare, self._spec, document)
            started = time.monotonic()
            running = await envoy.Envoy.start(self._spec, self._binary, drain_time_s=drain_time_s)
            self._envoy = running
            _log.info("proxy.envoy_started", id=self._spec.id, pid=running.pid)
            async with asyncio.TaskGroup() as group:
                waiting = group.create_task(self._await_serving(started), name=f"configuration of {self._spec.id}")
                how = await running.wait()
                waiting.cancel()
            self._condition.serving = False
            self._condition.tell()
            if self._leaving:
                return
            delay = backoff.failed(time.monotonic() - started)
            if not self._served.is_set() and backoff.failures >= self._timing.starts:
                raise Broken(
                    f"Envoy of {self._spec.id} ended {backoff.failures} times before it served ({how}); its last words:\n"
                    f"{await running.last_words()}",
                    hint=f"the whole log is {self._spec.log_file}, what it read is {self._spec.bootstrap_file}",
                )
            RESTARTS.inc()
            _log.warning(
                "proxy.envoy_ended", id=self._spec.id, how=how, failures=backoff.failures, restart_in_s=round(delay, 3)
            )
            await asyncio.sleep(delay)

    async def _await_serving(self, started: float) -> None:
        """Wait until Envoy is live and every listener it must have is active; then it serves."""
        patience = self._timing.complain_s
        complain_at = started + patience
        while not await self._serves():
            if time.monotonic() >= complain_at:
                patience = min(2 * patience, _COMPLAIN_MAX_S)
                complain_at += patience
                WAITS.inc()
                _log.warning("proxy.waiting_for_configuration", id=self._spec.id, why=await self._why_not())
            await asyncio.sleep(self._timing.poll_s)
        took = time.monotonic() - started
        self._condition.serving = True
        self._condition.tell()
        first = not self._served.is_set()
        self._served.set()
        _log.info("proxy.serving", id=self._spec.id, took_s=round(took, 3), again=not first)

    async def _serves(self) -> bool:
        try:
            return await self._admin.live() and self._spec.listeners.keys() <= await self._admin.listeners()
        except Unavailable:
            return False

    async def _why_not(self) -> str:
        """Return what is known about why the configuration does not come."""
        if not await asyncio.to_thread(self._spec.xds_socket.is_socket):
            return f"{self._spec.xds_socket} does not exist: is `fibrin control` running with this state directory?"
        try:
            refused = await self._admin.refused()
            connected = (await self._admin.stats(r"^control_plane\.connected_state$")).get(
                "control_plane.connected_state"
            )
            missing = self._spec.listeners.keys() - await self._admin.listeners()
        except Unavailable as error:
            return error.message
        if refused:
            return "Envoy refused " + "; ".join(refused)
        if connected == 0:
            return f"the control plane behind {self._spec.xds_socket} does not accept our stream (down, or wrong token)"
        return f"no listener {', '.join(sorted(missing))} yet"

    # --- the application -----------------------------------------------------------------------------------------

    async def _keep_probing(self) -> None:
        """Probe application and Envoy at every interval, and when a process of the application ends; tell turns."""
        timing, spec = self._timing, self._spec
        application, sidecar = Hysteresis(), Hysteresis(healthy=True, to_unhealthy=3)  # the second may be our own stall
        timeout = aiohttp.ClientTimeout(total=timing.probe_timeout_s)
        ended = asyncio.Event()
        async with aiohttp.ClientSession(timeout=timeout, trust_env=False) as session:
            with Vigil(*spec.application, ended.set) as vigil:
                while True:
                    began, woken = time.monotonic(), ended.is_set()
                    ended.clear()
                    finding = await probe(session, *spec.application, spec.probe_path, timing.probe_timeout_s)
                    turned = application.observe(finding.good, certain=finding.absent)
                    if turned:
                        self._take(finding)
                    if finding.good and (turned or woken):
                        await vigil.renew()
                    await self._look_at_envoy(sidecar)
                    await _set_within(ended, began + timing.probe_interval_s - time.monotonic())

    def _take(self, finding: Finding) -> None:
        """Let the rest of the mesh know a new verdict on the application."""
        self._turned("application", finding.good, finding.detail)
        self._condition.application = finding.detail
        self._condition.tell()
        if finding.good:
            self._well.set()

    async def _look_at_envoy(self, verdict: Hysteresis) -> None:
        """Ask a serving Envoy whether it is there; one that hangs is reported, then killed, and so started again."""
        if not self._condition.serving or self._envoy is None or self._leaving:
            self._silent = 0
            return
        live = await self._admin.live()
        if verdict.observe(live):
            self._turned("envoy", live, "admin does not answer")
            self._condition.envoy = "" if live else "Envoy's admin does not answer"
            self._condition.tell()
        self._silent = 0 if live else self._silent + 1
        if self._silent >= self._timing.hung_looks:
            ENVOY_KILLS.inc()
            _log.warning("proxy.envoy_hangs", id=self._spec.id, pid=self._envoy.pid, looks=self._silent)
            self._silent = 0
            await self._envoy.stop(0.0)

    def _turned(self, what: str, good: bool, detail: str) -> None:
        PROBE_TURNS.labels("healthy" if good else "unhealthy").inc()
        log = _log.info if good else _log.warning
        log("proxy.probe_turned", id=self._spec.id, of=what, healthy=good, detail="" if good else detail)

    # --- the control plane ---------------------------------------------------------------------------------------

    async def _tell_ready(self) -> None:
        """Call `on_ready` once Envoy serves and the application was well, or is late."""
        await self._served.wait()
        try:
            async with asyncio.timeout(self._timing.application_start_s):
                await self._well.wait()
        except TimeoutError:
            PROBE_TURNS.labels("late").inc()
            _log.warning("proxy.application_late", id=self._spec.id, detail=self._condition.detail)
        self._on_ready()

    async def _say(self, what: str, call: Awaitable[None]) -> None:
        """Make one of the last calls to the control plane; not reaching it does not stop us from leaving."""
        try:
            async with asyncio.timeout(self._timing.farewell_s):
                await call
        except (FibrinError, TimeoutError) as error:
            _log.info("proxy.control_not_told", id=self._spec.id, what=what, error=str(error) or "no answer in time")

    # --- the end -------------------------------------------------------------------------------------------------

    async def _drain(self, stop: Stop) -> None:
        """Let requests in flight finish: at most until the deadline, or until somebody becomes impatient."""
        began = time.monotonic()
        deadline = began + self._timing.drain_deadline_s
        _log.info("proxy.draining", id=self._spec.id, deadline_s=self._timing.drain_deadline_s)
        self._presence.draining = True
        await self._say("drain", self._registration.drain())
        try:
            await self._admin.drain()
            left, outcome = await self._await_idle(stop, began, deadline)
        except Unavailable as error:
            left, outcome = 0, "envoy-gone"
            _log.info("proxy.drain_ended_early", id=self._spec.id, error=error.message)
        DRAINS.labels(outcome).inc()
        log = _log.warning if left else _log.info
        log("proxy.drained", id=self._spec.id, outcome=outcome, cut=left, took_s=round(time.monotonic() - began, 3))

    async def _await_idle(self, stop: Stop, began: float, deadline: float) -> tuple[int, str]:
        """Wait until nothing was in flight in two looks in a row; return what is left and why we ended."""
        idle = 0
        while True:
            hastened = await stop.hastened_within(self._timing.poll_s)
            left, now = await self._admin.in_flight(), time.monotonic()
            if hastened:
                return left, "hastened"
            if now >= deadline:
                return left, "finished" if left == 0 else "deadline"
            idle = idle + 1 if left == 0 and now >= began + self._timing.settle_s else 0
            if idle >= 2:  # noqa: PLR2004 - two looks, as the docstring says
                return 0, "finished"


async def _set_within(event: asyncio.Event, seconds: float) -> None:
    """Sleep `seconds`, or less when `event` is set."""
    try:
        async with asyncio.timeout(max(0.0, seconds)):
            await event.wait()
    except TimeoutError:
        return
