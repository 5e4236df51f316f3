"""Aborts and delays in the sidecars: an `inject-fault` overlay laid by a person, on a short lease, and taken away at the end.

The lease is renewed for as long as the runner lives: were it killed, the fault would be over a few seconds later.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Final
from uuid import uuid4

from control.client import ControlClient
from models.errors import NotFound, Unavailable
from models.overlay import InjectFault
from simulations.alongside import alongside
from simulations.drills.injections.envoy import Abort, Delay
from simulations.drills.strikes.ramp import ramped

LEASE_S: Final = 10.0
RENEW_S: Final = 3.0
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
async def through_envoy(fault: Abort | Delay, ramp_s: float, control: ControlClient) -> AsyncIterator[None]:
    """Lay the fault while the block runs."""
    laid: list[str] = []

    async def lay(size: float) -> None:
        made = await control.create_overlay(
            change(fault, size),
            reason=f"drill: {fault}",
            lease_s=LEASE_S,
            overlay_id=f"drill-{uuid4().hex[:12]}",
        )
        laid.append(made.id)
        for old in laid[:-1]:
            await _remove(control, old)
            laid.remove(old)

    async def renew() -> None:
        while True:
            await asyncio.sleep(RENEW_S)
            for name in laid[-1:]:
                with contextlib.suppress(NotFound, Unavailable):  # a person took it away; the control plane is away
                    await control.renew_overlay(name, lease_s=LEASE_S)

    try:
        async with ramped(ramp_s, lay), alongside({"renew the fault": renew()}):
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
