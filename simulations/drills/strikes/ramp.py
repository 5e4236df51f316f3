"""Faults that grow: the same fault laid again and again, a little stronger each time, until it has its full size."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Final

from simulations.alongside import alongside

STEP_S: Final = 0.5


@asynccontextmanager
async def ramped(over_s: float, lay: Callable[[float], Awaitable[None]], *, down: bool = False) -> AsyncIterator[None]:
    """Lay a fault with sizes from 0 to 1 over `over_s` seconds while the block runs (`down`: from 1 to 0).

    The first size is laid before the block begins. Without a ramp the whole fault is laid at once.
    """
    if over_s <= 0:
        await lay(1.0)
        yield
        return
    began = time.monotonic()

    def size() -> float:
        done = min(1.0, (time.monotonic() - began + STEP_S / 2) / over_s)
        return 1.0 - done if down else done

    async def grow() -> None:
        while time.monotonic() < began + over_s:
            await asyncio.sleep(STEP_S)
            await lay(size())

    await lay(size())
    async with alongside({"ramp": grow()}):
        yield
