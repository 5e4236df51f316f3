"""Aborts and delays in the sidecars: an `inject-fault` overlay laid by a person, leased, and taken away at the end.

Were the runner killed, the overlay would expire with its lease.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Final
from uuid import uuid4

from control.client import ControlClient
from models.errors import NotFound, Unavailable
from models.overlay import InjectFault
from simulations.drills.injections.envoy import Abort, Delay
from simulations.drills.strikes.ramp import ramped

LEASE_S: Final = 120.0
_AGAIN_S: Final = 0.2


def change(fault: Abort | Delay, size: float = 1.0) -> InjectFault:
    """Return the overlay's change for a fault of which only `size` (0–1) is there yet."""
    percent = round(100 * fault.share * max(size, 0.01), 4)
    scoped = InjectFault(
        fault.service, caller=fault.caller, route=fault.route, version=fault.version, instance=fault.instance
    )
    if isinstance(fault, Abort):
        return replace(scoped, abort_percent=percent, abort_status=fault.status)
    return replace(scoped, delay_percent=percent, delay_s=fault.by, delay_sigma=fault.spread)


@asynccontextmanager
async def through_envoy(
    fault: Abort | Delay, ramp_s: float, control: ControlClient, lasts_s: float
) -> AsyncIterator[None]:
    """Lay the fault while the block runs. `lasts_s`: how long at most, so that its lease outlives it by a minute."""
    laid: list[str] = []

    async def lay(size: float) -> None:
        made = await control.create_overlay(
            change(fault, size),
            reason=f"drill: {fault}",
            lease_s=lasts_s + LEASE_S,
            overlay_id=f"drill-{uuid4().hex[:12]}",
        )
        laid.append(made.id)
        for old in laid[:-1]:
            await _remove(control, old)
            laid.remove(old)

    try:
        async with ramped(ramp_s, lay):
            yield
    finally:
        for name in laid:
            await _remove(control, name)


async def _remove(control: ControlClient, name: str) -> None:
    """Remove an overlay; tries for as long as the control plane is away, which the caller bounds."""
    while True:
        try:
            await control.delete_overlay(name)
        except NotFound:
            return  # expired, or a person was faster
        except Unavailable:
            await asyncio.sleep(_AGAIN_S)
        else:
            return
