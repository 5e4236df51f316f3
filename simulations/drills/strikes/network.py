"""Faults of the network: the relays in front of the struck instances, or their name server, get worse, and well at the end."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

from models.errors import Broken
from simulations.drills.injections.network import Dns, Network
from simulations.drills.names import NameServer
from simulations.drills.relay import FINE, Condition, Relay
from simulations.drills.strikes.ramp import ramped

KIB = 1024


def condition(fault: Network, size: float = 1.0) -> Condition:
    """Return the condition for a fault of which only `size` (0–1) is there yet."""
    return Condition(
        delay_s=fault.delay * size,
        jitter_s=fault.jitter * size,
        loss=fault.loss * size,
        bytes_per_s=fault.bandwidth * KIB,
        resets=fault.resets * size,
        partition=fault.partition,
        half_open=fault.half_open,
    )


@asynccontextmanager
async def degraded(
    relays: Mapping[str, Relay], fault: Network, instances: tuple[str, ...], ramp_s: float
) -> AsyncIterator[None]:
    """Let the network be bad while the block runs."""
    missing = sorted(set(instances) - relays.keys())
    if missing:
        raise Broken(f"no relay stands in front of {', '.join(missing)}", hint="this mesh was started without it")

    async def lay(size: float) -> None:
        for each in instances:
            relays[each].condition = condition(fault, size)

    try:
        async with ramped(ramp_s, lay):
            yield
    finally:
        for each in instances:
            relays[each].condition = FINE


@asynccontextmanager
async def nameless(server: NameServer | None, fault: Dns, instances: tuple[str, ...]) -> AsyncIterator[None]:
    """Let instances look up their upstream in vain while the block runs."""
    if server is None:
        raise Broken("these applications look up no names", hint="this mesh was started without a name server")
    server.trouble |= dict.fromkeys(instances, fault.how)
    try:
        yield
    finally:
        for each in instances:
            server.trouble.pop(each, None)
