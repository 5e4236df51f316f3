"""How urgently a sidecar was asked to stop: once means drain, twice means now."""

from __future__ import annotations

import asyncio


class Stop:
    """Counts requests to stop. The first sets `asked`, every further one sets `hastened`."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self.hastened = asyncio.Event()

    def __call__(self) -> None:
        """Ask once more; what a signal handler calls."""
        if self.asked.is_set():
            self.hastened.set()
        self.asked.set()

    async def hastened_within(self, seconds: float) -> bool:
        """Sleep `seconds`, or less: return True as soon as somebody became impatient."""
        try:
            async with asyncio.timeout(max(0.0, seconds)):
                await self.hastened.wait()
        except TimeoutError:
            return False
        return True
