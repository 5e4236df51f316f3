"""Faults of a process itself: memory that is never given back, processor time burnt for nothing, too few workers.

All real: the memory is touched, the loop is blocked, requests queue. Each lasts until the fault that asks for it is lifted.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from simulations.shop.fault import Fault

BURST_S: Final = 0.05
"""For how long the loop is blocked at a time while processor time is burnt."""

KILLED: Final = 137
"""Exit code of a process that the kernel kills for its memory (128 + SIGKILL)."""

_MIB: Final = 1 << 20
_STEP_S: Final = 0.1


class Strain:
    """What wears on one instance; `apply` takes a new fault, `served` brackets the work of one request."""

    def __init__(self) -> None:
        self._fault = Fault()
        self._leaked: list[bytearray] = []
        self._gate: asyncio.Semaphore | None = None
        self._task: asyncio.Task[None] | None = None

    def apply(self, fault: Fault) -> None:
        """Take a new fault; what it does not ask for any more ends."""
        if fault.workers != self._fault.workers:
            self._gate = asyncio.Semaphore(int(fault.workers)) if fault.workers >= 1 else None
        self._fault = fault
        if not fault.leak_mib_s:
            self._leaked.clear()
        if (fault.leak_mib_s or fault.burn) and (self._task is None or self._task.done()):
            self._task = asyncio.create_task(self._wear(), name="strain")

    @asynccontextmanager
    async def served(self) -> AsyncIterator[None]:
        """Hold a worker while one request is worked on, and walk through what has leaked, as a collector does."""
        gate = self._gate
        if gate is None:
            self._walk()
            yield
            return
        async with gate:
            self._walk()
            yield

    def _walk(self) -> None:
        for block in self._leaked:
            block.count(1)

    async def _wear(self) -> None:
        owed = 0.0
        while self._fault.leak_mib_s or self._fault.burn:
            owed += self._fault.leak_mib_s * _STEP_S
            while owed >= 1:
                self._leaked.append(bytearray(os.urandom(256)) * (_MIB // 256))  # touched, so that it is really there
                owed -= 1
            if len(self._leaked) >= self._fault.leak_most_mib:
                os._exit(KILLED)
            if self._fault.burn:
                await self._burn(self._fault.burn)
            else:
                await asyncio.sleep(_STEP_S)

    async def _burn(self, share: float) -> None:
        until = time.perf_counter() + BURST_S
        while time.perf_counter() < until:
            pass
        await asyncio.sleep(BURST_S * (1 - share) / share)
